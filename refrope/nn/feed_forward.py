"""x + feed_forward(norm(x)), with ReLU or SwiGLU, forward directly followed by backward."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from refrope.nn.sublayers import Sublayers

Array = npt.NDArray[Any]


class FeedForward(Sublayers):
    """The feed-forward sublayer of every layer of a model."""

    def _feed_forward_forward(self, i: int, x: Array, keep: bool) -> Array:
        c, p, ops = self.config, f"layers.{i}.feed_forward", self.ops
        buf = self._layer_buffers(p, keep)
        n, inv_rms = ops.rmsnorm_forward(x, self.params[f"{p}.gain"], eps=c.eps, out=buf("n", *x.shape))
        weight = self.params[f"{p}.in"]
        h = ops.linear_forward(n, weight, out=buf("h", len(x), weight.shape[1]))
        a = h
        if c.feed_forward == "swiglu":
            gate, up = self._halves(h)
            # Written over the gate where no backward pass asks for it: the product reads rows that lie apart as well.
            a = ops.swiglu_forward(gate, up, out=buf("a", *gate.shape) if keep else gate)
        else:
            ops.relu_forward(h, out=h)
        self._dropout(a, f"{p}.in")
        y = ops.linear_forward(a, self.params[f"{p}.out"], out=buf("y", *x.shape))
        self._dropout(y, f"{p}.out")
        y += x
        if keep:
            self._saved[p] = (x, n, inv_rms, h, a)
        return y

    def _feed_forward_backward(self, i: int, dy: Array) -> Array:
        p, ops = f"layers.{i}.feed_forward", self.ops
        x, n, inv_rms, h, a = self._saved[p]
        dbranch = self._dropout_copy(dy, f"{p}.out")
        da = self._scratch(len(x))[: a.size].reshape(a.shape)
        self._linear_backward(dbranch, a, f"{p}.out", da)
        self._dropout(da, f"{p}.in")
        if self.config.feed_forward == "swiglu":
            # h is read for the last time here: its memory takes dh.
            ops.swiglu_backward(da, *self._halves(h), out=self._halves(h))
            dh = h
        else:  # dropout keeps the sign of h: where it is positive, ReLU's input was
            dh = ops.relu_backward(da, h, out=da)
        # n is read for the last time here: its memory takes dn.
        dn = self._linear_backward(dh, n, f"{p}.in", n)
        # The residual path carries dy round the sublayer.
        dx, _ = ops.rmsnorm_backward(
            dn, x, self.params[f"{p}.gain"], inv_rms, residual=dy, dgain=self.grads[f"{p}.gain"], out=dy
        )
        return dx

    def _halves(self, h: Array) -> tuple[Array, Array]:
        """Gate and what it gates, or their gradients, as views of the rows of one product."""
        return h[:, : self.config.d_ff], h[:, self.config.d_ff :]
