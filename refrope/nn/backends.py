"""Which functions a model calls: the C kernels or their readable NumPy twins."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from refrope import kernels, rotary
from refrope.errors import check_name
from refrope.nn import attention, dropout, layers, optim

BACKENDS = ("c", "numpy")


class NumpyOps:
    """The readable twins of what `refrope.kernels` offers, under one roof."""

    rotate: Final = staticmethod(rotary.rotate)
    rotate_periodic: Final = staticmethod(rotary.rotate_periodic)
    attention_forward: Final = staticmethod(attention.attention_forward)
    attention_backward: Final = staticmethod(attention.attention_backward)
    matmul: Final = staticmethod(layers.matmul)
    linear_forward: Final = staticmethod(layers.linear_forward)
    linear_backward: Final = staticmethod(layers.linear_backward)
    rmsnorm_forward: Final = staticmethod(layers.rmsnorm_forward)
    rmsnorm_backward: Final = staticmethod(layers.rmsnorm_backward)
    relu_forward: Final = staticmethod(layers.relu_forward)
    relu_backward: Final = staticmethod(layers.relu_backward)
    swiglu_forward: Final = staticmethod(layers.swiglu_forward)
    swiglu_backward: Final = staticmethod(layers.swiglu_backward)
    embedding_forward: Final = staticmethod(layers.embedding_forward)
    embedding_backward: Final = staticmethod(layers.embedding_backward)
    cross_entropy_forward: Final = staticmethod(layers.cross_entropy_forward)
    cross_entropy_backward: Final = staticmethod(layers.cross_entropy_backward)
    dropout: Final = staticmethod(dropout.dropout)
    adamw_update: Final = staticmethod(optim.adamw_update)


def operations(backend: str) -> ModuleType | type[NumpyOps]:
    """The functions of a backend: "c" for the kernels, "numpy" for their twins.

    Raises
    ------
    ValueError
        Another name. RuntimeError: "c" where the kernels are not built.
    """
    check_name("operations", "backend", backend, BACKENDS)
    if backend == "numpy":
        return NumpyOps
    kernels.require()
    return kernels
