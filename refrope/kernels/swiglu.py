"""C twins of the gated unit in refrope.nn.layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refrope.arrays import in_the_way, put
from refrope.kernels._call import Array, element_strides, kernel, pointer, run, walkable
from refrope.nn.layer_checks import check_swiglu


def swiglu_forward(gate: Array, up: Array, *, out: Array | None = None) -> Array:
    """`refrope.nn.layers.swiglu_forward` in C; rows may lie apart, as in column views."""
    check_swiglu("swiglu_forward", gate, {"up": up}, out=out)
    y = np.empty(gate.shape, gate.dtype) if out is None else out
    _run("swiglu_forward", [gate, up], [y])
    return y


def swiglu_backward(
    dy: Array, gate: Array, up: Array, *, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """`refrope.nn.layers.swiglu_backward` in C; rows may lie apart, as in column views."""
    dgate, dup = (None, None) if out is None else out
    check_swiglu("swiglu_backward", gate, {"dy": dy, "up": up}, dgate=dgate, dup=dup)
    if dgate is None or dup is None:
        dgate, dup = np.empty(gate.shape, gate.dtype), np.empty(gate.shape, gate.dtype)
    _run("swiglu_backward", [dy, gate, up], [dgate, dup])
    return dgate, dup


def _run(name: str, inputs: Sequence[Array], results: Sequence[Array]) -> None:
    """Call the kernel over all rows; on copies where it could not walk an array, or would read what it has written."""
    sources = [x if walkable(x) else np.array(x, order="C") for x in inputs]
    targets = [y if walkable(y) and not in_the_way(y, sources) else np.empty(y.shape, y.dtype) for y in results]
    steps = [step for array in (*sources, *targets) for step in element_strides(array, 1)]
    arguments = (*(pointer(array) for array in (*sources, *targets)), steps, sources[0].shape[1])
    run(kernel(name, sources[0].dtype), arguments, len(sources[0]) if sources[0].size else 0, name)
    for result, target in zip(results, targets, strict=True):
        put(target, result)
