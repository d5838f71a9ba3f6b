"""Every encoding, the rotation and PosGen against the vectors, which come from other code in 60-digit arithmetic."""

import numpy as np
import pytest

from refrope import kernels, posgen, rotary, vectors
from refrope.vectors.bounds import (
    AMPLITUDE_ROUNDINGS,
    cases_by_role,
    inner,
    logit_bounds,
    numbers,
    rotation_bounds,
    table_bounds,
)
from refrope.verify.vector_checks import vector_rule

NAMES = [name for name in vectors.NAMES if name != "posgen"]
ROTATIONS = [rotary.rotate, *([kernels.rotate] if kernels.available() else [])]

ONE_ULP = 2.0**-52
FLOAT32_ROUNDING = 2.0**-24  # relative, of a table entry at most as large as its amplitude
FLOAT32_ROUNDINGS = 4 * FLOAT32_ROUNDING  # position, inv_freq, their product, and one to spare


def tables(group, positions, role=None, dtype=np.float64):
    """Refrope's cos and sin for a group, stacked."""
    encoding = vectors.encoding(group["parameters"])
    return np.stack(encoding.cos_sin(positions, dtype=dtype, **({} if role is None else {"role": role})))


@pytest.fixture(scope="module", params=NAMES)
def groups(request):
    """The groups of one file."""
    return vectors.load(request.param)["groups"]


def test_every_variant_has_vectors():
    assert {*vectors.NAMES} == {*vectors.CLASSES, "resonance", "posgen"}
    assert all(len(vectors.load(name)["groups"]) > 10 for name in vectors.NAMES)


def test_frequencies_wavelengths_and_stretches_are_equal_bit_for_bit(groups):
    for group in groups:
        encoding = vectors.encoding(group["parameters"])
        assert encoding.inv_freq.tolist() == group["inv_freq"], group["id"]
        assert encoding.wavelengths.tolist() == numbers(group["wavelengths"]).tolist(), group["id"]
        found = None if encoding.stretch is None else encoding.stretch.tolist()
        assert found == (group["stretch"] and numbers(group["stretch"]).tolist()), group["id"]


def test_periods_are_equal():
    found = [g for g in vectors.load("resonance")["groups"] if g["parameters"]["dialect"] == "after"]
    assert len(found) > 50
    for group in found:
        assert vectors.encoding(group["parameters"]).periods.tolist() == group["periods"], group["id"]
        assert group["wavelengths"] == [period or None for period in group["periods"]], group["id"]


def test_attention_and_softmax_factors_are_within_one_ulp(groups):
    for group in groups:
        encoding = vectors.encoding(group["parameters"])
        for key in ("attention_factor", "softmax_factor"):
            assert abs(getattr(encoding, key) - group[key]) <= ONE_ULP * group[key], (group["id"], key)


def test_float64_tables_are_within_their_bound(groups):
    for group in groups:
        for role, cases in cases_by_role(group).items():
            positions = [case["position"] for case in cases]
            exact = np.array([[case[key] for case in cases] for key in ("cos", "sin")])
            error = np.abs(tables(group, positions, role) - exact)
            assert (error <= table_bounds(group, positions, role)).all(), group["id"]


def test_float32_tables_are_one_rounding_further_away(groups):
    for group in groups:
        for role, cases in cases_by_role(group).items():
            positions = [case["position"] for case in cases]
            if inner(group)["variant"] == "xpos":  # float32 ends at 3e38
                positions = [position for position in positions if position <= 4096]
                cases = [case for case in cases if case["position"] <= 4096]
            exact = np.array([[case[key] for case in cases] for key in ("cos", "sin")])
            error = np.abs(tables(group, positions, role, np.float32).astype(np.float64) - exact)
            bounds = table_bounds(group, positions, role) + FLOAT32_ROUNDING * np.abs(exact)
            assert (error <= bounds + np.finfo(np.float32).smallest_subnormal).all(), group["id"]


def test_angles_in_float32_are_within_the_readmes_bound(groups):
    for group in groups:
        if inner(group)["variant"] in ("xpos", "fope") or "periods" in group:
            continue
        inv_freq = np.array(group["inv_freq"])
        for case in group["cases"]:
            angles = np.float32(case["position"]) * inv_freq.astype(np.float32)
            for function, key in ((np.cos, "cos"), (np.sin, "sin")):
                found = function(angles) * np.float32(group["attention_factor"])
                bound = FLOAT32_ROUNDINGS * abs(case["position"]) * inv_freq + 2 * FLOAT32_ROUNDING
                error = np.abs(found - np.array(case[key])) / group["attention_factor"]
                assert (error <= bound + AMPLITUDE_ROUNDINGS * FLOAT32_ROUNDING).all(), case["id"]


def roles_of(rotation, group):
    """Role, input, expected output of q and k; the role is None where tables are the same for both."""
    role = inner(group)["variant"] == "xpos"
    for letter in ("q", "k"):
        yield letter, letter if role else None, np.array(rotation[letter]), np.array(rotation[f"rotated_{letter}"])


@pytest.mark.parametrize("rotate", ROTATIONS, ids=lambda f: f.__module__)
def test_rotated_q_and_k_and_their_logits_are_within_their_bound(groups, rotate):
    rotations = [(group, rotation) for group in groups for rotation in group["rotations"]]
    assert rotations
    for group, rotation in rotations:
        positions = rotation["positions"]
        results, errors = {}, {}
        for letter, role, features, expected in roles_of(rotation, group):
            cos, sin = tables(group, positions, role)
            result = rotate(features, cos, sin, layout=rotation["layout"], suffix=rotation["suffix"])
            bound = rotation_bounds(group, positions, cos, sin, role)
            assert (np.abs(result - expected) <= bound[:, None]).all(), rotation["id"]
            results[letter], errors[letter] = result, bound
        q, k = results["q"], results["k"]
        bound = logit_bounds(q, k, errors["q"], errors["k"])
        assert (np.abs(q @ k.T - np.array(rotation["logits"])) <= bound).all(), rotation["id"]


def test_both_layouts_are_rotated_for_every_variant_and_suffixes_where_a_part_turns(groups):
    rotations = [(group, rotation) for group in groups for rotation in group["rotations"]]
    assert {rotation["layout"] for _, rotation in rotations} == {"half", "interleaved"}
    partial = [r["suffix"] for group, r in rotations if len(group["inv_freq"]) * 2 < len(r["q"][0])]
    assert {*partial} == {False, True}


def test_inputs_of_rotations_are_exact_in_bfloat16(groups):
    for rotation in (rotation for group in groups for rotation in group["rotations"]):
        for values in (rotation["q"], rotation["k"]):
            scaled = np.array(values) * 64
            assert (scaled == np.round(scaled)).all()
            assert np.abs(scaled).max() <= 64
            assert len(np.unique(scaled)) > 2


def test_posgen_sequences_are_equal():
    for group in vectors.load("posgen")["groups"]:
        p = group["parameters"]
        for case in group["cases"]:
            found = posgen.generate(
                p["task"], [case["prefix"]], case["length"], p["modulus"], p["j"], p["k"], rule=vector_rule(p)
            )
            assert found.tolist() == [case["sequence"]], case["id"]
