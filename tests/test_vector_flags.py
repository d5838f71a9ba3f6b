"""Every flag says which bug its vectors catch: each of these bugs is planted here, and they do."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from refrope import rotary, vectors
from refrope.vectors.bounds import cases_by_role, inner, table_bounds

# A planted bug counts as caught when a table entry is further off than this many of the float64 tables' bounds.
CLEARLY = 1000
RELATIVE = 1e-12  # of frequencies and factors, which correct code gets within 2^-52


def with_inner(group, **changes):
    """The group's parameters with those of the variant itself changed."""
    parameters = group["parameters"]
    if "encoding" in parameters:
        return parameters | {"encoding": parameters["encoding"] | changes}
    return parameters | changes


def caught(group, parameters):
    """Whether an encoding of other parameters would fail on the group."""
    try:
        encoding = vectors.encoding(parameters)
    except ValueError:
        return True
    if encoding.pairs != len(group["inv_freq"]):
        return True
    if not np.allclose(encoding.inv_freq, group["inv_freq"], rtol=RELATIVE, atol=0):
        return True
    for key in ("attention_factor", "softmax_factor"):
        if not math.isclose(getattr(encoding, key), group[key], rel_tol=RELATIVE):
            return True
    return tables_differ(group, parameters=parameters)


def tables_differ(group, moved=lambda position: position, parameters=None):
    """Whether cos and sin of the group's cases, at moved positions or of other parameters, are clearly off."""
    encoding = vectors.encoding(parameters or group["parameters"])
    for role, cases in cases_by_role(group).items():
        positions = [case["position"] for case in cases]
        expected = np.array([[case[key] for case in cases] for key in ("cos", "sin")])
        words = {} if role is None else {"role": role}
        found = np.stack(encoding.cos_sin([moved(p) for p in positions], dtype=np.float64, **words))
        if (np.abs(found - expected) > CLEARLY * table_bounds(group, positions, role)).any():
            return True
    return False


def flagged(flag, part="groups"):
    """All (group, part) of the encodings' files that carry a flag."""
    for name in vectors.NAMES:
        if name == "posgen":
            continue
        for group in vectors.load(name)["groups"]:
            for record in [group] if part == "groups" else group[part]:
                if flag in record["flags"]:
                    yield group, record


def _turned(p):
    return p["rotary_dim"] or p["head_dim"]


# What each flag's bug does to the parameters of the variant itself (None: nothing to plant in this group).
PARAMETER_BUGS: dict[str, Callable] = {
    "OtherBase": lambda p: {"base": 10_000.0},
    "PartialRotation": lambda p: {"rotary_dim": None},
    "GivenAmplitude": lambda p: {"attention_factor": None},
    "IndexRamp": lambda p: {"ramp": "turns", "truncate": True, "target_ramp": False},
    "TurnsRamp": lambda p: {"ramp": "index", "blend": "frequency"},
    "WavelengthBlend": lambda p: {"blend": "frequency"},
    "FractionalRampEnds": lambda p: {"truncate": True},
    "TargetLengthRamp": lambda p: {"target_ramp": False},
    "NtkExponent": lambda p: {"dialect": "scaled-base"} if p["variant"] == "ntk" else None,
    "NtkNamesake": lambda p: {"dialect": "ntk-aware"},
    "StaticDynamic": lambda p: {"dialect": "hf"},
    "LengthAtSwitch": lambda p: {"length": p["length"] + 1},
    "LengthPastSwitch": lambda p: {"length": p["original_length"]},
    "Proportional": lambda p: {"proportion": 1.0},
    "FloatProduct": lambda p: {"proportion": p["proportion"] + (0.02 if p["proportion"] < 0.6 else -0.06)},
    "PaddingOnes": lambda p: {"padding": "identity"},
    "MixedPairs": lambda p: {"cos_coefficients": np.array(p["cos_coefficients"]).T.tolist()},
    "PairAmplitude": lambda p: {"gamma": p["gamma"] * 2},
    "OneAmplitudeConstant": lambda p: {"mscale": 1.0, "mscale_all_dim": 1.0},
}
# Groups with one of these may have nothing to scale, nothing that turns at another speed, or no pair inside the ramp.
NOTHING_TO_SEE = {"FactorOne", "SmallHead", "RampEndsCoincide"}


@pytest.mark.parametrize("flag", PARAMETER_BUGS)
def test_every_group_with_a_flag_catches_the_bug_that_it_names(flag):
    missed, count = [], 0
    for group, _ in flagged(flag):
        changes = PARAMETER_BUGS[flag](inner(group))
        if changes is None or NOTHING_TO_SEE & {*group["flags"]} or not any(group["inv_freq"]):
            continue
        count += 1
        if not caught(group, with_inner(group, **changes)):
            missed.append(group["id"])
    assert count
    assert missed == []


def test_a_missing_amplitude_is_caught_by_position_0_alone():
    groups = [group for group, _ in flagged("Amplitude")]
    assert len(groups) > 50
    for group in groups:
        [start] = [case for case in group["cases"] if case["position"] == 0]
        assert set(start["cos"]) == {group["attention_factor"]} != {1.0}, group["id"]


def test_factor_one_is_plain_rope():
    plain = {
        tuple(inner(group)[key] for key in ("head_dim", "base", "rotary_dim")): group
        for group in vectors.load("rope")["groups"]
    }
    compared = 0
    for group, _ in flagged("FactorOne"):
        p = inner(group)
        if p["variant"] in ("yarn", "linear", "ntk", "ntk-by-parts") and p["base"] == 10_000.0:
            assert group["inv_freq"] == plain[p["head_dim"], p["base"], p["rotary_dim"]]["inv_freq"], group["id"]
            compared += 1
    assert compared >= 8


# ---- positions ----


def _in_format(position, bits):
    """The position as a binary float of so many significant bits, ties away from zero."""
    spare = max(abs(position).bit_length() - bits, 0)
    half = (1 << spare) >> 1
    size = ((abs(position) + half) >> spare) << spare
    return int(math.copysign(1, position)) * min(size, 2**63 - 1024)


POSITION_BUGS = {
    "NotBfloat16": lambda position, p: _in_format(position, 8),
    "NotFloat16": lambda position, p: min(_in_format(position, 11), 65_504),
    "NotFloat32": lambda position, p: _in_format(position, 24),
    "NotFloat64": lambda position, p: _in_format(position, 53),
    "PastInt32": lambda position, p: (position + 2**31) % 2**32 - 2**31,
    "NegativePosition": lambda position, p: -position,
    "PastOriginalLength": lambda position, p: p.get("original_length", p.get("train_length")) - 1,
    "LastTrainedPosition": lambda position, p: position - 1,
}


@pytest.mark.parametrize("flag", POSITION_BUGS)
def test_every_case_with_a_flag_catches_the_position_that_it_names(flag):
    cases = list(flagged(flag, "cases"))
    assert cases
    missed = []
    for group, case in cases:
        if len(group["inv_freq"]) == 1 or not any(group["inv_freq"]):
            continue  # one pair alone may come round to the same place, still ones stay
        bug, parameters = POSITION_BUGS[flag], inner(group)
        if not tables_differ(group | {"cases": [case]}, lambda p, bug=bug, own=parameters: bug(p, own)):
            missed.append(case["id"])
    assert missed == []


def test_angles_in_float32_are_caught_wherever_the_flag_is():
    missed, count = [], 0
    for group, case in flagged("Float32Angle", "cases"):
        if inner(group)["variant"] in ("xpos", "fope") or "SmallHead" in group["flags"]:
            continue
        angles = np.float32(case["position"]) * np.array(group["inv_freq"], dtype=np.float32)
        cos = np.cos(angles.astype(np.float64)) * group["attention_factor"]
        bounds = table_bounds(group, [case["position"]])[0, 0]
        count += 1
        if not (np.abs(cos - case["cos"]) > CLEARLY * bounds).any():
            missed.append(case["id"])
    assert count > 1000
    assert missed == []


# ---- Resonance ----


def test_a_resonance_phase_from_a_frequency_is_caught_at_the_largest_position():
    for group, _ in flagged("WholePeriods"):
        if inner(group)["variant"] in ("xpos", "fope"):
            continue
        case = group["cases"][-1]
        assert case["position"] == 2**63 - 1
        cos = np.cos(case["position"] * np.array(group["inv_freq"])) * group["attention_factor"]
        assert np.abs(cos - case["cos"]).max() > 0.01, group["id"]


def test_rounding_at_the_wrong_moment_is_caught():
    groups = [group for group, _ in flagged("RoundedBefore") if inner(group)["variant"] != "rope"]
    groups += [g for g, _ in flagged("WholePeriods") if g["stretch"] and inner(g)["variant"] not in ("rope", "xpos")]
    missed = [
        group["id"]
        for group in groups
        if not caught(
            group,
            group["parameters"] | {"dialect": "before" if group["parameters"]["dialect"] == "after" else "after"},
        )
    ]
    assert missed == []


def test_wavelengths_rounded_in_float32_are_caught_where_periods_are_long():
    groups = [group for group, _ in flagged("LongPeriod")]
    assert groups
    for group in groups:
        p = inner(group)
        wavelengths = 2 * np.pi * np.float64(p["base"]) ** (np.arange(0, p["head_dim"], 2) / p["head_dim"])
        assert np.round(wavelengths.astype(np.float32)).astype(int).tolist() != group["periods"]


def test_shared_periods_are_those_that_the_flag_means():
    groups = [group for group, _ in flagged("SharedPeriod")]
    periods = next(group["periods"] for group in groups if inner(group)["head_dim"] == 256)
    assert sorted({n for n in periods if periods.count(n) > 1}) == [7, 8, 10]


# ---- YaRN's ramp ends ----


def ramp(p, *, least=0, most=None, ordered=False):
    """YaRN's index ramp in float64, with room for the bugs."""
    d = _turned(p)
    length = round(p["factor"] * p["original_length"]) if p["target_ramp"] else p["original_length"]
    ends = [
        d * math.log(length / (2 * math.pi * n)) / (2 * math.log(p["base"])) for n in (p["beta_fast"], p["beta_slow"])
    ]
    if p["truncate"]:
        ends = [math.floor(ends[0]), math.ceil(ends[1])]
    low, high = max(ends[0], least), min(ends[1], d - 1 if most is None else most)
    if ordered:
        low, high = min(low, high), max(low, high)
    if low == high:
        high += 0.001
    kept = 1 - np.clip((np.arange(d // 2) - low) / (high - low), 0, 1)
    return p["base"] ** (-2 * np.arange(d // 2) / d) * ((1 - kept) / p["factor"] + kept)


RAMP_BUGS = {
    "RampStartsAtZero": {"least": -math.inf},
    "RampEndsBeyondPairs": {"most": "d/2 - 1"},
    "RampEndClamped": {"most": math.inf},
    "RampReversed": {"ordered": True},
}


@pytest.mark.parametrize("flag", RAMP_BUGS)
def test_some_group_with_the_flag_catches_a_wrong_end_of_the_ramp(flag):
    results = []
    for group, _ in flagged(flag):
        p = inner(group)
        if p["variant"] == "yarn" and "encoding" not in group["parameters"]:
            assert np.allclose(ramp(p), group["inv_freq"], rtol=RELATIVE, atol=0), group["id"]
            bug = {key: _turned(p) // 2 - 1 if value == "d/2 - 1" else value for key, value in RAMP_BUGS[flag].items()}
            results.append(not np.allclose(ramp(p, **bug), group["inv_freq"], rtol=RELATIVE, atol=0))
    assert any(results)


# ---- rotation ----

ROTATION_BUGS = {
    "HalfLayout": {"layout": "interleaved"},
    "InterleavedLayout": {"layout": "half"},
    "SuffixRotation": {"suffix": False},
}


@pytest.mark.parametrize("flag", ROTATION_BUGS)
def test_every_rotation_with_a_flag_catches_the_layout_that_it_names(flag):
    rotations = list(flagged(flag, "rotations"))
    assert rotations
    for group, rotation in rotations:
        if len(group["inv_freq"]) == 1 and flag != "SuffixRotation":
            continue  # one pair is the same in both layouts
        words = {} if inner(group)["variant"] != "xpos" else {"role": "q"}
        cos, sin = vectors.encoding(group["parameters"]).cos_sin(rotation["positions"], dtype=np.float64, **words)
        how = {"layout": rotation["layout"], "suffix": rotation["suffix"]}
        q, expected = np.array(rotation["q"]), np.array(rotation["rotated_q"])
        assert np.allclose(rotary.rotate(q, cos, sin, **how), expected, atol=1e-8), rotation["id"]
        assert np.abs(rotary.rotate(q, cos, sin, **how | ROTATION_BUGS[flag]) - expected).max() > 0.1, rotation["id"]


# ---- PosGen ----


def continued(p, case, *, start=None, token=None, far_count=None):
    """A case's sequence by the definition, with room for the bugs."""
    tokens, j, k, m = list(case["prefix"]), p["j"], p["k"], p["modulus"]
    places = {"recursive": lambda n: n - k - j, "cot": lambda n: 0, "semirecursive": lambda n: (n - j - k) // 2}
    rules = {
        "sum": lambda far, near: (far + near) % m,
        "table": lambda far, near: p["table"][(far + near) % m],
        "latin": lambda far, near: p["Q"][far % m][near % m],
    }
    while len(tokens) < case["length"]:
        n = len(tokens)
        first = (start or places[p["task"]])(n)
        far = sum(tokens[first : first + (far_count or j)])
        tokens.append((token or rules[p["rule"]])(far, sum(tokens[n - k :])))
    return tokens


def _int32_sum(p):
    def token(far, near):
        total = (far + near + 2**31) % 2**32 - 2**31
        return total % p["modulus"]

    return {"token": token}


POSGEN_BUGS = {
    "FixedDistance": lambda p: {"start": lambda n: n - p["k"] - p["j"] + 1},
    "FirstToken": lambda p: {"start": lambda n: n - p["k"] - p["j"]},
    "SlowPointer": lambda p: {"start": lambda n: max(n - (p["j"] + p["k"]) // 2 - p["j"], 0)},
    "FarTokens": lambda p: {"far_count": 1},
    "LargeModulus": _int32_sum,
    "TableRule": lambda p: {"token": lambda far, near: (far + near) % p["modulus"]},
    "LatinRule": lambda p: {"token": lambda far, near: p["Q"][near % p["modulus"]][far % p["modulus"]]},
}


@pytest.mark.parametrize("flag", POSGEN_BUGS)
def test_every_group_of_sequences_with_a_flag_catches_the_bug_that_it_names(flag):
    groups = [g for g in vectors.load("posgen")["groups"] if any(flag in case["flags"] for case in g["cases"])]
    assert groups
    missed = []
    for group in groups:
        p = group["parameters"]
        assert all(continued(p, case) == case["sequence"] for case in group["cases"])
        if all(continued(p, case, **POSGEN_BUGS[flag](p)) == case["sequence"] for case in group["cases"]):
            missed.append(group["id"])
    assert missed == []


def test_all_flags_are_planted_or_plain_to_see():
    """A flag without a planted bug says something about the setting that comparing numbers already tests."""
    planted = {*PARAMETER_BUGS, *POSITION_BUGS, *RAMP_BUGS, *ROTATION_BUGS, *POSGEN_BUGS, "Amplitude", "FactorOne"}
    planted |= {"Float32Angle", "WholePeriods", "RoundedBefore", "LongPeriod", "SharedPeriod"}
    plain = {"SmallHead", "SoftmaxFactor", "RampEndsCoincide", "StillPair", "ZeroPosition", "PrefixOnly"}
    everything = set().union(*(vectors.load(name)["flags"] for name in vectors.NAMES))
    assert everything == planted | plain
