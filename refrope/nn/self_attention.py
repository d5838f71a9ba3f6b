"""x + attention(norm(x)): one product for queries, keys and values, forward directly followed by backward."""

from __future__ import annotations

import math
from typing import Any

import numpy.typing as npt

from refrope.errors import check_integer
from refrope.nn.attending import Attending
from refrope.nn.memory import KVCache
from refrope.nn.sublayers import Sublayers

Array = npt.NDArray[Any]


class SelfAttention(Sublayers):
    """The attention sublayer of every layer of a model."""

    def _attention_forward(self, i: int, x: Array, batch: int, keep: bool, cache: KVCache | None) -> Array:
        c, p, ops = self.config, f"layers.{i}.attention", self.ops
        buf = self._layer_buffers(p, keep)
        rows, length, inner = len(x), len(x) // batch, c.heads * c.head_dim
        n, inv_rms = ops.rmsnorm_forward(x, self.params[f"{p}.gain"], eps=c.eps, out=buf("n", *x.shape))
        qkv = ops.linear_forward(n, self.params[f"{p}.qkv"], out=buf("qkv", rows, inner + 2 * c.key_heads * c.head_dim))
        q, k, v = self._split_heads(qkv, batch)
        attending = self._attending(i)
        attending.turn(self._queries_and_keys(qkv, batch))
        if cache is not None:
            k, v = cache.extend(i, k, v)
        o_rows = buf("o", rows, inner)
        o = o_rows.reshape(batch, length, c.heads, c.head_dim).transpose(0, 2, 1, 3)
        attended = attending.forward(q, k, v, self._bias_weights(self.params, i), self._attention_settings(p), o)
        y = ops.linear_forward(o_rows, self.params[f"{p}.out"], out=buf("y", *x.shape))
        self._dropout(y, f"{p}.out")
        y += x
        if keep:
            self._saved[p] = (x, n, inv_rms, qkv, o_rows, attended)
        return y

    def _attention_backward(self, i: int, dy: Array) -> Array:
        c, p, ops, batch = self.config, f"layers.{i}.attention", self.ops, self._saved["batch"]
        x, n, inv_rms, qkv, o_rows, attended = self._saved[p]
        dbranch = self._dropout_copy(dy, f"{p}.out")
        inner = c.heads * c.head_dim
        scratch = self._scratch(len(x))
        do_rows, dqkv = scratch[: o_rows.size].reshape(-1, inner), scratch[o_rows.size :][: qkv.size].reshape(qkv.shape)
        self._linear_backward(dbranch, o_rows, f"{p}.out", do_rows)
        do = do_rows.reshape(batch, -1, c.heads, c.head_dim).transpose(0, 2, 1, 3)
        attending = self._attending(i)
        attending.backward(
            *(do, *self._split_heads(qkv, batch), attended),
            *(self._bias_weights(self.params, i), self._attention_settings(p)),
            *(self._split_heads(dqkv, batch), self._bias_weights(self.grads, i)),
        )
        attending.turn(self._queries_and_keys(dqkv, batch), transpose=True)
        # n is read for the last time here: its memory takes dn.
        dn = self._linear_backward(dqkv, n, f"{p}.qkv", n)
        # The residual path carries dy round the sublayer.
        dx, _ = ops.rmsnorm_backward(
            dn, x, self.params[f"{p}.gain"], inv_rms, residual=dy, dgain=self.grads[f"{p}.gain"], out=dy
        )
        return dx

    def attention_weights(self, layer: int) -> Array:
        """What each query gave to each key in a layer, at the last `forward`, if that had ``keep=True``.

        Returns
        -------
        (B, H, T, T), dtype of the model, a new array; `Attending.weights` says how. Dropout is in them where it was on.

        Raises
        ------
        ValueError
            No such layer; nothing kept, or a `backward` since then, which reuses the memory.
        """
        layer = check_integer("Transformer.attention_weights", "layer", layer, 0, self.config.layers - 1)
        if not self._saved.get("keep"):
            raise ValueError("Transformer.attention_weights: nothing kept, expected forward(..., keep=True) before")
        p = f"layers.{layer}.attention"
        q, k, _ = self._split_heads(self._saved[p][3], self._saved["batch"])
        return self._attending(layer).weights(q, k, self._bias_weights(self.params, layer), self._attention_settings(p))

    def _attending(self, layer: int) -> Attending:
        attending: Attending = self._saved["attending"]
        return attending.of_layer(layer)

    def _attention_settings(self, prefix: str) -> dict[str, Any]:
        if self._saved["seed"] is None:
            return {"scale": self._scale()}
        return {
            "scale": self._scale(),
            "dropout": self.config.dropout,
            "seed": self._site_seed(f"{prefix}.weights"),
            "first_slice": self._saved["first"] * self.config.heads,
        }

    def _scale(self) -> float:
        """What the scores are multiplied with."""
        c = self.config
        return 1 / math.sqrt(c.head_dim) if c.softmax_scale is None else c.softmax_scale

    def _bias_weights(self, arrays: dict[str, Array], i: int) -> dict[str, Array]:
        """Those of `arrays` (weights or gradients) that belong to the bias of a layer, by their short names."""
        c = self.config
        if c.bias is None:
            return {}
        prefix = c.bias_prefix(i)
        return {name: arrays[f"{prefix}.{name}"] for name in c.bias.shapes(c.heads)}

    def _split_heads(self, qkv: Array, batch: int) -> tuple[Array, Array, Array]:
        """Views of the rows of one product: q (B, H, T, head_dim) and k, v (B, H_kv, T, head_dim)."""
        q, k = self.config.heads, self.config.key_heads
        heads = self._heads(qkv, batch)
        return heads[:, :q], heads[:, q : q + k], heads[:, q + k :]

    def _queries_and_keys(self, qkv: Array, batch: int) -> Array:
        """Both as one view (B, H + H_kv, T, head_dim), since they turn together."""
        return self._heads(qkv, batch)[:, : self.config.heads + self.config.key_heads]

    def _heads(self, qkv: Array, batch: int) -> Array:
        c = self.config
        return qkv.reshape(batch, -1, c.heads + 2 * c.key_heads, c.head_dim).transpose(0, 2, 1, 3)
