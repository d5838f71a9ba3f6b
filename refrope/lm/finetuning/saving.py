"""A model that ``refrope lm finetune`` has continued, with all that a directory of Hugging Face says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from refrope.encodings import DynamicNTK, LongRoPE, RotaryEncoding
from refrope.files import read_checked_json
from refrope.lm.checkpoint import Checkpoint
from refrope.lm.finetuning.runs import TASK
from refrope.lm.finetuning.settings import FinetuneSettings
from refrope.lm.finetuning.sources import checkpoint_digest
from refrope.lm.finetuning.tables import label_of
from refrope.lm.loading import read_checkpoint
from refrope.lm.swapping import OWN, OWN_RESONANCE
from refrope.lm.training.saving import WHO, SavedModel
from refrope.nn.transformer import Transformer
from refrope.sweep.running import saved_weights


def finetuned_model(directory: Path) -> SavedModel:
    """The model of a finished run, from its directory ``DIR/runs/NAME``; the checkpoint lends tokenizer and sizes.

    Raises
    ------
    ValueError
        No finished training of ``refrope lm finetune``; damaged weights; a checkpoint that is gone or another one.
    """
    result = read_checked_json(directory / "result.json")
    if result is None:
        raise ValueError(f"{WHO}: {directory} has no result.json, expected the directory of a finished run")
    about = result["training"]
    if about.get("task") != TASK or "failed" in result or result.get("untrained"):
        raise ValueError(
            f"{WHO}: {directory} has no trained model, expected a finished training of refrope lm finetune"
        )
    asked = json.loads((directory / "settings.json").read_text(encoding="utf-8"))["settings"]
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in asked.items()}
    settings = FinetuneSettings(**fields)
    checkpoint = read_checkpoint(settings.model, pre=settings.pre)
    found = checkpoint_digest(checkpoint)
    if found != about["checkpoint"]:
        raise ValueError(
            f"{WHO}: {settings.model} has SHA-256 {found}, expected {about['checkpoint']}, that of the run"
        )
    weights = saved_weights(directory, result)
    if weights is None:
        raise ValueError(f"{WHO}: {directory / 'weights.npz'} is damaged: the command that trained mends it")
    model = Transformer(checkpoint.config, seed=None, backend=settings.backend)
    model.flat_params[...] = weights
    name, inner = about["trained_with"], checkpoint.tokenizer.inner
    reach = settings.reach(checkpoint.context)
    encoding = settings.encoding(name, checkpoint.encoding, checkpoint.context, reach)
    if isinstance(encoding, DynamicNTK | LongRoPE):
        encoding = replace(encoding, length=None)  # a configuration is for every length
    return SavedModel(
        model,
        encoding,
        label_of(name),
        _context(name, encoding, checkpoint),
        inner.to_str(),
        *(checkpoint.bos, checkpoint.eos),
        (
            None if checkpoint.bos is None else inner.id_to_token(checkpoint.bos),
            inner.id_to_token(checkpoint.eos[0]),
        ),
    )


def _context(name: str, encoding: RotaryEncoding, checkpoint: Checkpoint) -> int:
    """The longest text that the saved model is made for.

    What is swapped in scales the checkpoint's context; its own encoding has it already, and dynamic NTK's configuration
    has no other place for the length that it starts from.
    """
    if name in (OWN, OWN_RESONANCE) or isinstance(encoding, DynamicNTK):
        return checkpoint.context
    return round(checkpoint.context * getattr(encoding, "factor", 1.0))
