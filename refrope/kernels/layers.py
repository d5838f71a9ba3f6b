"""Fast twins of refrope.nn.layers, refrope.nn.dropout and refrope.nn.optim: loops in C, products by BLAS."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from refrope.errors import describe
from refrope.kernels._call import Array, kernel, pointer, run
from refrope.kernels._native_loader import native
from refrope.kernels.threads import blas_is_single, run_ranges
from refrope.nn.dropout import check_dropout
from refrope.nn.layers import check_rows

# Rows whose contributions to dgain are added in one go. A constant, so that the sum does not depend on the threads.
_GAIN_ROWS = 256


def matmul(a: Array, b: Array, *, out: Array | None = None) -> Array:
    """``a @ b`` for matrices, (M, K) and (K, N): by NumPy's BLAS, rows of the result spread over our threads.

    Inside `refrope.kernels.threads.single_blas_thread` alone; elsewhere BLAS uses its own threads.
    """
    if not blas_is_single():
        return np.matmul(a, b, out=out)
    product = np.empty((len(a), b.shape[1]), a.dtype) if out is None else out

    def rows(first: int, last: int) -> int:
        np.matmul(a[first:last], b, out=product[first:last])
        return 0

    run_ranges(rows, len(a))
    return product


def linear_forward(x: Array, weight: Array, *, out: Array | None = None) -> Array:
    """`refrope.nn.layers.linear_forward` with threads of ours."""
    return matmul(x, weight, out=out)


def linear_backward(
    dy: Array, x: Array, weight: Array, *, dweight: Array | None = None, out: Array | None = None
) -> tuple[Array, Array]:
    """`refrope.nn.layers.linear_backward` with threads of ours."""
    dweight = matmul(x.T, dy, out=dweight)  # first: x may be out
    return matmul(dy, weight.T, out=out), dweight


def rmsnorm_forward(x: Array, gain: Array, *, eps: float = 1e-6, out: Array | None = None) -> tuple[Array, Array]:
    """`refrope.nn.layers.rmsnorm_forward` in C."""
    check_rows("rmsnorm_forward", x, gain)
    x, gain, y = np.ascontiguousarray(x), np.ascontiguousarray(gain), result_like("rmsnorm_forward", x, out)
    inv_rms = np.empty(len(x), x.dtype)
    arguments = (pointer(x), pointer(gain), pointer(y), pointer(inv_rms), x.shape[1], eps)
    run(kernel("rmsnorm_forward", x.dtype), arguments, len(x), "rmsnorm_forward")
    return y, inv_rms


def rmsnorm_backward(
    dy: Array,
    x: Array,
    gain: Array,
    inv_rms: Array,
    *,
    residual: Array | None = None,
    dgain: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """`refrope.nn.layers.rmsnorm_backward` in C."""
    check_rows("rmsnorm_backward", x, gain)
    x, dy, gain = np.ascontiguousarray(x), np.ascontiguousarray(dy), np.ascontiguousarray(gain)
    dx = result_like("rmsnorm_backward", dy, out)
    rows, d = x.shape
    blocks = -(-rows // _GAIN_ROWS)
    partial = np.empty((blocks, d), x.dtype)
    bypass = native()[0].NULL if residual is None else pointer(result_like("rmsnorm_backward", x, residual))
    arguments = (
        *(pointer(dy), pointer(x), pointer(gain), pointer(inv_rms), bypass, pointer(dx), pointer(partial)),
        *(d, rows, _GAIN_ROWS),
    )
    run(kernel("rmsnorm_backward", x.dtype), arguments, blocks, "rmsnorm_backward")
    return dx, np.add.reduce(partial, axis=0, out=dgain)


def relu_forward(x: Array, *, out: Array | None = None) -> Array:
    """`refrope.nn.layers.relu_forward` in C, equal bit for bit."""
    x = np.ascontiguousarray(x)
    y = result_like("relu_forward", x, out)
    run(kernel("relu_forward", x.dtype), (pointer(x), pointer(y)), x.size, "relu_forward")
    return y


def relu_backward(dy: Array, y: Array, *, out: Array | None = None) -> Array:
    """`refrope.nn.layers.relu_backward` in C, equal bit for bit."""
    dy, y = np.ascontiguousarray(dy), np.ascontiguousarray(y)
    dx = result_like("relu_backward", dy, out)
    run(kernel("relu_backward", dy.dtype), (pointer(dy), pointer(y), pointer(dx)), dy.size, "relu_backward")
    return dx


def dropout(x: Array, probability: float, seed: int, *, first: int = 0, out: Array | None = None) -> Array:
    """`refrope.nn.dropout.dropout` in C, equal bit for bit."""
    threshold = check_dropout(x, probability, first)
    x = np.ascontiguousarray(x)
    y = result_like("dropout", x, out)
    run(kernel("dropout", x.dtype), (pointer(x), pointer(y), threshold, seed, first % 2**32), x.size, "dropout")
    return y


def adamw_update(weight: Array, moment1: Array, moment2: Array, grad: Array, settings: npt.NDArray[np.float64]) -> None:
    """`refrope.nn.optim.adamw_update` in C, equal bit for bit."""
    state = tuple(pointer(result_like("adamw_update", weight, a)) for a in (weight, moment1, moment2))
    parts = grad if grad.ndim == 2 else grad[None]
    if parts.shape[1:] != weight.shape or not len(parts) or parts.dtype != weight.dtype or not parts.flags.c_contiguous:
        wanted = f"C-contiguous {weight.dtype}{weight.shape} or (G, {weight.size}) with G >= 1"
        raise ValueError(f"adamw_update: grad is {describe(grad)}, expected {wanted}")
    arguments = (*state, pointer(parts), pointer(settings), len(parts), weight.size)
    run(kernel("adamw", weight.dtype), arguments, weight.size, "adamw_update")


def result_like(function: str, like: Array, out: Array | None) -> Array:
    """`out`, once it is sure that C may write to it as it would to an array like `like`; a new array if it is None."""
    if out is None:
        return np.empty(like.shape, like.dtype)
    if out.shape != like.shape or out.dtype != like.dtype or not out.flags.c_contiguous:
        raise ValueError(f"{function}: out is {describe(out)}, expected C-contiguous {describe(like)}")
    return out
