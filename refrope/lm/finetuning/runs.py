"""The runs of ``refrope lm finetune`` as `refrope.sweep` conducts them.

    FinetuneSettings, Sources ──► runs_of ──► Run (encoding, seed) ──► PreparedRun ──► training, row of each Test

A run without a seed trains nothing: its rows are those before training. What changes the weights changes a run's name,
the SHA-256 of checkpoint and texts among it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from refrope.encodings import RotaryEncoding
from refrope.files import canonical_json
from refrope.lm.finetuning.settings import WHO, FinetuneSettings
from refrope.lm.finetuning.sources import Encoded, Sources, checkpoint_digest, saved_tokens
from refrope.lm.installed import PREFIX
from refrope.lm.loading import load, read_checkpoint
from refrope.lm.swapping import OWN, with_softmax_factor
from refrope.lm.tokenizing import Tokenizer
from refrope.lm.training.losses import losses_row, products, token_losses
from refrope.lm.training.windows import WindowTraining, held_out_windows
from refrope.nn.transformer import Transformer
from refrope.sweep.runs import as_json

WATCHED = 2  # held-out windows of the training length whose loss is found after each epoch
TASK = "lm finetune"


@dataclass(frozen=True)
class Test:
    """One row of results: a model, tested at a length with the encoding of its run."""

    run: Run
    length: int

    @property
    def steps(self) -> int:
        """What it takes, in steps of the training, by the number of products of numbers."""
        s, config = self.run.settings, self.run.sources.config
        tested, trained = (products(config, length) for length in (self.length, s.length))
        return max(1, round(s.windows * tested / (3 * s.batch_size * trained)))

    @property
    def shown(self) -> str:
        """What displays call it."""
        return f"at {self.length}"

    @property
    def encoding(self) -> RotaryEncoding:
        """In the form in force for the length."""
        return self.run.encoding(self.length)

    def about(self) -> dict[str, Any]:
        """The settings in its row."""
        s, sources = self.run.settings, self.run.sources
        return {"model": sources.name} | (s.tested() if self.run.seed is None else s.flat(sources.config))

    def key(self) -> str:
        """The same text for the same test, another one for any other."""
        s = self.run.settings
        said = {"length": self.length, "windows": s.windows, "longest": s.longest, "scored": s.scored}
        return canonical_json(said | {"tested_with": as_json(self.encoding)}).decode()


@dataclass(frozen=True)
class Run:
    """One encoding in the checkpoint: trained with a seed, or tested as it is where there is none."""

    settings: FinetuneSettings
    sources: Sources
    name_of_encoding: str
    seed: int | None

    def encoding(self, length: int) -> RotaryEncoding:
        """In the form in force for a length."""
        return self.settings.encoding(self.name_of_encoding, self.sources.own, self.sources.context, length)

    @property
    def trained_encoding(self) -> RotaryEncoding:
        """What turns queries and keys in training."""
        return self.encoding(self.settings.reach(self.sources.context))

    def about(self) -> dict[str, Any]:
        """Everything that decides the weights and curves, as JSON; nothing that only the tests depend on."""
        s = self.settings
        said = {
            **{"task": TASK, "seed": self.seed, "trained_with": self.name_of_encoding},
            "encoding": as_json(self.trained_encoding),
            "model": as_json(self.sources.config),
            **{"checkpoint": self.sources.checkpoint, "texts": self.sources.texts, "pre": s.pre, "backend": s.backend},
        }
        if self.seed is None:
            return said
        sizes = {"batch_size": s.batch_size, "length": s.length, "positions": as_json(s.places(self.sources.context))}
        return said | {"train": as_json(s.plan(self.sources.config)) | sizes}

    def asked(self) -> dict[str, Any]:
        """The settings, as JSON."""
        return asdict(self.settings)

    @property
    def _when(self) -> str:
        return "before" if self.seed is None else f"s{self.seed}"

    @property
    def shown(self) -> str:
        """What displays call it."""
        return f"{self.name_of_encoding} {self._when}"

    @cached_property
    def name(self) -> str:
        """What its directory is called: readable, and another one for every other run."""
        short = re.sub(r"[^A-Za-z0-9.-]+", "-", self.name_of_encoding).strip("-")
        sha = hashlib.sha256(canonical_json(self.about())).hexdigest()
        return f"lm-finetune-{short}-{self._when}-{sha[:12]}"

    @cached_property
    def steps(self) -> int:
        """What the training and the tests take, in steps of the training."""
        trained = 0 if self.seed is None else self.settings.steps
        return trained + sum(test.steps for test in self.tests())

    def tests(self) -> list[Test]:
        """One a length."""
        return [Test(self, length) for length in self.settings.test_lengths]

    def prepare(self, sweep: Path) -> PreparedRun:
        """Load the checkpoint and the tokens of the texts.

        Raises
        ------
        ValueError
            A checkpoint whose files are not those of the run; tokens that are gone; as `refrope.lm.loading.load`.
        """
        s = self.settings
        checkpoint = read_checkpoint(s.model, pre=s.pre)
        found = checkpoint_digest(checkpoint)
        if found != self.sources.checkpoint:
            came = f"the checkpoint {s.model} has SHA-256 {found}"
            raise ValueError(f"{WHO}: {came}, expected {self.sources.checkpoint}, that of {self.name}")
        encoded = saved_tokens(sweep, self.sources)
        if encoded is None:
            raise ValueError(f"{WHO}: the tokens of the texts in {sweep} are gone or damaged: begin the command again")
        model = load(s.model, backend=s.backend, pre=s.pre).model
        return PreparedRun(self, model, checkpoint.tokenizer, encoded)


class PreparedRun:
    """The checkpoint's weights, and windows of the texts."""

    def __init__(self, run: Run, model: Transformer, tokenizer: Tokenizer, encoded: Encoded) -> None:
        self.run, self.tokenizer, self._line = run, tokenizer, encoded.line
        s = run.settings
        self.windows = held_out_windows(encoded.held_out, s.longest, s.windows, scored=s.scored)
        self._watched = held_out_windows(encoded.held_out, s.length, WATCHED)
        self.model = with_softmax_factor(model, run.trained_encoding.softmax_factor)
        self._plain = model

    def training(self) -> WindowTraining | None:
        """The training, before its first step; None where nothing is trained."""
        run, s = self.run, self.run.settings
        if run.seed is None:
            return None
        return WindowTraining(
            *(self.model, run.trained_encoding, self._line, s.plan(self.model.config)),
            length=s.length,
            batch_size=s.batch_size,
            seed=run.seed,
            watched=self._watched,
            places=s.places(run.sources.context),
        )

    def row(self, test: Test) -> dict[str, Any]:
        """The losses of the windows' last tokens, and those by position."""
        run, s, encoding = self.run, test.run.settings, test.encoding
        windows = self.windows[:, -(test.length + 1) :]
        model = with_softmax_factor(self._plain, encoding.softmax_factor)
        losses = token_losses(model, encoding, windows, together=1)
        size = sum(len(self.tokenizer.token_bytes(int(token))) for token in windows[:, -s.scored :].flat)
        return {
            **{"task": TASK, "encoding": run.name_of_encoding, "trained_with": run.name_of_encoding, "seed": run.seed},
            **{"steps": 0 if run.seed is None else s.steps, "tested_with": repr(encoding), "length": test.length},
            **losses_row(losses, s.scored, size),
        }


def runs_of(settings: FinetuneSettings, sources: Sources) -> list[Run]:
    """Those before training, the model's own encoding first; then the trainings, seeds outermost."""
    before = dict.fromkeys((OWN, *settings.encodings))
    trained = [Run(settings, sources, name, seed) for seed in settings.seeds for name in settings.encodings]
    return [*(Run(settings, sources, name, None) for name in before), *trained]


def with_full_paths(settings: FinetuneSettings) -> FinetuneSettings:
    """The settings with model and texts by their full paths, for workers that are somewhere else."""
    model = settings.model if settings.model.startswith(PREFIX) else str(Path(settings.model).resolve())
    return replace(settings, model=model, texts=tuple(str(Path(path).resolve()) for path in settings.texts))
