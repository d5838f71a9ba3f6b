"""PosGen: what is said about arguments that are wrong, and what holds where nothing is said."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from posgen_problems import exactly

from refrope import posgen
from refrope.posgen import (
    contexts,
    digest,
    far_start,
    generate,
    inputs_and_targets,
    make_splits,
    pair_lag,
    with_front_token,
)

# ---- errors

GOOD = [[1, 2, 3, 4]]
IN_SPLITS = "integers (n, T) in [0, 17)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: generate("recursiv", GOOD, 9),
            "generate: unknown task 'recursiv'; did you mean 'recursive'? known: recursive, cot, semirecursive",
        ),
        (
            lambda: generate("cot", GOOD, 9, rule="latine"),
            "generate: unknown rule 'latine'; did you mean 'latin'? known: sum, table, latin",
        ),
        (lambda: generate("cot", GOOD, 9, rule=3), "generate: unknown rule 3; known: sum, table, latin"),
        (
            lambda: generate("cot", np.zeros((3, 5), int), 9),
            "generate: prefixes is int64(3, 5), expected integers (n, 4) in [0, 17)",
        ),
        (
            lambda: generate("cot", np.zeros(4, int), 9),
            "generate: prefixes is int64(4,), expected integers (n, 4) in [0, 17)",
        ),
        (
            lambda: generate("cot", np.zeros((3, 4), np.float32), 9),
            "generate: prefixes is float32(3, 4), expected integers (n, 4) in [0, 17)",
        ),
        (
            lambda: generate("cot", np.zeros((3, 3), bool), 9, j=2, k=1),
            "generate: prefixes is bool(3, 3), expected integers (n, 3) in [0, 17)",
        ),
        (
            lambda: generate("cot", [[1, 2], [3]], 9),
            "generate: prefixes is ragged, expected integers (n, 4) in [0, 17)",
        ),
        (
            lambda: generate("cot", [[0, 1, 2, 17]], 9),
            "generate: prefixes is int64(1, 4) with values from 0 to 17, expected integers (n, 4) in [0, 17)",
        ),
        (
            lambda: generate("cot", [[0, -1, 2, 3]], 9),
            "generate: prefixes is int64(1, 4) with values from -1 to 3, expected integers (n, 4) in [0, 17)",
        ),
        (
            lambda: generate("cot", np.full((1, 4), 2**64 - 1, np.uint64), 9),
            f"generate: prefixes is uint64(1, 4) with values from {2**64 - 1} to {2**64 - 1}, "
            "expected integers (n, 4) in [0, 17)",
        ),
        (lambda: generate("cot", GOOD, 3), "generate: length is 3, expected an integer >= 4"),
        (lambda: generate("cot", GOOD, 9.0), "generate: length is 9.0, expected an integer >= 4"),
        (
            lambda: generate("cot", GOOD, 9, modulus=1),
            "generate: modulus is 1, expected an integer in [2, 2147483648]",
        ),
        (
            lambda: generate("cot", GOOD, 9, modulus=2**31 + 1),
            "generate: modulus is 2147483649, expected an integer in [2, 2147483648]",
        ),
        (lambda: generate("cot", GOOD, 9, j=0), "generate: j is 0, expected an integer >= 1"),
        (lambda: generate("cot", GOOD, 9, k=0), "generate: k is 0, expected an integer >= 1"),
        (
            lambda: far_start("cots", 9),
            "far_start: unknown task 'cots'; did you mean 'cot'? known: recursive, cot, semirecursive",
        ),
        (lambda: far_start("cot", 3), "far_start: index is 3, expected an integer >= 4"),
        (lambda: far_start("cot", 3, 0), "far_start: j is 0, expected an integer >= 1"),
        (lambda: far_start("cot", 3, 1, 0), "far_start: k is 0, expected an integer >= 1"),
        (
            lambda: posgen.make_rule("tabel"),
            "make_rule: unknown rule 'tabel'; did you mean 'table'? known: sum, table, latin",
        ),
        (lambda: posgen.make_rule("table", 1), "table_rule: modulus is 1, expected an integer in [2, 1024]"),
        (lambda: posgen.table_rule(17, -1), "table_rule: seed is -1, expected an integer >= 0"),
        (lambda: posgen.latin_rule(129, 0), "latin_rule: modulus is 129, expected an integer in [2, 128]"),
        (lambda: posgen.latin_rule(17, 0.5), "latin_rule: seed is 0.5, expected an integer >= 0"),
        (
            lambda: make_splits("cote", seed=1),
            "make_splits: unknown task 'cote'; did you mean 'cot'? known: recursive, cot, semirecursive",
        ),
        (
            lambda: make_splits("cot", recipe="oficial", seed=1),
            "make_splits: unknown recipe 'oficial'; did you mean 'official'? known: disjoint, official, held-out, "
            "held-out-pairs",
        ),
        (
            lambda: make_splits("cot", rule="summ", seed=1),
            "make_splits: unknown rule 'summ'; did you mean 'sum'? known: sum, table, latin",
        ),
        (lambda: make_splits("cot", seed=-1), "make_splits: seed is -1, expected an integer >= 0"),
        (lambda: make_splits("cot", seed=None), "make_splits: seed is None, expected an integer >= 0"),
        (lambda: make_splits("cot", seed=1, train=-1), "make_splits: train is -1, expected an integer >= 0"),
        (
            lambda: make_splits("cot", seed=1, validation=2.5),
            "make_splits: validation is 2.5, expected an integer >= 0",
        ),
        (
            lambda: make_splits("cot", seed=1, test=True),
            "make_splits: test is True, expected an integer >= 0",
        ),
        (
            lambda: make_splits("cot", seed=1, train_length=3),
            "make_splits: train_length is 3, expected an integer >= 4",
        ),
        (
            lambda: make_splits("cot", seed=1, test_length=5, j=3),
            "make_splits: test_length is 5, expected an integer >= 6",
        ),
        (
            lambda: make_splits("cot", seed=1, modulus=0),
            "make_splits: modulus is 0, expected an integer in [2, 2147483648]",
        ),
        (
            lambda: make_splits("cot", seed=1, modulus=2),
            "make_splits: train + validation + test is 10000 + 1000 + 1000 = 12000, "
            "expected at most 2**4 = 16, the number of different prefixes",
        ),
        (
            lambda: make_splits("cot", recipe="official", seed=1, modulus=3),
            "make_splits: j + k is 4, expected at most 3, the modulus",
        ),
        (
            lambda: make_splits("cot", recipe="held-out", seed=1, held_out=0),
            "make_splits: held_out is 0, expected a number in (0, 1)",
        ),
        (
            lambda: make_splits("cot", recipe="held-out", seed=1, held_out=1e-6),
            "make_splits: held_out * modulus**(j+k) is 0, expected an integer in [1, 83520]",
        ),
        (
            lambda: make_splits("cot", recipe="held-out", seed=1, held_out=1.0),
            "make_splits: held_out * modulus**(j+k) is 83521, expected an integer in [1, 83520]",
        ),
        (
            lambda: make_splits("cot", recipe="held-out", seed=1, k=6),
            "make_splits: modulus**(j+k) is 410338673, expected an integer in [2000, 16777216]",
        ),
        (
            lambda: make_splits("cot", recipe="held-out-pairs", seed=1, held_out=0.001),
            "make_splits: held_out * modulus**2 is 0, expected an integer in [1, 288]",
        ),
        (
            lambda: pair_lag("cots"),
            "pair_lag: unknown task 'cots'; did you mean 'cot'? known: recursive, cot, semirecursive",
        ),
        (
            lambda: contexts("cot", [[1, 2, 3]]),
            "contexts: T is 3, expected an integer >= 4",
        ),
        (
            lambda: with_front_token([[0, 17]]),
            f"with_front_token: sequences is int64(1, 2) with values from 0 to 17, expected {IN_SPLITS}",
        ),
        (
            lambda: with_front_token([[0, 1]], 1),
            "with_front_token: modulus is 1, expected an integer in [2, 2147483648]",
        ),
        (
            lambda: inputs_and_targets([0, 1, 2]),
            f"inputs_and_targets: sequences is int64(3,), expected {IN_SPLITS}",
        ),
        (lambda: inputs_and_targets(GOOD, j=0), "inputs_and_targets: j is 0, expected an integer >= 1"),
        (
            lambda: digest([[0.5]]),
            "digest: data is float64(1, 1), expected integers (n, T) in [0, 9223372036854775808)",
        ),
    ],
)
def test_a_bad_argument_is_named_with_what_came_and_what_was_wanted(call, message):
    with pytest.raises(ValueError, match=exactly(message)):
        call()


THE_PAPERS = {"modulus": 17, "j": 1, "k": 3}


@pytest.mark.parametrize(
    ("function", "defaults"),
    [
        (posgen.table_rule, {"modulus": 17, "seed": 0}),
        (posgen.latin_rule, {"modulus": 17, "seed": 0}),
        (posgen.make_rule, {"modulus": 17, "seed": 0}),
        (posgen.far_start, {"j": 1, "k": 3}),
        (posgen.generate, {**THE_PAPERS, "rule": None}),
        (posgen.with_front_token, {"modulus": 17}),
        (posgen.inputs_and_targets, {**THE_PAPERS, "front_token": True}),
        (
            posgen.make_splits,
            {
                **THE_PAPERS, "recipe": "disjoint", "train": 10_000, "validation": 1_000, "test": 1_000,
                "train_length": 64, "test_length": 256, "rule": None, "held_out": 0.01,
            },
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_what_nobody_says_is_the_papers(function, defaults):
    parameters = inspect.signature(function).parameters.values()
    assert {each.name: each.default for each in parameters if each.default is not each.empty} == defaults


def test_rules_and_datasets_never_change_and_are_compared_as_objects():
    rule, data = posgen.table_rule(), make_splits("cot", seed=1, train=1, validation=1, test=1)
    for each, field in ((rule, "seed"), (data, "modulus")):
        with pytest.raises(FrozenInstanceError):
            setattr(each, field, 7)
        assert {each: 1}[each] == 1
    assert rule != posgen.table_rule()
    assert "array" not in repr(rule)
