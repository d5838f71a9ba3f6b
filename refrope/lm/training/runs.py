"""The trainings of ``refrope lm train`` as `refrope.sweep` conducts them.

    LMSettings, Sources ──► runs_of ──► Run (seed, encoding trained) ──► PreparedRun ──► training, row of each Test

Test and training are told apart as in `refrope.sweep.runs`: what changes the weights changes a run's name.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from refrope.encodings import RotaryEncoding
from refrope.encodings.position_map import PositionMap
from refrope.files import canonical_json
from refrope.lm.training.losses import losses_row, products, token_losses
from refrope.lm.training.settings import LMSettings
from refrope.lm.training.sources import Sources, check_windows, saved_tokens
from refrope.lm.training.texts import WHO, Texts, read_texts
from refrope.lm.training.tokens import Tokens
from refrope.lm.training.windows import WindowTraining, held_out_windows, one_line
from refrope.nn.configuration import TransformerConfig
from refrope.nn.transformer import Transformer
from refrope.sweep.runs import as_json, described
from refrope.train_step import trained_spans

WATCHED = 32  # held-out windows of the training length whose loss is found after each epoch
TASK = "lm"


@dataclass(frozen=True)
class Test:
    """One row of results: a trained model, tested with an encoding at a length."""

    settings: LMSettings
    sources: Sources
    encoding: str
    length: int

    @property
    def steps(self) -> int:
        """What it takes, in steps of the training, by the number of products of numbers."""
        s = self.settings
        config = s.model(s.trained_name(self.encoding), self.sources.vocabulary)
        tested = s.windows * products(config, self.length)
        return max(1, round(tested / (3 * s.windows_a_step * products(config, s.train_length))))

    @property
    def shown(self) -> str:
        """What displays call it."""
        return f"{self.encoding} at {self.length}"

    def about(self) -> dict[str, Any]:
        """The settings in its row."""
        return self.settings.flat()

    def key(self) -> str:
        """The same text for the same test, another one for any other."""
        s = self.settings
        said = {
            **{"encoding": self.encoding, "length": self.length, "windows": s.windows, "longest": s.longest},
            "tested_with": described(self.encoding, s.tested_encoding(self.encoding, self.length), self.length),
        }
        return canonical_json(said).decode()


@dataclass(frozen=True)
class Run:
    """One training: a seed and an encoding."""

    settings: LMSettings
    sources: Sources
    seed: int
    trained: str

    @property
    def config(self) -> TransformerConfig:
        """The model's."""
        return self.settings.model(self.trained, self.sources.vocabulary)

    def about(self) -> dict[str, Any]:
        """Everything that decides the weights and curves, as JSON; nothing that only the tests depend on."""
        s = self.settings
        return {
            **{"task": TASK, "seed": self.seed, "trained_with": self.trained},
            "encoding": described(self.trained, s.trained_encoding(self.trained), s.train_length),
            "model": as_json(self.config),
            "train": as_json(s.plan()) | {"batch_size": s.windows_a_step, "length": s.train_length},
            "sources": self.sources._asdict() | {"name": s.tokens},
            "backend": s.backend,
        }

    def asked(self) -> dict[str, Any]:
        """The settings, as JSON."""
        return asdict(self.settings)

    @property
    def shown(self) -> str:
        """What displays call it."""
        return f"{self.trained} s{self.seed}"

    @cached_property
    def name(self) -> str:
        """What its directory is called: readable, and another one for every other training."""
        parts = (TASK, self.settings.tokens.replace(":", "-"), self.trained)
        short = "-".join(re.sub(r"[^A-Za-z0-9.-]+", "-", part).strip("-") for part in parts)
        return f"{short}-s{self.seed}-{hashlib.sha256(canonical_json(self.about())).hexdigest()[:12]}"

    @cached_property
    def steps(self) -> int:
        """What the training and the tests take, in steps of the training."""
        return self.settings.plan().steps + sum(test.steps for test in self.tests())

    def tests(self) -> list[Test]:
        """Those that are asked of its model: a row for each encoding that it is tested with and each length."""
        s = self.settings
        names = [name for name in s.encodings if s.trained_name(name) == self.trained]
        return [Test(s, self.sources, name, length) for length in s.test_lengths for name in names]

    def check(self) -> None:
        """Raise ValueError for patterns of frozen weights that do not fit the model, before anything is trained."""
        trained_spans(self.config.shapes(), self.settings.frozen)

    def prepare(self, sweep: Path) -> PreparedRun:
        """Read texts and tokenizer, and draw a model.

        Raises
        ------
        ValueError
            Texts or a tokenizer that are not those of the run; held-out texts that are too short.
        """
        texts = read_texts(self.settings.corpora, self.settings.texts)
        tokens = saved_tokens(sweep, self.sources.tokens)
        if texts.sha256 != self.sources.texts:
            said = f"have SHA-256 {texts.sha256}, not those of {self.name}, {self.sources.texts}"
            raise ValueError(f"{WHO}: the texts {said}")
        if tokens is None:
            raise ValueError(f"{WHO}: the tokenizer in {sweep} is gone or damaged, not that of {self.name}")
        return PreparedRun(self, tokens, texts)


class PreparedRun:
    """Texts as tokens, windows of held-out ones, and a model with its initial weights."""

    def __init__(self, run: Run, tokens: Tokens, texts: Texts) -> None:
        self.run, self.tokens = run, tokens
        s = run.settings
        self._training = one_line(tokens.encode(texts.training).values(), tokens.end)
        held_out = list(tokens.encode(texts.held_out).values())
        self._watched = held_out_windows(held_out, s.train_length, WATCHED)
        self.windows = held_out_windows(held_out, s.longest, s.windows)
        check_windows(held_out, s)
        self.model = Transformer(run.config, seed=run.seed, backend=s.backend)

    def training(self) -> WindowTraining:
        """The training, before its first step."""
        s, run = self.run.settings, self.run
        return WindowTraining(
            *(self.model, s.trained_encoding(run.trained), self._training, s.plan()),
            length=s.train_length,
            batch_size=s.windows_a_step,
            seed=run.seed,
            watched=self._watched,
        )

    def row(self, test: Test) -> dict[str, Any]:
        """The losses of the windows' last tokens, and those by position where the test is the longest."""
        s, length, last = test.settings, test.length, test.settings.train_length
        windows = self.windows[:, -(length + 1) :]
        encoding, model = s.tested_encoding(test.encoding, length), self._tested(test)
        losses = token_losses(model, encoding, windows)
        size = int(self.tokens.byte_lengths()[windows[:, -last:]].sum())
        return {
            **{"task": TASK, "encoding": test.encoding, "trained_with": self.run.trained, "seed": self.run.seed},
            "tested_with": ", ".join(_parts(encoding, model.config)),
            "length": length,
            **losses_row(losses, last, size),
        }

    def _tested(self, test: Test) -> Transformer:
        """The trained model, in another one where the test changes its configuration."""
        config = test.settings.tested_model(test.encoding, self.model.config, test.length)
        if config == self.model.config:
            return self.model
        other = Transformer(config, seed=None, backend=self.model.backend, dtype=self.model.dtype)
        other.flat_params[...] = self.model.flat_params
        return other


def _parts(encoding: RotaryEncoding | PositionMap | None, config: TransformerConfig) -> list[str]:
    """What tells a model positions, in words."""
    parts = [repr(part) for part in (encoding, config.absolute, config.bias) if part is not None]
    return parts if config.window is None else [*parts, f"window {config.window}"]


def runs_of(settings: LMSettings, sources: Sources) -> list[Run]:
    """The trainings, seeds outermost: what is finished first is a whole table of one seed."""
    trained = list(dict.fromkeys(settings.trained_name(name) for name in settings.encodings))
    return [Run(settings, sources, seed, name) for seed in settings.seeds for name in trained]


def with_full_paths(settings: LMSettings) -> LMSettings:
    """The settings with texts by their full paths, for workers that are somewhere else."""
    return replace(settings, texts=tuple(str(Path(path).resolve()) for path in settings.texts))
