"""PosGen for its tests: problems, sequences, the standard splits, and the tasks in plain Python."""

from __future__ import annotations

import re
from functools import cache

from hypothesis import strategies as st

from refrope.posgen import TASKS, generate, make_splits


@cache
def standard(task, recipe):
    return make_splits(task, recipe=recipe, seed=1)


def exactly(message):
    """Match this whole error message and no other."""
    return f"^{re.escape(message)}$"


def oracle(task, prefix, length, j, k, h):
    """One sequence, token by token, in plain Python: h gets the list of far and the list of near tokens."""
    tokens = list(prefix)
    pointer, waits = 0, True  # semirecursive: the pointer rests at a place for two tokens
    while len(tokens) < length:
        near = tokens[len(tokens) - k :]
        if task == "recursive":
            far = tokens[: len(tokens) - k][-j:]
        elif task == "cot":
            far = tokens[:j]
        else:
            far = tokens[pointer : pointer + j]
            pointer, waits = (pointer, False) if waits else (pointer + 1, True)
        assert len(far) == j
        tokens.append(h(far, near))
    return tokens


@st.composite
def problems(draw):
    """task, prefixes, length, modulus, j, k."""
    modulus, j, k = draw(st.integers(2, 23)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    token = st.integers(0, modulus - 1)
    prefixes = draw(st.lists(st.lists(token, min_size=j + k, max_size=j + k), min_size=1, max_size=3))
    return draw(st.sampled_from(TASKS)), prefixes, draw(st.integers(j + k, 40)), modulus, j, k


def random_sequences(task, length=256, rule=None):
    """500 sequences with the paper's modulus, j and k."""
    prefixes = make_splits("cot", seed=7, train=500, validation=0, test=0, train_length=4).train
    return generate(task, prefixes, length, rule=rule)
