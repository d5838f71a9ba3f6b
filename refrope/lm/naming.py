"""Which tensor of a Llama checkpoint is which weight of a `Transformer`, and what happens to it on the way.

Files keep a matrix as (out, in), `Transformer` as (in, out), with queries, keys and values side by side, and so gate
and what it gates. Checkpoints of Hugging Face pair features as layout "half", as `Transformer` does; GGUF files of
architecture llama have Meta's layout "interleaved", into which their converter permutes the rows of queries and keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from refrope.lm.fields import failure, shown
from refrope.lm.stored import StoredTensor, copy_rows
from refrope.nn.configuration import TransformerConfig
from refrope.permute import permute_rows

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Naming:
    """What a format calls the weights.

    Attributes
    ----------
    embedding, final, head : str
    layer : dict
        The names of a layer's weights, with {} for its number.
    ignored : str
        A regular expression for tensors that are no weights: tables that follow from the configuration.
    interleaved : bool
        Queries and keys have their features in layout "interleaved".
    """

    embedding: str
    final: str
    head: str
    layer: Mapping[str, str]
    ignored: str
    interleaved: bool


GGUF = Naming(
    embedding="token_embd.weight",
    final="output_norm.weight",
    head="output.weight",
    layer={
        "attention.gain": "blk.{}.attn_norm.weight",
        "q": "blk.{}.attn_q.weight",
        "k": "blk.{}.attn_k.weight",
        "v": "blk.{}.attn_v.weight",
        "attention.out": "blk.{}.attn_output.weight",
        "feed_forward.gain": "blk.{}.ffn_norm.weight",
        "gate": "blk.{}.ffn_gate.weight",
        "up": "blk.{}.ffn_up.weight",
        "feed_forward.out": "blk.{}.ffn_down.weight",
    },
    ignored=r"rope_freqs\.weight",
    interleaved=True,
)
HUGGING_FACE = Naming(
    embedding="model.embed_tokens.weight",
    final="model.norm.weight",
    head="lm_head.weight",
    layer={
        "attention.gain": "model.layers.{}.input_layernorm.weight",
        "q": "model.layers.{}.self_attn.q_proj.weight",
        "k": "model.layers.{}.self_attn.k_proj.weight",
        "v": "model.layers.{}.self_attn.v_proj.weight",
        "attention.out": "model.layers.{}.self_attn.o_proj.weight",
        "feed_forward.gain": "model.layers.{}.post_attention_layernorm.weight",
        "gate": "model.layers.{}.mlp.gate_proj.weight",
        "up": "model.layers.{}.mlp.up_proj.weight",
        "feed_forward.out": "model.layers.{}.mlp.down_proj.weight",
    },
    ignored=r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    interleaved=False,
)


@dataclass(frozen=True)
class Place:
    """Where a tensor goes.

    Attributes
    ----------
    weight : str
        A name in ``Transformer.params``.
    tensor : str
    shape : tuple of int
        Of the tensor.
    columns : slice or None
        The columns of the weight that the tensor's rows become; None where the weight is laid out as the tensor.
    heads : int
        Of queries or keys whose features change their order; 0 for none.
    """

    weight: str
    tensor: str
    shape: tuple[int, ...]
    columns: slice | None = None
    heads: int = 0


def places(config: TransformerConfig, naming: Naming) -> Iterator[Place]:
    """All tensors of a model, in the order of its weights in memory."""
    c, keys = config, config.kv_heads or config.heads
    yield Place("embedding", naming.embedding, (c.vocabulary, c.d_model))
    for i in range(c.layers):
        attention, forward = f"layers.{i}.attention", f"layers.{i}.feed_forward"
        name = {part: pattern.format(i) for part, pattern in naming.layer.items()}
        yield Place(f"{attention}.gain", name["attention.gain"], (c.d_model,))
        start = 0
        for part, heads in (("q", c.heads), ("k", keys), ("v", keys)):
            stop = start + heads * c.head_dim
            permuted = heads if naming.interleaved and part != "v" else 0
            yield Place(f"{attention}.qkv", name[part], (stop - start, c.d_model), slice(start, stop), permuted)
            start = stop
        yield Place(f"{attention}.out", name["attention.out"], (c.d_model, c.heads * c.head_dim), slice(None))
        yield Place(f"{forward}.gain", name["feed_forward.gain"], (c.d_model,))
        yield Place(f"{forward}.in", name["gate"], (c.d_ff, c.d_model), slice(0, c.d_ff))
        yield Place(f"{forward}.in", name["up"], (c.d_ff, c.d_model), slice(c.d_ff, 2 * c.d_ff))
        yield Place(f"{forward}.out", name["feed_forward.out"], (c.d_model, c.d_ff), slice(None))
    yield Place("final.gain", naming.final, (c.d_model,))
    if not c.tied:
        yield Place("head", naming.head, (c.vocabulary, c.d_model))


def check_tensors(path: Path, config: TransformerConfig, naming: Naming, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise unless the tensors are those of such a model: none missing, none more, of the right shapes.

    The sizes that a configuration claims are believed only after this; a file that passes has the bytes for them. The
    first layer that is missing ends it, however many are claimed.
    """
    known = set()
    for place in places(config, naming):
        known.add(place.tensor)
        tensor = tensors.get(place.tensor)
        if tensor is None:
            raise failure(path, f"tensor {place.tensor} is missing")
        if tensor.shape != place.shape:
            words = f"tensor {tensor.name} is {tensor.kind}{tensor.shape}, expected {place.shape}"
            raise failure(tensor.path, f"{words} of the sizes that the configuration has")
    for name in sorted(set(tensors) - known):
        if name == naming.head or re.fullmatch(naming.ignored, name):  # a tied head may be stored once more
            continue
        what = "a bias" if name.endswith(".bias") else f"no weight of a Llama of {config.layers} layers"
        raise failure(tensors[name].path, f"tensor {shown(name)} is {what}: a model with it is not computed here")


def copy_tensors(
    config: TransformerConfig, naming: Naming, tensors: Mapping[str, StoredTensor], params: Mapping[str, Array]
) -> None:
    """Fill `params`, the weights of a model of `config`, tensor by tensor, after `check_tensors`.

    Raises
    ------
    ValueError
        A tensor that cannot be read or whose numbers are not finite.
    OSError
        A file that cannot be read.
    """
    with ExitStack() as stack:
        files: dict[Path, BinaryIO] = {}
        for place in places(config, naming):
            tensor = tensors[place.tensor]
            if tensor.path not in files:
                files[tensor.path] = stack.enter_context(tensor.path.open("rb"))
            weight = params[place.weight]
            out = np.atleast_2d(weight) if place.columns is None else weight[:, place.columns].T
            copy_rows(tensor, files[tensor.path], out, _order(place, config.head_dim))


def _order(place: Place, head_dim: int) -> npt.NDArray[np.intp] | None:
    if not place.heads:
        return None
    return permute_rows(np.arange(place.shape[0]), to="half", heads=place.heads, head_dim=head_dim)
