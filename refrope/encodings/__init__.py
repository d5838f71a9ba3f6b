"""Which angle does position m give to pair j? One family of variants a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refrope.lazy import on_demand

if TYPE_CHECKING:
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
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "axes": "Axial2D MRoPE grid_positions",
            "base": "RotaryEncoding",
            "fope": "FoPE",
            "interpolation": "DynamicNTK LinearPI NTKAware NTKByParts",
            "llama3": "Llama3",
            "longrope": "LongRoPE",
            "position_map": "PositionMap",
            "remap": "STRING DualChunk LeakyReRoPE ReRoPE SelfExtend",
            "resonance": "Resonance",
            "rope": "ProportionalRoPE RoPE",
            "xpos": "XPos",
            "yarn": "YaRN",
        },
    )

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
