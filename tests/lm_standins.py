"""A small random model that reads bytes, in the place of a checkpoint."""

from pathlib import Path

import numpy as np

from refrope import RoPE, Transformer, TransformerConfig
from refrope.lm.model import LanguageModel

CONTEXT = 64
EOS = 0
CONFIG = TransformerConfig(
    vocabulary=256, d_model=24, heads=3, head_dim=8, d_ff=40, layers=2, softmax_scale=None, head_scale=1.0
)


class Bytes:
    """A tokenizer whose tokens are UTF-8 bytes."""

    vocabulary = 256

    def encode(self, text, special=True):
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64)

    def encode_inside(self, text):
        return self.encode(text, special=False)

    drops_space = False

    def token_bytes(self, token):
        return bytes([token])

    def decode(self, tokens):
        return bytes(tokens.tolist()).decode(errors="replace")


def transformer(seed=3, dtype=np.float32, backend="numpy", **changes):
    """A random model."""
    from dataclasses import replace

    return Transformer(replace(CONFIG, **changes), seed=seed, dtype=dtype, backend=backend)


def language_model(**options):
    """A random model with a tokenizer."""
    model = transformer(**options)
    config = {"head_dim": 8, "max_position_embeddings": CONTEXT, "rope_parameters": {"rope_theta": 500.0}}
    return LanguageModel(
        *(model, RoPE(8, 500.0), Bytes(), CONTEXT, "standin", Path("standin.gguf"), config, None, (EOS,))
    )
