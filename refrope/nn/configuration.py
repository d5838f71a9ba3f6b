"""Sizes of a model, its weights by name, and how they start."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer, check_name, check_number, describe
from refrope.nn.absolute import LearnedPositions, Sinusoidal
from refrope.nn.biases import Bias
from refrope.nn.dape import DAPE
from refrope.nn.dropout import drop_threshold
from refrope.nn.place_bias import PlaceBias
from refrope.randomness import bit_source, normal_numbers

Array = npt.NDArray[Any]

FEED_FORWARDS = ("relu", "swiglu")
# Of a field that came later: at its default it says what went without saying, and names of runs stay what they were.
UNSAID = {"unsaid": True}


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and constants of a model; the defaults are those of preset tiny.

    `softmax_scale` multiplies the attention scores: 1.0 is T5's, which starts the queries smaller instead
    (Raffel et al. 2020, arXiv:1910.10683); None is 1 / sqrt(head_dim).

    What tells positions beside a rotation, which the caller's tables bring: `absolute`, rows that are added to the
    token embeddings; `bias`, numbers that are added to the scores; `window`, the number of keys that a query sees, its
    own the last of them.

    The defaults are T5's architecture. Llama's (Touvron et al. 2023, arXiv:2302.13971) has `feed_forward` "swiglu",
    whose weight "in" holds the columns of the gate and then those of what it gates; softmax_scale None; head_scale
    1.0. `kv_heads`, a divisor of `heads`, is the number of heads of keys and values (grouped queries: Ainslie et al.
    2023, arXiv:2305.13245), None as many as of queries. `tied`: the head is the embedding, else a weight of its own.
    `head_scale` multiplies the logits: T5's d_model^-0.5 if None.
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
    absolute: Sinusoidal | LearnedPositions | None = None
    bias: Bias | DAPE | PlaceBias | None = None
    window: int | None = None
    kv_heads: int | None = None
    feed_forward: str = field(default="relu", metadata=UNSAID)
    tied: bool = field(default=True, metadata=UNSAID)
    head_scale: float | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("vocabulary", "d_model", "heads", "head_dim", "d_ff", "layers"):
            check_integer("TransformerConfig", name, getattr(self, name), 1)
        if self.head_dim % 2:
            raise ValueError(f"TransformerConfig: head_dim is {self.head_dim}, expected an even number")
        drop_threshold(self.dropout)
        check_number("TransformerConfig", "eps", self.eps, "a number >= 0", 0.0)
        for name, kinds in (("absolute", (Sinusoidal, LearnedPositions)), ("bias", (Bias, DAPE, PlaceBias))):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kinds):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise ValueError(f"TransformerConfig: {name} is {describe(value)}, expected {wanted} or None")
        if self.window is not None:
            check_integer("TransformerConfig", "window", self.window, 1)
        if self.kv_heads is not None:
            check_integer("TransformerConfig", "kv_heads", self.kv_heads, 1)
            if self.heads % self.kv_heads:
                wanted = f"a divisor of heads = {self.heads}"
                raise ValueError(f"TransformerConfig: kv_heads is {self.kv_heads}, expected {wanted}")
        check_name("TransformerConfig", "feed_forward", self.feed_forward, FEED_FORWARDS)
        if not isinstance(self.tied, bool):
            raise ValueError(f"TransformerConfig: tied is {self.tied!r}, expected True or False")
        if self.head_scale is not None:
            check_number("TransformerConfig", "head_scale", self.head_scale, "a number > 0 or None", 0.0, above=True)

    @property
    def key_heads(self) -> int:
        """Heads of keys and of values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def logit_scale(self) -> float:
        """What the logits are multiplied with."""
        return float(self.d_model**-0.5) if self.head_scale is None else float(self.head_scale)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight, in the order in which they lie in memory."""
        inner, keys = self.heads * self.head_dim, self.key_heads * self.head_dim
        halves = 2 if self.feed_forward == "swiglu" else 1
        shapes: dict[str, tuple[int, ...]] = {"embedding": (self.vocabulary, self.d_model)}
        for i in range(self.layers):
            shapes |= {
                f"layers.{i}.attention.gain": (self.d_model,),
                f"layers.{i}.attention.qkv": (self.d_model, inner + 2 * keys),
                f"layers.{i}.attention.out": (inner, self.d_model),
                f"layers.{i}.feed_forward.gain": (self.d_model,),
                f"layers.{i}.feed_forward.in": (self.d_model, halves * self.d_ff),
                f"layers.{i}.feed_forward.out": (self.d_ff, self.d_model),
            }
        shapes |= {"final.gain": (self.d_model,)}
        if not self.tied:
            shapes |= {"head": (self.vocabulary, self.d_model)}
        if isinstance(self.absolute, LearnedPositions):
            shapes |= {f"absolute.{name}": shape for name, shape in self.absolute.shapes(self.d_model).items()}
        if self.bias is not None:
            for prefix in self.bias_prefixes():
                shapes |= {f"{prefix}.{name}": shape for name, shape in self.bias.shapes(self.heads).items()}
        return shapes

    def bias_prefix(self, layer: int) -> str:
        """What the names of the weights begin with that the bias of a layer's attention uses."""
        return "bias" if isinstance(self.bias, Bias) and self.bias.shared else f"layers.{layer}.bias"

    def bias_prefixes(self) -> list[str]:
        """One for each set of them: each layer's own, or one that all layers share."""
        return list(dict.fromkeys(self.bias_prefix(i) for i in range(self.layers)))

    def size(self) -> int:
        """Number of weights."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def views(self, flat: Array) -> dict[str, Array]:
        """The weights by name, as views into a flat array of all of them."""
        views, start = {}, 0
        for name, shape in self.shapes().items():
            end = start + math.prod(shape)
            views[name] = flat[start:end].reshape(shape)
            start = end
        return views


def initial_weights(config: TransformerConfig, seed: int, dtype: npt.DTypeLike) -> Array:
    """T5's normal distributions (Raffel et al. 2020, arXiv:1910.10683, and its released code); gains are 1.

    Weights of positions start as their class says, from numbers of their own: the others do not depend on them.

    Returns
    -------
    (config.size(),) of `dtype`, in the order of `config.shapes()`
    """
    flat = np.empty(config.size(), dtype)
    source = bit_source(seed, "weights")
    inner, keys = config.heads * config.head_dim, config.key_heads * config.head_dim
    # q is smaller by sqrt(head_dim) where that stands in for a missing 1 / sqrt(head_dim) of the scores.
    query = (config.d_model * (config.head_dim if config.softmax_scale == 1.0 else 1)) ** -0.5
    # What the head reads has mean square 1: with this deviation of its weights the logits have it too, and a model
    # starts by giving all tokens much the same probability, whatever the logits are multiplied with.
    head = config.d_model**-0.5 / config.logit_scale
    deviations: dict[str, Any] = {
        "embedding": head if config.tied else 1.0,
        "head": head,
        "attention.qkv": np.repeat([query, config.d_model**-0.5, config.d_model**-0.5], [inner, keys, keys]),
        "attention.out": inner**-0.5,
        "feed_forward.in": config.d_model**-0.5,
        "feed_forward.out": config.d_ff**-0.5,
    }
    drawn = _weights_of_positions(config, seed)
    for name, weight in config.views(flat).items():
        kind = name.split(".", 2)[-1]  # layers.0.attention.out -> attention.out
        if name in drawn:
            weight[...] = drawn[name]
        elif kind.endswith("gain"):
            weight[...] = 1
        else:
            weight[...] = normal_numbers(source, weight.size).reshape(weight.shape) * deviations[kind]
    return flat


def _weights_of_positions(config: TransformerConfig, seed: int) -> dict[str, Array]:
    """The start of learned rows and of biases, by the names that `config.shapes()` gives them."""
    source = bit_source(seed, "weights of positions")
    drawn: dict[str, Array] = {}
    if isinstance(config.absolute, LearnedPositions):
        drawn |= {f"absolute.{n}": w for n, w in config.absolute.initial(config.d_model, source).items()}
    if config.bias is not None:
        for prefix in config.bias_prefixes():
            drawn |= {f"{prefix}.{n}": w for n, w in config.bias.initial(config.heads, source).items()}
    return drawn
