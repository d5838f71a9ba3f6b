"""refrope: rotary position embedding, its scaling variants and Resonance RoPE, as verified NumPy and small C kernels.

positions -> encodings (inv_freq) -> tables (cos, sin) -> rotary -> attention -> transformer -> train, evaluate
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from refrope.lazy import on_demand

__version__ = "0.1.0"

if TYPE_CHECKING:
    from refrope import analysis, kernels, nn, posgen, precision
    from refrope.analysis import critical_pair, feature_gap
    from refrope.encodings import (
        DynamicNTK,
        FoPE,
        LinearPI,
        Llama3,
        LongRoPE,
        NTKAware,
        NTKByParts,
        ProportionalRoPE,
        Resonance,
        RoPE,
        RotaryEncoding,
        XPos,
        YaRN,
    )
    from refrope.encodings.huggingface import from_huggingface, to_huggingface
    from refrope.kernels import get_num_threads, set_num_threads
    from refrope.nn.configuration import TransformerConfig
    from refrope.nn.transformer import Transformer
    from refrope.permute import permute_rows
    from refrope.rotary import rotate, rotate_periodic, rotation_matrix
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "analysis": "critical_pair feature_gap",
            "kernels": "get_num_threads set_num_threads",
            "nn": "",
            "posgen": "",
            "precision": "",
            "encodings": "DynamicNTK FoPE LinearPI Llama3 LongRoPE NTKAware NTKByParts ProportionalRoPE Resonance RoPE "
            "RotaryEncoding XPos YaRN",
            "encodings.huggingface": "from_huggingface to_huggingface",
            "nn.configuration": "TransformerConfig",
            "nn.transformer": "Transformer",
            "permute": "permute_rows",
            "rotary": "rotate rotate_periodic rotation_matrix",
            "tables": "",
        },
    )

__all__ = [
    "DynamicNTK",
    "FoPE",
    "LinearPI",
    "Llama3",
    "LongRoPE",
    "NTKAware",
    "NTKByParts",
    "ProportionalRoPE",
    "Resonance",
    "RoPE",
    "RotaryEncoding",
    "Transformer",
    "TransformerConfig",
    "XPos",
    "YaRN",
    "__version__",
    "analysis",
    "critical_pair",
    "feature_gap",
    "from_huggingface",
    "get_num_threads",
    "kernels",
    "nn",
    "permute_rows",
    "posgen",
    "precision",
    "rotate",
    "rotate_periodic",
    "rotation_matrix",
    "set_num_threads",
    "to_huggingface",
]
