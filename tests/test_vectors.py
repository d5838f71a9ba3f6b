"""Every encoding, the rotation and PosGen against the vectors, which come from other code in 60-digit arithmetic."""

import math

import numpy as np
import pytest

from refrope import kernels, posgen, rotary, vectors

NAMES = [name for name in vectors.NAMES if name != "posgen"]
ROTATIONS = [rotary.rotate, *([kernels.rotate] if kernels.available() else [])]

HALF_ULP = 2.0**-53
# As refrope.tables says: the roundings of position, inv_freq and their product, then cos itself.
ANGLE_ROUNDINGS, COS_ERROR = 4, 2.0**-50
# A phase of Resonance lies in [0, 2 pi); the division, 2 pi and the product are rounded, then cos itself.
PHASE_ERROR = 3 * 2 * math.pi * HALF_ULP + COS_ERROR
# The attention factor is rounded once, its product with cos once more.
AMPLITUDE_ROUNDINGS = 2
# xPos: zeta's own roundings count as often as the exponent says; power and products take the rest.
ZETA_ROUNDINGS, POWER_ROUNDINGS = 4, 8
FLOAT32_ROUNDING = 2.0**-24  # relative, of a table entry at most as large as its amplitude
FLOAT32_ROUNDINGS = 4 * FLOAT32_ROUNDING  # position, inv_freq, their product, and one to spare
ONE_ULP = 2.0**-52


def numbers(values):
    """A JSON list, with null for infinity, as float64."""
    return np.array([math.inf if value is None else value for value in values])


def inner(group):
    """The parameters of the variant itself, without Resonance around it."""
    return group["parameters"].get("encoding", group["parameters"])


def amplitudes(group, positions, role):
    """What multiplies cos and sin, (positions, pairs), and the relative error that float64 may make of it."""
    shape = (len(positions), len(group["inv_freq"]))
    parameters = inner(group)
    if parameters["variant"] != "xpos":
        return np.full(shape, group["attention_factor"]), np.full(shape, AMPLITUDE_ROUNDINGS * HALF_ULP)
    turned = parameters["rotary_dim"] or parameters["head_dim"]
    zeta = (2 * np.arange(turned // 2) / turned + parameters["gamma"]) / (1 + parameters["gamma"])
    exponents = (np.array(positions, dtype=float) - parameters["centre"])[:, None] / parameters["scale_base"]
    roundings = POWER_ROUNDINGS + np.abs(exponents) * (ZETA_ROUNDINGS + 2 * np.abs(np.log(zeta)))
    return zeta ** (exponents if role == "q" else -exponents), roundings * HALF_ULP


def table_bounds(group, positions, role=None):
    """How far each float64 entry of cos and sin may be from the vector, (2, positions, pairs)."""
    size, relative = amplitudes(group, positions, role)
    if "periods" in group:
        phase = np.full(size.shape, PHASE_ERROR)
    else:
        angles = np.abs(np.array(positions, dtype=float))[:, None] * np.array(group["inv_freq"])
        phase = ANGLE_ROUNDINGS * HALF_ULP * angles + COS_ERROR
    bounds = np.stack([size * (phase + relative)] * 2)
    parameters = inner(group)
    for bound, key in zip(bounds, ("cos_coefficients", "sin_coefficients"), strict=True):
        if parameters.get(key) is not None:  # FoPE: products and sums of n terms
            matrix = np.abs(parameters[key])
            n = len(matrix)
            bound[:, :n] = (bound[:, :n] + n * HALF_ULP) @ matrix
    return bounds


def tables(group, positions, role=None, dtype=np.float64):
    """Refrope's cos and sin for a group, stacked."""
    encoding = vectors.encoding(group["parameters"])
    return np.stack(encoding.cos_sin(positions, dtype=dtype, **({} if role is None else {"role": role})))


def by_role(group):
    """The cases of a group for each role (None where there are no roles)."""
    roles = {}
    for case in group["cases"]:
        roles.setdefault(case.get("role"), []).append(case)
    return roles.items()


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
        for role, cases in by_role(group):
            positions = [case["position"] for case in cases]
            exact = np.array([[case[key] for case in cases] for key in ("cos", "sin")])
            error = np.abs(tables(group, positions, role) - exact)
            assert (error <= table_bounds(group, positions, role)).all(), group["id"]


def test_float32_tables_are_one_rounding_further_away(groups):
    for group in groups:
        for role, cases in by_role(group):
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
            # Features are at most 1: two entries' errors, and the rounding of two products and a sum of entries.
            size = np.abs(cos).max(axis=1) + np.abs(sin).max(axis=1) + 1
            bound = table_bounds(group, positions, role).max(axis=2).sum(axis=0) + 3 * HALF_ULP * size
            assert (np.abs(result - expected) <= bound[:, None]).all(), rotation["id"]
            results[letter], errors[letter] = result, bound
        q, k = results["q"], results["k"]
        # Each product carries both errors, and a sum of D products is rounded D times.
        sizes_q, sizes_k = np.abs(q).sum(axis=1), np.abs(k).sum(axis=1)
        bound = sizes_q[:, None] * errors["k"] + errors["q"][:, None] * (sizes_k + q.shape[1] * errors["k"])
        bound += (q.shape[1] + 1) * HALF_ULP * (np.abs(q) @ np.abs(k).T)
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


def rule(parameters):
    """PosGen's rule as refrope takes it."""
    if parameters["rule"] == "sum":
        return "sum"
    table = np.array(parameters.get("table", parameters.get("Q")))

    def look_up(far, near, modulus):
        if table.ndim == 1:
            return table[(far.sum(axis=1) + near.sum(axis=1)) % modulus]
        return table[far.sum(axis=1) % modulus, near.sum(axis=1) % modulus]

    return look_up


def test_posgen_sequences_are_equal():
    for group in vectors.load("posgen")["groups"]:
        p = group["parameters"]
        for case in group["cases"]:
            found = posgen.generate(
                p["task"], [case["prefix"]], case["length"], p["modulus"], p["j"], p["k"], rule=rule(p)
            )
            assert found.tolist() == [case["sequence"]], case["id"]
