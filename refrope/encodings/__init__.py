"""Which angle does position m give to pair j? One family of variants a file."""

from refrope.encodings.base import RotaryEncoding
from refrope.encodings.resonance import Resonance
from refrope.encodings.rope import RoPE
from refrope.encodings.yarn import YaRN

__all__ = ["Resonance", "RoPE", "RotaryEncoding", "YaRN"]
