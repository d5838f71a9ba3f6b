r"""Encodings from Hugging Face configurations, and back.

The numbers are those of transformers 5.23, whose `modeling_rope_utils.py` is what most engines imitate; where a
configuration is accepted there and can be computed it is accepted here. Where a field counts for nothing, contradicts
another, makes little sense, or is known to be read differently by other engines, a `HuggingFaceWarning` says so in a
sentence.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from refrope.encodings.base import RotaryEncoding
from refrope.encodings.huggingface_fields import WHO, HuggingFaceWarning, Layer, read_config, rope_parameters
from refrope.encodings.huggingface_types import encoding_of
from refrope.encodings.interpolation import DynamicNTK, LinearPI
from refrope.encodings.llama3 import Llama3
from refrope.encodings.longrope import LongRoPE
from refrope.encodings.rope import ProportionalRoPE, RoPE
from refrope.encodings.yarn import YaRN
from refrope.errors import check_integer, describe

__all__ = ["HuggingFaceWarning", "from_huggingface", "huggingface_config", "to_huggingface"]


def from_huggingface(
    config: Mapping[str, Any] | str | os.PathLike[str], layer_type: str | None = None
) -> RotaryEncoding:
    """The encoding that a model's configuration describes.

    Parameters
    ----------
    config : dict, or path of a config.json
        Read are head_dim (or hidden_size and num_attention_heads; qk_rope_head_dim where a model has it),
        max_position_embeddings, rope_theta, partial_rotary_factor, and the rope parameters: `rope_parameters` as in
        transformers 5, or `rope_scaling` as before, flat or nested by layer type.
    layer_type : str, optional
        Which entry of nested rope parameters, such as "full_attention". Not needed where all describe the same.

    Returns
    -------
    RotaryEncoding
        For sequences up to the original length; `for_length` gives the one for longer sequences.

    Raises
    ------
    ValueError
        What cannot be computed: a missing field, an unknown rope_type, lists of the wrong length, numbers out of range,
        a file that is not a JSON object, is larger than 10 MB, or is deeply nested. The message names field and value.
    OSError
        The file cannot be read.

    Warns
    -----
    HuggingFaceWarning
        See the module.
    """
    fields = read_config(config)
    notes: list[str] = []
    layers, nested = rope_parameters(fields, notes)
    names = ", ".join(repr(name) for name in layers)
    if layer_type is not None and "" not in layers:
        if layer_type not in layers:
            raise ValueError(f"{WHO}: unknown layer_type {layer_type!r}; this configuration has {names}")
        layers = {layer_type: layers[layer_type]}
    if all(rope is None for rope in layers.values()):
        silent = ", ".join(repr(name) for name in layers)
        raise ValueError(f"{WHO}: the rope parameters of layer type {silent} are null: these layers do not rotate")
    found = [
        None if rope is None else encoding_of(Layer(rope, fields, notes, name or layer_type or "", nested))
        for name, rope in layers.items()
    ]
    if any(encoding != found[0] for encoding in found):
        raise ValueError(f"{WHO}: layers differ; choose a layer_type of {names}")
    for note in dict.fromkeys(notes):
        warnings.warn(note, HuggingFaceWarning, stacklevel=2)
    encoding = found[0]
    assert encoding is not None
    return encoding


def to_huggingface(encoding: RotaryEncoding) -> dict[str, Any]:
    """The `rope_parameters` that describe `encoding` in a configuration of transformers 5.

    Two fields that go with them are a configuration's own: head_dim, and max_position_embeddings, which is the original
    length of a `DynamicNTK`. `huggingface_config` gives all of them.

    Returns
    -------
    dict of str, bool, int, float and lists of float
        A plain value for JSON.

    Raises
    ------
    ValueError
        Those fields cannot say what `encoding` is; the message names the part that they lack.
    """
    kind = type(encoding)
    if kind not in _WRITERS:
        reason = _UNSAYABLE.get(kind.__name__, "no rope_type is known to mean it")
        raise ValueError(f"{_TO}: encoding is {describe(encoding)}: {reason}")
    rope_type, write = _WRITERS[kind]
    partial: dict[str, Any] = {}
    if encoding.turned != encoding.head_dim:
        partial["partial_rotary_factor"] = _share(encoding.turned, encoding.head_dim)
    return {"rope_type": rope_type, "rope_theta": float(encoding.base), **partial, **write(encoding)}


def huggingface_config(encoding: RotaryEncoding, *, max_position_embeddings: int | None = None) -> dict[str, Any]:
    """Every field of a configuration that concerns rotation, so that `from_huggingface` gives an equal `encoding`.

    Equal in all fields, but for a `rotary_dim` of the whole head, which comes back as None. `from_huggingface` warns
    where the configuration is one that engines disagree about.

    Parameters
    ----------
    encoding : RotaryEncoding
    max_position_embeddings : int, optional
        The longest sequence that the model is made for. Of a `DynamicNTK` it is the original length, and known.

    Returns
    -------
    dict
        head_dim, rope_parameters, and max_position_embeddings where it is known.

    Raises
    ------
    ValueError
        As in `to_huggingface`; a `max_position_embeddings` that would change a `DynamicNTK`.
    """
    config: dict[str, Any] = {"head_dim": int(encoding.head_dim), "rope_parameters": to_huggingface(encoding)}
    if max_position_embeddings is not None:
        config["max_position_embeddings"] = check_integer(_WHOLE, "max_position_embeddings", max_position_embeddings, 1)
    if isinstance(encoding, DynamicNTK):
        original = int(encoding.original_length)
        if config.setdefault("max_position_embeddings", original) != original:
            raise ValueError(
                f"{_WHOLE}: max_position_embeddings is {max_position_embeddings}, expected the original length "
                f"{original}: transformers takes one for the other in rope_type 'dynamic'"
            )
    return config


_TO, _WHOLE = "to_huggingface", "huggingface_config"
_UNSAYABLE = {
    "FoPE": "rope parameters have no place for learnt coefficients",
    "NTKAware": "no rope_type stretches so at every length (RoPE of base b s**(d/(d-2)) turns as 'ntk-aware' does)",
    "NTKByParts": "no rope_type has its two ramps",
    "Resonance": "no rope_type rounds wavelengths; write its inner encoding, and wrap it again when it is read",
    "XPos": "no rope_type scales queries and keys with their position",
}


def _refuse(encoding: RotaryEncoding, field: str, reason: str) -> ValueError:
    return ValueError(f"{_TO}: {field} of {encoding.name} is {getattr(encoding, field)!r}: {reason}")


def _share(turned: int, head_dim: int) -> float:
    """A factor with ``int(head_dim * factor) == turned``, which turned / head_dim may just miss."""
    share = turned / head_dim
    return share if int(head_dim * share) == turned else math.nextafter(share, 1.0)


def _write_plain(encoding: RoPE) -> dict[str, Any]:
    return {}


def _write_linear(encoding: LinearPI) -> dict[str, Any]:
    return {"factor": float(encoding.factor)}


def _write_proportional(encoding: ProportionalRoPE) -> dict[str, Any]:
    if encoding.turned != encoding.head_dim:
        raise _refuse(encoding, "rotary_dim", "rope_type 'proportional' counts pairs over the whole head")
    return {"partial_rotary_factor": float(encoding.proportion), "factor": float(encoding.factor)}


def _without_length(encoding: DynamicNTK | LongRoPE) -> None:
    if encoding.length is not None:
        raise _refuse(
            encoding, "length", "a configuration is written for every length, from an encoding whose length is None"
        )


def _write_dynamic(encoding: DynamicNTK) -> dict[str, Any]:
    _without_length(encoding)
    if encoding.dialect != "hf":
        raise _refuse(encoding, "dialect", "rope_type 'dynamic' follows the current length")
    return {"factor": float(encoding.factor)}


def _write_llama3(encoding: Llama3) -> dict[str, Any]:
    return {
        "factor": float(encoding.factor),
        "original_max_position_embeddings": int(encoding.original_length),
        "low_freq_factor": float(encoding.low_freq_factor),
        "high_freq_factor": float(encoding.high_freq_factor),
    }


def _write_longrope(encoding: LongRoPE) -> dict[str, Any]:
    _without_length(encoding)
    return {
        "short_factor": [float(value) for value in encoding.short_factor],
        "long_factor": [float(value) for value in encoding.long_factor],
        "factor": float(encoding.factor),
        "original_max_position_embeddings": int(encoding.original_length),
        **_own_attention_factor(encoding),
    }


def _write_yarn(encoding: YaRN) -> dict[str, Any]:
    for field, only in (("ramp", "index"), ("blend", "frequency"), ("target_ramp", False)):
        if getattr(encoding, field) != only:
            raise _refuse(encoding, field, f"rope_type 'yarn' means {only!r}")
    scales = {name: getattr(encoding, name) for name in ("mscale", "mscale_all_dim")}
    return {
        "factor": float(encoding.factor),
        "original_max_position_embeddings": int(encoding.original_length),
        "beta_fast": float(encoding.beta_fast),
        "beta_slow": float(encoding.beta_slow),
        "truncate": bool(encoding.truncate),
        **{name: float(value) for name, value in scales.items() if value is not None},
        **_own_attention_factor(encoding),
    }


def _own_attention_factor(encoding: LongRoPE | YaRN) -> dict[str, float]:
    """attention_factor, where it is not what follows from the other fields."""
    usual = replace(encoding, attention_factor=None)  # type: ignore[arg-type]
    same = encoding.attention_factor == usual.attention_factor
    return {} if same else {"attention_factor": float(encoding.attention_factor)}


_WRITERS: dict[type, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    RoPE: ("default", _write_plain),
    LinearPI: ("linear", _write_linear),
    DynamicNTK: ("dynamic", _write_dynamic),
    YaRN: ("yarn", _write_yarn),
    LongRoPE: ("longrope", _write_longrope),
    Llama3: ("llama3", _write_llama3),
    ProportionalRoPE: ("proportional", _write_proportional),
}
