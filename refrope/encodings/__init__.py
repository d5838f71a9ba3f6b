"""Which angle does position m give to pair j? One family of variants a file."""

from refrope.encodings.axes import Axial2D, MRoPE, grid_positions
from refrope.encodings.base import RotaryEncoding
from refrope.encodings.fope import FoPE
from refrope.encodings.interpolation import DynamicNTK, LinearPI, NTKAware, NTKByParts
from refrope.encodings.llama3 import Llama3
from refrope.encodings.longrope import LongRoPE
from refrope.encodings.position_map import PositionMap
from refrope.encodings.remap import STRING, DualChunk, LeakyReRoPE, ReRoPE, SelfExtend
from refrope.encodings.resonance import Resonance
from refrope.encodings.rope import ProportionalRoPE, RoPE
from refrope.encodings.xpos import XPos
from refrope.encodings.yarn import YaRN

__all__ = [
    "STRING",
    "Axial2D",
    "DualChunk",
    "DynamicNTK",
    "FoPE",
    "LeakyReRoPE",
    "LinearPI",
    "Llama3",
    "LongRoPE",
    "MRoPE",
    "NTKAware",
    "NTKByParts",
    "PositionMap",
    "ProportionalRoPE",
    "ReRoPE",
    "Resonance",
    "RoPE",
    "RotaryEncoding",
    "SelfExtend",
    "XPos",
    "YaRN",
    "grid_positions",
]
