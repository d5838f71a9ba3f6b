"""A minimal transformer in NumPy, every forward directly followed by its backward."""

from refrope.nn.attention import attention_backward, attention_forward
from refrope.nn.configuration import TransformerConfig
from refrope.nn.optim import AdamW, OneCycle
from refrope.nn.transformer import Transformer

__all__ = ["AdamW", "OneCycle", "Transformer", "TransformerConfig", "attention_backward", "attention_forward"]
