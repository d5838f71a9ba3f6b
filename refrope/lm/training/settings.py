"""What decides the numbers of ``refrope lm train``: presets, and everything that it has options for.

    Preset ──► LMSettings ──► model, plan, encodings of each training and test

Models have Llama's architecture, in small: RMSNorm, SwiGLU, queries in groups that share keys and values, a tied head.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from refrope.encodings import RotaryEncoding, YaRN
from refrope.encodings.position_map import PositionMap
from refrope.errors import check_integer, check_name, check_number
from refrope.lm.training.texts import CORPORA, WHO
from refrope.lm.training.tokens import check_tokens
from refrope.methods import MAPS, Lengths, configuration_of, encoding_of, label_of, method_of
from refrope.nn.backends import BACKENDS
from refrope.nn.configuration import TransformerConfig
from refrope.own_encodings import check_own, is_own
from refrope.training import Plan

DEFAULT_ENCODINGS = ("rope", "resonance-rope", "yarn", "resonance-yarn", "alibi", "nope")
DEFAULT_SEEDS = (1, 2, 3)
DEFAULT_LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
MOST_EPOCHS = 20  # the points of a training curve


def _llama(d_model: int, heads: int, kv_heads: int, head_dim: int, layers: int) -> TransformerConfig:
    """Llama's architecture with its usual width of the feed-forward sublayer, 8/3 of the model's in multiples of 32."""
    return TransformerConfig(
        d_model=d_model,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        layers=layers,
        d_ff=-(-8 * d_model // 96) * 32,
        feed_forward="swiglu",
        softmax_scale=None,
        head_scale=1.0,
    )


@dataclass(frozen=True)
class Preset:
    """A model's sizes, and how it is trained."""

    about: str
    model: TransformerConfig
    steps: int
    batch_size: int
    learning_rate: float


PRESETS = {
    "nano": Preset("to try things out: 2 layers, d_model 64, 2 heads x 32", _llama(64, 2, 1, 32, 2), 300, 8, 6e-3),
    "tiny": Preset("minutes a training: 4 layers, d_model 128, 2 heads x 64", _llama(128, 2, 1, 64, 4), 1000, 32, 4e-3),
    "small": Preset("hours a training: 6 layers, d_model 256, 4 heads x 64", _llama(256, 4, 2, 64, 6), 4000, 32, 2e-3),
}


@dataclass(frozen=True)
class LMSettings:
    """Everything that decides the numbers of an experiment, but the machine and the texts.

    Parameters
    ----------
    preset : {"nano", "tiny", "small"}
    encodings : names out of `refrope.methods.METHODS`, or of what you bring yourself
        "yarn" and "resonance-yarn", "window" and the position maps are swapped in for tests: see `trained_name`.
    seeds : ints >= 0
        Of the weights and of the places of the windows; the texts that are held out are always the same.
    steps, batch_size : int, optional; the preset's if None
    heads : int, optional
        Of the queries, as many times the preset's as it takes, and so of the keys, with as many times fewer features:
        the model has as many weights. The preset's if None.
    learning_rate : float, optional
        The peak of the one-cycle schedule; the preset's if None.
    tokens : str
        "bytes" or "bpe:N", see `refrope.lm.training.tokens`.
    train_length : int
        Tokens of a training window.
    test_lengths : ints, at least `train_length`; each gives rows of its own
    windows : int
        The most held-out windows of the longest test that a model is tested on. All tests predict the same tokens: the
        last `train_length` of these windows, from the last so many as the test is long.
    corpora : names out of `refrope.lm.training.texts.CORPORA`
    texts : files or directories to read instead
    frozen : patterns of names of weights that do not train
    backend : {"c", "numpy"}

    Raises
    ------
    ValueError
        An unknown name (with the nearest known one), a number out of range.
    """

    preset: str = "tiny"
    encodings: tuple[str, ...] = DEFAULT_ENCODINGS
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    steps: int | None = None
    heads: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    tokens: str = "bytes"
    train_length: int = 256
    test_lengths: tuple[int, ...] = DEFAULT_LENGTHS
    windows: int = 32
    corpora: tuple[str, ...] = tuple(CORPORA)
    texts: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    backend: str = "c"

    def __post_init__(self) -> None:
        """Check every field before any work is done."""
        check_name(WHO, "preset", self.preset, PRESETS)
        check_name(WHO, "backend", self.backend, BACKENDS)
        check_tokens(self.tokens)
        for name in ("encodings", "seeds", "test_lengths", "corpora"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{WHO}: {name} are {list(values)}, expected at least one, each once")
        for corpus in self.corpora:
            check_name(WHO, "corpus", corpus, CORPORA)
        for name in self.encodings:
            method_of(name, WHO)
        for seed in self.seeds:
            check_integer(WHO, "seed", seed, 0)
        self._check_heads()
        for name in ("steps", "batch_size"):
            if getattr(self, name) is not None:
                check_integer(WHO, name, getattr(self, name), 1)
        if self.learning_rate is not None:
            check_number(WHO, "learning_rate", self.learning_rate, "a finite number > 0", 0.0, above=True)
        check_integer(WHO, "windows", self.windows, 1)
        check_integer(WHO, "train_length", self.train_length, 8)
        for length in self.test_lengths:
            check_integer(WHO, "test_length", length, self.train_length)
        for name in self.encodings:
            self._check_encoding(name)

    def _check_heads(self) -> None:
        """Raise for heads that the preset's cannot be split into."""
        usual = PRESETS[self.preset].model
        possible = [usual.heads * n for n in range(1, usual.head_dim // 2 + 1) if usual.head_dim % (2 * n) == 0]
        if self.heads is not None and check_integer(WHO, "heads", self.heads, 1) not in possible:
            raise ValueError(f"{WHO}: heads is {self.heads}, expected one of {', '.join(map(str, possible))}")

    def _check_encoding(self, name: str) -> None:
        """Raise for an encoding that would fail later, in training or in a test."""
        trained = self.trained_encoding(self.trained_name(name))
        if is_own(name):
            check_own(name, trained, self.train_length, who=WHO)
        for length in self.test_lengths:
            tested = self.tested_encoding(name, length)
            if is_own(name):
                check_own(name, tested, length, who=WHO)

    # ---- training ----

    @property
    def longest(self) -> int:
        """The longest test, in tokens."""
        return max(self.test_lengths)

    def plan(self) -> Plan:
        """How long and how fast a training goes: in as many equal epochs as divide its steps, `MOST_EPOCHS` at most."""
        preset = PRESETS[self.preset]
        steps = self.steps or preset.steps
        epochs = max(n for n in range(1, MOST_EPOCHS + 1) if steps % n == 0)
        return Plan(epochs, steps // epochs, self.learning_rate or preset.learning_rate, frozen=self.frozen)

    @property
    def windows_a_step(self) -> int:
        """The batch size in force."""
        return self.batch_size or PRESETS[self.preset].batch_size

    @property
    def sizes(self) -> TransformerConfig:
        """The preset's model, with the heads in force."""
        usual = PRESETS[self.preset].model
        times = (self.heads or usual.heads) // usual.heads
        return replace(
            usual, heads=usual.heads * times, kv_heads=usual.key_heads * times, head_dim=usual.head_dim // times
        )

    def model(self, trained: str, vocabulary: int) -> TransformerConfig:
        """The model for a vocabulary, with what the method adds that it is trained with."""
        config = replace(self.sizes, vocabulary=vocabulary)
        return configuration_of(trained, config, self.train_length, self.longest, who=WHO)

    def tested_model(self, name: str, config: TransformerConfig, length: int) -> TransformerConfig:
        """The trained model's configuration where the row `name` is tested: "window" puts one over RoPE's model."""
        inside = name == "window" and length > self.train_length
        return replace(config, window=self.train_length) if inside else config

    # ---- encodings ----

    def trained_name(self, name: str) -> str:
        """The method that the row `name` is trained with: RoPE for a window, a position map or YaRN that is swapped in.

        Resonance YaRN is swapped into the model of Resonance RoPE.
        """
        if is_own(name):
            return name
        return "rope" if name in (*MAPS, "window") else name.replace("yarn", "rope")

    def trained_encoding(self, trained: str) -> RotaryEncoding | PositionMap | None:
        """What turns queries and keys in training."""
        return self._encoding(trained, max(self.longest, self.train_length))

    def tested_encoding(self, name: str, length: int) -> RotaryEncoding | PositionMap | None:
        """What turns queries and keys where the row `name` is tested at a length.

        What is swapped in is made for that length. At the length of the training there is nothing to extend: all rows
        of a model are the same there.
        """
        return self._encoding(name if length > self.train_length else self.trained_name(name), length)

    def _encoding(self, name: str, length: int) -> RotaryEncoding | PositionMap | None:
        head_dim = self.sizes.head_dim
        lengths = Lengths(self.train_length, length)
        # YaRN as its authors use it with language models: ramp from 32 turns to 1 (arXiv:2309.00071, Section 4.1).
        yarn = YaRN(head_dim, factor=length / self.train_length, original_length=self.train_length)
        return encoding_of(name, head_dim, lengths, yarn=yarn, who=WHO)

    def label(self, name: str) -> str:
        """What a row is called in tables and figures."""
        return f"RoPE, window of {self.train_length}" if name == "window" else label_of(name)

    # ---- what results say ----

    def flat(self) -> dict[str, Any]:
        """Every setting that is one for all rows, by name, with the preset's values where they are in force."""
        plan = self.plan()
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values |= {
            **{"steps": plan.steps, "batch_size": self.windows_a_step, "learning_rate": plan.learning_rate},
            **{"heads": self.sizes.heads},
            **{name: ", ".join(values[name]) for name in ("corpora", "texts", "frozen")},
        }
        return {name: value for name, value in values.items() if not isinstance(value, tuple)}
