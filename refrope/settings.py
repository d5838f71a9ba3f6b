"""What decides the numbers of an experiment: presets, and the settings that ``refrope posgen`` has options for.

    Preset ──► ExperimentSettings ──► model, data, training, encodings of each training and test

Where the paper's text and its code part, the settings offer both.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from refrope import posgen
from refrope.encodings import RotaryEncoding, YaRN
from refrope.encodings.position_map import PositionMap
from refrope.encodings.yarn import RAMPS
from refrope.errors import check_integer, check_name, check_number
from refrope.methods import MAPS, PAPER, Lengths, configuration_of, encoding_of, method_of
from refrope.nn.backends import BACKENDS
from refrope.nn.configuration import TransformerConfig
from refrope.own_encodings import check_own, is_own
from refrope.randomness import bit_source
from refrope.train import TrainSettings
from refrope.train_positions import PoSE, RandomPositions, TrainPositions
from refrope.training import SELECTIONS

# The preset's if None. Rows of results say what was in force; of a training that failed nobody knows.
LEFT_TO_PRESET = ("epochs", "batch_size", "learning_rate")
MODES = ("swap", "train")
POSITIONS = ("consecutive", "random", "pose")
YARN_LENGTHS = ("train", "test")
# Which weights keep their initial values. sheryc/resonance_rope freezes all parameters named block.*.layer.1.*; in its
# block of attention and feed-forward that is the latter whole, its norm's gain included.
FROZEN: dict[str, tuple[str, ...]] = {"none": (), "feed-forward": ("layers.*.feed_forward.*",)}
_A_SHARE = "a number in [0, 1)"
SCORES: dict[str, float | None] = {"unscaled": 1.0, "scaled": None}  # `TransformerConfig.softmax_scale`
# One seed shows the order of the paper's Table 1 or does not: README.md says what others show.
DEFAULT_SEEDS = (2,)


@dataclass(frozen=True)
class Preset:
    """A model's sizes, how it is trained, and what for."""

    about: str
    model: TransformerConfig
    train: TrainSettings


PRESETS = {
    "tiny": Preset(
        "about a minute a training: 2 layers, d_model 128, 2 heads x 64, no dropout",
        TransformerConfig(),
        TrainSettings(epochs=6, learning_rate=1.2e-3),
    ),
    "small": Preset(
        "a coffee break a training: 2 layers, d_model 256, 4 heads x 64, no dropout",
        TransformerConfig(d_model=256, heads=4, d_ff=1024),
        TrainSettings(epochs=20, learning_rate=5e-4),
    ),
    "paper": Preset(
        "the paper's model and schedule, many hours a training: 2 layers, d_model 512, 8 heads x 64, dropout 0.1",
        TransformerConfig(d_model=512, heads=8, d_ff=2048, dropout=0.1),
        TrainSettings(epochs=150, learning_rate=2e-4),
    ),
}


@dataclass(frozen=True)
class ExperimentSettings:
    """Everything that decides the numbers of an experiment, but the machine.

    Parameters
    ----------
    preset : {"tiny", "small", "paper"}
    tasks : names out of `refrope.posgen.TASKS`
    encodings : names out of `refrope.methods.METHODS`, or of what you bring yourself
        ``module:name`` or ``path/to/file.py:name``: see `refrope.own_encodings`. These are trained with themselves,
        whatever `yarn` and `maps` say.
    seeds : ints >= 0
        Of the data, the weights, the order of the sequences and dropout.
    epochs : int, optional; the preset's if None
    batch_size : int, optional; the preset's if None
    learning_rate : float, optional
        The peak; if None, the preset's times the method's `refrope.methods.Method.rate`.
    yarn : {"swap", "train"}
        "swap": train plain, test with YaRN of factor (L' + 1) / (L + 1) and original length L + 1 (the front token
        counts), index ramp, frequency blend, as the paper's code does but for `yarn_length`.
        "train": train and test with YaRN of factor L' / L as the paper's text says: turn ramp, wavelength blend.
        Both with beta_fast = 2, beta_slow = 1 of the paper's code.
    yarn_ramp : {"index", "turns"}, optional
        Whichever way YaRN is used; the one said above if None. The blend stays the one said above.
    yarn_length : {"train", "test"}
        Which length YaRN's ramp counts turns in, L or L': "train" as the paper's text says, "test" as its code does,
        which takes L' + 1 = 257 where L + 1 = 65 is meant. The factor does not change.
    maps : {"swap", "train"}
        "swap": train with RoPE, test with the position map, as those who published them do. "train": train with it, in
        its form for the longest test.
    positions : {"consecutive", "random", "pose"}
        Of the tokens in training: see `refrope.train_positions`.
    dropout : float in [0, 1), optional; the preset's if None
        0.1 in the paper's text and code.
    frozen : {"none", "feed-forward"}
        Weights that training leaves as they start. The paper's text trains all of them ("none"); its code sets
        requires_grad = False on the feed-forward sublayers, their norms' gains included.
    select : {"none", "validation"}
        The weights that a training ends with: those of the last step, or of the epoch that is best on validation
        sequences within the training length.
    scores : {"unscaled", "scaled"}
        "unscaled": T5's, q . k of queries that start smaller, which the paper's code inherits. "scaled": as in Vaswani
        et al. 2017, arXiv:1706.03762, (q . k) / sqrt(head_dim), with queries that start as large as keys.
    recipe, rule : names out of `refrope.posgen.RECIPES` and `RULES`
        Recipe "disjoint" as the paper's text says, "official" as its code does.
    front_token : bool
        Put a token before each sequence, as the code does.
    train_sequences, test_sequences : int; validation has as many as test
    train_length : int, L
    test_lengths : ints above it, L'; each gives rows of its own
    backend : {"c", "numpy"}

    Raises
    ------
    ValueError
        An unknown name (with the nearest known one), a number out of range.

    References
    ----------
    Wang et al. 2024, arXiv:2403.00071 (the paper's text); sheryc/resonance_rope at commit 4a7f5a7 (its code).
    """

    preset: str = "tiny"
    tasks: tuple[str, ...] = ("cot",)
    encodings: tuple[str, ...] = PAPER
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    yarn: str = "swap"
    maps: str = "swap"
    positions: str = "consecutive"
    yarn_ramp: str | None = None
    yarn_length: str = "train"
    dropout: float | None = None
    frozen: str = "none"
    select: str = "none"
    scores: str = "unscaled"
    recipe: str = "disjoint"
    rule: str = "sum"
    front_token: bool = True
    train_sequences: int = 10_000
    test_sequences: int = 1_000
    train_length: int = 64
    test_lengths: tuple[int, ...] = (256,)
    backend: str = "c"

    def __post_init__(self) -> None:
        """Check every field before any work is done."""
        known = {
            "preset": PRESETS,
            "yarn": MODES,
            "maps": MODES,
            "positions": POSITIONS,
            "yarn_length": YARN_LENGTHS,
            "frozen": FROZEN,
            "select": SELECTIONS,
            "scores": SCORES,
            "recipe": posgen.RECIPES,
            "rule": posgen.RULES,
            "backend": BACKENDS,
        }
        for name, names in known.items():
            check_name("posgen", name, getattr(self, name), names)
        if self.yarn_ramp is not None:
            check_name("posgen", "yarn_ramp", self.yarn_ramp, RAMPS)
        if self.dropout is not None and not 0 <= check_number("posgen", "dropout", self.dropout, _A_SHARE, 0.0) < 1:
            raise ValueError(f"posgen: dropout is {self.dropout!r}, expected {_A_SHARE}")
        for argument in ("tasks", "encodings", "seeds", "test_lengths"):
            values = getattr(self, argument)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"posgen: {argument} are {list(values)}, expected at least one, each once")
        for task in self.tasks:
            check_name("posgen", "task", task, posgen.TASKS)
        for encoding in self.encodings:
            method_of(encoding, "posgen")
        for seed in self.seeds:
            check_integer("posgen", "seed", seed, 0)
        for name in ("train_sequences", "test_sequences"):
            check_integer("posgen", name, getattr(self, name), 1)
        check_integer("posgen", "train_length", self.train_length, 6)
        for length in self.test_lengths:
            check_integer("posgen", "test_length", length, self.train_length + 1)
        places, length = self.train_settings().positions or TrainPositions(), self._read(self.train_length)
        for name in self.encodings:  # these have checks of their own
            places.check(self.model(trained := self.trained_name(name)), self.trained_encoding(trained), length)
            if is_own(name):
                self._check_own(name)
        self.dataset(self.tasks[0], self.seeds[0], count_only=True)

    def _check_own(self, name: str) -> None:
        """Raise for an encoding that would fail later, in training or in a test."""
        places = self._positions() or TrainPositions()
        length, trained = self._read(self.train_length), self.trained_encoding(name)
        drawn = None if self.positions == "consecutive" else places.drawn(bit_source(0, "check"), 2, length)
        check_own(name, trained, length, drawn)
        for test_length in self.test_lengths:
            length = self._read(test_length)
            check_own(name, self.tested_encoding(name, test_length), length, places.tested(self.seeds[0], length))

    def train_settings(self, trained: str = "rope") -> TrainSettings:
        """The preset's for a method, with what was asked for instead."""
        preset = PRESETS[self.preset].train
        preset = replace(preset, learning_rate=preset.learning_rate * method_of(trained).rate)
        asked: dict[str, Any] = {
            **{name: getattr(self, name) for name in LEFT_TO_PRESET},
            "front_token": self.front_token,
            "positions": self._positions(),
            "frozen": FROZEN[self.frozen],
            "select": self.select,
        }
        return replace(preset, **{n: value for n, value in asked.items() if value is not None})

    def _positions(self) -> TrainPositions | None:
        kinds = {"random": RandomPositions, "pose": PoSE}
        return kinds[self.positions](self._read(self.longest)) if self.positions in kinds else None

    @property
    def longest(self) -> int:
        """The longest test, in tokens."""
        return max(self.test_lengths)

    def _read(self, length: int) -> int:
        """Tokens that a model reads of a sequence of so many: it is never asked for what follows the last."""
        return length - 1 + int(self.front_token)

    @property
    def plain_model(self) -> TransformerConfig:
        """The preset's model with what was asked for instead."""
        config = replace(PRESETS[self.preset].model, softmax_scale=SCORES[self.scores])
        return config if self.dropout is None else replace(config, dropout=self.dropout)

    def model(self, trained: str) -> TransformerConfig:
        """That model with what the method adds that it is trained with."""
        return configuration_of(trained, self.plain_model, self._read(self.train_length), self._read(self.longest))

    def dataset(self, task: str, seed: int, *, count_only: bool = False) -> posgen.Dataset:
        """The splits of one task; with `count_only` sequences as short as can be, to check their number."""
        short = count_only
        return posgen.make_splits(
            task,
            recipe=self.recipe,
            seed=seed,
            train=self.train_sequences,
            validation=self.test_sequences,
            test=self.test_sequences,
            train_length=4 if short else self.train_length,
            test_length=4 if short else self.longest,
            rule=self.rule,
        )

    def tested_encoding(self, name: str, test_length: int) -> RotaryEncoding | PositionMap | None:
        """What turns queries and keys where the row `name` is tested at a length."""
        head_dim = self.plain_model.head_dim
        lengths = Lengths(self._read(self.train_length), self._read(test_length))
        return encoding_of(name, head_dim, lengths, yarn=self._yarn(head_dim, test_length))

    def _yarn(self, head_dim: int, test_length: int) -> YaRN:
        """What "yarn" means where it is tested at a length."""
        swapped = self.yarn == "swap"
        front = int(swapped and self.front_token)
        original, target = self.train_length + front, test_length + front
        return YaRN(
            head_dim,
            factor=target / original,
            original_length=original if self.yarn_length == "train" else target,
            beta_fast=2.0,
            ramp=self.yarn_ramp or ("index" if swapped else "turns"),
            blend="frequency" if swapped else "wavelength",
        )

    def trained_encoding(self, trained: str) -> RotaryEncoding | PositionMap | None:
        """What turns queries and keys in training."""
        return self.tested_encoding(trained, self.longest)

    def trained_name(self, name: str) -> str:
        """The method that the row `name` is trained with: RoPE where YaRN or a position map is swapped in."""
        if is_own(name):
            return name
        if name in MAPS and self.maps == "swap":
            return "rope"
        return name.replace("yarn", "rope") if self.yarn == "swap" else name

    def flat(self) -> dict[str, Any]:
        """Every setting that is one value, by name, as JSON has it: all but tasks, encodings, seeds, test_lengths."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if not isinstance(value, tuple)}

    def trainings(self) -> list[tuple[str, int, str]]:
        """(task, seed, encoding trained with) of every training, in the order in which they are run."""
        trained = list(dict.fromkeys(self.trained_name(name) for name in self.encodings))
        return [(task, seed, name) for task in self.tasks for seed in self.seeds for name in trained]
