"""refrope: rotary position embedding, its scaling variants and Resonance RoPE, as verified NumPy and small C kernels.

positions -> encodings (inv_freq) -> tables (cos, sin) -> rotary -> attention -> transformer -> train, evaluate
"""

__version__ = "0.1.0"  # before the imports: results are stamped with it

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
