"""A minimal transformer in NumPy, every forward directly followed by its backward."""

from refrope.nn.attention import attention_backward, attention_forward, distance_bias
from refrope.nn.configuration import TransformerConfig
from refrope.nn.memory import KVCache
from refrope.nn.optim import AdamW, OneCycle
from refrope.nn.transformer import Transformer

__all__ = [
    "AdamW",
    "KVCache",
    "OneCycle",
    "Transformer",
    "TransformerConfig",
    "attention_backward",
    "attention_forward",
    "distance_bias",
]
