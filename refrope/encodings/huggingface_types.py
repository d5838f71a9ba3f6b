"""What each rope_type of a Hugging Face configuration means: from a layer's fields to an encoding.

Formulas and precedence are those of transformers 5.23 (`modeling_rope_utils.py`); what there is to warn of is said
at the field that it concerns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from refrope.encodings.base import RotaryEncoding
from refrope.encodings.huggingface_fields import PARTIAL_MODELS, WHO, Layer
from refrope.encodings.interpolation import DynamicNTK, LinearPI, NTKAware
from refrope.encodings.llama3 import Llama3
from refrope.encodings.longrope import LongRoPE
from refrope.encodings.rope import ProportionalRoPE, RoPE
from refrope.encodings.yarn import YaRN
from refrope.errors import check_number, unknown_name

Common = dict[str, Any]  # head_dim, base, rotary_dim


def encoding_of(layer: Layer) -> RotaryEncoding:
    """The encoding that the fields of one layer type describe; what there is to say is left in its notes."""
    given = layer.rope_type()
    rope_type = {"su": "longrope", "mrope": "default"}.get(given, given)
    if layer.model_type == "phi3" and rope_type == "yarn":
        rope_type = "longrope"
        layer.say("rope_type 'yarn' is read as 'longrope', as transformers 5.23 does for model_type 'phi3'")
    if "mrope" in (given, layer.get("type")) or layer.get("mrope_section"):
        layer.say("mrope: only tokens whose position ids are equal on all axes, such as text, are covered")
    if rope_type == "axial":
        raise ValueError(
            f"{WHO}: rope_type 'axial' is not one encoding: in transformers 5.23 each model that uses "
            "it has a definition of its own, over two or more position ids"
        )
    if rope_type not in _READERS:
        raise unknown_name(WHO, "rope_type", given, [*_READERS, "su", "mrope"])
    encoding = _READERS[rope_type](layer, _common(layer, rope_type))
    if ignored := layer.ignored():
        layer.say(f"ignored by rope_type {given!r}: {', '.join(ignored)}")
    return encoding


def _common(layer: Layer, rope_type: str) -> Common:
    base = layer.base()
    if rope_type == "proportional":
        return {"head_dim": layer.head_dim(), "base": base}
    head_dim, turned = layer.features()
    share = layer.partial_rotary_factor()
    words = f"partial_rotary_factor is {share!r}: {turned} of {head_dim} features would turn"
    if turned > head_dim or turned < 0:
        raise ValueError(f"{WHO}: {words}")
    if turned % 2 and turned < head_dim:
        raise ValueError(f"{WHO}: {words}, expected an even number")
    if rope_type == "default" and turned < head_dim and share is not None and layer.model_type not in PARTIAL_MODELS:
        layer.say(
            f"partial_rotary_factor = {share!r} is honoured with rope_type 'default', as in transformers' GPT-NeoX; "
            "most of its other models, Llama among them, ignore it there and turn the whole head"
        )
    return {"head_dim": head_dim, "base": base, "rotary_dim": turned if turned < head_dim else None}


def _default(layer: Layer, common: Common) -> RotaryEncoding:
    return _still(layer, common) or RoPE(**common)


def _still(layer: Layer, common: Common) -> RotaryEncoding | None:
    """An encoding that turns nothing, where the share of features that turn leaves none."""
    if common["rotary_dim"] != 0:
        return None
    layer.say(f"partial_rotary_factor = {layer.partial_rotary_factor()!r} leaves no feature that turns")
    return ProportionalRoPE(common["head_dim"], common["base"], proportion=0.0)


def _factor(layer: Layer) -> float:
    return _positive(layer, "factor", layer.required("factor"))


def _positive(layer: Layer, field: str, value: float) -> float:
    """`value`, which must be above 0; below 1 there is something to say, as transformers 5.23 does."""
    number = check_number(WHO, field, value, "a number > 0", 0.0, above=True)
    if number < 1:
        layer.say(f"{field} is {number!r}, below 1: it shortens the context instead of stretching it")
    return number


def _linear(layer: Layer, common: Common) -> RotaryEncoding:
    factor = _factor(layer)
    return _still(layer, common) or LinearPI(**common, factor=factor, lenient=factor < 1)


def _proportional(layer: Layer, common: Common) -> RotaryEncoding:
    share = layer.partial_rotary_factor()
    factor = 1.0 if layer.get("factor") is None else _factor(layer)
    if share is not None and not 0 <= share <= 1:
        raise ValueError(f"{WHO}: partial_rotary_factor is {share!r}, expected a number in [0, 1]")
    return ProportionalRoPE(**common, proportion=1.0 if share is None else share, factor=factor, lenient=factor < 1)


def _dynamic(layer: Layer, common: Common) -> RotaryEncoding:
    alpha = layer.number("alpha") if layer.model_type is None or "hunyuan" in str(layer.model_type) else None
    if alpha:
        for name in ("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"):
            layer.get(name)  # leftovers in the published files
        layer.say(
            f"alpha = {alpha!r} stretches at every length and factor is ignored, as in HunYuan's models; "
            "other model classes ignore alpha and stretch by factor"
        )
        _positive(layer, "alpha", alpha)
        return _still(layer, common) or NTKAware(**common, factor=alpha, lenient=alpha < 1)
    factor = _factor(layer)
    original = layer.max_length("rope_type 'dynamic' stretches beyond it")
    layer.say(
        "rope_type 'dynamic': transformers follows the longest row of each batch, "
        "vLLM computes one table for factor * max_position_embeddings and uses it for short sequences too"
    )
    return _still(layer, common) or DynamicNTK(**common, factor=factor, original_length=original, lenient=factor < 1)


def _llama3(layer: Layer, common: Common) -> RotaryEncoding:
    factor, original = _factor(layer), layer.original_length()
    low, high = layer.required("low_freq_factor"), layer.required("high_freq_factor")
    if high <= low:
        layer.say(f"high_freq_factor = {high!r} is not above low_freq_factor = {low!r}: the blend becomes a step there")
    turns: dict[str, Any] = {"low_freq_factor": low, "high_freq_factor": max(low, high)}
    return _still(layer, common) or Llama3(
        **common, factor=factor, original_length=original, lenient=factor < 1, **turns
    )


def _longrope(layer: Layer, common: Common) -> RotaryEncoding:
    lists: dict[str, Any] = {}
    for name in ("short_factor", "long_factor"):
        values = layer.get(name)
        if name not in layer.rope:
            raise ValueError(f"{WHO}: {name} is missing, but rope_type 'longrope' needs it")
        if not isinstance(values, (list, tuple)):
            raise ValueError(f"{WHO}: {name} is {values!r}, expected a list of numbers")
        pairs = (common["head_dim"] if common["rotary_dim"] is None else common["rotary_dim"]) // 2
        if len(values) != pairs:
            raise ValueError(f"{WHO}: {name} has {len(values)} numbers, expected {pairs}, one a pair")
        lists[name] = tuple(values)
    original = layer.original_length()
    factor = layer.implicit_factor(original, layer.number("factor"))
    attention_factor = layer.number("attention_factor")
    if layer.model_type == "phimoe":
        short, long = layer.required("short_mscale"), layer.required("long_mscale")
        if short != long:
            raise ValueError(
                f"{WHO}: short_mscale is {short!r}, expected long_mscale = {long!r}: one amplitude for both"
            )
        attention_factor = short
    if lists["short_factor"] != lists["long_factor"]:
        layer.say(
            "rope_type 'longrope': transformers chooses short_factor or long_factor by the longest row of each batch, "
            "vLLM once by the length that its engine is set to, llama.cpp by the size of the context"
        )
    return _still(layer, common) or LongRoPE(
        **common,
        **lists,
        original_length=original,
        factor=factor,
        attention_factor=attention_factor,  # type: ignore[arg-type]
    )


def _yarn(layer: Layer, common: Common) -> RotaryEncoding:
    original = layer.original_length()
    if "factor" not in layer.rope:
        raise ValueError(f"{WHO}: factor is missing, but rope_type 'yarn' needs it (null: max / original length)")
    factor = layer.implicit_factor(original, None if layer.get("factor") is None else _factor(layer))
    if layer.get("factor") is None:
        _positive(layer, "max_position_embeddings / original_max_position_embeddings", factor)
    betas: dict[str, Any] = {}
    for name, usual in (("beta_fast", 32.0), ("beta_slow", 1.0)):
        value = layer.number(name)
        if value == 0:
            layer.say(f"{name} is 0: transformers 5.23 takes its default {usual} instead, other engines the zero")
        betas[name] = value or usual
    if betas["beta_fast"] < betas["beta_slow"]:
        layer.say(
            f"beta_fast = {betas['beta_fast']!r} is below beta_slow = {betas['beta_slow']!r}: the ramp is reversed"
        )
    if betas["beta_fast"] == betas["beta_slow"]:
        layer.say(f"beta_fast equals beta_slow = {betas['beta_slow']!r}: the ramp has no width but that of rounding")
    return _still(layer, common) or YaRN(
        **common,
        factor=factor,
        original_length=original,
        **betas,
        truncate=_truncate(layer),
        lenient=factor < 1 or betas["beta_fast"] < betas["beta_slow"],
        **_amplitudes(layer, factor),
    )


def _truncate(layer: Layer) -> bool:
    inside = layer.get("truncate")
    value = bool(layer.rope.get("truncate", True))
    if layer.nested:
        outside = _outer(layer).get("truncate", True)
        if inside is not None and bool(inside) != bool(outside):
            layer.say(
                f"truncate = {inside!r} is ignored: transformers 5.23 looks for it next to the layer types and not "
                "inside, other engines may find it"
            )
        value = bool(outside)
    if not value:
        layer.say(
            "truncate is false: the ramp's ends are not rounded, but engines without that field (llama.cpp) round"
        )
    return value


def _outer(layer: Layer) -> Mapping[str, Any]:
    outer: Mapping[str, Any] = layer.fields.get("rope_scaling") or layer.fields["rope_parameters"]
    return outer


def _amplitudes(layer: Layer, factor: float) -> dict[str, Any]:
    one, all_dim, replaced = (layer.number(name) for name in ("mscale", "mscale_all_dim", "attention_factor"))
    if bool(one) != bool(all_dim):
        lone, other = ("mscale", "mscale_all_dim") if one else ("mscale_all_dim", "mscale")
        layer.say(
            f"{lone} without {other} does not change the factor of cos and sin in transformers 5.23; "
            "DeepSeek's own code takes the other as zero"
        )
    if replaced is not None and one and all_dim:
        layer.say(f"mscale is ignored: attention_factor = {replaced!r} replaces the factor of cos and sin")
    if all_dim and layer.top("qk_rope_head_dim") is None:
        layer.say(
            f"mscale_all_dim = {all_dim!r} also multiplies the softmax scale (softmax_factor) in DeepSeek's models; "
            "other model classes leave the softmax scale alone"
        )
    for name in ("attn_factor", "extrapolation_factor"):
        value = layer.number(name)
        if value is not None and value != 1:
            layer.say(
                f"{name} = {value!r} is ignored, as in transformers 5.23; YaRN's own code and vLLM multiply by it"
            )
    if replaced is not None and not math.isclose(replaced, 0.1 * math.log(max(factor, 1.0)) + 1.0, rel_tol=1e-6):
        layer.say(f"attention_factor = {replaced!r} replaces 0.1 ln(factor) + 1; some engines do not know this field")
    return {"mscale": one, "mscale_all_dim": all_dim, "attention_factor": replaced}


_READERS: dict[str, Callable[[Layer, Common], RotaryEncoding]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}
