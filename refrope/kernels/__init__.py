"""C twins: the same names, signatures and errors as the NumPy functions they speed up.

    refrope.rotary                   rotate, rotate_periodic
    refrope.nn.attention             attention_forward, attention_backward
    refrope.nn.layers                linear_forward, linear_backward, rmsnorm_forward, rmsnorm_backward,
                                     relu_forward, relu_backward, embedding_forward, embedding_backward,
                                     cross_entropy_forward, cross_entropy_backward, swiglu_forward, swiglu_backward
    refrope.nn.dropout, .optim       dropout, adamw_update

Where the compiled module is missing every one of them raises RuntimeError with the remedy; nothing falls back silently.
"""

from __future__ import annotations

from typing import Any

from refrope.kernels._native_loader import REMEDY, available, missing_reason, native, require
from refrope.kernels.attention import attention_backward, attention_forward
from refrope.kernels.layers import (
    adamw_update,
    dropout,
    linear_backward,
    linear_forward,
    matmul,
    relu_backward,
    relu_forward,
    rmsnorm_backward,
    rmsnorm_forward,
)
from refrope.kernels.loss import (
    cross_entropy_backward,
    cross_entropy_forward,
    embedding_backward,
    embedding_forward,
)
from refrope.kernels.rotary import rotate, rotate_periodic
from refrope.kernels.swiglu import swiglu_backward, swiglu_forward
from refrope.kernels.threads import get_num_threads, parts_at_once, run_parts, set_num_threads, single_blas_thread

__all__ = [
    "REMEDY",
    "adamw_update",
    "attention_backward",
    "attention_forward",
    "available",
    "build_info",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "dropout",
    "embedding_backward",
    "embedding_forward",
    "get_num_threads",
    "linear_backward",
    "linear_forward",
    "matmul",
    "parts_at_once",
    "relu_backward",
    "relu_forward",
    "require",
    "rmsnorm_backward",
    "rmsnorm_forward",
    "rotate",
    "rotate_periodic",
    "run_parts",
    "set_num_threads",
    "single_blas_thread",
    "swiglu_backward",
    "swiglu_forward",
]


def build_info() -> dict[str, Any]:
    """What the kernels are: whether they are there, their compiler, flags, instruction set in use, and threads."""
    info: dict[str, Any] = {"available": available(), "threads": get_num_threads()}
    if not available():
        return info | {"reason": missing_reason(), "remedy": REMEDY, "compiler": None, "flags": None, "simd": None}
    ffi, lib = native()
    texts = {key: ffi.string(getattr(lib, f"rr_{key}")()).decode() for key in ("compiler", "flags", "simd")}
    return info | texts
