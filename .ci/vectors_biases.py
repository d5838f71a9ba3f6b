"""Position biases and sinusoids in 60-digit arithmetic: values of single pairs, and logits with them added.

Networks are written as sums over single numbers. A weight's name and shape are those that README.md gives.
"""

from __future__ import annotations

from typing import Any

import mpmath
from mpmath import fdot, fsum, mpf
from vectors_flags import Flag
from vectors_formulas import Parameters, floor_of, sixty_fourths
from vectors_logits import (
    FEATURES,
    HEADS,
    SCALE,
    TOKENS,
    K,
    Q,
    Record,
    as_floats,
    flags_of,
    group,
    pairs_at,
    triangle,
)

Weights = dict[str, Any]
Pair = tuple[int, int]  # the query's position, the distance
LEAST, MOST = mpf(0.01), mpf(2)  # Kerple's bounds; the first is the float64
EPS = mpf(1e-6)  # FIRE's, likewise
DISTANCES = (0, 1, 2, 3, 7, 64, 1000, 131_071)


# ---- values of one pair for every head ----


def alibi_slopes(heads: int) -> list[mpf]:
    """Press et al. 2022; the authors' code where the number of heads is no power of two."""
    power = 1
    while 2 * power <= heads:
        power *= 2
    slopes = [mpmath.power(2, mpf(-8 * h) / power) for h in range(1, power + 1)]
    finer = [mpmath.power(2, mpf(-8 * h) / (2 * power)) for h in range(1, 2 * power + 1)]
    return (slopes + finer[::2])[:heads]


def t5_bucket(p: Parameters, distance: int) -> int:
    """Raffel et al. 2020, causal; the floor of the exact value."""
    exact = p["num_buckets"] // 2
    if distance < exact:
        return distance
    share = mpmath.log(mpf(distance) / exact) / mpmath.log(mpf(p["max_distance"]) / exact)
    value = share * (p["num_buckets"] - exact)
    if abs(value - mpmath.nint(value)) < mpf(10) ** -40:  # only exact powers come so near
        value = mpmath.nint(value)
    return min(exact + floor_of(value), p["num_buckets"] - 1)


def kerple(p: Parameters, weights: Weights, distance: int) -> list[mpf]:
    """Chi et al. 2022: -p ln(1 + a d) or -a d^p, within the bounds."""
    values = []
    for scale, inner in zip(weights["p"], weights["a"], strict=True):
        a, power = max(mpf(inner), LEAST), max(mpf(scale), LEAST)
        if p["form"] == "log":
            values.append(-power * mpmath.log(1 + a * distance))
        else:
            values.append(-a * mpmath.power(distance, min(power, MOST)))
    return values


def leaky(x: mpf, slope: mpf) -> mpf:
    """`x`, or `slope` times it where it is below 0."""
    return x if x > 0 else slope * x


def fire(p: Parameters, weights: Weights, query: int, distance: int) -> list[mpf]:
    """Li et al. 2024: a network of the distance, relative to the query's position or the threshold."""
    c, multiplier = abs(mpf(weights["c"][0])), mpf(weights["multiplier"][0])
    reach = max(mpf(query), abs(multiplier * mpf(p["threshold"])))
    x = mpmath.log(c * distance + 1) / (mpmath.log(c * reach + 1) + EPS)
    hidden = [
        leaky(mpf(w) * x + mpf(b), mpf(p["negative_slope"]))
        for w, b in zip(weights["in.weight"], weights["in.bias"], strict=True)
    ]
    return [
        fdot([mpf(w) for w in row], hidden) + mpf(b)
        for row, b in zip(weights["out.weight"], weights["out.bias"], strict=True)
    ]


def values(p: Parameters, weights: Weights, query: int, distance: int) -> list[mpf]:
    """The bias of every head."""
    if p["variant"] == "alibi":
        return [-slope * distance for slope in alibi_slopes(p["heads"])]
    if p["variant"] == "t5":
        return [mpf(x) for x in weights["table"][t5_bucket(p, distance)]]
    if p["variant"] == "kerple":
        return kerple(p, weights, distance)
    return fire(p, weights, query, distance)


# ---- DAPE: a network of scores and biases ----


def convolved(weight: Any, bias: list[float], layer: list[list[mpf]], columns: int) -> list[list[mpf]]:
    """(out, in, kernel) over (in, keys) -> (out, columns); what lies outside of the layer is 0."""
    result = []
    for row, b in zip(weight, bias, strict=True):
        half = len(row[0]) // 2
        result.append(
            [
                mpf(b)
                + fsum(
                    mpf(w) * line[n + t - half]
                    for taps, line in zip(row, layer, strict=True)
                    for t, w in enumerate(taps)
                    if 0 <= n + t - half < len(line)
                )
                for n in range(columns)
            ]
        )
    return result


def mixed(p: Parameters, weights: Weights, scores: list[list[mpf]], biases: list[list[mpf]]) -> list[list[mpf]]:
    """Zheng et al. 2024: what the network adds for one query, (H, keys up to it), all after it being masked.

    There are TOKENS keys in all; "open" continues the hidden layer beyond them, "padded" has 0 there.
    """
    reach = p["kernel"] // 2
    hidden = convolved(weights["mix.in.weight"], weights["mix.in.bias"], scores + biases, TOKENS + reach)
    hidden = [[leaky(x, mpf(p["negative_slope"])) for x in line] for line in hidden]
    if p["edge"] == "padded":
        hidden = [line[:TOKENS] for line in hidden]
    return convolved(weights["mix.out.weight"], weights["mix.out.bias"], hidden, len(scores[0]))


# ---- flags ----


def _beyond(p: Parameters, weights: Weights) -> bool:
    kept = p["variant"] != "kerple"
    return not kept and (
        min([*weights["p"], *weights["a"]]) < LEAST or (p["form"] == "power" and max(weights["p"]) > MOST)
    )


def _whole_edges(p: Parameters) -> list[int]:
    """Distances at which a wider bucket begins exactly: (n / half)^rest is a power of max_distance / half."""
    half, most = p["num_buckets"] // 2, p["max_distance"]
    rest = p["num_buckets"] - half
    powers = {half ** (rest - k) * most**k for k in range(1, rest)}
    return [n for n in range(half + 1, most) if n**rest in powers]


# Rules get the parameters and the group's numbers.
BIAS_GROUP_FLAGS: dict[str, Flag] = {
    "UnevenHeads": Flag(
        "ALiBi with a number of heads that is no power of two: the slopes of the power below, then every second one of "
        "twice that power.",
        "Slopes 2^(-8 h / H) for every H, or the two lists sorted into one.",
        lambda p, _: p["variant"] == "alibi" and p["heads"] & (p["heads"] - 1) != 0,
    ),
    "OneDistanceBuckets": Flag(
        "T5's buckets by distance: one each below num_buckets / 2, then wider and wider, the last for all beyond.",
        "The two-sided buckets of the encoder, half as many for each side; a last bucket that starts one late.",
        lambda p, _: p["variant"] == "t5",
    ),
    "ExactBucketEdge": Flag(
        "Buckets that begin at a distance where the logarithm is exactly a whole number.",
        "The floor of a logarithm in float32, one bucket short there.",
        lambda p, _: p["variant"] == "t5" and _whole_edges(p),
    ),
    "OutOfBounds": Flag(
        "A weight of Kerple lies beyond its bounds, 0.01 from below, 2 for the exponent: the bound counts.",
        "Weights used as they are.",
        lambda p, n: _beyond(p, n["weights"]),
    ),
    "NegativeC": Flag(
        "FIRE's c is negative: its size counts.",
        "The logarithm of a negative number, or c used as it is.",
        lambda p, n: p["variant"] == "fire" and n["weights"]["c"][0] < 0,
    ),
    "LeakyHidden": Flag(
        "The hidden layer multiplies negative numbers by 0.01.",
        "ReLU.",
        lambda p, _: p.get("negative_slope") == 0.01,
    ),
    "MaskedNeighbours": Flag(
        "DAPE with a kernel above 1: scores and biases of masked keys count as 0.",
        "A convolution over unmasked scores, by which a query sees the keys after it.",
        lambda p, _: p.get("kernel", 1) > 1,
    ),
    "HiddenEdge": Flag(
        "DAPE with a kernel above 1, edge `padded`: the hidden layer is 0 after the last key, as in the authors' code.",
        "Another hidden layer there. Only the last kernel // 2 queries tell.",
        lambda p, _: p.get("kernel", 1) > 1 and p["edge"] == "padded",
    ),
}
# Rules get the group and the pairs of a case, or of the scores.
BIAS_PAIR_FLAGS: dict[str, Flag] = {
    "BelowThreshold": Flag(
        "FIRE: holds queries before |multiplier * threshold|, which all divide by the same number.",
        "The query's own position as the divisor.",
        lambda g, pairs: _fire_reach(g) is not None and any(m < _fire_reach(g) and d for m, d in pairs),
    ),
    "BeyondThreshold": Flag(
        "FIRE: holds queries beyond |multiplier * threshold|, which divide by a number of their own.",
        "A bias of the distance alone.",
        lambda g, pairs: _fire_reach(g) is not None and any(m > _fire_reach(g) and d for m, d in pairs),
    ),
}
# Rules get the parameters of groups with scores.
BIAS_SCORE_FLAGS: dict[str, Flag] = {
    "UnscaledScores": Flag(
        "T5: the dot product is not divided by the root of the number of features.",
        "The usual scale.",
        lambda p: p["variant"] == "t5",
    ),
}


def _fire_reach(g: Record) -> float | None:
    p = g["parameters"]
    return None if p["variant"] != "fire" else abs(g["weights"]["multiplier"][0] * p["threshold"])


# ---- groups ----


def _network(start: int, *shape: int) -> Any:
    """Made-up weights, multiples of 1/64 in [-1, 1]."""
    if len(shape) == 1:
        return sixty_fourths(start, 1, shape[0])[0]
    return [_network(start + 37 * i, *shape[1:]) for i in range(shape[0])]


def _mix(heads: int, width: int, kernel: int) -> Weights:
    return {
        "mix.in.weight": _network(11, width, 2 * heads, kernel),
        "mix.in.bias": _network(12, width),
        "mix.out.weight": _network(13, heads, width, kernel),
        "mix.out.bias": _network(14, heads),
    }


def _fire_weights(heads: int, width: int, c: float, multiplier: float) -> Weights:
    return {
        "c": [c],
        "multiplier": [multiplier],
        "in.weight": _network(21, width),
        "in.bias": _network(22, width),
        "out.weight": _network(23, heads, width),
        "out.bias": _network(24, heads),
    }


def settings() -> list[tuple[str, Parameters, Weights]]:
    """Comment, parameters and weights of every group."""
    alibi, log = {"variant": "alibi"}, {"variant": "kerple", "form": "log"}
    kernels = {"p": [0.5, 1.25, 0.0078125], "a": [0.75, 0.00390625, 0.25]}
    relu, wide = {"width": 5, "threshold": 6.0, "negative_slope": 0.0}, {"width": 4, "negative_slope": 0.01}
    made: list[tuple[str, Parameters, Weights]] = [
        ("ALiBi, two heads", {**alibi, "heads": 2}, {}),
        ("ALiBi, three heads", {**alibi, "heads": 3}, {}),
        ("ALiBi, eight heads", {**alibi, "heads": 8}, {}),
        ("ALiBi, twelve heads", {**alibi, "heads": 12}, {}),
        (
            "T5 as released",
            {"variant": "t5", "heads": 2, "num_buckets": 32, "max_distance": 128},
            {"table": _network(31, 32, 2)},
        ),
        (
            "T5, a bucket that begins at a whole distance, 42",
            {"variant": "t5", "heads": 3, "num_buckets": 19, "max_distance": 196},
            {"table": _network(32, 19, 3)},
        ),
        ("Kerple, logarithmic", {**log, "heads": 3}, kernels),
        (
            "Kerple, power",
            {"variant": "kerple", "form": "power", "heads": 3},
            {"p": [0.5, 2.5, 0.0078125], "a": [0.75, 0.00390625, 0.25]},
        ),
        ("FIRE", {"variant": "fire", "heads": 3, **relu}, _fire_weights(3, 5, 0.125, 1.0)),
        ("FIRE, negative c and multiplier", {"variant": "fire", "heads": 2, **relu}, _fire_weights(2, 5, -0.75, -0.5)),
    ]
    inner = {**log, "heads": 2}
    weights = {"p": [0.5, 1.25], "a": [0.75, 0.125]}
    for words, bias, own, kernel, edge in (
        ("kernel 1, around ALiBi", {**alibi, "heads": 2}, {}, 1, "open"),
        ("kernel 3, around Kerple", inner, weights, 3, "open"),
        ("kernel 3, edge padded", inner, weights, 3, "padded"),
    ):
        dape = {"variant": "dape", "heads": 2, "kernel": kernel, "edge": edge, **wide, "bias": bias}
        made.append((f"DAPE, {words}", dape, {**own, **_mix(2, 4, kernel)}))
    return made


def bias_groups() -> list[Record]:
    """All groups of biases.json."""
    groups = []
    for i, (comment, p, weights) in enumerate(settings(), start=1):
        numbers: dict[str, Any] = {"weights": weights}
        if p["variant"] == "alibi":
            numbers["slopes"] = as_floats(alibi_slopes(p["heads"]))
        if p["variant"] == "t5":
            numbers["buckets"] = [t5_bucket(p, distance) for distance in range(201)]
        made = group(f"biases-{i:03d}", comment, p, BIAS_GROUP_FLAGS, **numbers)
        made["cases"] = _cases(made)
        if p["heads"] <= HEADS:
            made["scores"] = [_scores(made)]
        groups.append(made)
    for layout in ("half", "interleaved"):
        p = {"variant": "sinusoidal", "base": 10_000.0, "layout": layout, "d_model": 16}
        made = group(f"biases-{len(groups) + 1:03d}", f"sinusoids, {layout}", p, BIAS_GROUP_FLAGS, weights={})
        made["cases"] = [_sinusoid(f"{made['id']}-{m}", p, m) for m in (0, 1, 7, 4095, 131_071)]
        groups.append(made)
    return groups


def _cases(made: Record) -> list[Record]:
    p = made["parameters"]
    bias = p.get("bias", p)
    if bias["variant"] == "fire":
        pairs = pairs_at((0, 2, 6, 7, 40, 4096), (0, 1, 2, 7, 40, 4000))
    else:
        pairs = [(d, d) for d in DISTANCES]
    columns = [values(bias, made["weights"], m, d) for m, d in pairs]
    case = {
        "id": f"{made['id']}-values",
        "comment": "near and far",
        "flags": flags_of(BIAS_PAIR_FLAGS, made, pairs),
        "queries": [m for m, _ in pairs] if bias["variant"] == "fire" else None,
        "distances": [d for _, d in pairs],
        "values": as_floats([list(row) for row in zip(*columns, strict=True)]),
    }
    return [case]


def _scores(made: Record) -> Record:
    p, weights, heads = made["parameters"], made["weights"], made["parameters"]["heads"]
    scale = 1.0 if p["variant"] == "t5" else SCALE
    rows = [_logits(p, weights, scale, m) for m in range(TOKENS)]
    pairs = [(m, m - n) for m in range(TOKENS) for n in range(m + 1)]
    return {
        "id": f"{made['id']}-scores",
        "comment": f"{heads} heads of {FEATURES} features, {TOKENS} tokens",
        "flags": flags_of(BIAS_PAIR_FLAGS, made, pairs) + flags_of(BIAS_SCORE_FLAGS, p),
        "scale": scale,
        "logits": as_floats([triangle(lambda m, n, h=h: rows[m][h][n]) for h in range(heads)]),
    }


def _logits(p: Parameters, weights: Weights, scale: float, m: int) -> list[list[mpf]]:
    """The logits of query m, (H, m + 1)."""
    bias = p.get("bias", p)
    scores = [
        [mpf(scale) * fdot([mpf(x) for x in a[m]], [mpf(x) for x in b[n]]) for n in range(m + 1)]
        for a, b in zip(Q[: p["heads"]], K[: p["heads"]], strict=True)
    ]
    columns = [values(bias, weights, m, m - n) for n in range(m + 1)]
    biases = [list(row) for row in zip(*columns, strict=True)]
    parts = [scores, biases]
    if p["variant"] == "dape":
        parts.append(mixed(p, weights, scores, biases))
    return [[fsum(entries) for entries in zip(*rows, strict=True)] for rows in zip(*parts, strict=True)]


def _sinusoid(name: str, p: Parameters, position: int) -> Record:
    d = p["d_model"]
    angles = [position * mpmath.power(mpf(p["base"]), mpf(-2 * j) / d) for j in range(d // 2)]
    sin, cos = [mpmath.sin(x) for x in angles], [mpmath.cos(x) for x in angles]
    mixed_up = [x for both in zip(sin, cos, strict=True) for x in both]
    row = sin + cos if p["layout"] == "half" else mixed_up
    return {"id": name, "comment": "", "flags": [], "position": position, "row": as_floats(row)}
