"""Position maps, position biases and several axes against the vectors: other code, in 60-digit arithmetic."""

import numpy as np
import pytest

from refrope import kernels, rotary
from refrope.nn.backends import NumpyOps
from refrope.nn.biases import ALiBi
from refrope.nn.dape import DAPE
from refrope.nn.mapped import mapped_forward
from refrope.nn.mapped_oracle import mapped_reference
from refrope.vectors import methods
from refrope.vectors.methods import (
    ANGLES,
    AXES,
    BIASES,
    LOGITS,
    MAPS,
    NETWORKS,
    TABLES,
    VALUES,
    bias_values,
    bias_weights,
    causal_entries,
    half_layout,
    method,
    square,
)

ROTATIONS = [rotary.rotate, *([kernels.rotate] if kernels.available() else [])]
OPERATIONS = [NumpyOps, *([kernels] if kernels.available() else [])]
ONE_ULP = 2.0**-52


def groups(name, *variants):
    """Groups of a file, of which there must be some."""
    found = methods.groups(name, *variants)
    assert found
    return found


def scored(name, *variants):
    """(group, score, q, k) for every matrix of logits, of which there must be some."""
    found = [*methods.scores(name, *variants)]
    assert found
    return found


def test_every_method_has_logits_in_its_vectors():
    assert {g["parameters"]["variant"] for g, *_ in scored("maps")} == {*MAPS}
    assert {g["parameters"]["variant"] for g, *_ in scored("biases")} == {*BIASES} - {"sinusoidal"}
    assert {g["parameters"]["variant"] for g in groups("axes") if g["rotations"]} == {*AXES}
    shifts = [g["parameters"]["shift"] for g, *_ in scored("maps", "self-extend")]
    assert {*shifts} == {"floor", "fraction"}
    assert {g["parameters"]["overlap"] for g, *_ in scored("maps", "string")} == {False, True}
    assert {g["parameters"]["heads"] for g in groups("biases", "alibi")} == {2, 3, 8, 12}
    assert {g["parameters"]["kernel"] for g, *_ in scored("biases", "dape")} == {1, 3}


def test_an_unknown_method_is_told_the_nearest():
    with pytest.raises(ValueError, match=r"^method: unknown variant 're-rope'; did you mean 'rerope'"):
        method({"variant": "re-rope"})
    with pytest.raises(ValueError, match=r"^method: unknown variant 'kerpel'; did you mean 'kerple'"):
        method({"variant": "dape", "bias": {"variant": "kerpel", "heads": 3}})


# ---- maps ----


def test_effective_positions_are_equal():
    for group in groups("maps"):
        position_map = method(group["parameters"])
        for case in group["cases"]:
            found = position_map.effective(np.array(case["query"]), np.array(case["keys"]))
            assert np.allclose(found, case["effective"], rtol=VALUES, atol=0), case["id"]
            scale = float(position_map.query_scale(np.array([case["query"]]))[0])
            assert abs(scale - case["query_factor"]) <= VALUES * case["query_factor"], case["id"]
        for score in group["scores"]:
            places = np.arange(len(score["effective"]))
            found = position_map.effective(places[:, None], places)
            assert np.allclose(
                causal_entries(found), causal_entries(square(score["effective"])), rtol=VALUES, atol=0
            ), score["id"]


def test_logits_by_the_definition_of_a_map_are_within_their_bound():
    for group, score, q, k in scored("maps"):
        q, k = half_layout(q, score["layout"]), half_layout(k, score["layout"])
        logits, _ = mapped_reference(q, k, k, method(group["parameters"]), scale=score["scale"])
        error = np.abs(causal_entries(logits[0]) - causal_entries(square(score["logits"])))
        assert error.max() < LOGITS, group["id"]


@pytest.mark.parametrize("ops", OPERATIONS, ids=lambda ops: ops.__name__)
def test_the_passes_of_a_map_give_the_attention_of_these_logits(ops):
    for group, score, q, k in scored("maps"):
        v = np.random.default_rng(3).standard_normal(k.shape)
        passes = method(group["parameters"]).tables(q.shape[2], np.float64)
        q, k = half_layout(q, score["layout"]), half_layout(k, score["layout"])
        out, lse = mapped_forward(ops, q, k, v, passes, scale=score["scale"])
        exact = np.exp(square(score["logits"]))
        assert np.abs(lse[0] - np.log(exact.sum(axis=-1))).max() < LOGITS, group["id"]
        assert np.abs(out[0] - exact / exact.sum(axis=-1, keepdims=True) @ v[0]).max() < LOGITS, group["id"]


# ---- biases ----


def test_slopes_of_alibi_are_equal():
    for group in groups("biases", "alibi"):
        found = ALiBi().slopes(group["parameters"]["heads"])
        assert np.allclose(found, group["slopes"], rtol=VALUES, atol=0), group["id"]
        if np.log2(group["slopes"]).tolist() == np.rint(np.log2(group["slopes"])).tolist():
            assert found.tolist() == group["slopes"], group["id"]


def test_buckets_of_t5_are_equal():
    for group in groups("biases", "t5"):
        bias = method(group["parameters"])
        assert len(group["buckets"]) == 201
        assert bias.buckets(np.arange(201)).tolist() == group["buckets"], group["id"]


def test_values_of_a_bias_are_within_their_bound():
    for group in groups("biases", "alibi", "t5", "kerple", "fire", "dape"):
        bias = method(group["parameters"])
        for case in group["cases"]:
            queries = None if case["queries"] is None else np.array(case["queries"])
            found, exact = bias_values(bias, group, np.array(case["distances"]), queries), np.array(case["values"])
            bound = NETWORKS if group["parameters"]["variant"] == "fire" else VALUES * np.maximum(1, np.abs(exact))
            assert (np.abs(found - exact) <= bound).all(), case["id"]


def test_logits_with_a_bias_are_within_their_bound():
    for group, score, q, k in scored("biases"):
        bias = method(group["parameters"])
        places = np.arange(q.shape[2])
        values = bias_values(bias, group, places[:, None] - places, places[:, None])
        scores = score["scale"] * q @ k.transpose(0, 1, 3, 2)
        logits = scores + values
        if isinstance(bias, DAPE):
            mix = {name: weight for name, weight in bias_weights(group).items() if name.startswith("mix.")}
            logits += bias.mix_forward(mix, scores, values)[0]
        error = np.abs(causal_entries(logits[0]) - causal_entries(square(score["logits"])))
        assert error.max() < (NETWORKS if group["parameters"]["variant"] in ("fire", "dape") else LOGITS), group["id"]


def test_sinusoids_are_within_the_bound_of_tables():
    for group in groups("biases", "sinusoidal"):
        p = group["parameters"]
        for case in group["cases"]:
            row = method(p).table([case["position"]], p["d_model"])[0]
            assert np.abs(row - case["row"]).max() <= ANGLES * case["position"] + TABLES, case["id"]


# ---- axes ----


def test_axes_and_frequencies_are_equal_bit_for_bit():
    for group in groups("axes"):
        encoding = method(group["parameters"])
        assert encoding.axes.tolist() == group["axes"], group["id"]
        assert encoding.inv_freq.tolist() == group["inv_freq"], group["id"]
        assert abs(encoding.attention_factor - group["attention_factor"]) <= ONE_ULP * group["attention_factor"]


def test_tables_of_several_axes_are_within_their_bound():
    for group in groups("axes"):
        encoding = method(group["parameters"])
        for case in group["cases"]:
            angles = np.array(case["position"])[encoding.axes] * encoding.inv_freq
            bound = group["attention_factor"] * (ANGLES * angles + TABLES)
            for table, key in zip(encoding.cos_sin([case["position"]], np.float64), ("cos", "sin"), strict=True):
                assert (np.abs(table[0] - case[key]) <= bound).all(), case["id"]


@pytest.mark.parametrize("rotate", ROTATIONS, ids=lambda f: f.__module__)
def test_rotated_rows_of_several_axes_and_their_logits_are_within_their_bound(rotate):
    layouts = set()
    for group in groups("axes"):
        for rotation in group["rotations"]:
            cos, sin = method(group["parameters"]).cos_sin(rotation["positions"], np.float64)
            q, k = (rotate(np.array(rotation[x]), cos, sin, layout=rotation["layout"]) for x in ("q", "k"))
            assert np.abs(q - rotation["rotated_q"]).max() < LOGITS, rotation["id"]
            assert np.abs(k - rotation["rotated_k"]).max() < LOGITS, rotation["id"]
            assert np.abs(q @ k.T - rotation["logits"]).max() < LOGITS, rotation["id"]
            layouts.add(rotation["layout"])
    assert layouts == {"half", "interleaved"}


def test_axial_rotations_have_the_published_layout_and_first_id():
    for group in groups("axes", "axial-2d"):
        axial = method(group["parameters"])
        for rotation in group["rotations"]:
            assert rotation["layout"] == axial.layout, rotation["id"]
