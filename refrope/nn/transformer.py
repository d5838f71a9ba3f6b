"""A minimal decoder transformer: RMSNorm before each sublayer, no biases, as in T5 and Llama.

    tokens (B, T) -> embedding -> [ + attention(norm) -> + feed-forward(norm) ] x layers -> norm -> head -> logits

Every forward step is directly followed by its backward step. Weights, their gradients and AdamW's moments are flat
arrays, so that an optimizer step is one call; `params` and `grads` are named views into them.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer, describe
from refrope.nn.absolute import LearnedPositions
from refrope.nn.attending import Attending, Rotation, check_positions
from refrope.nn.backends import operations
from refrope.nn.configuration import TransformerConfig, initial_weights
from refrope.nn.decoding import Decoding
from refrope.nn.feed_forward import FeedForward
from refrope.nn.memory import KVCache
from refrope.nn.place_bias import PlaceBias
from refrope.nn.self_attention import SelfAttention

Array = npt.NDArray[Any]


class Transformer(SelfAttention, FeedForward):
    """Weights, forward and backward pass.

    Parameters
    ----------
    config : TransformerConfig
    seed : int or None
        Of the initial weights; those of a model do not depend on its backend. None leaves them undefined, for a loader
        to fill through `params`.
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
        self, config: TransformerConfig, *, seed: int | None, backend: str = "c", dtype: npt.DTypeLike = np.float32
    ) -> None:
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"Transformer: dtype is {np.dtype(dtype)}, expected float32 or float64")
        operations(backend)  # before any memory is taken
        drawn = np.empty(config.size(), dtype) if seed is None else initial_weights(config, seed, dtype)
        super().__init__(config, drawn, backend)
        self._replicas = [self]
        self._decoding: Decoding | None = None

    def replicas(self, count: int) -> list[Transformer]:
        """`count` models with the same weights in memory and buffers of their own, the first of them this one.

        Different threads may use them at the same time.
        """
        while len(self._replicas) < count:
            other = copy.copy(self)
            other.params = self.params  # the very arrays, whichever they are by now
            self._replicas.append(other)
        return self._replicas[:count]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `Sublayers`."""
        super().__setstate__(state)
        self._replicas, self._decoding = [self], None

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
        last: int | None = None,
    ) -> Array:
        """Logits of the next token at every position.

        Parameters
        ----------
        tokens : (B, T) integers in [0, vocabulary), B >= 1
        tables : cos, sin, each (T, r/2) of the model's dtype; or the passes of a position map; or None
            Which encoding the positions have is decided here, by the caller, at every call. Tables (B, T, r/2) give
            each sequence positions of its own. None turns nothing. `ByLayer` says which layer has which of these.
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
        last : int in [0, T], optional
            Only the logits of so many positions at the end; of all if None.

        Returns
        -------
        (B, T or last, vocabulary), in a buffer that the next call overwrites

        Raises
        ------
        ValueError
            Tokens outside the vocabulary, tables that do not fit, a cache that is full or of another model.
        """
        c, buf, ops = self.config, self.buffers, self.ops
        tokens = self._check_tokens(tokens)
        batch, length = tokens.shape
        dropping = dropout_seed is not None and c.dropout > 0
        if last is not None:
            check_integer("Transformer.forward", "last", last, 0, length)
            if keep or dropping:
                raise ValueError("Transformer.forward: last with keep or dropout, expected the logits of all positions")
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
        attending.check_layers("Transformer.forward", c.layers)
        by_place = isinstance(c.bias, PlaceBias)
        other_bias = c.bias is not None and not by_place
        if attending.mapped and (cache is not None or other_bias or c.window is not None):
            raise ValueError("Transformer.forward: a position map with a cache, bias or window, expected the map alone")
        if by_place and not attending.mapped:
            raise ValueError("Transformer.forward: a bias by place without a position map, expected tables of its map")
        self._saved = {
            **{"tokens": tokens.ravel(), "attending": attending, "batch": batch},
            **{"seed": dropout_seed if dropping else None, "first": first},
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
        decoding = self._decoding_for(attending) if cache is not None and len(x) == 1 else None
        if decoding is not None and cache is not None:
            decoding.forward(x, attending, self._scale(), cache)
        else:
            for i in range(c.layers):
                x = self._attention_forward(i, x, batch, keep, cache)
                x = self._feed_forward_forward(i, x, keep)
        if cache is not None:
            cache.advance(length)
        shown = length if last is None else last
        x = x.reshape(batch, length, c.d_model)[:, length - shown :].reshape(batch * shown, c.d_model)
        y, inv_rms = ops.rmsnorm_forward(x, self.params["final.gain"], eps=c.eps, out=buf("final.y", *x.shape))
        self._dropout(y, "final")
        logits = ops.matmul(y, self.params[self._head].T, out=buf("logits", len(y), c.vocabulary))
        if c.logit_scale != 1:
            logits *= self.dtype.type(c.logit_scale)
        self._saved |= {"x": x, "y": y, "inv_rms": inv_rms, "keep": keep}
        return logits.reshape(batch, shown, c.vocabulary)

    def backward(
        self, dlogits: Array, *, out: Array | None = None, skip: Collection[str] = frozenset()
    ) -> dict[str, Array]:
        """Gradients of all weights for the last `forward`, once, if that had ``keep=True``.

        Parameters
        ----------
        dlogits : (B, T, vocabulary)
        out : (number of weights,) of the model's dtype, optional
            Where to write them; a new array if None.
        skip : names of weights
            Whose gradients are not needed: of matrices and embeddings they are not worked out, which takes most of
            their time, and are not written.

        Returns
        -------
        dict of views into `out`, which is also `grads`
        """
        c, buf, saved, ops = self.config, self.buffers, self._saved, self.ops
        if not saved.pop("keep", False):
            raise ValueError(
                "Transformer.backward: nothing to go back through, expected forward(..., keep=True) before"
            )
        self._skipped = frozenset(skip)
        self.grads: dict[str, Array] = c.views(np.empty_like(self.flat_params) if out is None else out)
        rows = len(saved["tokens"])
        for i in range(c.layers):
            for gradient in self._bias_weights(self.grads, i).values():
                gradient[...] = 0  # layers add to it
        scaled = dlogits.reshape(rows, c.vocabulary).astype(self.dtype, copy=False)
        if c.logit_scale != 1:
            scaled = np.multiply(scaled, self.dtype.type(c.logit_scale), out=buf("dlogits", rows, c.vocabulary))
        embeds = "embedding" not in self._skipped
        if embeds and not c.tied:
            self.grads["embedding"][...] = 0  # its tokens add to it below
        # logits = scale y head^T
        if self._head not in self._skipped:
            ops.matmul(scaled.T, saved["y"], out=self.grads[self._head])
        # y was read for the last time: its memory takes dy.
        dx = ops.matmul(scaled, self.params[self._head], out=saved["y"])
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
        if embeds:
            ops.embedding_backward(dx, saved["tokens"], self.grads["embedding"])
        return self.grads

    def _decoding_for(self, attending: Attending) -> Decoding | None:
        """A `Decoding` where one does the same in less time."""
        if self.backend != "c" or self._saved["seed"] is not None or not Decoding.suits(self.config, attending):
            return None
        if self._decoding is None or not self._decoding.is_of(self.params):
            readable = Decoding.can_read(self.config, self.params, self.dtype)
            self._decoding = Decoding(self.config, self.params) if readable else None
        return self._decoding

    @property
    def _head(self) -> str:
        """The name of the weight that makes logits, (vocabulary, d_model): the embedding again where tied."""
        return "embedding" if self.config.tied else "head"

    def _check_tokens(self, tokens: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        if not isinstance(tokens, np.ndarray) or tokens.ndim != 2 or tokens.dtype.kind not in "iu" or not len(tokens):
            raise ValueError(f"Transformer.forward: tokens are {describe(tokens)}, expected integers (B, T), B >= 1")
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < self.config.vocabulary):
            worst = tokens.min() if tokens.min() < 0 else tokens.max()
            raise ValueError(
                f"Transformer.forward: tokens hold {worst}, expected values in [0, {self.config.vocabulary})"
            )
        return tokens.astype(np.int64)
