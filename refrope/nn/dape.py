"""DAPE, a bias that depends on the data: a small network over heads sees each pair's scores and biases.

The network is a convolution over the keys. With kernel 1 it is the MLP of the first paper, with kernel 3 its second
version. Forward and backward go through blocks of queries, so that the hidden layer never stands in memory as a whole.
The backward pass computes it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from refrope.arrays import check_shape, is_real
from refrope.errors import check_integer, check_name, describe
from refrope.nn.bias_checks import Shapes, check_named, check_slope
from refrope.nn.biases import Bias
from refrope.randomness import BitSource, uniform_numbers

Array = npt.NDArray[Any]
Saved = tuple[Array, Array]
_BLOCK = 2**18  # numbers of the hidden layer that stand in memory at a time: 2 MB of float64


@dataclass(frozen=True)
class DAPE:
    """Data-adaptive position encoding: ``scores + bias + network(scores, bias)``.

    The network sees the scores and the biases of all heads, 2 H numbers for each pair: a convolution over the keys
    (2 H -> width), LeakyReLU, a second one (width -> H), both with a kernel of odd size. `mix_forward` gives the
    network's output alone.

    Parameters
    ----------
    bias : ALiBi, T5Bias, Kerple, FIRE
        Where the biases come from. Its weights and the network's lie side by side; the latter start with "mix.". Each
        layer has its own of all of them, a table of T5's too.
    width : int >= 1, of the hidden layer
    kernel : odd int >= 1, keys that one step of a convolution sees
    negative_slope : float in [0, 1], of the LeakyReLU
    edge : {"open", "padded"}
        What the hidden layer holds for the kernel // 2 keys after the last one. "open": what the convolution gives
        where its keys are all masked, so that the result for a query is the same whatever the number of keys after
        it. "padded": 0, as in the authors' code. Only the last kernel // 2 queries can tell; but each query is the
        last one while tokens are generated, and so a model of theirs generates a little differently from how it was
        trained.

    Notes
    -----
    Scores are scaled but not masked. Those of masked pairs count as 0, and so do their biases (the authors' code does
    so from its second version on; with kernel 1 it makes no difference). A query sees no key after it: hidden numbers
    after it are made of pairs up to it alone. The authors' mask has its diagonal at the first key, which is right
    only where there are as many queries as keys; here query i sees the keys j <= i + T_k - T_q.

    References
    ----------
    Zheng et al. 2024, arXiv:2405.14722 (kernel 1), arXiv:2410.04798 (larger ones), and the authors' code.
    """

    bias: Bias
    width: int = 32
    kernel: int = 1
    negative_slope: float = 0.01
    edge: str = "open"

    shared: ClassVar[bool] = False
    of_distance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the fields."""
        if not isinstance(self.bias, Bias):
            raise ValueError(f"DAPE: bias is {self.bias!r}, expected a position bias such as ALiBi()")
        check_integer("DAPE", "width", self.width, 1)
        check_integer("DAPE", "kernel", self.kernel, 1)
        if self.kernel % 2 == 0:
            raise ValueError(f"DAPE: kernel is {self.kernel}, expected an odd number")
        check_slope("DAPE", self.negative_slope)
        check_name("DAPE", "edge", self.edge, ("open", "padded"))

    @property
    def name(self) -> str:
        """The variant's name and that of its bias, for messages and tables."""
        return f"DAPE({self.bias.name})"

    def mix_shapes(self, heads: int) -> Shapes:
        """Name and shape of the network's weights: (outputs, inputs, kernel) and (outputs,)."""
        heads = check_integer("DAPE.mix_shapes", "heads", heads, 1)
        return {
            "mix.in.weight": (self.width, 2 * heads, self.kernel),
            "mix.in.bias": (self.width,),
            "mix.out.weight": (heads, self.width, self.kernel),
            "mix.out.bias": (heads,),
        }

    def shapes(self, heads: int) -> Shapes:
        """Name and shape of every weight: those of the bias, then the network's."""
        return {**self.bias.shapes(heads), **self.mix_shapes(heads)}

    def initial(self, heads: int, source: BitSource) -> dict[str, Array]:
        """The bias's own start, then PyTorch's defaults: uniform within ±1 / sqrt(inputs kernel). Float64."""
        weights = self.bias.initial(heads, source)
        shapes = self.mix_shapes(heads)
        for name, shape in shapes.items():
            _, inputs, kernel = shapes[name.replace("bias", "weight")]
            draws = uniform_numbers(source, math.prod(shape)).reshape(shape)
            weights[name] = (inputs * kernel) ** -0.5 * (2 * draws - 1)
        return weights

    def mix_forward(self, weights: Mapping[str, Array], scores: Array, values: Array) -> tuple[Array, Saved]:
        """What the network makes of scores and biases, to be added to both.

        Parameters
        ----------
        weights : by name, of the dtype of `scores`; those of `bias` are not looked at
        scores : (B, H, T_q, T_k) float32 or float64, T_q <= T_k
            Scaled, not masked. What masked pairs hold does not matter, be it infinite.
        values : (H, T_q, T_k), dtype of `scores`
            The biases. Any strides.

        Returns
        -------
        extra : (B, H, T_q, T_k)
            0 for masked pairs.
        saved : what `mix_backward` needs: the two arrays themselves, which must not change until then

        Raises
        ------
        ValueError
            Arrays or weights that do not fit each other.
        """
        self._check("mix_forward", weights, scores, values)
        extra = np.zeros(scores.shape, scores.dtype)
        for block in self._blocks(scores.shape):
            _, _, _, activated = self._hidden(weights, scores, values, block)
            out = _convolve(weights["mix.out.weight"], activated, block) + weights["mix.out.bias"][:, None]
            block.of(extra)[...] = np.where(block.seen, block.unpadded(out), 0)
        return extra, (scores, values)

    def mix_backward(
        self, dextra: Array, saved: Saved, weights: Mapping[str, Array]
    ) -> tuple[Array, Array, dict[str, Array]]:
        """The gradients of scores, values and the network's weights, given that of `extra`.

        Parameters
        ----------
        dextra : (B, H, T_q, T_k), dtype of the scores; what masked pairs hold does not matter
        saved, weights : from and as in the forward call

        Returns
        -------
        dscores : (B, H, T_q, T_k), 0 for masked pairs; the part that goes through the network
        dvalues : (H, T_q, T_k), likewise, summed over the batch
        grads : the gradient of every weight of the network, by name
        """
        scores, values = saved
        self._check("mix_backward", weights, scores, values)
        check_shape("DAPE.mix_backward", "dextra", dextra, scores.shape, scores.dtype)
        heads = scores.shape[1]
        slope = scores.dtype.type(self.negative_slope)
        w_in, w_out = weights["mix.in.weight"], weights["mix.out.weight"]
        dscores, dvalues = np.zeros(scores.shape, scores.dtype), np.zeros(values.shape, values.dtype)
        grads = {name: np.zeros(shape) for name, shape in self.mix_shapes(heads).items()}  # collected in float64
        for block in self._blocks(scores.shape):
            padded_scores, padded_values, hidden, activated = self._hidden(weights, scores, values, block)
            dout = block.padded(dextra)  # extra = unpadded(out), where seen
            grads["mix.out.weight"] += _weight_gradient(dout, activated, block)  # out = w_out * activated + bias
            grads["mix.out.bias"] += dout.sum(axis=(0, 2))  # out = w_out * activated + bias
            dhidden = _convolve(_turned(w_out), dout, block)  # out = w_out * activated + bias
            dhidden *= np.where(hidden > 0, scores.dtype.type(1), slope)  # activated = leaky(hidden)
            dhidden = self._edges(dhidden, block)  # activated = edges(leaky(hidden))
            dhidden_of_all = dhidden.sum(axis=0, keepdims=True)
            # hidden = w_in[:, :heads] * scores + w_in[:, heads:] * values + bias, whose last two all batches share
            grads["mix.in.weight"][:, :heads] += _weight_gradient(dhidden, padded_scores, block)
            grads["mix.in.weight"][:, heads:] += _weight_gradient(dhidden_of_all, padded_values, block)
            grads["mix.in.bias"] += dhidden.sum(axis=(0, 2))
            turned = _turned(w_in)
            dpart = block.unpadded(_convolve(turned[:heads], dhidden, block))
            block.of(dscores)[...] = np.where(block.seen, dpart, 0)  # padded_scores = padded(scores), where seen
            dpart = block.unpadded(_convolve(turned[heads:], dhidden_of_all, block))[0]
            block.of(dvalues)[...] = np.where(block.seen, dpart, 0)  # padded_values = padded(values), where seen
        return dscores, dvalues, {name: gradient.astype(scores.dtype) for name, gradient in grads.items()}

    def _hidden(
        self, weights: Mapping[str, Array], scores: Array, values: Array, block: _Block
    ) -> tuple[Array, Array, Array, Array]:
        """Scores and values of a block, padded, and the hidden layer before and after its activation and edges."""
        heads = scores.shape[1]
        padded_scores, padded_values = block.padded(scores), block.padded(values[None])
        w_in = weights["mix.in.weight"]
        hidden = _convolve(w_in[:, :heads], padded_scores, block)
        hidden += _convolve(w_in[:, heads:], padded_values, block) + weights["mix.in.bias"][:, None]
        activated = np.maximum(hidden, hidden * hidden.dtype.type(self.negative_slope))
        return padded_scores, padded_values, hidden, self._edges(activated, block)

    def _edges(self, layer: Array, block: _Block) -> Array:
        """(B, C, rows columns) with 0 where there are no keys before the first, or after the last; padded."""
        batch, channels, _ = layer.shape
        rows = layer.reshape(batch, channels, block.rows, block.columns)
        rows[..., : block.half] = 0
        if self.edge == "padded":
            rows[..., block.half + block.n_k :] = 0
        return np.pad(layer, ((0, 0), (0, 0), (block.half, block.half))) if block.half else layer

    def _blocks(self, shape: tuple[int, ...]) -> Iterator[_Block]:
        batch, _, n_q, n_k = shape
        most = _BLOCK // max(batch * self.width, 1)  # pairs
        start = 0
        while start < n_q:
            keys = start + n_k - n_q  # before the block's first query; the most rows with rows (keys + rows) <= most
            rows = max((math.isqrt(keys**2 + 4 * most) - keys) // 2, 1)
            yield _Block.of_queries(start, min(start + rows, n_q), n_q, n_k, self.kernel // 2)
            start += rows

    def _check(self, function: str, weights: Mapping[str, Array], scores: Array, values: Array) -> None:
        function = f"DAPE.{function}"
        if not is_real(scores, 4) or scores.shape[2] > scores.shape[3]:
            wanted = "float32 or float64 (B, H, T_q, T_k), T_q <= T_k"
            raise ValueError(f"{function}: scores is {describe(scores)}, expected {wanted}")
        check_shape(function, "values", values, scores.shape[1:], scores.dtype)
        check_named(function, weights, self.mix_shapes(scores.shape[1]))
        if weights["mix.in.bias"].dtype != scores.dtype:
            came = weights["mix.in.bias"].dtype
            raise ValueError(f"{function}: weights are {came}, expected {scores.dtype} like scores")


class _Block(NamedTuple):
    """Some queries and the keys that the last of them sees, and how their pairs lie in memory for a convolution.

    Rows of `columns` = half + keys + half numbers lie end to end, with `half` zeros before the first and after the
    last. A step along the keys is then a step in memory: a convolution over all rows is `kernel` products of matrices
    which are slices of the same array, and what runs over the end of a row meets the zeros of the next.
    """

    queries: slice
    keys: slice
    seen: Array  # (rows, keys) of bool
    half: int  # kernel // 2
    n_k: int  # keys in all

    @classmethod
    def of_queries(cls, start: int, stop: int, n_q: int, n_k: int, half: int) -> _Block:
        """The block of the queries start to stop - 1 of n_q."""
        keys = stop + n_k - n_q
        return cls(slice(start, stop), slice(0, keys), np.tri(stop - start, keys, start + n_k - n_q, bool), half, n_k)

    @property
    def rows(self) -> int:
        """Queries of the block."""
        return int(self.seen.shape[0])

    @property
    def columns(self) -> int:
        """Numbers of a row in memory."""
        return int(self.seen.shape[1]) + 2 * self.half

    def of(self, pairs: Array) -> Array:
        """The block's part of (..., T_q, T_k), a view."""
        return pairs[..., self.queries, self.keys]

    def padded(self, pairs: Array) -> Array:
        """(B, C, T_q, T_k) -> (B, C, half + rows columns + half), 0 for masked pairs and at all edges."""
        batch, channels = pairs.shape[:2]
        size = self.rows * self.columns
        result = np.zeros((batch, channels, size + 2 * self.half), pairs.dtype)
        inner = result[..., self.half : self.half + size].reshape(batch, channels, self.rows, self.columns)
        np.copyto(inner[..., self.half : self.columns - self.half], self.of(pairs), where=self.seen)  # inner is a view
        return result

    def unpadded(self, layer: Array) -> Array:
        """(B, C, rows columns) -> (B, C, rows, keys)."""
        rows = layer.reshape(*layer.shape[:2], self.rows, self.columns)
        return rows[..., self.half : self.columns - self.half]


def _convolve(weight: Array, padded: Array, block: _Block) -> Array:
    """(out, in, kernel) over (B, in, half + n + half) -> (B, out, n)."""
    size = block.rows * block.columns
    steps = [np.ascontiguousarray(weight[..., t]) for t in range(weight.shape[2])]  # as BLAS wants them
    result: Array = steps[0] @ padded[..., :size]
    for t, step in enumerate(steps[1:], 1):
        result += step @ padded[..., t : t + size]
    return result


def _turned(weight: Array) -> Array:
    """(out, in, kernel) as (in, out, kernel) with the kernel turned round: its convolution is the transposed one."""
    return weight.transpose(1, 0, 2)[..., ::-1]


def _weight_gradient(dout: Array, padded: Array, block: _Block) -> Array:
    """The gradient of `weight` in `_convolve`, given that of its result, (B, out, n) or padded."""
    size = block.rows * block.columns
    margin = (dout.shape[2] - size) // 2
    inner = dout[..., margin : margin + size]
    steps = range(2 * block.half + 1)
    return np.stack([(inner @ np.swapaxes(padded[..., t : t + size], -1, -2)).sum(axis=0) for t in steps], axis=-1)
