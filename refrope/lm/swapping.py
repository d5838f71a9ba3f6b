"""Encodings to put into a model in the place of its own, and the tables that a model reads with.

Names are those of `refrope.encodings.names` (``linear``, ``yarn:factor=4``, ``resonance-ntk``, ``config.json``), with
the sizes and base of the model's own encoding, and three more: ``none`` is the encoding that the model has, which rope
parameters may replace; ``rope`` its plain form; ``resonance`` its own with whole-number wavelengths, from pair J on
alone in ``resonance:from_pair=J``.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.encodings import Resonance, RoPE, RotaryEncoding, XPos
from refrope.encodings.base import Tables
from refrope.encodings.huggingface import from_huggingface, to_huggingface
from refrope.encodings.names import encoding_from, parse
from refrope.errors import check_integer, check_name, check_number, unknown_name
from refrope.lm.rounded_pairs import RoundedPairs
from refrope.lm.scoring import IntArray, RotationSource
from refrope.nn.transformer import Transformer

OWN, OWN_RESONANCE = "none", "resonance"
PIPELINES = ("exact", "transformers")
_WHO = "lm"


# ---- which encoding ----


def split_names(text: str) -> list[str]:
    """The names in ``none,yarn:factor=4,ramp=turns,ntk``: a part ``key=value`` goes on with the options before it.

    Raises
    ------
    ValueError
        No name, or one twice.
    """
    names: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if names and "=" in part.partition(":")[0]:
            names[-1] += f",{part}"
        else:
            names.append(part)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{_WHO}: encodings are {text!r}, expected at least one, each once")
    return names


def first_rounded(name: str) -> int | None:
    """The fastest pair that ``resonance`` or ``resonance:from_pair=J`` rounds: 0 or J; None for any other name.

    Raises
    ------
    ValueError
        An option that ``resonance`` has not, or no whole number >= 0.
    """
    shown, colon, rest = name.partition(":")
    if shown != OWN_RESONANCE:
        return None
    if not colon:
        return 0
    key, _, value = (part.strip() for part in rest.partition("="))
    if key.replace("-", "_") != "from_pair":
        raise unknown_name(_WHO, f"option of {OWN_RESONANCE}", key, ["from_pair"])
    if not value.isdecimal():
        raise ValueError(f"{_WHO}: from_pair of {OWN_RESONANCE} is {value!r}, expected a whole number >= 0")
    return int(value)


def swapped(
    name: str, own: RotaryEncoding, original_length: int, length: int, *, factor: float | None = None
) -> RotaryEncoding:
    """The encoding that a name stands for, in the form in force for a text.

    Parameters
    ----------
    name : str
        See the module.
    own : RotaryEncoding
        The model's, which lends head_dim, base and rotary_dim.
    original_length : int, tokens
        The longest text that the model was made for: what scaling starts from.
    length : int, tokens
        Of the text.
    factor : float >= 1, optional
        Of encodings that scale; what the text needs, ``max(1, length / original_length)``, if None.

    Raises
    ------
    ValueError
        An unknown name or option; an encoding of another head_dim, or one whose queries and keys turn differently.
    OSError
        A configuration that cannot be read.
    """
    check_integer("swapped", "original_length", original_length, 1)
    check_integer("swapped", "length", length, 1)
    if factor is not None:
        check_number(_WHO, "factor", factor, "a number >= 1", 1.0)
    if name == OWN:
        return own.for_length(length)
    if (first := first_rounded(name)) is not None:
        if first >= own.pairs:
            raise ValueError(f"{_WHO}: from_pair is {first}, expected one of the model's pairs, 0 to {own.pairs - 1}")
        return (RoundedPairs(own, range(first, own.pairs)) if first else Resonance(own)).for_length(length)
    specification = parse(_WHO, name)
    made = encoding_from(
        _WHO,
        specification,
        {
            **{"head_dim": own.head_dim, "base": own.base, "rotary_dim": own.rotary_dim},
            "original_length": original_length,
            "factor": max(1.0, length / original_length) if factor is None else factor,
        },
    )
    if made.head_dim != own.head_dim:
        raise ValueError(f"{_WHO}: {name} has head_dim {made.head_dim}, expected the model's {own.head_dim}")
    if isinstance(made.innermost, XPos):
        raise ValueError(f"{_WHO}: {name} turns queries and keys differently, expected an encoding with one rotation")
    return made if "length" in specification.options else made.for_length(length)


def from_rope_parameters(text: str, own: RotaryEncoding, context: int, config: Mapping[str, Any]) -> RotaryEncoding:
    """The encoding that a JSON object of `rope_parameters` describes, with a model's sizes.

    Parameters
    ----------
    text : str
        A JSON object as in a Hugging Face configuration, such as ``{"rope_type": "linear", "factor": 2}``.
    own : RotaryEncoding
        The model's: its base counts where rope_theta is missing, its share of features that turn likewise.
    context : int, tokens
        max_position_embeddings, where `config` has none.
    config : mapping
        The model's configuration, of which all but its rope parameters counts.

    Raises
    ------
    ValueError
        Not a JSON object; as `refrope.from_huggingface`.

    Warns
    -----
    HuggingFaceWarning
        As `refrope.from_huggingface`.
    """
    try:
        parameters = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{_WHO}: --rope is not JSON: {error}") from None
    if not isinstance(parameters, dict):
        raise ValueError(f"{_WHO}: --rope is {text!r}, expected a JSON object of rope parameters")
    usual = to_huggingface(RoPE(own.head_dim, own.base, rotary_dim=own.rotary_dim))
    kept = {key: value for key, value in config.items() if key not in _ROPE_FIELDS}
    sizes = {"max_position_embeddings": context, **kept, "head_dim": own.head_dim}
    if "type" in parameters:
        del usual["rope_type"]
    return from_huggingface({**sizes, "rope_parameters": {**usual, **parameters}})


_ROPE_FIELDS = {"rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "rotary_dim", "head_dim"}


# ---- how a model reads with it ----


def with_softmax_factor(model: Transformer, factor: float) -> Transformer:
    """`model` with its softmax scale multiplied by `factor`: itself for 1, else another one with the same weights.

    The two share scratch memory: not for use at the same time.
    """
    if factor == 1.0:
        return model
    scale = model.config.softmax_scale
    scale = 1 / math.sqrt(model.config.head_dim) if scale is None else scale
    other = copy.copy(model)
    other.config = replace(model.config, softmax_scale=scale * factor)
    other.buffers, other.params = model.buffers, model.params
    return other


def rotation_source(encoding: RotaryEncoding, dtype: npt.DTypeLike, pipeline: str = "exact") -> RotationSource:
    """A function of positions that gives the tables of `encoding`, with the attention factor in them.

    Parameters
    ----------
    encoding : RotaryEncoding
        In the form in force for the text.
    dtype : float32 or float64
        The model's.
    pipeline : {"exact", "transformers"}
        "exact": float64 angles (Resonance: exact phases), cos and sin rounded once. "transformers": inverse
        frequencies, positions, their products and the tables in float32, as transformers computes them.

    Raises
    ------
    ValueError
        An unknown pipeline; "transformers" for an encoding whose tables are more than phases times one factor (FoPE).
    """
    check_name(_WHO, "pipeline", pipeline, PIPELINES)
    if pipeline == "exact":
        return lambda positions: encoding.cos_sin(positions, dtype)
    if type(encoding.innermost)._tables is not RotaryEncoding._tables:
        raise ValueError(f"{_WHO}: {encoding.name} mixes its tables, expected pipeline 'exact' for it")
    inv_freq = float32_inv_freq(encoding)
    return lambda positions: _float32_tables(inv_freq, positions, encoding.attention_factor, dtype)


def float32_inv_freq(encoding: RotaryEncoding) -> npt.NDArray[np.float32]:
    """Inverse frequencies as float32 arithmetic gives them, (pairs,).

    Plain RoPE's are a power of the base in float32, and a variant's are those over its stretch. Resonance's, whose
    rounding undoes the errors before it, and those without a stretch are the nearest float32.
    """
    if isinstance(encoding, RoundedPairs):
        own = float32_inv_freq(encoding.encoding)
        return np.where(encoding.is_rounded, encoding.inv_freq.astype(np.float32), own)
    if isinstance(encoding, Resonance) or encoding.stretch is None or not np.isfinite(encoding.stretch).all():
        return encoding.inv_freq.astype(np.float32)
    exponents = np.arange(0, encoding.turned, 2).astype(np.float32) / np.float32(encoding.turned)
    inv_freq: npt.NDArray[np.float32] = np.reciprocal(np.power(np.float32(encoding.base), exponents))
    if type(encoding) is not RoPE:
        inv_freq = np.divide(inv_freq, encoding.stretch.astype(np.float32))
    return inv_freq


def _float32_tables(
    inv_freq: npt.NDArray[np.float32], positions: IntArray, attention_factor: float, dtype: npt.DTypeLike
) -> Tables:
    angles = positions.astype(np.float32)[:, None] * inv_freq
    cos, sin = ((f(angles) * np.float32(attention_factor)).astype(dtype) for f in (np.cos, np.sin))
    return cos, sin
