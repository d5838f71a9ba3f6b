"""Which functions a model calls: the C kernels or their readable NumPy twins."""

from __future__ import annotations

from types import ModuleType

from refrope import kernels, rotary
from refrope.errors import check_name
from refrope.nn import attention, dropout, layers, optim

BACKENDS = ("c", "numpy")


class NumpyOps:
    """The readable twins of what `refrope.kernels` offers, under one roof."""

    rotate = staticmethod(rotary.rotate)
    rotate_periodic = staticmethod(rotary.rotate_periodic)
    attention_forward = staticmethod(attention.attention_forward)
    attention_backward = staticmethod(attention.attention_backward)
    matmul = staticmethod(layers.matmul)
    linear_forward = staticmethod(layers.linear_forward)
    linear_backward = staticmethod(layers.linear_backward)
    rmsnorm_forward = staticmethod(layers.rmsnorm_forward)
    rmsnorm_backward = staticmethod(layers.rmsnorm_backward)
    relu_forward = staticmethod(layers.relu_forward)
    relu_backward = staticmethod(layers.relu_backward)
    swiglu_forward = staticmethod(layers.swiglu_forward)
    swiglu_backward = staticmethod(layers.swiglu_backward)
    embedding_forward = staticmethod(layers.embedding_forward)
    embedding_backward = staticmethod(layers.embedding_backward)
    cross_entropy_forward = staticmethod(layers.cross_entropy_forward)
    cross_entropy_backward = staticmethod(layers.cross_entropy_backward)
    dropout = staticmethod(dropout.dropout)
    adamw_update = staticmethod(optim.adamw_update)


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
