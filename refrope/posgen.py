"""PosGen: token sequences whose next token depends on a few near tokens and on some that may lie far away.

    seed ──► prefixes (n, j+k) ──► generate: x_l = h(far, near) ──► Dataset ──► inputs_and_targets

The first j + k tokens are a random prefix. Every later token is a rule h of the k near tokens
x_{l-k} .. x_{l-1} and of j far ones, and the task says where these are:

    recursive      x_{l-k-j} .. x_{l-k-1}   just before the near ones, at a fixed distance
    cot            x_0 .. x_{j-1}           at the start ("chain of thought"), ever further off
    semirecursive  x_p .. x_{p+j-1}         at a pointer that moves every second step, ever further off too

Source: Wang et al. 2024, "Resonance RoPE", arXiv:2403.00071: modulus 17, j = 1, k = 3, h the sum mod 17. "The
code" below is sheryc/resonance_rope at commit 4a7f5a7.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations, cycle, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refrope import randomness
from refrope.errors import check_integer, check_name, check_number, describe
from refrope.held_out import all_but, avoiding
from refrope.randomness import BoolArray, IntArray, bit_source

TASKS = ("recursive", "cot", "semirecursive")
RULES = ("sum", "table", "latin")
RECIPES = ("disjoint", "official", "held-out", "held-out-pairs")
LARGEST_MODULUS = 2**31  # sums of tokens stay within int64
LARGEST_TABLE = 1024  # a table rule holds modulus**2 numbers
MOST_CONTEXTS = 2**24  # the recipes that hold contexts out list all modulus**(j+k) prefixes

Rule = Callable[[IntArray, IntArray, int], IntArray]  # far (n, j), near (n, k), modulus -> tokens (n,)


def sum_rule(far: IntArray, near: IntArray, modulus: int) -> IntArray:
    """Return h = (sum of the far and near tokens) mod `modulus`: the paper's rule, and the default."""
    return np.asarray((far.sum(axis=1) + near.sum(axis=1)) % modulus)


@dataclass(frozen=True, eq=False)
class LookupRule:
    """The rule h = table[far sum mod m, near sum mod m], with m the modulus and `table` (m, m) int64."""

    name: str
    modulus: int
    seed: int
    table: IntArray = field(repr=False)

    def __call__(self, far: IntArray, near: IntArray, modulus: int) -> IntArray:
        """Look the next tokens up; for any modulus but the table's own, raise ValueError."""
        if modulus != self.modulus:
            raise ValueError(f"{self.name}_rule: modulus is {modulus}, expected the table's, {self.modulus}")
        return np.asarray(self.table[far.sum(axis=1) % modulus, near.sum(axis=1) % modulus])


def table_rule(modulus: int = 17, seed: int = 0) -> LookupRule:
    """Return h = t[sum of all tokens mod m], each of the m entries of t an independent random token.

    As t is hardly ever a permutation, different states run into one, and many sequences soon repeat in short
    cycles, which a model can copy without knowing t.
    """
    modulus = check_integer("table_rule", "modulus", modulus, 2, LARGEST_TABLE)
    seed = check_integer("table_rule", "seed", seed, 0)
    entries = randomness.bounded_integers(bit_source(seed, "posgen table rule"), modulus, modulus)
    total = np.add.outer(np.arange(modulus), np.arange(modulus)) % modulus
    return LookupRule("table", modulus, seed, entries[total])


def latin_rule(modulus: int = 17, seed: int = 0) -> LookupRule:
    """Return h = Q[far sum mod m, near sum mod m], with Q a random Latin square.

    `latin_square` makes Q. Its rows and columns are permutations: like the sum, h can be solved for
    any one of its tokens. Unlike with the sum, subtracting neighbouring steps leaves no linear recurrence, but three
    tokens of two steps still decide (`refrope.rules.shortcuts`).
    """
    modulus = check_integer("latin_rule", "modulus", modulus, 2, randomness.LARGEST_LATIN_ORDER)
    seed = check_integer("latin_rule", "seed", seed, 0)
    square = randomness.latin_square(bit_source(seed, "posgen latin rule"), modulus)
    return LookupRule("latin", modulus, seed, square)


def make_rule(name: str, modulus: int = 17, seed: int = 0) -> Rule:
    """Return the rule called `name`: "sum" (which needs no seed), "table" or "latin"."""
    check_name("make_rule", "rule", name, RULES)
    if name == "sum":
        return sum_rule
    return table_rule(modulus, seed) if name == "table" else latin_rule(modulus, seed)


def far_start(task: str, index: int, j: int = 1, k: int = 3) -> int:
    """Return the index of the first far token that x_l depends on, l = `index`; j - 1 more follow it.

    The paper prints the semirecursive index as floor(l - (j+k)/2) - j. For j = 1, k = 3 that is l - 3, a near
    token: nothing far would be read. Here it is p = floor((l - (j+k)) / 2), as in the code and in the paper's
    Figure 2. The far tokens then precede the near ones for all j, k >= 1: with t = l - (j+k) >= 0,
    p + j = floor(t/2) + j <= t + j = l - k.
    """
    check_name("far_start", "task", task, TASKS)
    _, j, k = _check_sizes("far_start", 2, j, k)
    index = check_integer("far_start", "index", index, j + k)
    return {"recursive": index - k - j, "cot": 0, "semirecursive": (index - (j + k)) // 2}[task]


def generate(
    task: str, prefixes: ArrayLike, length: int,
    modulus: int = 17, j: int = 1, k: int = 3, rule: Rule | str | None = None,
) -> IntArray:  # fmt: skip
    """Continue each prefix to `length` tokens by x_l = h(far tokens, near tokens).

    Parameters
    ----------
    task : {"recursive", "cot", "semirecursive"}
        Where the far tokens are; `far_start` has the index, and what the paper prints for semirecursive.
    prefixes : (n, j + k) integers in [0, modulus)
        x_0 .. x_{j+k-1} of each sequence.
    length : int >= j + k
        Tokens in a sequence, prefix included.
    modulus : int in [2, 2**31]
        Number of different tokens.
    j, k : int >= 1
        How many far and how many near tokens the rule reads.
    rule : callable (far, near, modulus) -> tokens, or a name for `make_rule`; default "sum"
        Gets read-only int64 arrays (n, j) and (n, k), returns integers (n,) in [0, modulus). A name means the
        rule of seed 0, the same function everywhere.

    Returns
    -------
    (n, length) int64: x_0 .. x_{length-1}

    Raises
    ------
    ValueError
        An argument is not as said above, or the rule returns something else than tokens.
    """
    check_name("generate", "task", task, TASKS)
    modulus, j, k = _check_sizes("generate", modulus, j, k)
    length = check_integer("generate", "length", length, j + k)
    known = _check_tokens("generate", "prefixes is", prefixes, ("n", j + k), modulus)
    h = _as_rule("generate", rule, modulus)
    tokens = np.empty((len(known), length), np.int64)
    tokens[:, : j + k] = known
    seen = tokens.view()
    seen.flags.writeable = False
    for index in range(j + k, length):
        start = far_start(task, index, j, k)
        answer = h(seen[:, start : start + j], seen[:, index - k : index], modulus)
        tokens[:, index] = _check_tokens("generate", "rule returned", answer, (len(tokens),), modulus)
    return tokens


def contexts(task: str, sequences: ArrayLike, modulus: int = 17, j: int = 1, k: int = 3) -> IntArray:
    """Return what the rule reads at each step: the far tokens, then the near ones.

    (n, T) integers in [0, modulus), T >= j + k -> (n, T - (j + k), j + k) int64, for x_{j+k} .. x_{T-1}.
    """
    check_name("contexts", "task", task, TASKS)
    modulus, j, k = _check_sizes("contexts", modulus, j, k)
    tokens = _check_tokens("contexts", "sequences is", sequences, ("n", "T"), modulus)
    steps = np.arange(j + k, check_integer("contexts", "T", tokens.shape[1], j + k))
    starts = np.array([far_start(task, int(index), j, k) for index in steps], np.int64)
    return tokens[:, np.hstack([starts[:, None] + np.arange(j), steps[:, None] + np.arange(-k, 0)])]


def pair_lag(task: str, j: int = 1, k: int = 3) -> int:
    """Return the distance to the second token of a step's pair (x_{l-lag}, x_{l-1}), which decides most sums.

    `refrope.rules.shortcuts` says where and why.
    """
    check_name("pair_lag", "task", task, TASKS)
    _, j, k = _check_sizes("pair_lag", 2, j, k)
    return j + k + 1 if task == "recursive" else k + 1


def pairs(task: str, sequences: ArrayLike, modulus: int = 17, j: int = 1, k: int = 3) -> IntArray:
    """Return the pair (x_{l-lag}, x_{l-1}) of each step, lag that of `pair_lag`.

    (n, T) integers in [0, modulus) -> (n, T - lag or 0, 2) int64, for x_lag .. x_{T-1}.
    """
    lag = pair_lag(task, j, k)
    tokens = _check_tokens("pairs", "sequences is", sequences, ("n", "T"), modulus)
    return np.stack([tokens[:, :-lag], tokens[:, lag - 1 : -1]], axis=2)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of sequences, each (n, tokens) int64 and read-only, and what they were made from.

    `held_out` (c, w) are the contexts that training never meets: of w = j + k tokens in recipe "held-out", pairs in
    "held-out-pairs", none in the others.
    """

    train: IntArray
    validation: IntArray
    test: IntArray
    task: str
    recipe: str
    seed: int
    train_length: int
    test_length: int
    modulus: int
    j: int
    k: int
    rule: str
    held_out: IntArray


def make_splits(
    task: str, *, recipe: str = "disjoint", seed: int,
    train: int = 10_000, validation: int = 1_000, test: int = 1_000,
    train_length: int = 64, test_length: int = 256,
    modulus: int = 17, j: int = 1, k: int = 3, rule: Rule | str | None = None, held_out: float = 0.01,
) -> Dataset:  # fmt: skip
    """Make `train` sequences of `train_length` tokens, and `validation` and `test` ones of `test_length`.

    Recipe "disjoint" is what the paper describes: no prefix occurs twice, within a split or across. They are
    drawn uniformly without replacement from all modulus**(j+k); `seed` and the sizes decide, not `task`.

    Recipe "official" is what the code does. It takes itertools.combinations(range(modulus), j + k) in order,
    over and over: training gets the first `train`, validation the first `validation`, test those after the
    latter. So there are only 2,380 different prefixes, all strictly increasing, and with the default sizes
    every validation and test sequence begins with a training sequence. `seed` changes nothing.

    Recipe "held-out" tells rule from memory. Disjoint prefixes do not make unseen inputs: the j + k tokens that the
    rule reads at a step (`contexts`) have nearly all occurred in training, at the default sizes each of the 83,521
    contexts about seven times. Here a random share `held_out` of them never occurs at a step of training: sequences
    that would meet one are not used. One percent leaves 0.99**60 = 55 % of the prefixes for 60 steps. Validation and
    test have prefixes of their own, the same for every task, none left out: one step in a hundred has a held-out
    context. In recursive and cot, where a context decides the one that follows, those on the way between two
    held-out ones less than 60 steps apart cannot occur either: 17 % of all; in semirecursive 0.2 % are unseen by
    chance. A model that answers held-out contexts as well as others may still know a table of fewer tokens by heart.

    Recipe "held-out-pairs" does the same to `pairs` of two tokens, which decide the sum at most steps: there are only
    modulus**2 of them, and every other recipe's training has them all. One percent of 289 is three pairs.

    Raises
    ------
    ValueError
        As `generate`; also an unknown recipe, a negative seed or size, more sequences than there are prefixes
        ("disjoint") or than avoid what is held out (also more than 2**24 prefixes, or a share of none or all
        contexts), j + k > modulus ("official").
    """
    check_name("make_splits", "task", task, TASKS)
    modulus, j, k = _check_sizes("make_splits", modulus, j, k)
    check_name("make_splits", "recipe", recipe, RECIPES)
    named = {"seed": seed, "train": train, "validation": validation, "test": test}
    seed, train, validation, test = (check_integer("make_splits", name, named[name], 0) for name in named)
    train_length = check_integer("make_splits", "train_length", train_length, j + k)
    test_length = check_integer("make_splits", "test_length", test_length, j + k)
    h = _as_rule("make_splits", rule, modulus)
    count, width = train + validation + test, j + k
    left_out = np.empty((0, width), np.int64)
    if recipe == "disjoint":
        if count > modulus**width:
            raise ValueError(
                f"make_splits: train + validation + test is {train} + {validation} + {test} = {count}, "
                f"expected at most {modulus}**{width} = {modulus**width}, the number of different prefixes"
            )
        rows = randomness.distinct_rows(bit_source(seed, "posgen prefixes"), count, modulus, width)
        chosen = rows[:train], rows[train : train + validation], rows[train + validation :]
    elif recipe == "official":
        if width > modulus:
            raise ValueError(f"make_splits: j + k is {width}, expected at most {modulus}, the modulus")
        tuples = islice(cycle(combinations(range(modulus), width)), count)
        rows = np.array(list(tuples), np.int64).reshape(count, width)
        chosen = rows[:train], rows[:validation], rows[validation : validation + test]
    else:
        read, size = (contexts, width) if recipe == "held-out" else (pairs, 2)
        share = check_number("make_splits", "held_out", held_out, "a number in (0, 1)", 0.0, above=True)
        check_integer("make_splits", "modulus**(j+k)", modulus**width, validation + test, MOST_CONTEXTS)
        every, of = modulus**size, "modulus**(j+k)" if recipe == "held-out" else "modulus**2"
        number = check_integer("make_splits", f"held_out * {of}", round(share * every), 1, every - 1)
        source = bit_source(seed, f"posgen {recipe} contexts")
        left_out = randomness.distinct_rows(source, number, modulus, size)
        tested = randomness.distinct_rows(bit_source(seed, "posgen prefixes"), validation + test, modulus, width)
        unused = all_but(tested, bit_source(seed, "posgen training prefixes"), modulus)
        trained = avoiding(
            left_out,
            lambda rows: read(task, generate(task, rows, train_length, modulus, j, k, h), modulus, j, k),
            *(unused, modulus, train),
        )
        if len(trained) < train:
            raise ValueError(
                f"make_splits: train is {train}, expected at most {len(trained)}, the prefixes left whose "
                f"{train_length} tokens meet none of the {number} held-out contexts; hold out a smaller share"
            )
        chosen = trained, tested[:validation], tested[validation:]
    lengths = train_length, test_length, test_length
    splits = [generate(task, x, n, modulus, j, k, h) for x, n in zip(chosen, lengths, strict=True)]
    for array in (*splits, left_out):
        array.flags.writeable = False
    name = getattr(h, "__name__", str(h))
    first, second, third = splits
    return Dataset(first, second, third, task, recipe, seed, train_length, test_length, modulus, j, k, name, left_out)


def with_front_token(sequences: ArrayLike, modulus: int = 17) -> IntArray:
    """Put the front token, id `modulus`, before every sequence: x_l stands at position l + 1, as in the code.

    (n, T) integers in [0, modulus) -> (n, T + 1) int64. A model then has modulus + 1 classes.
    """
    modulus = check_integer("with_front_token", "modulus", modulus, 2, LARGEST_MODULUS)
    tokens = _check_tokens("with_front_token", "sequences is", sequences, ("n", "T"), modulus)
    return np.pad(tokens, ((0, 0), (1, 0)), constant_values=modulus)


class ModelArrays(NamedTuple):
    """What a model reads, what it should answer, and which answers count; made by `inputs_and_targets`."""

    inputs: IntArray  # (n, S)
    targets: IntArray  # (n, S): the token after each input
    loss_mask: BoolArray  # (S,): true where the target is a generated token, l >= j + k
    target_index: IntArray  # (S,): l of the target x_l, so [j + k, L) is in distribution and l >= L is not


def inputs_and_targets(
    sequences: ArrayLike, *, front_token: bool = True, modulus: int = 17, j: int = 1, k: int = 3
) -> ModelArrays:
    """Return the arrays for next-token prediction on (n, T) sequences.

    With the front token, inputs are front, x_0 .. x_{T-2} and targets x_0 .. x_{T-1}; without it, inputs are
    x_0 .. x_{T-2} and targets x_1 .. x_{T-1}.
    """
    modulus, j, k = _check_sizes("inputs_and_targets", modulus, j, k)
    tokens = _check_tokens("inputs_and_targets", "sequences is", sequences, ("n", "T"), modulus)
    first = 0 if front_token else 1  # the first target
    inputs = with_front_token(tokens, modulus)[:, first:-1]
    index = np.arange(first, max(first, tokens.shape[1]))
    return ModelArrays(inputs, tokens[:, first:], index >= j + k, index)


def digest(data: Dataset | ArrayLike) -> str:
    """Return the SHA-256 (hexadecimal) of one array (n, T) of tokens, or of a dataset's three arrays.

    Hashed are, for train, validation, test in turn, n, T and the tokens row by row, as little-endian int64.
    """
    sha = hashlib.sha256()
    for array in (data.train, data.validation, data.test) if isinstance(data, Dataset) else (data,):
        tokens = _check_tokens("digest", "data is", array, ("n", "T"), 2**63)
        sha.update(np.array(tokens.shape, "<i8").tobytes() + tokens.astype("<i8").tobytes())
    return sha.hexdigest()


def _as_rule(function: str, rule: Rule | str | None, modulus: int) -> Rule:
    if callable(rule):
        return rule
    name = "sum" if rule is None else rule
    check_name(function, "rule", name, RULES)
    return make_rule(name, modulus)


def _check_sizes(function: str, modulus: int, j: int, k: int) -> tuple[int, int, int]:
    modulus = check_integer(function, "modulus", modulus, 2, LARGEST_MODULUS)
    return modulus, check_integer(function, "j", j, 1), check_integer(function, "k", k, 1)


def _check_tokens(function: str, what: str, value: Any, shape: tuple[int | str, ...], bound: int) -> IntArray:
    """Return `value` as a new int64 array of integers in [0, bound); in `shape` a letter is any size."""
    wanted = f"expected integers ({shape[0]},{''.join(f' {size}' for size in shape[1:])}) in [0, {bound})"
    try:
        array = np.asarray(value)
    except ValueError:  # rows of unequal length
        raise ValueError(f"{function}: {what} ragged, {wanted}") from None
    fits = array.dtype.kind in "iu" and array.ndim == len(shape)
    if not fits or any(size not in (n, "n", "T") for size, n in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{function}: {what} {describe(array)}, {wanted}")
    if array.size and (array.min() < 0 or array.max() >= bound):
        found = f"{describe(array)} with values from {array.min()} to {array.max()}"
        raise ValueError(f"{function}: {what} {found}, {wanted}")
    return array.astype(np.int64)
