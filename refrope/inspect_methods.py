"""``refrope inspect`` of methods that are no plain encoding: maps, biases, absolute positions, windows; and of all.

Each is shown by the distance from the last query of a test: effective position, and what position does to the logit.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from refrope.by_distance import ByDistance, shown_distances
from refrope.encodings.names import NAMES, flag
from refrope.methods import MAPS, METHODS, WINDOW, Lengths
from refrope.nn.biases import ALiBi, T5Bias
from refrope.nn.dape import DAPE
from refrope.report import format_table, parameters
from refrope.settings import DEFAULT_SEEDS

ALL = "all"
NAMES_HERE = (*(name for name in METHODS if name not in NAMES), ALL)
_BIASES = ("t5", "alibi", "kerple", "fire", "dape", "dape-v2")
_TAKEN = {  # which options of the command line make a difference to which methods
    "heads": (*_BIASES, "sinusoidal", "learned", ALL),
    "seed": (*(name for name in _BIASES if name != "alibi"), "learned", ALL),
    "head_dim": (*MAPS, "window", "sinusoidal", "learned", "t5", ALL),
}
HELP = f"""\
{", ".join(NAMES_HERE[:-1])}
are methods of `refrope posgen` that are no such encoding; {ALL} stands for all {len(METHODS)} of its methods.
Each is built for L and L' as posgen builds it, yarn too (for which posgen counts the front token: L = 65, L' = 257).
They are shown by the distance from the query at L' - 1 to a key:
- effective position: the distance at which the method would treat the pair the same. For maps their f(m, n); for T5's
  bias the least distance of the same bucket; for FIRE the distance that gives a query at L - 1 the same input of its
  network; else the distance itself.
- logit: of a query with an equal key, as a mean over features. Where features turn, the mean over pairs of
  cos(f inv_freq), times the attention factor squared; where there is a bias, 1 + bias.
Learned weights are those that training starts from. Beside lengths, --heads, --seed and --head-dim are for them."""
_REMARKS = {
    "nope": "Nothing turns and nothing is added: the logit of equal content is the same at every distance.\n"
    "All that a model can know of positions comes from the causal mask: the query at m sees m + 1 keys.",
    "sinusoidal": "Logit: product of the rows that are added to the embeddings, over d_model, so 1/2 at distance 0.\n"
    "It depends on the distance alone; what attention makes of the rows, the projections decide.",
    "learned": "Logit: product of the rows that are added to the embeddings, over d_model. Rows start at random, so\n"
    "it is noise at every distance but 0. They know no distance, hence no effective position, and none from L on is\n"
    "ever trained.",
    "t5": "The numbers of the buckets start at random and are learned; one table serves all layers.",
    "alibi": "Slopes are fixed: nothing is learned.",
    "kerple": "p and a are learned, for each head of each layer; these are those that the first layer starts from.",
    "fire": "The network's input depends on the query's position too: L' - 1 here. c, multiplier and the network\n"
    "are learned; these are those that the first layer starts from.",
    "dape": "The bias is Kerple's. What the network adds to it depends on the scores, so on the data: the logits\n"
    "here are those where the scores of all pairs and heads are 1. All weights are those of the start.",
    "window": f"A query sees itself and the {WINDOW - 1} tokens before it; to everything else attention is closed.",
}
_REMARKS["dape-v2"] = (
    _REMARKS["dape"] + "\nEach convolution sees three keys; the first and the last key lack a neighbour, which shows."
)


def refused(name: str, given: list[str]) -> ValueError | None:
    """The error for options among `given` (keys of `OPTIONS`, heads, seed) that mean nothing for a name."""
    for key in given:
        if name not in _TAKEN.get(key, ()):
            takes = ", ".join(flag(one) for one, names in _TAKEN.items() if name in names)
            also = f"--train-length and --test-length{f', also {takes}' if takes else ''}"
            return ValueError(f"inspect: {flag(key)} does not go with {name}, which takes {also}")
    return None


def run(name: str, values: dict[str, Any], lengths: Lengths, options: argparse.Namespace) -> int:
    """Show one of `NAMES_HERE`; `values` holds head_dim, heads and seed where they are given."""
    values = {"seed": DEFAULT_SEEDS[0], **values}
    shown = [ByDistance(each, lengths, **values) for each in (METHODS if name == ALL else (name,))]
    if options.plot is not None:
        _plot(shown, options.plot)
    if options.json:
        said = [as_json(each) for each in shown]
        print(json.dumps({"methods": said} if name == ALL else said[0], indent=1, allow_nan=False))
        return 0
    print(overview(shown) if name == ALL else text(shown[0]))
    if options.plot is not None:
        print(f"\nWritten: {options.plot}")
    return 0


def _plot(shown: list[ByDistance], path: Path) -> None:
    try:
        from refrope import plots_methods

        plots_methods.by_distance(shown, path)
    except ImportError:
        raise RuntimeError("inspect: --plot needs matplotlib (pip install 'refrope[experiments]')") from None


# ---- as JSON ----


def as_json(shown: ByDistance) -> dict[str, Any]:
    """What there is to say of a method; null for what does not exist."""
    method, config = METHODS[shown.name], shown.config
    parts = {"encoding": shown.encoding, "bias": config.bias, "absolute": config.absolute}
    return {
        "method": shown.name,
        **method._asdict(),
        "train_length": shown.lengths.train,
        "test_length": shown.lengths.test,
        "heads": shown.heads,
        "seed": shown.seed,
        "parameters": {
            **{key: None if part is None else parameters(part) for key, part in parts.items()},
            "window": config.window,
        },
        "slopes": config.bias.slopes(shown.heads).tolist() if isinstance(config.bias, ALiBi) else None,
        "weights": {key: weight.tolist() for key, weight in shown.weights.items()},
        "buckets": buckets(shown),
        "distances": rows(shown),
        "summary": {
            "pairs": shown.pairs.seen,
            "pairs_beyond_training": shown.pairs.beyond,
            "largest_effective_position": shown.pairs.largest,
        },
        "remark": " ".join(_REMARKS.get(shown.name, "").split()),
    }


def rows(shown: ByDistance) -> list[dict[str, Any]]:
    """The numbers of a short table, one dictionary a distance; lists have a number for each head."""
    result = []
    for d in shown_distances(shown.lengths, () if shown.config.window is None else (shown.config.window - 1,)):
        row: dict[str, Any] = {"distance": d, "effective_position": _finite(shown.last_effective[d])}
        if shown.slowest is not None:
            row["effective_position_of_the_slowest_pair"] = float(shown.slowest[d])
        if shown.bias is not None:
            row["bias"] = shown.bias[:, d].tolist()
        row["logit"] = [_finite(value) for value in shown.logits[:, d]]
        result.append(row)
    return result


def buckets(shown: ByDistance) -> list[dict[str, Any]] | None:
    """T5's buckets: first and last distance (None: no last one), and the numbers of each head at their start."""
    if not isinstance(shown.config.bias, T5Bias):
        return None
    t5 = shown.config.bias
    numbers = t5.buckets(np.arange(t5.max_distance + 1))
    first = np.searchsorted(numbers, np.arange(t5.num_buckets)).tolist()
    last = [*(start - 1 for start in first[1:]), None]
    values = shown.weights["table"].tolist()
    return [
        {"bucket": i, "first": start, "last": end, "bias": value}
        for i, (start, end, value) in enumerate(zip(first, last, values, strict=True))
    ]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


# ---- as text ----


def text(shown: ByDistance) -> str:
    """All of it for one method."""
    method = METHODS[shown.name]
    parts = [f"{method.label}: {method.about} ({method.source}).", *_made_of(shown)]
    if (table := buckets(shown)) is not None:
        lines = [("bucket", "distances", *_heads(shown, "bias"))]
        for one in table:
            upper = "on" if one["last"] is None else f"to {one['last']}"
            span = str(one["first"]) if one["first"] == one["last"] else f"{one['first']} {upper}"
            lines.append((str(one["bucket"]), span, *(f"{value:.4f}" for value in one["bias"])))
        parts += ["", format_table(lines, left=0)]
    parts += ["", _distance_table(shown), "", _beyond(shown)]
    if shown.name in _REMARKS:
        parts.append(_REMARKS[shown.name])
    return "\n".join(parts)


def _made_of(shown: ByDistance) -> list[str]:
    """Parameters in force, and the few weights that have a name."""
    bias = shown.config.bias
    made = [part for part in (shown.encoding, bias, shown.config.absolute) if part is not None]
    lines = [_call(parameters(part)) for part in made]
    if shown.config.window is not None:
        lines.append(f"window={shown.config.window}")
    if isinstance(bias, ALiBi):
        lines.append("slopes: " + ", ".join(f"{slope:.6g}" for slope in bias.slopes(shown.heads)))
    named = [key for key in shown.weights if key in ("p", "a", "c", "multiplier")]
    if named:
        start = "; ".join(f"{key} {', '.join(f'{v:.4f}' for v in shown.weights[key])}" for key in named)
        lines.append(f"at the start (seed {shown.seed}): {start}")
    elif shown.name in ("t5", "learned"):
        lines.append(f"at the start (seed {shown.seed})")
    return lines


def _call(said: dict[str, Any]) -> str:
    """Parameters as Python writes them, without those that are None."""
    inside = (
        f"{key}={_call(value) if isinstance(value, dict) else repr(value)}"
        for key, value in said.items()
        if key not in ("class", "lenient") and value is not None
    )
    return f"{said['class'].partition('(')[0]}({', '.join(inside)})"


def _heads(shown: ByDistance, word: str) -> tuple[str, ...]:
    return tuple(f"{word}, head {h}" for h in range(1, shown.heads + 1))


def _distance_table(shown: ByDistance) -> str:
    """One line a distance: of biases their numbers, else the logit."""
    both = isinstance(shown.config.bias, DAPE)
    header = ["distance", "effective position"]
    if shown.bias is not None:
        header += _heads(shown, "Kerple" if both else "bias")
    if shown.bias is None or both:
        header += _heads(shown, "logit") if len(shown.logits) > 1 else ["logit"]
    lines = [tuple(header)]
    for row in rows(shown):
        numbers = [*row.get("bias", []), *(row["logit"] if shown.bias is None or both else [])]
        values = ("-" if value is None else f"{value + 0.0:.4f}" for value in numbers)  # no -0
        lines.append((str(row["distance"]), _position(row["effective_position"]), *values))
    return format_table(lines, left=0)


def _position(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def _beyond(shown: ByDistance) -> str:
    train, test = shown.lengths
    seen, beyond, largest = shown.pairs
    said = f"{beyond:,} of {seen:,} pairs of {test} tokens ({100 * beyond / seen:.1f} %)"
    if shown.name == "learned":
        return f"{said} have a row that {train} tokens of training leave as it started."
    if largest is None:
        return f"{seen:,} pairs of {test} tokens: none has an effective position."
    slowest = "" if shown.slowest is None else f", for the slowest pair of features {_position(shown.slowest[-1])}"
    return (
        f"{said} are at an effective position that no pair of {train} tokens has;\n"
        f"the largest is {_position(largest)}{slowest}."
    )


def overview(shown: list[ByDistance]) -> str:
    """All methods, one line each: how far they reach beyond training, and the logit at a few distances."""
    train, test = shown[0].lengths
    places = (1, train - 1, train, test - 1)
    lines = [("name", "method", "largest effective", "pairs beyond", *(f"logit at {d}" for d in places))]
    for one in shown:
        share = f"{100 * one.pairs.beyond / one.pairs.seen:.1f} %"
        logits = (_range(one.logits[:, d]) for d in places)
        lines.append((one.name, METHODS[one.name].label, _position(one.pairs.largest), share, *logits))
    return (
        f"{format_table(lines, left=2)}\n\n"
        f"Pairs beyond: share of the pairs of {test} tokens at an effective position that no pair of {train} tokens\n"
        "has. Logit: of a query with an equal key; the lowest and the highest of all heads, at the start of training\n"
        f"(seed {shown[0].seed}).\nSee refrope inspect --help."
    )


def _range(values: np.ndarray[Any, Any]) -> str:
    if np.isnan(values).any():
        return "-"
    low, high = f"{values.min():.2f}", f"{values.max():.2f}"
    return low if low == high else f"{low} to {high}"
