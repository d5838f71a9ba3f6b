"""A minimal decoder transformer: RMSNorm before each sublayer, no biases, tied head, as in T5.

    tokens (B, T) -> embedding -> [ + attention(norm) -> + feed-forward(norm) ] x layers -> norm -> head -> logits

Every forward step is directly followed by its backward step. Weights, their gradients and AdamW's moments are flat
arrays, so that an optimizer step is one call; `params` and `grads` are named views into them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer, check_number, describe
from refrope.nn import dropout as dropout_module
from refrope.nn import layers
from refrope.nn.backends import operations
from refrope.randomness import bit_source, normal_numbers

Array = npt.NDArray[Any]
Tables = tuple[Array, Array]


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and constants of a model; the defaults are those of preset tiny.

    `softmax_scale` multiplies the attention scores: 1.0 is T5's, which starts the queries smaller instead
    (Raffel et al. 2020, arXiv:1910.10683); None is 1 / sqrt(head_dim).
    """

    vocabulary: int = 18
    d_model: int = 128
    heads: int = 2
    head_dim: int = 64
    d_ff: int = 512
    layers: int = 2
    dropout: float = 0.0
    eps: float = 1e-6
    softmax_scale: float | None = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("vocabulary", "d_model", "heads", "head_dim", "d_ff", "layers"):
            check_integer("TransformerConfig", name, getattr(self, name), 1)
        if self.head_dim % 2:
            raise ValueError(f"TransformerConfig: head_dim is {self.head_dim}, expected an even number")
        dropout_module.drop_threshold(self.dropout)
        check_number("TransformerConfig", "eps", self.eps, "a number >= 0", 0.0)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight, in the order in which they lie in memory."""
        inner = self.heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"embedding": (self.vocabulary, self.d_model)}
        for i in range(self.layers):
            shapes |= {
                f"layers.{i}.attention.gain": (self.d_model,),
                f"layers.{i}.attention.qkv": (self.d_model, 3 * inner),
                f"layers.{i}.attention.out": (inner, self.d_model),
                f"layers.{i}.feed_forward.gain": (self.d_model,),
                f"layers.{i}.feed_forward.in": (self.d_model, self.d_ff),
                f"layers.{i}.feed_forward.out": (self.d_ff, self.d_model),
            }
        return shapes | {"final.gain": (self.d_model,)}


class Buffers:
    """Scratch arrays by name that live from step to step, so that no step allocates what it can reuse."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._memory: dict[str, Array] = {}

    def __call__(self, name: str, *shape: int) -> Array:
        """An uninitialised array of `shape`; what an earlier call by this name gave is overwritten."""
        size = int(np.prod(shape))
        if name not in self._memory or self._memory[name].size < size:
            self._memory[name] = np.empty(size, self.dtype)
        return self._memory[name][:size].reshape(shape)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in self._memory.values())


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
        size = sum(int(np.prod(shape)) for shape in config.shapes().values())
        self.flat_params, self.flat_grads = np.empty(size, self.dtype), np.zeros(size, self.dtype)
        self.params, self.grads = self._views(self.flat_params), self._views(self.flat_grads)
        self.buffers = Buffers(self.dtype)
        self._saved: dict[str, Any] = {}
        self._sites = ["embedding", "final"]  # where dropout acts, in a fixed order: the place in it seeds the mask
        for i in range(config.layers):
            self._sites += [
                f"layers.{i}.{s}" for s in ("attention.weights", "attention.out", "feed_forward.in", "feed_forward.out")
            ]
        self._initialise(seed)

    def _views(self, flat: Array) -> dict[str, Array]:
        views, start = {}, 0
        for name, shape in self.config.shapes().items():
            size = int(np.prod(shape))
            views[name] = flat[start : start + size].reshape(shape)
            start += size
        return views

    def _initialise(self, seed: int) -> None:
        """T5's normal distributions (Raffel et al. 2020, arXiv:1910.10683, and its released code); gains are 1."""
        c = self.config
        source = bit_source(seed, "weights")
        inner = c.heads * c.head_dim
        # q is smaller by sqrt(head_dim) where that stands in for a missing 1 / sqrt(head_dim) of the scores.
        query = (c.d_model * (c.head_dim if c.softmax_scale == 1.0 else 1)) ** -0.5
        deviations: dict[str, Any] = {
            "embedding": 1.0,
            "attention.qkv": np.repeat([query, c.d_model**-0.5, c.d_model**-0.5], inner),
            "attention.out": inner**-0.5,
            "feed_forward.in": c.d_model**-0.5,
            "feed_forward.out": c.d_ff**-0.5,
        }
        for name, weight in self.params.items():
            kind = name.split(".", 2)[-1]  # layers.0.attention.out -> attention.out
            if kind.endswith("gain"):
                weight[...] = 1
            else:
                weight[...] = normal_numbers(source, weight.size).reshape(weight.shape) * deviations[kind]

    # ---- the whole model ----

    def forward(
        self, tokens: npt.NDArray[Any], tables: Tables, *, dropout_seed: int | None = None, keep: bool = False
    ) -> Array:
        """Logits of the next token at every position.

        Parameters
        ----------
        tokens : (B, T) integers in [0, vocabulary)
        tables : cos, sin, each (T, r/2) of the model's dtype
            Which encoding the positions have is decided here, by the caller, at every call.
        dropout_seed : int, optional
            Switches dropout on (training); the masks depend on it alone.
        keep : bool
            Keep what `backward` needs.

        Returns
        -------
        (B, T, vocabulary), in a buffer that the next call overwrites

        Raises
        ------
        ValueError
            Tokens outside the vocabulary, tables that do not fit.
        """
        c, buf = self.config, self.buffers
        tokens = self._check_tokens(tokens)
        batch, length = tokens.shape
        self._saved = {"tokens": tokens.ravel(), "tables": tables, "seed": dropout_seed, "batch": batch}
        x = layers.embedding_forward(
            tokens.ravel(), self.params["embedding"], out=buf("x.embedding", batch * length, c.d_model)
        )
        self._dropout(x, "embedding")
        for i in range(c.layers):
            x = self._attention_forward(i, x, batch, tables, keep)
            x = self._feed_forward_forward(i, x, keep)
        y, inv_rms = self.ops.rmsnorm_forward(x, self.params["final.gain"], eps=c.eps, out=buf("final.y", *x.shape))
        self._dropout(y, "final")
        # The head is the embedding again; T5 scales it by 1 / sqrt(d_model).
        logits = self.ops.matmul(y, self.params["embedding"].T, out=buf("logits", len(y), c.vocabulary))
        logits *= self.dtype.type(c.d_model**-0.5)
        self._saved |= {"x": x, "y": y, "inv_rms": inv_rms, "keep": keep}
        return logits.reshape(batch, length, c.vocabulary)

    def backward(self, dlogits: Array) -> dict[str, Array]:
        """Gradients of all weights for the last `forward` with ``keep=True``; dlogits (B, T, vocabulary).

        Returns
        -------
        dict of views into `flat_grads`, overwritten by the next call
        """
        c, buf, saved = self.config, self.buffers, self._saved
        if not saved.get("keep"):
            raise ValueError(
                "Transformer.backward: nothing to go back through, expected forward(..., keep=True) before"
            )
        rows = len(saved["tokens"])
        dlogits = dlogits.reshape(rows, c.vocabulary) * self.dtype.type(c.d_model**-0.5)
        self.ops.matmul(dlogits.T, saved["y"], out=self.grads["embedding"])  # logits = y embedding^T
        dx = self.ops.matmul(dlogits, self.params["embedding"], out=buf("dx", rows, c.d_model))
        self._dropout(dx, "final")
        dx, _ = self.ops.rmsnorm_backward(
            dx, saved["x"], self.params["final.gain"], saved["inv_rms"], dgain=self.grads["final.gain"], out=dx
        )
        for i in reversed(range(c.layers)):
            dx = self._feed_forward_backward(i, dx)
            dx = self._attention_backward(i, dx)
        self._dropout(dx, "embedding")
        layers.embedding_backward(dx, saved["tokens"], self.grads["embedding"])
        return self.grads

    # ---- x + attention(norm(x)) ----

    def _attention_forward(self, i: int, x: Array, batch: int, tables: Tables, keep: bool) -> Array:
        c, p, ops = self.config, f"layers.{i}.attention", self.ops
        buf = self._layer_buffers(p, keep)
        rows, length, inner = len(x), len(x) // batch, c.heads * c.head_dim
        n, inv_rms = ops.rmsnorm_forward(x, self.params[f"{p}.gain"], eps=c.eps, out=buf("n", *x.shape))
        qkv = ops.linear_forward(n, self.params[f"{p}.qkv"], out=buf("qkv", rows, 3 * inner))
        q, k, v = self._split_heads(qkv, batch)
        qk = self._queries_and_keys(qkv, batch)
        ops.rotate(qk, *tables, out=qk)
        o_rows = buf("o", rows, inner)
        o, lse = ops.attention_forward(
            *(q, k, v),
            **self._attention_settings(p),
            out=o_rows.reshape(batch, length, c.heads, c.head_dim).transpose(0, 2, 1, 3),
        )
        y = ops.linear_forward(o_rows, self.params[f"{p}.out"], out=buf("y", *x.shape))
        self._dropout(y, f"{p}.out")
        y += x
        if keep:
            self._saved[p] = (x, n, inv_rms, qkv, o, o_rows, lse)
        return y

    def _attention_backward(self, i: int, dy: Array) -> Array:
        c, p, ops, buf, batch = self.config, f"layers.{i}.attention", self.ops, self.buffers, self._saved["batch"]
        x, n, inv_rms, qkv, o, o_rows, lse = self._saved[p]
        dbranch = self._dropout_copy(dy, f"{p}.out")
        do_rows, _ = ops.linear_backward(
            dbranch, o_rows, self.params[f"{p}.out"], dweight=self.grads[f"{p}.out"], out=buf("do", *o_rows.shape)
        )
        dqkv = buf("dqkv", *qkv.shape)
        dq, dk, dv = self._split_heads(dqkv, batch)
        do = do_rows.reshape(batch, -1, c.heads, c.head_dim).transpose(0, 2, 1, 3)
        ops.attention_backward(
            do, *self._split_heads(qkv, batch), o, lse, **self._attention_settings(p), grads=(dq, dk, dv)
        )
        dqk = self._queries_and_keys(dqkv, batch)
        ops.rotate(dqk, *self._saved["tables"], transpose=True, out=dqk)
        dn, _ = ops.linear_backward(
            dqkv, n, self.params[f"{p}.qkv"], dweight=self.grads[f"{p}.qkv"], out=buf("dn", *n.shape)
        )
        # The residual path carries dy round the sublayer.
        dx, _ = ops.rmsnorm_backward(
            dn, x, self.params[f"{p}.gain"], inv_rms, residual=dy, dgain=self.grads[f"{p}.gain"], out=dy
        )
        return dx

    def _attention_settings(self, prefix: str) -> dict[str, Any]:
        dropped = self.config.dropout if self._saved["seed"] is not None else 0.0
        return {
            "scale": self.config.softmax_scale,
            "dropout": dropped,
            "seed": self._site_seed(f"{prefix}.weights") if dropped else 0,
        }

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
        p, ops, buf = f"layers.{i}.feed_forward", self.ops, self.buffers
        x, n, inv_rms, h = self._saved[p]
        dbranch = self._dropout_copy(dy, f"{p}.out")
        dh, _ = ops.linear_backward(
            dbranch, h, self.params[f"{p}.out"], dweight=self.grads[f"{p}.out"], out=buf("dh", *h.shape)
        )
        self._dropout(dh, f"{p}.in")
        ops.relu_backward(dh, h, out=dh)  # dropout keeps the sign of h: where it is positive, ReLU's input was
        dn, _ = ops.linear_backward(
            dh, n, self.params[f"{p}.in"], dweight=self.grads[f"{p}.in"], out=buf("dn", *n.shape)
        )
        # The residual path carries dy round the sublayer.
        dx, _ = ops.rmsnorm_backward(
            dn, x, self.params[f"{p}.gain"], inv_rms, residual=dy, dgain=self.grads[f"{p}.gain"], out=dy
        )
        return dx

    # ---- dropout, buffers, checks ----

    def _site_seed(self, site: str) -> int:
        return dropout_module.site_seed(self._saved["seed"], self._sites.index(site))

    def _dropout(self, x: Array, site: str) -> None:
        """Apply a site's mask to `x` in place, where dropout is on; forward and backward alike."""
        if self.config.dropout and self._saved["seed"] is not None:
            self.ops.dropout(x, self.config.dropout, self._site_seed(site), out=x)

    def _dropout_copy(self, dy: Array, site: str) -> Array:
        """The gradient that goes into a sublayer's branch, while `dy` itself goes on along the residual path."""
        if not self.config.dropout or self._saved["seed"] is None:
            return dy
        masked = self.buffers("dbranch", *dy.shape)
        self.ops.dropout(dy, self.config.dropout, self._site_seed(site), out=masked)
        return masked

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
