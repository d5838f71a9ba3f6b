"""What the files of logits share: their groups, triangles of causal pairs, made-up queries and keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

from mpmath import mpf
from vectors_flags import Flag
from vectors_formulas import Parameters, rounded, sixty_fourths
from vectors_settings import DEFAULTS
from vectors_sources import source

Record = dict[str, Any]
Heads = list[list[list[float]]]  # (H, T, D)

HEADS, TOKENS, FEATURES = 3, 12, 8
SCALE = FEATURES**-0.5  # the float64 is a parameter: logits are those of exactly this number


def encoding(variant: str, head_dim: int = FEATURES, base: float = 100.0, **given: Any) -> Parameters:
    """All parameters of an encoding; a small base, so that every pair turns within a few tokens."""
    named = {"variant": variant, "head_dim": head_dim, "base": base, "rotary_dim": None}
    return named | DEFAULTS[variant] | given


def heads_of(start: int) -> Heads:
    """Made-up features of every head, (H, T, D)."""
    return [sixty_fourths(start + 100 * h, TOKENS, FEATURES) for h in range(HEADS)]


# One set for all groups of a file: a group of fewer heads has the first ones.
Q, K = heads_of(1), heads_of(1001)


def triangle(entry: Callable[[int, int], Any], tokens: int = TOKENS) -> list[list[Any]]:
    """The value of `entry` for every query m and key n <= m: row m has m + 1 of them."""
    return [[entry(m, n) for n in range(m + 1)] for m in range(tokens)]


def as_floats(values: Any) -> Any:
    """Nested lists of exact numbers as float64."""
    if isinstance(values, list):
        return [as_floats(value) for value in values]
    return rounded(mpf(values))


def flags_of(table: dict[str, Flag], *facts: Any) -> list[str]:
    """The flags whose rule holds, in the order of the table."""
    return [name for name, flag in table.items() if flag.holds(*facts)]


def group(name: str, comment: str, parameters: Parameters, table: dict[str, Flag], **numbers: Any) -> Record:
    """A group without its cases, rotations and scores."""
    return {
        "id": name,
        "comment": comment,
        "parameters": parameters,
        "source": source(parameters),
        "flags": flags_of(table, parameters, numbers),
        **numbers,
        "cases": [],
        "rotations": [],
        "scores": [],
    }


def pairs_at(queries: Iterable[int], distances: Iterable[int]) -> list[tuple[int, int]]:
    """All (query, distance) whose key exists."""
    return [(m, d) for m, d in product(queries, distances) if 0 <= d <= m]
