"""PosGen's sequences, written from the definition in arXiv:2403.00071 token by token, in Python integers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vectors_flags import posgen_flags
from vectors_formulas import Parameters
from vectors_sources import source

TASKS = ("recursive", "cot", "semirecursive")


def sequence(p: Parameters, prefix: list[int], length: int) -> list[int]:
    """The prefix continued to `length` tokens."""
    tokens, j, k = list(prefix), p["j"], p["k"]
    while len(tokens) < length:
        here = len(tokens)
        start = {"recursive": here - k - j, "cot": 0, "semirecursive": (here - (j + k)) // 2}[p["task"]]
        far, near = sum(tokens[start : start + j]), sum(tokens[here - k : here])
        m = p["modulus"]
        if p["rule"] == "sum":
            token = (far + near) % m
        elif p["rule"] == "table":
            token = p["table"][(far + near) % m]
        else:
            token = p["Q"][far % m][near % m]
        tokens.append(token)
    return tokens


def made_up_tokens(start: int, count: int, modulus: int) -> list[int]:
    """`count` tokens below `modulus` from a fixed recurrence."""
    state, tokens = start, []
    for _ in range(count):
        state = (1_103_515 * state + 24_691) % 2_147_483_647
        tokens.append(state * modulus // 2_147_483_647)
    return tokens


def latin_square(m: int) -> list[list[int]]:
    """Every row and column holds every token once, rows and columns differ; for a prime m with 3 not dividing m - 1."""
    cube = [a**3 % m for a in range(m)]
    return [[cube[(2 * cube[a] + b) % m] for b in range(m)] for a in range(m)]


def settings(task: str) -> Iterator[tuple[str, Parameters]]:
    """Comment and parameters of one task's groups."""

    def given(modulus: int, j: int, k: int, rule: str = "sum", **tables: Any) -> Parameters:
        return {"task": task, "modulus": modulus, "j": j, "k": k, "rule": rule, **tables}

    yield "the paper's: modulus 17, j = 1, k = 3", given(17, 1, 3)
    yield "several far tokens", given(11, 3, 2)
    yield "one near token", given(5, 1, 1)
    yield "more far tokens than near ones", given(7, 4, 1)
    yield "two tokens only", given(2, 1, 3)
    yield "sums beyond 32 bits; no power of 2, which a wrap would not change", given(2**31 - 1, 1, 3)
    yield "a written table of the sum", given(17, 1, 3, "table", table=[(5 * t * t + 3) % 17 for t in range(17)])
    yield "a written Latin square", given(17, 1, 3, "latin", Q=latin_square(17))
    yield "a smaller Latin square, two far tokens", given(5, 2, 2, "latin", Q=latin_square(5))


def posgen_groups() -> list[dict[str, Any]]:
    """All groups of posgen.json."""
    groups: list[dict[str, Any]] = []
    for task in TASKS:
        for comment, parameters in settings(task):
            name = f"posgen-{len(groups) + 1:03d}"
            width, m = parameters["j"] + parameters["k"], parameters["modulus"]
            prefixes = [([0] * (width - 1) + [1], 32), ([m - 1] * width, 64)]
            prefixes += [(made_up_tokens(start, width, m), length) for start, length in ((1, 65), (2, 256), (3, width))]
            cases = []
            for i, (prefix, length) in enumerate(prefixes, start=1):
                case: dict[str, Any] = {"id": f"{name}-{i}", "comment": "", "flags": [], "prefix": prefix}
                case |= {"length": length, "sequence": sequence(parameters, prefix, length)}
                case["flags"] = posgen_flags(parameters, case)
                case["comment"] = "all zeros but one" if i == 1 else "the largest token" if i == 2 else "made-up tokens"
                cases.append(case)
            groups.append(
                {
                    "id": name,
                    "comment": f"{task}, {comment}",
                    "parameters": parameters,
                    "source": source({"variant": "posgen"}),
                    "flags": [],
                    "cases": cases,
                    "rotations": [],
                }
            )
    return groups
