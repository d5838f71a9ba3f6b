"""What the sublayers of a model share: weights, buffers, and where dropout acts."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.nn import dropout as dropout_module
from refrope.nn.backends import NumpyOps, operations
from refrope.nn.configuration import TransformerConfig
from refrope.nn.memory import Buffers

Array = npt.NDArray[Any]


class Sublayers:
    """The state of a model during and between calls.

    Parameters
    ----------
    config : TransformerConfig
    flat_params : (config.size(),) of the model's dtype
    backend : {"c", "numpy"}
    """

    def __init__(self, config: TransformerConfig, flat_params: Array, backend: str) -> None:
        self.config = config
        self.dtype: np.dtype[Any] = flat_params.dtype
        self.ops: ModuleType | type[NumpyOps] = operations(backend)
        self.backend = backend
        self.flat_params = flat_params
        self.params: dict[str, Array] = config.views(flat_params)
        self.buffers: Buffers = Buffers(self.dtype)
        self.grads: dict[str, Array] = {}
        self._saved: dict[str, Any] = {}
        self._skipped: frozenset[str] = frozenset()  # weights whose gradients nobody asks for
        self._sites = ["embedding", "final"]  # where dropout acts, in a fixed order: the place in it seeds the mask
        for i in range(config.layers):
            self._sites += [
                f"layers.{i}.{s}" for s in ("attention.weights", "attention.out", "feed_forward.in", "feed_forward.out")
            ]

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle needs: the weights once. Buffers and what a call has saved are not part of it."""
        return {"config": self.config, "backend": self.backend, "flat_params": self.flat_params}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A model of its own, whose `params` are views into its `flat_params` again."""
        Sublayers.__init__(self, state["config"], state["flat_params"], state["backend"])

    def _site_seed(self, site: str) -> int:
        return dropout_module.site_seed(self._saved["seed"], self._sites.index(site))

    def _dropout(self, x: Array, site: str, out: Array | None = None) -> None:
        """Apply a site's mask to `x`, in place unless there is an `out`, where dropout is on; forward and backward."""
        if self._saved["seed"] is not None:
            first = self._saved["first"] * (x.size // self._saved["batch"])
            self.ops.dropout(x, self.config.dropout, self._site_seed(site), first=first, out=x if out is None else out)

    def _dropout_copy(self, dy: Array, site: str) -> Array:
        """The gradient that goes into a sublayer's branch, while `dy` itself goes on along the residual path."""
        if self._saved["seed"] is None:
            return dy
        masked: Array = self._saved["x"]  # what went into the final norm, whose gradient is done
        self._dropout(dy, site, out=masked)
        return masked

    def _linear_backward(self, dy: Array, x: Array, name: str, out: Array) -> Array:
        """The gradient of what the product with a weight has read, into `out`; that of the weight, unless skipped."""
        weight = self.params[name]
        if name in self._skipped:
            dx: Array = self.ops.matmul(dy, weight.T, out=out)
        else:
            dx, _ = self.ops.linear_backward(dy, x, weight, dweight=self.grads[name], out=out)
        return dx

    def _scratch(self, rows: int) -> Array:
        """Memory for the widest gradients inside a sublayer, none of which outlives it."""
        c = self.config
        return self.buffers("scratch", rows * max(c.d_ff, (2 * c.heads + 2 * c.key_heads) * c.head_dim))

    def _layer_buffers(self, prefix: str, keep: bool) -> Any:
        """Buffers of its own for each layer if they must be kept, else shared by layers two apart."""
        owner = prefix if keep else prefix.split(".")[-1]
        return lambda name, *shape: self.buffers(f"{owner}.{name}", *shape)
