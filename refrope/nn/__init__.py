"""A minimal transformer in NumPy, every forward directly followed by its backward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refrope.lazy import on_demand

if TYPE_CHECKING:
    from refrope.nn.absolute import LearnedPositions, Sinusoidal
    from refrope.nn.attention import attention_backward, attention_forward, distance_bias
    from refrope.nn.biases import ALiBi, Kerple, T5Bias
    from refrope.nn.configuration import TransformerConfig
    from refrope.nn.dape import DAPE
    from refrope.nn.fire import FIRE
    from refrope.nn.mapped import mapped_backward, mapped_forward
    from refrope.nn.mapped_oracle import mapped_reference
    from refrope.nn.memory import KVCache
    from refrope.nn.optim import AdamW, OneCycle
    from refrope.nn.place_bias import PlaceBias
    from refrope.nn.transformer import Transformer
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "absolute": "LearnedPositions Sinusoidal",
            "attention": "attention_backward attention_forward distance_bias",
            "biases": "ALiBi Kerple T5Bias",
            "configuration": "TransformerConfig",
            "dape": "DAPE",
            "fire": "FIRE",
            "mapped": "mapped_backward mapped_forward",
            "mapped_oracle": "mapped_reference",
            "memory": "KVCache",
            "optim": "AdamW OneCycle",
            "place_bias": "PlaceBias",
            "transformer": "Transformer",
        },
    )

__all__ = [
    "DAPE",
    "FIRE",
    "ALiBi",
    "AdamW",
    "KVCache",
    "Kerple",
    "LearnedPositions",
    "OneCycle",
    "PlaceBias",
    "Sinusoidal",
    "T5Bias",
    "Transformer",
    "TransformerConfig",
    "attention_backward",
    "attention_forward",
    "distance_bias",
    "mapped_backward",
    "mapped_forward",
    "mapped_reference",
]
