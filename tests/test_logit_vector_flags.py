"""The flags of maps, biases and several axes: each names a bug, which every record with the flag catches."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from test_logit_vectors import scored

from refrope import vectors
from refrope.encodings import Axial2D, MRoPE
from refrope.nn.mapped_oracle import mapped_reference
from refrope.vectors.methods import bias_values, bias_weights, causal_entries, method, square

# What counts as seen: far above every bound of the numbers, which are near 1e-14.
SEEN = 1e-6
# ln(m) for ln(m + 1), at the largest query; the factors are right to 1e-15.
LATE = 1e-8


def flagged(name, flag, part="groups"):
    """(group, record) of all records of one file that carry a flag."""
    groups = vectors.load(name)["groups"]
    found = [
        (g, record) for g in groups for record in ([g] if part == "groups" else g[part]) if flag in record["flags"]
    ]
    assert found
    return found


def differs(found, exact):
    """Whether an entry is clearly off, NaN included."""
    return not bool((np.abs(np.array(found, dtype=float) - np.array(exact, dtype=float)) <= SEEN).all())


# ---- maps ----


def effective(p, m, n, *, closed=False, shift=None, by_distance=False, clamp=True, far_chunk=True, whole=False):
    """A map's position by the formula, with room for the bugs."""
    d = m - n
    if p["variant"] == "rerope":
        return min(d, p["window"])
    if p["variant"] == "leaky-rerope":
        w, far = p["window"], (d - p["window"]) / p["slowdown"]
        return d if d < w else w + (int(far) if whole else far)
    if p["variant"] == "string":
        near = d <= p["shift"] if closed else d < p["shift"]
        return d if near else d - p["shift"] + p["window"]
    if p["variant"] == "self-extend":
        w, g = p["window"], p["group"]
        if d <= w if closed else d < w:
            return d
        moved = w / g if (shift or p["shift"]) == "fraction" and not whole else w // g
        return (d // g if by_distance else m // g - n // g) + w - moved
    c = p["chunk"] - p["local"]
    if m // c == n // c:
        return m % c - n % c
    if m // c == n // c + 1 or not far_chunk:
        return (min(m % c + c, p["chunk"]) if clamp else m % c + c) - n % c
    return min(2 * c - 1, p["chunk"]) - n % c


def positions_differ(p, record, **bug):
    """Whether the effective positions of a case or of scores catch a bug; without one they must agree."""
    if "keys" in record:
        pairs, exact = [(record["query"], n) for n in record["keys"]], record["effective"]
    else:
        rows = record["effective"]
        pairs = [(m, n) for m in range(len(rows)) for n in range(m + 1)]
        exact = [f for row in rows for f in row]
    assert not differs([effective(p, m, n) for m, n in pairs], exact)
    return differs([effective(p, m, n, **bug) for m, n in pairs], exact)


MAP_BUGS = {
    "WindowEdge": {"closed": True},
    "BetweenTokens": {"whole": True},
    "GroupBoundary": {"by_distance": True},
    "ChunkClamp": {"clamp": False},
    "FarChunk": {"far_chunk": False},
}


@pytest.mark.parametrize("flag", MAP_BUGS)
@pytest.mark.parametrize("part", ["cases", "scores"])
def test_every_record_of_a_map_with_a_flag_catches_its_bug(flag, part):
    for group, record in flagged("maps", flag, part):
        assert positions_differ(group["parameters"], record, **MAP_BUGS[flag]), record["id"]


@pytest.mark.parametrize(("flag", "other"), [("FloorShift", "fraction"), ("FractionShift", "floor")])
def test_the_other_shift_of_self_extend_is_caught(flag, other):
    for group, _ in flagged("maps", flag):
        records = [*group["cases"], *group["scores"]]
        assert any(positions_differ(group["parameters"], record, shift=other) for record in records), group["id"]


def map_logits(group, score, change):
    """Logits of a group whose map is changed, and those of the vectors."""
    [(q, k)] = [(q, k) for g, _, q, k in scored("maps") if g["id"] == group["id"]]
    position_map = change(method(group["parameters"]))
    found = mapped_reference(q, k, k, position_map, scale=score["scale"])[0][0]
    return causal_entries(found), causal_entries(square(score["logits"]))


DISTANCES = np.array([m - n for m in range(12) for n in range(m + 1)])


def test_a_factor_of_queries_that_is_left_out_squared_below_one_or_late_is_caught():
    for group, _ in flagged("maps", "LogLength"):
        length = group["parameters"]["log_length"]
        for case in group["cases"]:
            m, factor = case["query"], case["query_factor"]
            unbounded = math.log(m + 1) / math.log(length)
            wrong = [1.0, factor**2] if unbounded > 1 else [unbounded]
            assert all(differs(w, factor) for w in wrong), case["id"]
            assert abs(math.log(m) / math.log(length) - factor) > LATE, case["id"]
        for score in group["scores"]:
            _, exact = map_logits(group, score, lambda position_map: position_map)
            plain, _ = map_logits(group, score, lambda position_map: replace(position_map, log_length=None))
            rows = np.concatenate([np.full(m + 1, math.log(m + 1) / math.log(length)) for m in range(12)])
            assert differs(plain, exact)
            assert differs(plain * rows, exact)
            assert not differs(plain * np.maximum(rows, 1), exact)


def test_a_missing_amplitude_of_the_encoding_inside_is_caught():
    for group, _ in flagged("maps", "MapAmplitude"):
        [score] = group["scores"]
        plain = group["parameters"]["encoding"] | {"attention_factor": 1.0}
        found, exact = map_logits(group, score, lambda m, e=plain: replace(m, encoding=vectors.encoding(e)))
        assert differs(found, exact)
        factor = vectors.encoding(group["parameters"]["encoding"]).attention_factor
        assert not differs(found * factor**2, exact)
        assert differs(found * factor, exact)


def test_a_pair_that_is_not_counted_twice_is_caught():
    for group, score in flagged("maps", "CountedTwice", "scores"):
        found, exact = map_logits(group, score, lambda position_map: replace(position_map, overlap=False))
        assert differs(found, exact)
        moved = (np.abs(found - exact) > SEEN).any(axis=0)
        assert {*DISTANCES[moved].tolist()} == {group["parameters"]["shift"]}


# ---- biases ----


def even_slopes(p, group):
    heads = p["heads"]
    return [2 ** (-8 * h / heads) for h in range(1, heads + 1)], group["slopes"]


def two_sided_buckets(p, group):
    half = p["num_buckets"] // 2
    return method(p | {"num_buckets": half}).buckets(np.arange(201)), group["buckets"]


def float32_buckets(p, group):
    exact, one = p["num_buckets"] // 2, np.float32
    buckets = [*range(exact)]
    for n in range(exact, 201):
        share = one(math.log(one(n) / one(exact))) / one(math.log(p["max_distance"] / exact))
        buckets.append(min(exact + math.floor(share * one(p["num_buckets"] - exact)), p["num_buckets"] - 1))
    wrong = np.flatnonzero(np.array(buckets) != group["buckets"])
    assert wrong.tolist() == [42]
    return buckets, group["buckets"]


def unbounded_kerple(p, group):
    [case] = group["cases"]
    weights, d = bias_weights(group), np.array(case["distances"])
    scale, a = weights["p"][:, None], weights["a"][:, None]
    return (-scale * np.log1p(a * d) if p["form"] == "log" else -a * d**scale), case["values"]


def fire_values(group, *, c=abs, reach=np.maximum):
    """FIRE by the formula, with room for the bugs."""
    p, [case], w = group["parameters"], group["cases"], bias_weights(group)
    m, d, own = np.array(case["queries"], float), np.array(case["distances"]), c(w["c"][0])
    with np.errstate(invalid="ignore", divide="ignore"):
        furthest = reach(m, abs(w["multiplier"][0] * p["threshold"]))
        x = np.log(own * d + 1) / (np.log(own * furthest + 1) + 1e-6)
    hidden = np.maximum(w["in.weight"][:, None] * x + w["in.bias"][:, None], 0)
    return w["out.weight"] @ hidden + w["out.bias"][:, None], case["values"]


GROUP_BUGS: dict[str, Callable] = {
    "UnevenHeads": even_slopes,
    "OneDistanceBuckets": two_sided_buckets,
    "ExactBucketEdge": float32_buckets,
    "OutOfBounds": unbounded_kerple,
    "NegativeC": lambda p, group: fire_values(group, c=lambda c: c),
}


@pytest.mark.parametrize("flag", GROUP_BUGS)
def test_every_group_of_a_bias_with_a_flag_catches_its_bug(flag):
    for group, _ in flagged("biases", flag):
        assert differs(*GROUP_BUGS[flag](group["parameters"], group)), group["id"]


@pytest.mark.parametrize(
    ("flag", "reach"), [("BelowThreshold", lambda m, least: m), ("BeyondThreshold", lambda m, least: least + 0 * m)]
)
def test_another_divisor_of_fire_is_caught(flag, reach):
    for group, _ in flagged("biases", flag, "cases"):
        assert not differs(*fire_values(group))
        assert differs(*fire_values(group, reach=reach)), group["id"]


def bias_logits(group, *, scale=None, unmasked=False, **changes):
    """Logits of a group whose bias is changed, and those of the vectors."""
    [(score, q, k)] = [(s, q, k) for g, s, q, k in scored("biases") if g["id"] == group["id"]]
    bias = replace(method(group["parameters"]), **changes)
    places = np.arange(q.shape[2])
    values = bias_values(bias, group, places[:, None] - places, places[:, None])
    scores = (scale or score["scale"]) * q @ k.transpose(0, 1, 3, 2)
    logits = scores + values
    if group["parameters"]["variant"] == "dape":
        mix = {name: weight for name, weight in bias_weights(group).items() if name.startswith("mix.")}
        extra = unmasked_network(mix, scores[0], values) if unmasked else bias.mix_forward(mix, scores, values)[0]
        logits = logits + extra
    return causal_entries(logits[0]), causal_entries(square(score["logits"]))


def unmasked_network(mix, scores, values):
    """DAPE's convolutions over scores of all pairs, masked ones too."""

    def convolved(weight, bias, layer):
        half = weight.shape[2] // 2
        padded = np.pad(layer, ((0, 0), (0, 0), (half, half)))
        taps = [padded[..., t : t + layer.shape[2]] for t in range(weight.shape[2])]
        return np.einsum("oct,tcmn->omn", weight, np.array(taps)) + bias[:, None, None]

    hidden = convolved(mix["mix.in.weight"], mix["mix.in.bias"], np.concatenate([scores, values]))
    return convolved(mix["mix.out.weight"], mix["mix.out.bias"], np.where(hidden > 0, hidden, 0.01 * hidden))[None]


BIAS_BUGS = {
    "LeakyHidden": {"negative_slope": 0.0},
    "MaskedNeighbours": {"unmasked": True},
    "HiddenEdge": {"edge": "open"},
    "UnscaledScores": {"scale": 8**-0.5},
}


@pytest.mark.parametrize("flag", BIAS_BUGS)
def test_every_matrix_of_logits_with_a_flag_catches_its_bug(flag):
    for group, _ in flagged("biases", flag, "scores" if flag == "UnscaledScores" else "groups"):
        assert not differs(*bias_logits(group))
        assert differs(*bias_logits(group, **BIAS_BUGS[flag])), group["id"]


# ---- axes ----


def tables_differ(group, encoding, moved=lambda ids: ids, cases=None):
    """Whether the tables of a group's cases catch another encoding, or other ids."""
    found = [encoding.cos_sin([moved(case["position"])], np.float64) for case in cases or group["cases"]]
    exact = [[[case[key]] for key in ("cos", "sin")] for case in cases or group["cases"]]
    return differs(found, exact)


def other_leftover(p):
    ours = method(p)
    if p["leftover"] == "t":
        # A fourth id that is 0 for all: what is left out is not turned.
        fourth = replace(ours, leftover="fourth")
        return fourth, lambda ids: [*ids, 0]
    return replace(ours, leftover="t"), lambda ids: ids[:3]


AXES_BUGS: dict[str, Callable] = {
    "DealtAxes": lambda p: (MRoPE(vectors.encoding(p["encoding"]), tuple(p["sections"])), lambda ids: ids[:3]),
    "LeftoverToTime": other_leftover,
    "LeftoverToFourth": other_leftover,
    "SharedFrequencies": lambda p: (Axial2D(p["head_dim"], p["base"], "evenodd"), lambda ids: ids),
    "EvenOddFrequencies": lambda p: (Axial2D(p["head_dim"], p["base"], "shared"), lambda ids: ids),
    "ColumnsFirst": lambda p: (Axial2D(p["head_dim"], p["base"], "shared"), lambda ids: ids),
}


@pytest.mark.parametrize("flag", AXES_BUGS)
def test_every_group_of_several_axes_with_a_flag_catches_its_bug(flag):
    for group, _ in flagged("axes", flag):
        assert not tables_differ(group, method(group["parameters"]))
        assert tables_differ(group, *AXES_BUGS[flag](group["parameters"])), group["id"]


def test_frequencies_that_start_again_with_each_axis_are_caught():
    for group, _ in flagged("axes", "ChunkedAxes"):
        first = [group["axes"].index(axis) for axis in group["axes"]]
        restarted = [group["inv_freq"][pair - start] for pair, start in enumerate(first)]
        assert differs(restarted, group["inv_freq"]), group["id"]
        dealt = [pair % len({*group["axes"]}) for pair in range(len(group["axes"]))]
        assert dealt != group["axes"], group["id"]


def test_swapped_ids_are_caught_where_they_differ_and_pass_where_they_are_equal():
    for flag, caught in (("UnequalIds", True), ("EqualIds", False)):
        for group, case in flagged("axes", flag, "cases"):
            encoding = method(group["parameters"])
            assert tables_differ(group, encoding, lambda ids: ids[::-1], [case]) is caught, case["id"]


def test_equal_ids_are_the_encoding_inside():
    for group, case in flagged("axes", "EqualIds", "cases"):
        if group["parameters"]["variant"] == "mrope":
            inside = vectors.encoding(group["parameters"]["encoding"])
            for table, key in zip(inside.cos_sin(case["position"][:1], np.float64), ("cos", "sin"), strict=True):
                assert not differs(table[0], case[key]), case["id"]


LAYOUTS = {"HalfLayout", "InterleavedLayout"}  # planted in test_vector_flags.py, on rotations of the same form


def test_all_flags_of_these_files_are_planted():
    planted = {*MAP_BUGS, *GROUP_BUGS, *BIAS_BUGS, *AXES_BUGS, *LAYOUTS, "FloorShift", "FractionShift", "LogLength"}
    planted |= {"MapAmplitude", "CountedTwice", "BelowThreshold", "BeyondThreshold", "ChunkedAxes"}
    planted |= {"UnequalIds", "EqualIds"}
    assert set().union(*(vectors.load(name)["flags"] for name in vectors.LOGITS)) == planted
