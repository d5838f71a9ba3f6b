"""Position maps: effective positions f(m, n) from the papers' formulas, and the logits of a rotation by them.

f is a fraction where the formula divides. Angles are f times the exact frequency; no table and no cut into passes.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import mpmath
from mpmath import fdot, mpf
from vectors_flags import Flag
from vectors_formulas import Parameters, Setting, rotated, setting
from vectors_logits import (
    FEATURES,
    SCALE,
    TOKENS,
    K,
    Q,
    Record,
    as_floats,
    encoding,
    flags_of,
    group,
    pairs_at,
    triangle,
)

FAR_QUERIES = (1023, 1024, 4096, 131_071)


# ---- effective positions ----


def effective(p: Parameters, m: int, n: int) -> Fraction:
    """The position at which query m sees key n."""
    d = m - n
    if p["variant"] == "rerope":
        return Fraction(min(d, p["window"]))
    if p["variant"] == "leaky-rerope":
        w = p["window"]
        return Fraction(d) if d < w else w + (d - w) / Fraction(p["slowdown"])
    if p["variant"] == "self-extend":
        w, g = p["window"], p["group"]
        shift = Fraction(w, g) if p["shift"] == "fraction" else Fraction(w // g)
        return Fraction(d) if d < w else m // g - n // g + w - shift
    if p["variant"] == "string":
        return Fraction(d if d < p["shift"] else d - p["shift"] + p["window"])
    c = p["chunk"] - p["local"]  # dual-chunk
    if m // c == n // c:
        return Fraction(m % c - n % c)
    if m // c == n // c + 1:
        return Fraction(min(m % c + c, p["chunk"]) - n % c)
    return Fraction(min(2 * c - 1, p["chunk"]) - n % c)


def counted_twice(p: Parameters, m: int, n: int) -> bool:
    """Whether the pair is in both parts of STRING's prefill, at S as well as at W."""
    return p["variant"] == "string" and p["overlap"] and m - n == p["shift"]


def query_factor(p: Parameters, m: int) -> mpf:
    """What multiplies the logits of query m."""
    if p.get("log_length") is None:
        return mpf(1)
    return max(mpf(1), mpmath.log(m + 1) / mpmath.log(mpf(p["log_length"])))


def logit(p: Parameters, exact: Setting, q: list[float], k: list[float], m: int, n: int, layout: str) -> mpf:
    """The scaled logit of one pair; of a pair that softmax counts twice, the logarithm of the sum of both."""

    def at(position: Fraction) -> mpf:
        both = [mpmath.cos_sin(w * position.numerator / position.denominator) for w in exact.inv_freq]
        factor = exact.attention_factor**2
        turned = rotated(q, [factor * c for c, _ in both], [factor * s for _, s in both], layout, False)
        return query_factor(p, m) * mpf(SCALE) * fdot(turned, k)

    first = at(effective(p, m, n))
    if counted_twice(p, m, n):
        return mpmath.log(mpmath.exp(first) + mpmath.exp(at(Fraction(p["shift"]))))
    return first


# ---- flags ----


def _edge(p: Parameters) -> int | None:
    """The distance from which on pairs are far, where the two rules differ at it."""
    return {"self-extend": p.get("window"), "string": p.get("shift")}.get(p["variant"])


def _uneven(p: Parameters) -> bool:
    return p["variant"] == "self-extend" and p["window"] % p["group"] != 0


def _chunks_apart(p: Parameters, m: int, n: int) -> int:
    c = p["chunk"] - p["local"] if p["variant"] == "dual-chunk" else m + 1
    return m // c - n // c


def _elsewhere_if_next(p: Parameters, m: int) -> bool:
    """Whether the position of a farther chunk is another than the next chunk's."""
    c = p["chunk"] - p["local"]
    return min(m % c + c, p["chunk"]) != min(2 * c - 1, p["chunk"])


MAP_GROUP_FLAGS: dict[str, Flag] = {
    "FloorShift": Flag(
        "Self-Extend with a window that the group size does not divide: far positions are moved by W - floor(W / G).",
        "W / G as a fraction, as one of the released kernels has it.",
        lambda p, _: _uneven(p) and p["shift"] == "floor",
    ),
    "FractionShift": Flag(
        "Self-Extend with a window that the group size does not divide: far positions are moved by W - W / G.",
        "The floor of W / G, as in print and in the eager code.",
        lambda p, _: _uneven(p) and p["shift"] == "fraction",
    ),
    "LogLength": Flag(
        "Logits of query m are multiplied by max(1, ln(m + 1) / ln(log_length)).",
        "The factor left out, squared (applied to keys too), below 1 for early queries, or with ln(m).",
        lambda p, _: p.get("log_length") is not None,
    ),
    "MapAmplitude": Flag(
        "The encoding inside has an attention factor, whose square is in all logits, near and far.",
        "The factor in one part of the pairs alone, or once more for keys that are turned again.",
        lambda p, _: p["encoding"].get("factor") is not None,
    ),
}
# Rules get the parameters and all (m, n) of a case, or of the scores.
MAP_PAIR_FLAGS: dict[str, Flag] = {
    "WindowEdge": Flag(
        "Holds pairs at the very distance from which on pairs are far, where the near rule gives another position.",
        "A window that includes both its ends (<= for <), or one token short.",
        lambda p, pairs: any(m - n == _edge(p) and effective(p, m, n) != m - n for m, n in pairs),
    ),
    "BetweenTokens": Flag(
        "Holds effective positions that are no whole numbers.",
        "Integer division, or positions kept as integers.",
        lambda p, pairs: any(effective(p, m, n).denominator != 1 for m, n in pairs),
    ),
    "GroupBoundary": Flag(
        "Self-Extend: holds pairs of equal distance that lie in different numbers of groups.",
        "floor((m - n) / G) in place of floor(m / G) - floor(n / G).",
        lambda p, pairs: (
            p["variant"] == "self-extend"
            and any(
                m - n >= p["window"] and m // p["group"] - n // p["group"] != (m - n) // p["group"] for m, n in pairs
            )
        ),
    ),
    "ChunkClamp": Flag(
        "Dual chunks: holds queries of the next chunk whose position stops at the chunk size.",
        "Positions m mod c + c that grow beyond what training has shown.",
        lambda p, pairs: any(
            _chunks_apart(p, m, n) == 1 and m % (p["chunk"] - p["local"]) > p["local"] for m, n in pairs
        ),
    ),
    "FarChunk": Flag(
        "Dual chunks: holds keys two chunks back and more, whose queries all have one position.",
        "The next chunk's positions used for all earlier chunks.",
        lambda p, pairs: any(_chunks_apart(p, m, n) > 1 and _elsewhere_if_next(p, m) for m, n in pairs),
    ),
}
# The same, of scores alone.
MAP_SCORE_FLAGS: dict[str, Flag] = {
    "CountedTwice": Flag(
        "STRING as in the authors' prefill: softmax counts pairs at distance S twice, at S and at W. Their logit here "
        "is the logarithm of the sum of both exponentials.",
        "The overlap missed where their prefill is to be reproduced. Their one-token step does not have it.",
        lambda p, pairs: any(counted_twice(p, m, n) for m, n in pairs),
    ),
}


# ---- groups ----


def settings() -> list[tuple[str, Parameters, str]]:
    """Comment, parameters and layout of every group with logits, then (layout "") those with single pairs alone."""
    rope = encoding("rope")
    yarn = encoding("yarn", factor=4.0, original_length=8, beta_fast=2.0)
    small = [
        ("no farther than the window", {"variant": "rerope", "encoding": rope, "window": 4, "log_length": None}),
        ("with log-n scaling", {"variant": "rerope", "encoding": rope, "window": 5, "log_length": 4.0}),
        (
            "slower beyond the window",
            {"variant": "leaky-rerope", "encoding": rope, "window": 4, "slowdown": 3.0, "log_length": None},
        ),
        ("groups that divide the window", _extend(rope, 4, 2, "floor")),
        ("groups that do not divide the window", _extend(rope, 5, 3, "floor")),
        ("the same with the fraction", _extend(rope, 5, 3, "fraction")),
        ("around YaRN", _extend(yarn, 5, 2, "floor")),
        ("chunks of four", {"variant": "dual-chunk", "encoding": rope, "chunk": 6, "local": 2}),
        ("a farthest query before the chunk size", {"variant": "dual-chunk", "encoding": rope, "chunk": 8, "local": 5}),
        ("every pair once", {"variant": "string", "encoding": rope, "shift": 5, "window": 2, "overlap": False}),
        ("distance S twice", {"variant": "string", "encoding": rope, "shift": 5, "window": 2, "overlap": True}),
    ]
    big = encoding("rope", 128, 10_000.0)
    published = [
        ("w = 512, L = 4096", {"variant": "rerope", "encoding": big, "window": 512, "log_length": 4096.0}),
        (
            "w = 1024, k = 16",
            {"variant": "leaky-rerope", "encoding": big, "window": 1024, "slowdown": 16.0, "log_length": None},
        ),
        ("W = 1024, G = 8", _extend(big, 1024, 8, "floor")),
        ("W = 1024, G = 6", _extend(big, 1024, 6, "fraction")),
        ("L = 4096: chunk 3072, local 256", {"variant": "dual-chunk", "encoding": big, "chunk": 3072, "local": 256}),
        (
            "L = 4096: S = 1365, W = 128",
            {"variant": "string", "encoding": big, "shift": 1365, "window": 128, "overlap": False},
        ),
    ]
    layouts = ["half"] * len(small)
    layouts[3] = "interleaved"
    return [(f"{p['variant']}: {words}", p, layout) for (words, p), layout in zip(small, layouts, strict=True)] + [
        (f"{p['variant']}: {words}", p, "") for words, p in published
    ]


def _extend(inside: Parameters, window: int, size: int, shift: str) -> Parameters:
    named = {"variant": "self-extend", "encoding": inside, "window": window, "group": size, "shift": shift}
    return named | {"log_length": None}


def map_groups() -> list[Record]:
    """All groups of maps.json."""
    groups = []
    for i, (comment, p, layout) in enumerate(settings(), start=1):
        made = group(f"maps-{i:03d}", comment, p, MAP_GROUP_FLAGS)
        edge = p.get("window", p.get("chunk"))
        if p["variant"] == "string":
            edge = p["shift"]
        near = sorted({0, 1, edge - 1, edge, edge + 1, 2 * edge, 2 * edge + 1})
        made["cases"] = [
            _case(f"{made['id']}-{m}", p, [(m, m - d) for m, d in pairs_at([m], [*near, m])]) for m in FAR_QUERIES
        ]
        if layout:
            made["scores"] = [_scores(f"{made['id']}-scores", p, layout)]
        groups.append(made)
    return groups


def _case(name: str, p: Parameters, pairs: list[tuple[int, int]]) -> Record:
    pairs = sorted(set(pairs), reverse=True)
    return {
        "id": name,
        "comment": "keys around the edges, and the first of the text",
        "flags": flags_of(MAP_PAIR_FLAGS, p, pairs),
        "query": pairs[0][0],
        "keys": [n for _, n in pairs],
        "effective": [_number(effective(p, m, n)) for m, n in pairs],
        "query_factor": as_floats(query_factor(p, pairs[0][0])),
    }


def _scores(name: str, p: Parameters, layout: str, heads: int = 2) -> Record:
    exact = setting(p["encoding"])
    pairs = [(m, n) for m in range(TOKENS) for n in range(m + 1)]
    rows: list[Any] = [
        triangle(lambda m, n, h=h: logit(p, exact, Q[h][m], K[h][n], m, n, layout)) for h in range(heads)
    ]
    return {
        "id": name,
        "comment": f"{heads} heads of {FEATURES} features, {TOKENS} tokens",
        "flags": flags_of(MAP_PAIR_FLAGS | MAP_SCORE_FLAGS, p, pairs),
        "layout": layout,
        "scale": SCALE,
        "effective": triangle(lambda m, n: _number(effective(p, m, n))),
        "logits": as_floats(rows),
    }


def _number(f: Fraction) -> float:
    return as_floats(mpf(f.numerator) / f.denominator)
