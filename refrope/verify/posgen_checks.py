"""PosGen: rules as plain loops, what they imply, and splits that do not overlap and never change."""

from __future__ import annotations

from functools import cache

import numpy as np

from refrope.posgen import TASKS, Dataset, digest, generate, inputs_and_targets, make_splits
from refrope.randomness import IntArray
from refrope.verify.tally import Check, Tally

_SIZES = ((17, 1, 3), (17, 2, 5), (2, 1, 1), (101, 3, 2), (5, 2, 2))  # modulus, j, k
# SHA-256 of the standard splits (10,000, 1,000 and 1,000 sequences, seed 1), as tests/test_posgen.py pins them.
_STANDARD = {
    ("recursive", "disjoint"): "b56cd7dae6bfb0883a1e423b099cfbc8ee43217ce1ad95cab98e7c0b054c2ffe",
    ("cot", "disjoint"): "78631160deccf849acc574ef02880d78bfbc5dfcb7f853a8a5e3ab85f536284f",
    ("semirecursive", "disjoint"): "61c27ba0bddefc12254a2c895899d72c4ed3b2d4d193c17da0a7bd0e9bcc5258",
    ("recursive", "official"): "df8f1e16688a9a667011c983ce1af97699bada74a326c0c9b0ef883e601c13c9",
    ("cot", "official"): "23230adbeee211a2a0d478cdd685e283c52e663b11116bfc8836a235628710fa",
    ("semirecursive", "official"): "77cb2f94cd9f773dac7a45d1cef36f2833591f0da501343a06e2c4f2e958b13e",
}


@cache
def _splits(task: str, recipe: str) -> Dataset:
    return make_splits(task, recipe=recipe, seed=1)


def _plain_loop(task: str, prefix: list[int], length: int, modulus: int, j: int, k: int) -> list[int]:
    """One token after the other, as Section 5.1 and the code's pointer say."""
    x = list(prefix)
    for i in range(j + k, length):
        if task == "recursive":
            far = x[i - k - j : i - k]
        elif task == "cot":
            far = x[:j]
        else:
            pointer = (i - (j + k)) // 2
            far = x[pointer : pointer + j]
        x.append((sum(far) + sum(x[i - k : i])) % modulus)
    return x


def _rules(tally: Tally) -> None:
    for task in TASKS:
        for modulus, j, k in _SIZES:
            prefixes = tally.draws.integers(0, modulus, 20, j + k)
            found = generate(task, prefixes, 300, modulus, j, k)
            expected = [_plain_loop(task, prefix, 300, modulus, j, k) for prefix in prefixes.tolist()]
            tally.same(found, np.array(expected, np.int64), f"{task}, modulus {modulus}, j {j}, k {k}")


def _twice_the_last(x: IntArray, back: int) -> IntArray:
    """``2 x_(l-1) - x_(l-back)`` mod 17 for l = back .. end."""
    result: IntArray = (2 * x[:, back - 1 : -1] - x[:, : x.shape[1] - back]) % 17
    return result


def _shortcuts(tally: Tally) -> None:
    """Neighbouring steps subtracted: what is left of the sum mod 17."""
    recursive, cot, semi = (_splits(task, "disjoint").test for task in TASKS)
    tally.same(recursive[:, 5:], _twice_the_last(recursive, 5), "recursive: x_l = 2 x_(l-1) - x_(l-5)")
    tally.same(cot[:, 5:], _twice_the_last(cot, 4)[:, 1:], "cot: x_l = 2 x_(l-1) - x_(l-4) for l > 4")
    steps = np.arange(5, semi.shape[1])
    odd = steps[steps % 2 == 1] - 4
    tally.same(semi[:, 4:][:, odd], _twice_the_last(semi, 4)[:, odd], "semirecursive: the same on every odd step")
    tally.same(cot[:, 4:-96], cot[:, 100:], "cot repeats every 96 tokens")


def _no_overlap(tally: Tally) -> None:
    for task in TASKS:
        data = _splits(task, "disjoint")
        prefixes = np.concatenate([split[:, :4] for split in (data.train, data.validation, data.test)])
        tally.true(len(np.unique(prefixes, axis=0)) == len(prefixes) == 12_000, f"{task}: 12,000 different prefixes")
        data = _splits(task, "official")
        different = np.unique(np.concatenate([data.train[:, :4], data.test[:, :4]]), axis=0)
        tally.true(len(different) == 2380, f"{task}, the code's splits: 2,380 different prefixes")
        seen = {row.tobytes() for row in data.train}
        tally.true(
            np.array([row[:64].tobytes() in seen for row in data.test]), f"{task}, the code's: tests are trained on"
        )


def _digests(tally: Tally) -> None:
    for (task, recipe), expected in _STANDARD.items():
        tally.true(digest(_splits(task, recipe)) == expected, f"{task}, {recipe}: SHA-256")


def _arrays(tally: Tally) -> None:
    """The front token, targets one place on, and a loss on generated tokens alone."""
    for task in TASKS:
        x = _splits(task, "disjoint").test[:50]
        arrays = inputs_and_targets(x)
        tally.true(arrays.inputs[:, 0] == 17, f"{task}: the front token is 17")
        tally.same(arrays.inputs[:, 1:], x[:, :-1], f"{task}: inputs")
        tally.same(arrays.targets, x, f"{task}: targets")
        tally.same(arrays.loss_mask, np.arange(x.shape[1]) >= 4, f"{task}: the prefix does not count")


CHECKS = [
    Check("posgen", "sequences are those of plain loops over the rules", _rules),
    Check("posgen", "differences of neighbouring steps leave two-term rules; cot repeats every 96 tokens", _shortcuts),
    Check("posgen", "prefixes of train, validation and test do not overlap; those of the paper's code do", _no_overlap),
    Check("posgen", "the standard splits have their SHA-256", _digests),
    Check("posgen", "inputs, targets and mask are what the loss needs", _arrays),
]
