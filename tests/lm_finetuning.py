"""A small checkpoint, texts and a command line for the tests of refrope lm finetune."""

from __future__ import annotations

from lm_files import random_model, write_directory
from lm_texts import write_texts

from refrope import to_huggingface
from refrope.lm.finetuning.settings import FinetuneSettings

CONTEXT = 64
# Two trainings of four steps, and three encodings tested before them.
OPTIONS = (
    "--steps 4 --length 32 --batch-size 3 --learning-rate 1e-3 --seeds 3 --test-lengths 40,64,96 --windows 4 "
    "--positions pose --backend numpy"
)


def write_sources(directory, own=None):
    """A model that is made for 64 tokens, with an encoding of its own if there is one, and texts of some 200."""
    directory.mkdir(exist_ok=True)
    fields = {} if own is None else {"rope_theta": None, "rope_parameters": to_huggingface(own)}
    write_directory(directory / "model", random_model(), {"max_position_embeddings": CONTEXT, **fields})
    write_texts(directory / "texts")
    return directory


def arguments(sources, out, *more):
    """Those of ``refrope``."""
    model, texts = sources / "model", sources / "texts"
    said = ["lm", "finetune", "--model", str(model), "--texts", str(texts), "--out", str(out)]
    return [*said, *OPTIONS.split(), *more]


def settings_for(sources, **changed):
    """The settings that `OPTIONS` say."""
    usual = {
        **{"steps": 4, "length": 32, "batch_size": 3, "learning_rate": 1e-3, "seeds": (3,), "windows": 4},
        **{"test_lengths": (40, 64, 96), "positions": "pose", "backend": "numpy"},
    }
    return FinetuneSettings(str(sources / "model"), texts=(str(sources / "texts"),), **usual | changed)
