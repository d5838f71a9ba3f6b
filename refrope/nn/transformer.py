"""A minimal decoder transformer: RMSNorm before each sublayer, no biases, tied head, as in T5.

    tokens (B, T) -> embedding -> [ + attention(norm) -> + feed-forward(norm) ] x layers -> norm -> head -> logits

Every forward step is directly followed by its backward step. Weights, their gradients and AdamW's moments are flat
arrays, so that an optimizer step is one call; `params` and `grads` are named views into them.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer, describe
from refrope.nn import dropout as dropout_module
from refrope.nn.absolute import LearnedPositions
from refrope.nn.attending import Attending, Rotation, check_positions
from refrope.nn.backends import operations
from refrope.nn.configuration import TransformerConfig, initial_weights
from refrope.nn.memory import Buffers, KVCache

Array = npt.NDArray[Any]


class Transformer:
    """Weights, forward and backward pass.

    Parameters
    ----------
    config : TransformerConfig
    seed : int
        Of the initial weights; those of a model do not depend on its backend.
    backend : {"c", "numpy"}
    dtype : float32 or float64

    Examples
    --------
    >>> from refrope import RoPE
    >>> model = Transformer(TransformerConfig(), seed=1)
    >>> tokens = np.arange(12).reshape(2, 6)
    >>> logits = model.forward(tokens, RoPE(64).cos_sin(np.arange(6)))
    >>> logits.shape
    (2, 6, 18)
    """

    def __init__(
        self, config: TransformerConfig, *, seed: int, backend: str = "c", dtype: npt.DTypeLike = np.float32
    ) -> None:
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"Transformer: dtype is {np.dtype(dtype)}, expected float32 or float64")
        self.config = config
        self.dtype = np.dtype(dtype)
        self.ops = operations(backend)
        self.backend = backend
        self.flat_params = initial_weights(config, seed, self.dtype)
        self.params = config.views(self.flat_params)
        self.buffers = Buffers(self.dtype)
        self.grads: dict[str, Array] = {}
        self._replicas = [self]
        self._saved: dict[str, Any] = {}
        self._sites = ["embedding", "final"]  # where dropout acts, in a fixed order: the place in it seeds the mask
        for i in range(config.layers):
            self._sites += [
                f"layers.{i}.{s}" for s in ("attention.weights", "attention.out", "feed_forward.in", "feed_forward.out")
            ]

    def replicas(self, count: int) -> list[Transformer]:
        """`count` models with the same weights in memory and buffers of their own, the first of them this one.

        Different threads may use them at the same time.
        """
        while len(self._replicas) < count:
            other = copy.copy(self)
            other.buffers, other.grads, other._saved = Buffers(self.dtype), {}, {}
            other._replicas = [other]
            self._replicas.append(other)
        return self._replicas[:count]

    # ---- the whole model ----

    def forward(
        self,
        tokens: npt.NDArray[Any],
        tables: Rotation,
        *,
        positions: Array | None = None,
        dropout_seed: int | None = None,
        first: int = 0,
        keep: bool = False,
        cache: KVCache | None = None,
    ) -> Array:
        """Logits of the next token at every position.

        Parameters
        ----------
        tokens : (B, T) integers in [0, vocabulary)
        tables : cos, sin, each (T, r/2) of the model's dtype; or the passes of a position map; or None
            Which encoding the positions have is decided here, by the caller, at every call. Tables (B, T, r/2) give
            each sequence positions of its own. None turns nothing.
        positions : (T,) rising ints, optional
            For what the configuration has beside a rotation: rows added to the embeddings, a bias. Consecutive from
            0, or from the cache's length, if None.
        dropout_seed : int, optional
            Switches dropout on (training); the masks depend on it and on `first` alone.
        first : int
            The number of the first sequence in its batch: a part of a batch gets the masks that it has in the whole.
        keep : bool
            Keep what `backward` needs.
        cache : KVCache, optional
            The tokens go on after those that it holds, whose keys they see, and are added to it.

        Returns
        -------
        (B, T, vocabulary), in a buffer that the next call overwrites

        Raises
        ------
        ValueError
            Tokens outside the vocabulary, tables that do not fit, a cache that is full or of another model.
        """
        c, buf, ops = self.config, self.buffers, self.ops
        tokens = self._check_tokens(tokens)
        batch, length = tokens.shape
        if cache is not None:
            if keep:
                raise ValueError("Transformer.forward: keep with a cache, expected one of them: no gradient goes back")
            cache.check(batch, length, c, self.dtype)
        start = 0 if cache is None else cache.length
        places, consecutive = check_positions("Transformer.forward", positions, length, start)
        if cache is not None and not consecutive:
            raise ValueError("Transformer.forward: positions with gaps and a cache, expected one of them")
        keys = places if cache is None else np.arange(start + length)
        attending = Attending(ops, tables, c.bias, c.window, places, keys, consecutive)
        if attending.passes is not None and (cache is not None or c.bias is not None or c.window is not None):
            raise ValueError("Transformer.forward: a position map with a cache, bias or window, expected the map alone")
        self._saved = {
            **{"tokens": tokens.ravel(), "attending": attending, "batch": batch},
            **{"seed": dropout_seed if c.dropout else None, "first": first},
        }
        x = ops.embedding_forward(tokens.ravel(), self.params["embedding"], out=buf("x", batch * length, c.d_model))
        if c.absolute is not None:
            rows = (
                c.absolute.forward({"positions": self.params["absolute.positions"]}, places)
                if isinstance(c.absolute, LearnedPositions)
                else c.absolute.table(places, c.d_model).astype(self.dtype)
            )
            x.reshape(batch, length, c.d_model)[...] += rows
        self._dropout(x, "embedding")
        for i in range(c.layers):
            x = self._attention_forward(i, x, batch, keep, cache)
            x = self._feed_forward_forward(i, x, keep)
        if cache is not None:
            cache.advance(length)
        y, inv_rms = ops.rmsnorm_forward(x, self.params["final.gain"], eps=c.eps, out=buf("final.y", *x.shape))
        self._dropout(y, "final")
        # The head is the embedding again; T5 scales it by 1 / sqrt(d_model).
        logits = ops.matmul(y, self.params["embedding"].T, out=buf("logits", len(y), c.vocabulary))
        logits *= self.dtype.type(c.d_model**-0.5)
        self._saved |= {"x": x, "y": y, "inv_rms": inv_rms, "keep": keep}
        return logits.reshape(batch, length, c.vocabulary)

    def backward(self, dlogits: Array, *, out: Array | None = None) -> dict[str, Array]:
        """Gradients of all weights for the last `forward`, once, if that had ``keep=True``.

        Parameters
        ----------
        dlogits : (B, T, vocabulary)
        out : (number of weights,) of the model's dtype, optional
            Where to write them; a new array if None.

        Returns
        -------
        dict of views into `out`, which is also `grads`
        """
        c, buf, saved, ops = self.config, self.buffers, self._saved, self.ops
        if not saved.pop("keep", False):
            raise ValueError(
                "Transformer.backward: nothing to go back through, expected forward(..., keep=True) before"
            )
        self.grads = c.views(np.empty_like(self.flat_params) if out is None else out)
        rows = len(saved["tokens"])
        for i in range(c.layers):
            for gradient in self._bias_weights(self.grads, i).values():
                gradient[...] = 0  # layers add to it
        scaled = buf("dlogits", rows, c.vocabulary)
        np.multiply(dlogits.reshape(scaled.shape), self.dtype.type(c.d_model**-0.5), out=scaled)
        # logits = y embedding^T
        ops.matmul(scaled.T, saved["y"], out=self.grads["embedding"])
        # y was read for the last time: its memory takes dy.
        dx = ops.matmul(scaled, self.params["embedding"], out=saved["y"])
        self._dropout(dx, "final")
        dx, _ = ops.rmsnorm_backward(
            *(dx, saved["x"], self.params["final.gain"], saved["inv_rms"]),
            dgain=self.grads["final.gain"],
            out=dx,
        )
        for i in reversed(range(c.layers)):
            dx = self._feed_forward_backward(i, dx)
            dx = self._attention_backward(i, dx)
        self._dropout(dx, "embedding")
        if isinstance(c.absolute, LearnedPositions):
            drows = dx.reshape(saved["batch"], -1, c.d_model).sum(axis=0)
            self.grads["absolute.positions"][...] = c.absolute.backward(drows, saved["attending"].queries)["positions"]
        ops.embedding_backward(dx, saved["tokens"], self.grads["embedding"])
        return self.grads

    # ---- x + attention(norm(x)) ----

    def _attention_forward(self, i: int, x: Array, batch: int, keep: bool, cache: KVCache | None) -> Array:
        c, p, ops = self.config, f"layers.{i}.attention", self.ops
        buf = self._layer_buffers(p, keep)
        rows, length, inner = len(x), len(x) // batch, c.heads * c.head_dim
        n, inv_rms = ops.rmsnorm_forward(x, self.params[f"{p}.gain"], eps=c.eps, out=buf("n", *x.shape))
        qkv = ops.linear_forward(n, self.params[f"{p}.qkv"], out=buf("qkv", rows, 3 * inner))
        q, k, v = self._split_heads(qkv, batch)
        attending: Attending = self._saved["attending"]
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
        ops.linear_backward(dbranch, o_rows, self.params[f"{p}.out"], dweight=self.grads[f"{p}.out"], out=do_rows)
        do = do_rows.reshape(batch, -1, c.heads, c.head_dim).transpose(0, 2, 1, 3)
        attending: Attending = self._saved["attending"]
        attending.backward(
            *(do, *self._split_heads(qkv, batch), attended),
            *(self._bias_weights(self.params, i), self._attention_settings(p)),
            *(self._split_heads(dqkv, batch), self._bias_weights(self.grads, i)),
        )
        attending.turn(self._queries_and_keys(dqkv, batch), transpose=True)
        # n is read for the last time here: its memory takes dn.
        dn, _ = ops.linear_backward(dqkv, n, self.params[f"{p}.qkv"], dweight=self.grads[f"{p}.qkv"], out=n)
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
        attending: Attending = self._saved["attending"]
        return attending.weights(q, k, self._bias_weights(self.params, layer), self._attention_settings(p))

    def _attention_settings(self, prefix: str) -> dict[str, Any]:
        c = self.config
        scale = 1 / math.sqrt(c.head_dim) if c.softmax_scale is None else c.softmax_scale
        if self._saved["seed"] is None:
            return {"scale": scale}
        return {
            "scale": scale,
            "dropout": self.config.dropout,
            "seed": self._site_seed(f"{prefix}.weights"),
            "first_slice": self._saved["first"] * self.config.heads,
        }

    def _bias_weights(self, arrays: dict[str, Array], i: int) -> dict[str, Array]:
        """Those of `arrays` (weights or gradients) that belong to the bias of a layer, by their short names."""
        c = self.config
        if c.bias is None:
            return {}
        prefix = c.bias_prefix(i)
        return {name: arrays[f"{prefix}.{name}"] for name in c.bias.shapes(c.heads)}

    def _split_heads(self, qkv: Array, batch: int) -> tuple[Array, Array, Array]:
        """q, k, v (B, H, T, head_dim) as views of the rows of one product."""
        c = self.config
        parts = qkv.reshape(batch, -1, 3, c.heads, c.head_dim).transpose(2, 0, 3, 1, 4)
        return parts[0], parts[1], parts[2]

    def _queries_and_keys(self, qkv: Array, batch: int) -> Array:
        """Both as one view (B, 2 H, T, head_dim), since they turn together."""
        c = self.config
        return qkv.reshape(batch, -1, 3 * c.heads, c.head_dim)[:, :, : 2 * c.heads].transpose(0, 2, 1, 3)

    # ---- x + feed_forward(norm(x)) ----

    def _feed_forward_forward(self, i: int, x: Array, keep: bool) -> Array:
        c, p, ops = self.config, f"layers.{i}.feed_forward", self.ops
        buf = self._layer_buffers(p, keep)
        n, inv_rms = ops.rmsnorm_forward(x, self.params[f"{p}.gain"], eps=c.eps, out=buf("n", *x.shape))
        h = ops.linear_forward(n, self.params[f"{p}.in"], out=buf("h", len(x), c.d_ff))
        ops.relu_forward(h, out=h)
        self._dropout(h, f"{p}.in")
        y = ops.linear_forward(h, self.params[f"{p}.out"], out=buf("y", *x.shape))
        self._dropout(y, f"{p}.out")
        y += x
        if keep:
            self._saved[p] = (x, n, inv_rms, h)
        return y

    def _feed_forward_backward(self, i: int, dy: Array) -> Array:
        p, ops = f"layers.{i}.feed_forward", self.ops
        x, n, inv_rms, h = self._saved[p]
        dbranch = self._dropout_copy(dy, f"{p}.out")
        dh = self._scratch(len(x))[: h.size].reshape(h.shape)
        ops.linear_backward(dbranch, h, self.params[f"{p}.out"], dweight=self.grads[f"{p}.out"], out=dh)
        self._dropout(dh, f"{p}.in")
        ops.relu_backward(dh, h, out=dh)  # dropout keeps the sign of h: where it is positive, ReLU's input was
        # n is read for the last time here: its memory takes dn.
        dn, _ = ops.linear_backward(dh, n, self.params[f"{p}.in"], dweight=self.grads[f"{p}.in"], out=n)
        # The residual path carries dy round the sublayer.
        dx, _ = ops.rmsnorm_backward(
            dn, x, self.params[f"{p}.gain"], inv_rms, residual=dy, dgain=self.grads[f"{p}.gain"], out=dy
        )
        return dx

    # ---- dropout, buffers, checks ----

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

    def _scratch(self, rows: int) -> Array:
        """Memory for the widest gradients inside a sublayer, none of which outlives it."""
        c = self.config
        return self.buffers("scratch", rows * max(c.d_ff, 4 * c.heads * c.head_dim))

    def _layer_buffers(self, prefix: str, keep: bool) -> Any:
        """Buffers of its own for each layer if they must be kept, else shared by layers two apart."""
        owner = prefix if keep else prefix.split(".")[-1]
        return lambda name, *shape: self.buffers(f"{owner}.{name}", *shape)

    def _check_tokens(self, tokens: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        if not isinstance(tokens, np.ndarray) or tokens.ndim != 2 or tokens.dtype.kind not in "iu":
            raise ValueError(f"Transformer.forward: tokens are {describe(tokens)}, expected integers (B, T)")
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < self.config.vocabulary):
            worst = tokens.min() if tokens.min() < 0 else tokens.max()
            raise ValueError(
                f"Transformer.forward: tokens hold {worst}, expected values in [0, {self.config.vocabulary})"
            )
        return tokens.astype(np.int64)
