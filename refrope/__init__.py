"""refrope: rotary position embedding, its scaling variants and Resonance RoPE, as verified NumPy and small C kernels.

positions -> encodings (inv_freq) -> tables (cos, sin) -> rotary -> attention -> transformer -> train, evaluate
"""

__version__ = "0.1.0"  # before the imports: results are stamped with it

from refrope import kernels, nn, posgen
from refrope.analysis import critical_pair, feature_gap
from refrope.encodings import Resonance, RoPE, RotaryEncoding, YaRN
from refrope.kernels import get_num_threads, set_num_threads
from refrope.nn.transformer import Transformer, TransformerConfig
from refrope.rotary import rotate, rotation_matrix

__all__ = [
    "Resonance",
    "RoPE",
    "RotaryEncoding",
    "Transformer",
    "TransformerConfig",
    "YaRN",
    "__version__",
    "critical_pair",
    "feature_gap",
    "get_num_threads",
    "kernels",
    "nn",
    "posgen",
    "rotate",
    "rotation_matrix",
    "set_num_threads",
]
