"""Which keys and lengths a vector file must have; types of single numbers are schema.json's business."""

from __future__ import annotations

from typing import Any

FORMAT = "refrope-vectors-1"

_TOP = ("format", "variant", "generator", "digits", "flags", "groups")
_GROUP = ("id", "comment", "parameters", "source", "flags", "cases", "rotations")
_NUMBERS = ("stretch", "inv_freq", "wavelengths", "attention_factor", "softmax_factor")
_PARTS = ("id", "comment", "flags")
_CASE = (*_PARTS, "position", "cos", "sin")
_SEQUENCE = (*_PARTS, "prefix", "length", "sequence")
_ROTATION = (*_PARTS, "layout", "suffix", "positions", "q", "k", "rotated_q", "rotated_k", "logits")
_MAP_CASE = (*_PARTS, "query", "keys", "effective", "query_factor")
_MAP_SCORES = (*_PARTS, "layout", "scale", "effective", "logits")
_BIAS_CASE = (*_PARTS, "queries", "distances", "values")
_SINUSOID = (*_PARTS, "position", "row")
_BIAS_SCORES = (*_PARTS, "scale", "logits")


class VectorError(ValueError):
    """A vector file that is missing, altered, truncated or not of the known form; the message says which and where."""


def check_structure(whole: Any, name: str, where: str) -> None:
    """Raise VectorError unless `whole` has the keys and lengths of the vectors called `name`.

    `where` (a file's name) begins the message.
    """
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        came = whole.get("format") if isinstance(whole, dict) else whole
        raise VectorError(f"load: {where} has format {came!r}, expected {FORMAT!r}")
    _require(where, whole, _TOP)
    if whole["variant"] != name:
        raise VectorError(f"load: {where} has variant {whole['variant']!r}, expected {name!r}")
    if not isinstance(whole["flags"], dict):
        raise VectorError(f"load: {where} has {type(whole['flags']).__name__} in flags, expected an object")
    if name in ("maps", "biases"):
        _require(where, whole, ("q", "k"))
    for group in _records(where, whole, "groups", _GROUP):
        parts = _CHECKS.get(name, _check_encoding)(f"{where}, {group['id']}", group, whole)
        for part in (group, *parts):
            unknown = [flag for flag in part["flags"] if flag not in whole["flags"]]
            if unknown:
                raise VectorError(f"load: {where}, {part['id']} has flag {unknown[0]!r}, which is not explained")


# ---- one kind of group each: the records in it ----


def _check_encoding(where: str, group: dict[str, Any], whole: dict[str, Any]) -> list[Any]:
    cases, turned = _records(where, group, "cases", _CASE), _records(where, group, "rotations", _ROTATION, least=0)
    _require(where, group, _NUMBERS)
    pairs = len(group["inv_freq"])
    for key in ("stretch", "wavelengths", "periods"):
        if group.get(key) is not None:
            _length(where, group, key, pairs)
    _check_tables(where, cases, turned, pairs, _inside(group["parameters"])["head_dim"])
    return cases + turned


def _check_posgen(where: str, group: dict[str, Any], whole: dict[str, Any]) -> list[Any]:
    cases = _records(where, group, "cases", _SEQUENCE)
    for case in cases:
        _length(f"{where}, {case['id']}", case, "sequence", case["length"])
    return cases + _records(where, group, "rotations", _ROTATION, least=0)


def _check_axes(where: str, group: dict[str, Any], whole: dict[str, Any]) -> list[Any]:
    cases, turned = _records(where, group, "cases", _CASE), _records(where, group, "rotations", _ROTATION, least=0)
    _require(where, group, ("axes", "inv_freq", "attention_factor"))
    pairs = len(group["inv_freq"])
    _length(where, group, "axes", pairs)
    _check_tables(where, cases, turned, pairs, _inside(group["parameters"])["head_dim"])
    ids = {len(case["position"]) for case in cases} | {len(ids) for entry in turned for ids in entry["positions"]}
    if len(ids) > 1:
        raise VectorError(f"load: {where} has tokens of {min(ids)} and of {max(ids)} ids, expected one number of them")
    return cases + turned + _records(where, group, "scores", (), least=0)


def _check_map(where: str, group: dict[str, Any], whole: dict[str, Any]) -> list[Any]:
    cases = _records(where, group, "cases", _MAP_CASE)
    for case in cases:
        _length(f"{where}, {case['id']}", case, "effective", len(case["keys"]))
    scores = _records(where, group, "scores", _MAP_SCORES, least=0)
    for score in scores:
        _check_triangles(f"{where}, {score['id']}", score, len(whole["q"][0]))
        _triangle(f"{where}, {score['id']}", "effective", score["effective"], len(whole["q"][0]))
    return cases + scores


def _check_biases(where: str, group: dict[str, Any], whole: dict[str, Any]) -> list[Any]:
    _require(where, group, ("weights",))
    if group["parameters"]["variant"] == "sinusoidal":
        cases = _records(where, group, "cases", _SINUSOID)
        for case in cases:
            _length(f"{where}, {case['id']}", case, "row", group["parameters"]["d_model"])
        return cases
    cases, heads = _records(where, group, "cases", _BIAS_CASE), group["parameters"]["heads"]
    for case in cases:
        inside = f"{where}, {case['id']}"
        _length(inside, case, "values", heads)
        for row in (*case["values"], *([] if case["queries"] is None else [case["queries"]])):
            _length(inside, {"values": row}, "values", len(case["distances"]))
    scores = _records(where, group, "scores", _BIAS_SCORES, least=0)
    for score in scores:
        _length(f"{where}, {score['id']}", score, "logits", heads)
        _check_triangles(f"{where}, {score['id']}", score, len(whole["q"][0]))
    return cases + scores


_CHECKS = {"posgen": _check_posgen, "axes": _check_axes, "maps": _check_map, "biases": _check_biases}


# ---- parts that several kinds have ----


def _inside(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the variant itself, without what is around it."""
    return _inside(parameters["encoding"]) if "encoding" in parameters else parameters


def _check_tables(where: str, cases: list[Any], turned: list[Any], pairs: int, width: int) -> None:
    for case in cases:
        for key in ("cos", "sin"):
            _length(f"{where}, {case['id']}", case, key, pairs)
    for rotation in turned:
        inside, rows = f"{where}, {rotation['id']}", len(rotation["positions"])
        for key in ("q", "k", "rotated_q", "rotated_k", "logits"):
            _length(inside, rotation, key, rows)
            for row in rotation[key]:
                _length(inside, {key: row}, key, rows if key == "logits" else width)


def _check_triangles(where: str, score: dict[str, Any], tokens: int) -> None:
    if not isinstance(score["logits"], list):
        raise VectorError(f"load: {where} has {score['logits']!r} in logits, expected a list of heads")
    for head in score["logits"]:
        _triangle(where, "logits", head, tokens)


def _triangle(where: str, key: str, rows: list[Any], tokens: int) -> None:
    _length(where, {key: rows}, key, tokens)
    for m, row in enumerate(rows):
        _length(where, {key: row}, key, m + 1)


def _records(where: str, record: dict[str, Any], key: str, keys: tuple[str, ...], least: int = 1) -> list[Any]:
    """The list under `key`, each of whose entries has `keys`."""
    _require(where, record, (key,))
    values = record[key]
    if not isinstance(values, list) or len(values) < least:
        raise VectorError(f"load: {where} has no list of {key}")
    for i, value in enumerate(values):
        _require(f"{where}, {key}[{i}]", value, keys)
    return values


def _require(where: str, record: Any, keys: tuple[str, ...]) -> None:
    missing = [key for key in keys if key not in record] if isinstance(record, dict) else list(keys)
    if missing:
        raise VectorError(f"load: {where} lacks {', '.join(missing)}")


def _length(where: str, record: dict[str, Any], key: str, wanted: int) -> None:
    values = record[key]
    if not isinstance(values, list) or len(values) != wanted:
        came = f"{len(values)} entries" if isinstance(values, list) else repr(values)
        raise VectorError(f"load: {where} has {came} in {key}, expected {wanted}")
