"""Where a Hugging Face configuration keeps what concerns rotation: one flat set of fields for each kind of layer.

Field names have moved over the years: `type` became `rope_type`, `rope_scaling` became `rope_parameters`, the base and
the share of features that turn went from the top level into it, and models whose layers differ nest one such
dictionary for each layer type. What is looked up where, and which of two values counts, follows transformers 5.23.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from refrope.errors import check_integer, check_number

WHO = "from_huggingface"
LARGEST_FILE = 10_000_000  # bytes; the config.json of a published model has a few thousand
DEEPEST_NESTING = 64
_LARGEST_INTEGER = 2**63 - 1

_ALIASES = {
    "rope_theta": ("rope_theta", "rotary_emb_base", "global_rope_theta"),
    "partial_rotary_factor": ("partial_rotary_factor", "rotary_pct"),
    "hidden_size": ("hidden_size", "n_embd"),
    "num_attention_heads": ("num_attention_heads", "n_head"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions"),
}
# The share of features that these model types turn where their configuration does not say; most turn the whole head.
PARTIAL_MODELS = {
    "bamba": 0.5, "glm": 0.5, "glm4": 0.5, "glm4_moe": 0.5, "gpt_neox": 0.25, "nemotron": 0.5, "persimmon": 0.5,
    "phi": 0.5, "qwen3_5": 0.25, "qwen3_5_moe": 0.25, "qwen3_next": 0.25, "recurrent_gemma": 0.5, "stablelm": 0.25,
}  # fmt: skip
# The base of sliding layers, in models older than nested parameters, and whether rope_scaling is meant for them too.
_LOCAL_BASES = {"rope_local_base_freq": False, "local_rope_theta": True}
# Rope parameters that every rope_type may have and that change no frequency of a text token.
_NO_FREQUENCY = {"type", "rope_type", "rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved"}


class HuggingFaceWarning(UserWarning):
    """A field is ignored, contradicts another, or is read differently elsewhere."""


def read_config(config: Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Any]:
    """`config`, or the object in the JSON file that it names; of a model with images or sound, its text part."""
    if isinstance(config, Mapping):
        fields = config
    elif isinstance(config, (str, os.PathLike)):
        fields = _read_json(config)
    else:
        raise ValueError(f"{WHO}: config is a {type(config).__name__}, expected a dict or the path of a config.json")
    text = fields.get("text_config")
    if isinstance(text, Mapping) and not {"head_dim", "hidden_size", "num_attention_heads"} & set(fields):
        return text
    return fields


def _read_json(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    if str(path).lstrip().startswith("{"):
        raise ValueError(f"{WHO}: config is the text of a JSON object, expected a dict or the path of a config.json")
    with open(path, "rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ValueError(f"{WHO}: {path} has more than {LARGEST_FILE} bytes, expected the config.json of a model")
    try:
        # NaN and Infinity are let in, as in transformers: some configurations have them in fields of other parts.
        fields = json.loads(data)
    except RecursionError:
        raise ValueError(f"{WHO}: {path} is nested more than {DEEPEST_NESTING} levels deep") from None
    except ValueError as error:  # not UTF-8, not JSON, or an integer of thousands of digits
        raise ValueError(f"{WHO}: {path} is not JSON: {error}") from None
    level = [fields]
    for _ in range(DEEPEST_NESTING):
        level = [child for value in level for child in _children(value)]
    if level:
        raise ValueError(f"{WHO}: {path} is nested more than {DEEPEST_NESTING} levels deep")
    if not isinstance(fields, dict):
        raise ValueError(f"{WHO}: {path} holds a {type(fields).__name__}, expected a JSON object")
    return fields


def _children(value: object) -> list[Any]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in inside if isinstance(child, (dict, list))]


def rope_parameters(fields: Mapping[str, Any], notes: list[str]) -> tuple[dict[str, Any], bool]:
    """The rope parameters of each layer type, and whether they were nested; {"": ...} where all layers share them."""
    found = {name: fields[name] for name in ("rope_scaling", "rope_parameters") if fields.get(name)}
    for name, value in found.items():
        if not isinstance(value, Mapping):
            raise ValueError(f"{WHO}: {name} is {value!r}, expected an object or null")
    if len(found) == 2 and found["rope_scaling"] != found["rope_parameters"]:
        notes.append("rope_parameters is ignored: rope_scaling is given too, differs, and counts in transformers 5.23")
    rope = dict(next(iter(found.values()), {}))
    nested = any(isinstance(value, Mapping) for value in rope.values())
    if nested:
        layers = {key: value for key, value in rope.items() if value is None or isinstance(value, Mapping)}
        declared = fields.get("layer_types")
        if any(value is None for value in layers.values()) and isinstance(declared, (list, tuple)):
            layers = {key: value for key, value in layers.items() if value is not None or key in declared}
        outside = sorted(set(rope) - set(layers) - {"truncate"})
        if outside:
            notes.append(f"{', '.join(outside)}: ignored next to rope parameters that are nested by layer type")
    else:
        layers = {"": rope}
    for name, shares in _LOCAL_BASES.items():
        if fields.get(name) is not None:
            if not nested:
                layers = {"full_attention": rope, "sliding_attention": rope if shares else {}}
            sliding = layers.get("sliding_attention")
            if sliding is not None:
                layers["sliding_attention"] = {"rope_theta": fields[name], **sliding}
    return layers, nested


@contextmanager
def noted(where: object) -> Iterator[None]:
    """Warnings about a configuration go to standard error, a line each, when what is inside is done."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HuggingFaceWarning)
        yield
    for warning in caught:
        print(f"refrope: {where}: {' '.join(str(warning.message).split())}", file=sys.stderr)


def top_field(fields: Mapping[str, Any], name: str) -> Any:
    """A configuration's top-level field, by any of its names; None where it is missing or null."""
    return next((fields[n] for n in _ALIASES.get(name, (name,)) if fields.get(n) is not None), None)


class Layer:
    """The fields of one layer type, and what there is to say about them.

    Rope parameters that were read are remembered, so that in the end those that count for nothing can be named.
    """

    def __init__(
        self, rope: Mapping[str, Any], fields: Mapping[str, Any], notes: list[str], layer_type: str, nested: bool
    ) -> None:
        self.rope: Mapping[str, Any] = rope
        self.fields: Mapping[str, Any] = fields
        self.notes: list[str] = notes
        self.layer_type: str = layer_type
        self.nested: bool = nested
        self.model_type: Any = fields.get("model_type")
        self._read: set[str] = set()

    def say(self, sentence: str) -> None:
        """Keep `sentence` for a warning."""
        self.notes.append(sentence)

    def get(self, name: str) -> Any:
        """The rope parameter `name`, None where it is missing or null."""
        self._read.add(name)
        return self.rope.get(name)

    def number(self, name: str) -> float | None:
        """The rope parameter `name`, None where it is missing or null."""
        value = self.get(name)
        return None if value is None else _number(name, value)

    def required(self, name: str) -> float:
        """The rope parameter `name`; an error where it is missing."""
        if name not in self.rope:
            raise ValueError(f"{WHO}: {name} is missing, but rope_type {self.rope_type()!r} needs it")
        return _number(name, self.get(name))

    def ignored(self) -> list[str]:
        """Rope parameters that are given and that nobody read."""
        return sorted(
            name for name in set(self.rope) - self._read - _NO_FREQUENCY if self.rope[name] not in (None, [], {})
        )

    # ---- fields of the top level ----

    def top(self, name: str) -> Any:
        """The top-level field `name`, by any of its names; None where it is missing or null."""
        return top_field(self.fields, name)

    def integer(self, name: str) -> int | None:
        """The top-level field `name`, an integer >= 1; None where it is missing or null."""
        value = self.top(name)
        return None if value is None else _integer(name, value)

    def in_or_above(self, name: str) -> float | None:
        """The rope parameter `name`, else the top-level field."""
        inside, above = self.number(name), self.top(name)
        if above is None:
            return inside
        number = _number(name, above)
        if inside is None:
            return number
        if inside != number and not (self.nested or any(key in self.fields for key in _LOCAL_BASES)):
            self.say(f"{name} = {number!r} at the top level is ignored: the rope parameters say {inside!r}")
        return inside

    def rope_type(self) -> str:
        """`rope_type` or `type`, "default" if there is neither."""
        new, old = self.get("rope_type"), self.get("type")
        name = old if new is None else new
        if name is None:
            return "default"
        if not isinstance(name, str):
            raise ValueError(f"{WHO}: rope_type is {name!r}, expected a string")
        if old not in (None, new, "mrope") and new is not None:
            self.say(f"type = {old!r} is ignored: rope_type says {new!r}")
        return name

    def base(self) -> float:
        """`rope_theta`, 10000 where nobody says."""
        value = self.in_or_above("rope_theta")
        if value is None:
            if self.model_type is not None:
                self.say("rope_theta is missing: 10000 is taken, though some model classes have a default of their own")
            return 10_000.0
        return check_number(WHO, "rope_theta", value, "a finite number > 1", 1.0, above=True)

    def partial_rotary_factor(self) -> float | None:
        """The share of features that turn; None where nobody says."""
        value = self.in_or_above("partial_rotary_factor")
        return PARTIAL_MODELS.get(self.model_type) if value is None and isinstance(self.model_type, str) else value

    def head_dim(self) -> int:
        """Features of a head: of its rotating part in models that keep that apart (qk_rope_head_dim)."""
        overrides = self.fields.get("per_layer_config")
        types = self.fields.get("layer_types")
        if self.layer_type and isinstance(overrides, Mapping) and isinstance(types, (list, tuple)):
            for index, override in overrides.items():
                mine = str(index).isdecimal() and int(index) < len(types) and types[int(index)] == self.layer_type
                if mine and isinstance(override, Mapping) and override.get("head_dim") is not None:
                    return _integer("head_dim", override["head_dim"])
        if self.layer_type == "full_attention" and self.top("global_head_dim") is not None:
            return _integer("global_head_dim", self.top("global_head_dim"))
        for name in ("qk_rope_head_dim", "head_dim"):
            value = self.integer(name)
            if value is not None:
                return value
        hidden, heads = self.integer("hidden_size"), self.integer("num_attention_heads")
        if hidden is None or heads is None:
            raise ValueError(
                f"{WHO}: head_dim is missing, and so is hidden_size or num_attention_heads to derive it from"
            )
        if hidden % heads:
            self.say(
                f"hidden_size = {hidden} is not a multiple of num_attention_heads = {heads}: head_dim is rounded down"
            )
        return hidden // heads

    def features(self) -> tuple[int, int]:
        """How many features a head has and how many turn."""
        head_dim, share = self.head_dim(), self.partial_rotary_factor()
        if share is None:
            width = self.integer("rotary_dim")
            return head_dim, head_dim if width is None else width
        whole = self.integer("head_dim")
        if not np.isfinite(max(head_dim, whole or 0) * share):
            raise ValueError(f"{WHO}: partial_rotary_factor is {share!r}: more features than a head has would turn")
        if self.top("qk_rope_head_dim") is not None and whole is not None and int(whole * share) == head_dim:
            return whole, head_dim  # the share was meant of the head with its still part
        return head_dim, int(head_dim * share)

    def max_length(self, why: str) -> int:
        """`max_position_embeddings`; an error that says `why` it is needed."""
        value = self.integer("max_position_embeddings")
        if value is None:
            raise ValueError(f"{WHO}: max_position_embeddings is missing, but {why}")
        return value

    def original_length(self) -> int:
        """`original_max_position_embeddings`, by transformers' rules of precedence."""
        name = "original_max_position_embeddings"
        inside, above = self.get(name), self.top(name)
        if above is not None and not self.nested:
            if inside is not None and inside != above:
                self.say(f"{name} = {inside!r} in the rope parameters is ignored: the top level says {above!r}")
            inside = above
        if inside is not None:
            length = _integer(name, inside)
            longest = self.integer("max_position_embeddings")
            if longest is not None and length > longest:
                self.say(f"{name} = {length} is more than max_position_embeddings = {longest}")
            return length
        length = self.max_length(f"{name}, which rope_type {self.rope_type()!r} needs, is missing too")
        self.say(f"{name} is missing: max_position_embeddings = {length} is taken for it, as in transformers 5.23")
        return length

    def implicit_factor(self, original: int, given: float | None) -> float:
        """`given`, or max_position_embeddings over `original` where it is None."""
        if given is None:
            return self.max_length("factor is not given either") / original
        longest = self.integer("max_position_embeddings")
        if longest is not None and longest != original and longest / original != given:
            self.say(
                f"factor = {given!r} counts, though max_position_embeddings / original_max_position_embeddings is "
                f"{longest / original!r}, which some engines take instead"
            )
        return given


def _number(name: str, value: object) -> float:
    return check_number(WHO, name, value, "a finite number", -np.inf)


def _integer(name: str, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return check_integer(WHO, name, value, 1, _LARGEST_INTEGER)
