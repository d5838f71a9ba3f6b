"""Fast twins of refrope.nn.layers, refrope.nn.dropout and refrope.nn.optim: loops in C, products by BLAS."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from refrope.arrays import overlap, put
from refrope.kernels._call import Array, in_place, kernel, pointer, readable, run, target
from refrope.kernels._native_loader import native
from refrope.kernels.row_product import row_product, suits
from refrope.kernels.threads import blas_is_single, run_ranges
from refrope.nn.dropout import check_dropout
from refrope.nn.layer_checks import (
    check_adamw,
    check_linear_backward,
    check_product,
    check_relu,
    check_rmsnorm_backward,
    check_rmsnorm_forward,
)

# Rows whose contributions to dgain are added in one go. A constant, so that the sum does not depend on the threads.
_GAIN_ROWS = 256


def matmul(a: Array, b: Array, *, out: Array | None = None) -> Array:
    """``a @ b`` for matrices, (M, K) and (K, N): by NumPy's BLAS, rows of the result spread over our threads.

    Inside `refrope.kernels.threads.single_blas_thread` alone; elsewhere BLAS uses its own threads.
    """
    check_product("matmul", a, b, out)
    return _product(a, b, out)


def linear_forward(x: Array, weight: Array, *, out: Array | None = None) -> Array:
    """`refrope.nn.layers.linear_forward` with threads of ours."""
    check_product("linear_forward", x, weight, out, ("x", "weight"))
    return _product(x, weight, out)


def linear_backward(
    dy: Array, x: Array, weight: Array, *, dweight: Array | None = None, out: Array | None = None
) -> tuple[Array, Array]:
    """`refrope.nn.layers.linear_backward` with threads of ours."""
    check_linear_backward(dy, x, weight, dweight, out)
    early = dweight is not None and not (overlap(dweight, dy) or overlap(dweight, weight))
    gradient = _product(x.T, dy, dweight if early else None)  # first: x may be out
    return _product(dy, weight.T, out), put(gradient, dweight)


def _product(a: Array, b: Array, out: Array | None) -> Array:
    alone = suits(a, b)
    if not alone and not blas_is_single():
        return np.matmul(a, b, out=out)
    apart = out is not None and not (overlap(out, a) or overlap(out, b))
    product = out if out is not None and apart else np.empty((len(a), b.shape[1]), a.dtype)
    if alone:
        target = product if product.flags.c_contiguous and product.flags.aligned else np.empty_like(product, order="C")
        row_product(a, b, target)
        return put(target, out)

    def rows(first: int, last: int) -> int:
        np.matmul(a[first:last], b, out=product[first:last])
        return 0

    run_ranges(rows, len(a))
    return put(product, out)


def rmsnorm_forward(x: Array, gain: Array, *, eps: float = 1e-6, out: Array | None = None) -> tuple[Array, Array]:
    """`refrope.nn.layers.rmsnorm_forward` in C."""
    check_rmsnorm_forward(x, gain, eps, out)
    x, gain = readable(x), readable(gain)
    y, inv_rms = target(out, x, over=[x], beside=[gain]), np.empty(len(x), x.dtype)
    eps = float(x.dtype.type(eps))  # as in the twin, where a tiny one becomes zero
    arguments = (pointer(x), pointer(gain), pointer(y), pointer(inv_rms), x.shape[1], eps)
    run(kernel("rmsnorm_forward", x.dtype), arguments, len(x), "rmsnorm_forward")
    return put(y, out), inv_rms


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
    check_rmsnorm_backward(dy, x, gain, inv_rms, residual, dgain, out)
    dy, x, gain, inv_rms = readable(dy), readable(x), readable(gain), readable(inv_rms)
    residual = None if residual is None else readable(residual)
    dx = target(out, x, over=[dy, x, residual], beside=[gain, inv_rms])
    rows, d = x.shape
    blocks = -(-rows // _GAIN_ROWS)
    partial = np.empty((blocks, d), x.dtype)
    bypass = native()[0].NULL if residual is None else pointer(residual)
    arguments = (
        *(pointer(dy), pointer(x), pointer(gain), pointer(inv_rms), bypass, pointer(dx), pointer(partial)),
        *(d, rows, _GAIN_ROWS),
    )
    run(kernel("rmsnorm_backward", x.dtype), arguments, blocks, "rmsnorm_backward")
    return put(dx, out), np.add.reduce(partial, axis=0, out=dgain)


def relu_forward(x: Array, *, out: Array | None = None) -> Array:
    """`refrope.nn.layers.relu_forward` in C, equal bit for bit."""
    check_relu("relu_forward", out, x=x)
    x = readable(x)
    y = target(out, x, over=[x])
    run(kernel("relu_forward", x.dtype), (pointer(x), pointer(y)), x.size, "relu_forward")
    return put(y, out)


def relu_backward(dy: Array, y: Array, *, out: Array | None = None) -> Array:
    """`refrope.nn.layers.relu_backward` in C, equal bit for bit."""
    check_relu("relu_backward", out, dy=dy, y=y)
    dy, y = readable(dy), readable(y)
    dx = target(out, dy, over=[dy, y])
    run(kernel("relu_backward", dy.dtype), (pointer(dy), pointer(y), pointer(dx)), dy.size, "relu_backward")
    return put(dx, out)


def dropout(x: Array, probability: float, seed: int, *, first: int = 0, out: Array | None = None) -> Array:
    """`refrope.nn.dropout.dropout` in C, equal bit for bit."""
    threshold = check_dropout(x, probability, seed, first, out)
    x = readable(x)
    y = target(out, x, over=[x])
    run(kernel("dropout", x.dtype), (pointer(x), pointer(y), threshold, int(seed), first % 2**32), x.size, "dropout")
    return put(y, out)


def adamw_update(weight: Array, moment1: Array, moment2: Array, grad: Array, settings: npt.NDArray[np.float64]) -> None:
    """`refrope.nn.optim.adamw_update` in C, equal bit for bit."""
    check_adamw(weight, moment1, moment2, grad, settings)
    arrays = (weight, moment1, moment2)
    state = [in_place(array) for array in arrays]
    parts = readable(grad if grad.ndim == 2 else grad[None])
    if any(overlap(array, parts) for array in state):
        parts = parts.copy()
    numbers = np.array(settings, order="C")  # a copy: a thread may read them when another one has written
    arguments = (*map(pointer, state), pointer(parts), pointer(numbers), len(parts), weight.size)
    run(kernel("adamw", weight.dtype), arguments, weight.size, "adamw_update")
    for array, changed in zip(arrays, state, strict=True):
        put(changed, array)
