"""Encodings by name, as the command line writes them: ``rope``, ``yarn:factor=4,ramp=turns``, ``config.json``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from refrope.encodings.base import RotaryEncoding
from refrope.encodings.fope import FoPE
from refrope.encodings.huggingface import from_huggingface
from refrope.encodings.interpolation import DYNAMIC_DIALECTS, NTK_DIALECTS, DynamicNTK, LinearPI, NTKAware, NTKByParts
from refrope.encodings.llama3 import Llama3
from refrope.encodings.longrope import LongRoPE
from refrope.encodings.resonance import DIALECTS as ROUNDINGS
from refrope.encodings.resonance import Resonance
from refrope.encodings.rope import ProportionalRoPE, RoPE
from refrope.encodings.xpos import XPos
from refrope.encodings.yarn import BLENDS, RAMPS, YaRN
from refrope.encodings.yarn import DIALECTS as YARN_DIALECTS
from refrope.errors import check_name, unknown_name

CLASSES: dict[str, type[RotaryEncoding]] = {
    "rope": RoPE,
    "yarn": YaRN,
    "linear": LinearPI,
    "ntk": NTKAware,
    "dynamic-ntk": DynamicNTK,
    "ntk-by-parts": NTKByParts,
    "llama3": Llama3,
    "longrope": LongRoPE,
    "xpos": XPos,
    "fope": FoPE,
    "proportional": ProportionalRoPE,
}
NAMES = (*CLASSES, *(f"resonance-{name}" for name in CLASSES))
_PREFIX = "resonance-"


# ---- options: from text to values ----


def _number(text: str) -> float:
    return float(text)


def _switch(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _list(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.replace(",", "/").split("/"))


_WANTED: dict[Callable[[str], Any], str] = {
    int: "a whole number",
    _number: "a number",
    _switch: "true or false",
    _list: "numbers such as 1/2.5/4",
}


class Option(NamedTuple):
    """How the text of an option becomes a value, and what it means."""

    convert: Callable[[str], Any]
    about: str


OPTIONS: dict[str, Option] = {
    "head_dim": Option(int, "features of a head (default 64)"),
    "base": Option(_number, "default 10000; llama3: 500000"),
    "rotary_dim": Option(int, "how many of the features turn (default all)"),
    "factor": Option(_number, "how many times longer the context becomes (default test length / train length)"),
    "original_length": Option(int, "length that scaling starts from, in tokens (default train length)"),
    "dialect": Option(
        str,
        f"yarn: {', '.join(YARN_DIALECTS)}; ntk: {', '.join(NTK_DIALECTS)}; dynamic-ntk: {', '.join(DYNAMIC_DIALECTS)}",
    ),
    "beta_fast": Option(_number, "yarn: turns above which a pair is kept (default 32)"),
    "beta_slow": Option(_number, "yarn: turns below which it is interpolated (default 1)"),
    "ramp": Option(str, f"yarn: {' or '.join(RAMPS)} (default index)"),
    "blend": Option(str, f"yarn: {' or '.join(BLENDS)} (default frequency)"),
    "truncate": Option(_switch, "yarn: round the ends of the index ramp, true (default) or false"),
    "target_ramp": Option(_switch, "yarn: count turns within the target length, true or false (default)"),
    "mscale": Option(_number, "yarn: DeepSeek's amplitude of cos and sin"),
    "mscale_all_dim": Option(_number, "yarn: DeepSeek's amplitude of the logits"),
    "attention_factor": Option(_number, "yarn, longrope: instead of what follows from the factor"),
    "mixed_b": Option(_number, "ntk: exponent of dialect mixed (default 0.75)"),
    "linear_turns": Option(_list, "ntk-by-parts: ends of its first ramp (default 1.25/0.75)"),
    "kept_turns": Option(_list, "ntk-by-parts: ends of its second ramp (default 16/2)"),
    "low_freq_factor": Option(_number, "llama3: turns below which a pair is interpolated (default 1)"),
    "high_freq_factor": Option(_number, "llama3: turns above which it is kept (default 4)"),
    "short_factor": Option(_list, "longrope: one number a pair, as 1/1.5/2, or one for all"),
    "long_factor": Option(_list, "longrope: the same, for sequences above the original length"),
    "gamma": Option(_number, "xpos (default 0.4)"),
    "scale_base": Option(_number, "xpos, in tokens (default 512)"),
    "centre": Option(_number, "xpos: position of amplitude 1 (default 0)"),
    "padding": Option(str, "fope: identity (default) or ones"),
    "train_length": Option(int, "fope: in tokens (default that of training)"),
    "proportion": Option(_number, "proportional: share of the pairs that turn (default 1)"),
    "rounding": Option(str, f"resonance-...: {' or '.join(ROUNDINGS)} scaling (default after)"),
    "length": Option(int, "take the form in force for a sequence of X tokens (dynamic-ntk, longrope)"),
}


def flag(key: str) -> str:
    """An option as the command line writes it."""
    return "--" + key.replace("_", "-")


def value_of(who: str, key: str, text: str) -> Any:
    """The value that `text` gives to option `key`."""
    convert = OPTIONS[key].convert
    try:
        return convert(text)
    except (ValueError, KeyError):
        raise ValueError(f"{who}: {key} is {text!r}, expected {_WANTED[convert]}") from None


def options_of(name: str) -> tuple[str, ...]:
    """The options that the encoding `name` takes."""
    taken = set(inspect.signature(CLASSES[name.removeprefix(_PREFIX)]).parameters) | {"length"}
    if name.startswith(_PREFIX):
        taken.add("rounding")
    return tuple(key for key in OPTIONS if key in taken)


# ---- encodings ----


class Specification(NamedTuple):
    """What a text such as ``yarn:factor=4`` says: a name or the path of a configuration, and options."""

    name: str  # "" for a configuration
    path: Path | None
    options: dict[str, Any]
    layer_type: str | None = None


def parse(who: str, text: str) -> Specification:
    """Read ``NAME``, ``NAME:KEY=VALUE,...``, ``PATH.json`` or ``PATH.json:layer_type=T,length=N``.

    Raises
    ------
    ValueError
        An unknown name or option, with the nearest known one; an option without a value or given twice; a value of the
        wrong kind.
    """
    file = re.fullmatch(r"(.*\.json)(?::(.*))?", text, re.DOTALL)
    known: tuple[str, ...]
    if file:
        shown, rest, known = file[1], file[2] or "", ("layer_type", "length")
    else:
        shown, _, rest = text.partition(":")
        check_name(who, "encoding", shown, NAMES)
        known = options_of(shown)
    values: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = part.partition("=")
        key = key.strip().replace("-", "_")
        if key not in known:
            raise unknown_name(who, f"option of {'a configuration' if file else shown}", key, known)
        if not equals or not value.strip():
            raise ValueError(f"{who}: {key} of {shown} has no value, expected {key}=VALUE")
        if key in values:
            raise ValueError(f"{who}: {key} of {shown} is given twice")
        values[key] = value.strip() if key == "layer_type" else value_of(who, key, value.strip())
    layer_type = values.pop("layer_type", None)
    return Specification("" if file else shown, Path(shown) if file else None, values, layer_type)


def encoding_from(who: str, specification: Specification, defaults: Mapping[str, Any]) -> RotaryEncoding:
    """The encoding that `specification` describes; `defaults` count where it is silent and its class has the option.

    Raises
    ------
    ValueError
        An option that the encoding does not take or cannot have.
    OSError
        A configuration that cannot be read.
    """
    options = dict(specification.options)
    length = options.pop("length", None)
    if specification.path is not None:
        encoding = from_huggingface(specification.path, specification.layer_type)
    else:
        encoding = _named(who, specification.name, options, defaults)
    return encoding if length is None else encoding.for_length(length)


def _named(who: str, name: str, options: dict[str, Any], defaults: Mapping[str, Any]) -> RotaryEncoding:
    check_name(who, "encoding", name, NAMES)
    known = options_of(name)
    for key in options:
        if key not in known:
            raise ValueError(f"{who}: {name} has no option {key}; it takes {', '.join(known)}")
    kind = CLASSES[name.removeprefix(_PREFIX)]
    usual = dict(defaults)
    if kind is ProportionalRoPE:
        usual.pop("factor", None)  # 1: p-RoPE is not a scaling by itself
    arguments = {key: value for key, value in {**usual, **options}.items() if key in known and key != "rounding"}
    if kind is FoPE and "original_length" in usual:
        arguments.setdefault("train_length", usual["original_length"])
    if kind is LongRoPE:
        pairs = (arguments.get("rotary_dim") or arguments["head_dim"]) // 2
        for key in ("short_factor", "long_factor"):
            if key not in arguments:
                raise ValueError(f"{who}: {name} needs {key}: one number a pair, as 1/1.5/2, or one for all")
            if len(arguments[key]) == 1:
                arguments[key] *= pairs
    encoding = kind(**arguments)
    return Resonance(encoding, options.get("rounding", "after")) if name.startswith(_PREFIX) else encoding
