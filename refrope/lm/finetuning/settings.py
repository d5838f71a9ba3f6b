"""What decides the numbers of ``refrope lm finetune``.

    FinetuneSettings ──► plan, positions, the encodings of training and tests

An encoding is swapped in with one factor, for training and for all tests: what is measured is how well the weights get
used to it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from refrope.encodings import RotaryEncoding
from refrope.encodings.names import parse
from refrope.errors import check_integer, check_name, check_number
from refrope.lm.swapping import OWN, OWN_RESONANCE, swapped
from refrope.lm.training.texts import CORPORA
from refrope.nn.backends import BACKENDS
from refrope.nn.configuration import TransformerConfig
from refrope.train_positions import PoSE, TrainPositions
from refrope.training import Plan

WHO = "lm finetune"
DEFAULT_ENCODINGS = ("yarn", "resonance-yarn")
DEFAULT_LENGTHS = (2048, 4096, 8192, 16384)
MOST_EPOCHS = 10  # the points of a training curve
MOST_WARM_UP = 20  # steps, as Chen et al. and Peng et al. (see `refrope.nn.optim.WarmUp`)
WARM_UP_SHARE = 20  # one step in so many where that is less; 2 of 50 are those of the Resonance paper's own script
POSITIONS = ("consecutive", "pose")
# Which weights stay as they are, by what --trained says; norms train with attention.
FROZEN = {
    "all": (),
    "attention": ("embedding", "head", "layers.*.feed_forward.in", "layers.*.feed_forward.out"),
}


@dataclass(frozen=True)
class FinetuneSettings:
    """Everything that decides the numbers of a fine-tuning, but the machine, the checkpoint's bytes and the texts.

    Parameters
    ----------
    model : str
        Of `refrope.lm.loading.load`.
    steps : int
    encodings : names as in `refrope.lm.swapping`
    factor : float >= 1
        How many times longer the context becomes, for encodings that scale.
    length : int
        Tokens of a training window.
    batch_size : int
        Windows a step.
    learning_rate : float
        After the warm-up.
    warm_up : int, optional
        Steps; one in 20 of all, 20 at most, if None.
    trained : {"all", "attention"}
        "attention": the weights of attention and all norms; embeddings and feed-forward sublayers stay as they are.
    positions : {"consecutive", "pose"}
        Of a training window's tokens: "pose" skips, so that all positions of the longer context are met.
    seeds : ints >= 0
        Of the places of the windows, and of what PoSE draws.
    test_lengths : ints; each gives rows of its own
    windows : int
        The most held-out windows of the longest test. All tests predict the same tokens: the last `scored` of these.
    corpora : names out of `refrope.lm.training.texts.CORPORA`
    texts : files or directories to read instead
    pre : str, optional
        As in `refrope.lm.loading.load`.
    backend : {"c", "numpy"}

    Raises
    ------
    ValueError
        An unknown name (with the nearest known one), a number out of range.
    """

    model: str
    steps: int
    encodings: tuple[str, ...] = DEFAULT_ENCODINGS
    factor: float = 2.0
    length: int = 2048
    batch_size: int = 2
    learning_rate: float = 2e-5
    warm_up: int | None = None
    trained: str = "all"
    positions: str = POSITIONS[0]
    seeds: tuple[int, ...] = (1,)
    test_lengths: tuple[int, ...] = DEFAULT_LENGTHS
    windows: int = 8
    corpora: tuple[str, ...] = tuple(CORPORA)
    texts: tuple[str, ...] = ()
    pre: str | None = None
    backend: str = "c"

    def __post_init__(self) -> None:
        """Check every field before any work is done."""
        for name in ("encodings", "seeds", "test_lengths", "corpora"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{WHO}: {name} are {list(values)}, expected at least one, each once")
        for name in self.encodings:
            if name not in (OWN, OWN_RESONANCE) and "length" in parse(WHO, name).options:
                raise ValueError(f"{WHO}: {name} has a length, expected none: a text's own counts")
        for corpus in self.corpora:
            check_name(WHO, "corpus", corpus, CORPORA)
        check_name(WHO, "trained", self.trained, FROZEN)
        check_name(WHO, "positions", self.positions, POSITIONS)
        check_name(WHO, "backend", self.backend, BACKENDS)
        check_number(WHO, "factor", self.factor, "a number >= 1", 1.0)
        check_number(WHO, "learning_rate", self.learning_rate, "a finite number > 0", 0.0, above=True)
        for name in ("steps", "batch_size", "windows"):
            check_integer(WHO, name, getattr(self, name), 1)
        check_integer(WHO, "length", self.length, 8)
        if self.warm_up is not None:
            check_integer(WHO, "warm_up", self.warm_up, 0)
        for seed in self.seeds:
            check_integer(WHO, "seed", seed, 0)
        for length in self.test_lengths:
            check_integer(WHO, "test_length", length, 8)

    # ---- training ----

    def plan(self, config: TransformerConfig) -> Plan:
        """How long and how fast a training goes: in equal epochs, `MOST_EPOCHS` at most; a window at a time a thread.

        Weight decay is 0, as in Peng et al. 2023, arXiv:2309.00071, Section 4.1.
        """
        epochs = max(n for n in range(1, MOST_EPOCHS + 1) if self.steps % n == 0)
        usual = min(MOST_WARM_UP, max(1, self.steps // WARM_UP_SHARE))
        return Plan(
            *(epochs, self.steps // epochs, self.learning_rate),
            weight_decay=0.0,
            frozen=tuple(name for name in FROZEN[self.trained] if name != "head" or not config.tied),
            part_tokens=self.length,
            constant_after=usual if self.warm_up is None else self.warm_up,
        )

    def reach(self, context: int) -> int:
        """The number of positions that training meets, for a model made for `context` tokens."""
        return self.length if self.positions == "consecutive" else max(self.length, round(self.factor * context))

    def places(self, context: int) -> TrainPositions | None:
        """Positions of a training window, None for 0, 1, 2, ..."""
        return PoSE(self.reach(context)) if self.positions == "pose" else None

    # ---- tests ----

    @property
    def longest(self) -> int:
        """The longest test, in tokens."""
        return max(self.test_lengths)

    @property
    def scored(self) -> int:
        """The tokens at the end of a window whose losses are compared: as many as all tests and trainings have."""
        return min(self.length, *self.test_lengths)

    def encoding(self, name: str, own: RotaryEncoding, context: int, length: int) -> RotaryEncoding:
        """The encoding of a name in its form in force for `length` tokens, in a model of some own encoding and context.

        Raises
        ------
        ValueError
            One that does not fit the model.
        """
        return swapped(name, own, context, length, factor=self.factor)

    # ---- what results say ----

    def tested(self) -> dict[str, Any]:
        """Settings that the rows of a model depend on that was not trained."""
        names = ("factor", "windows", "corpora", "texts", "pre", "backend")
        return {name: _plain(getattr(self, name)) for name in names} | {"scored": self.scored, "longest": self.longest}

    def flat(self, config: TransformerConfig) -> dict[str, Any]:
        """Every setting that is one for all rows of trained models, by name; the model is told by its own."""
        values = {each.name: _plain(getattr(self, each.name)) for each in fields(self)}
        values["warm_up"] = self.plan(config).constant_after
        left_out = ("model", "encodings", "seeds", "test_lengths")
        return {name: value for name, value in (values | self.tested()).items() if name not in left_out}


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value
