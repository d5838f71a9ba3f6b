"""Position maps, position biases and several axes against the vectors: other code, in 60-digit arithmetic."""

import numpy as np
import pytest

from refrope import kernels, rotary, vectors
from refrope.encodings import Axial2D, MRoPE
from refrope.encodings.remap import STRING, DualChunk, LeakyReRoPE, ReRoPE, SelfExtend
from refrope.nn.absolute import Sinusoidal
from refrope.nn.backends import NumpyOps
from refrope.nn.biases import ALiBi, Kerple, T5Bias
from refrope.nn.dape import DAPE
from refrope.nn.fire import FIRE
from refrope.nn.mapped import mapped_forward, mapped_reference

ROTATIONS = [rotary.rotate, *([kernels.rotate] if kernels.available() else [])]
OPERATIONS = [NumpyOps, *([kernels] if kernels.available() else [])]

# Sums of 8 or 12 products, of size 1 to 3, and a few biases; angles of up to 40 radians carry 4 * 2^-53 of themselves.
LOGITS = 3e-14
# FIRE and DAPE: some 40 products of weights, whose sums stay below 10.
NETWORKS = 2e-14
# A few roundings of 2^-53 each: a logarithm, a power, one or two products.
VALUES = 1e-15
# cos and sin of an angle x are within 4 * 2^-53 |x| and their own 2^-50; then the amplitude's roundings.
ANGLES, TABLES = 4 * 2.0**-53, 2.0**-50 + 2.0**-51
ONE_ULP = 2.0**-52

MAPS = {"rerope": ReRoPE, "leaky-rerope": LeakyReRoPE, "self-extend": SelfExtend, "dual-chunk": DualChunk}
MAPS |= {"string": STRING}
BIASES = {"alibi": ALiBi, "t5": T5Bias, "kerple": Kerple, "fire": FIRE, "dape": DAPE, "sinusoidal": Sinusoidal}
AXES = {"mrope": MRoPE, "axial-2d": Axial2D}


def made(parameters, classes, *dropped):
    """Refrope's object for a group's parameters."""
    arguments = {key: value for key, value in parameters.items() if key not in ("variant", *dropped)}
    if "encoding" in arguments:
        arguments["encoding"] = vectors.encoding(arguments["encoding"])
    if "bias" in arguments:
        arguments["bias"] = made(arguments["bias"], classes, "heads")
    return classes[parameters["variant"]](**arguments)


def groups(name, *variants):
    """Groups of a file, of these variants alone if any are named."""
    found = [g for g in vectors.load(name)["groups"] if not variants or g["parameters"]["variant"] in variants]
    assert found
    return found


def scored(name, *variants):
    """(group, score, q, k) for every matrix of logits, q and k (1, H, T, D)."""
    whole = vectors.load(name)
    q, k = np.array(whole["q"]), np.array(whole["k"])
    found = [(g, score) for g in groups(name, *variants) for score in g["scores"]]
    assert found
    for group, score in found:
        heads = len(score["logits"])
        yield group, score, q[None, :heads], k[None, :heads]


def filled(triangles, nothing=-np.inf):
    """(..., T, T) from rows of m + 1 numbers."""
    if isinstance(triangles[0][0], list):
        return np.array([filled(triangle, nothing) for triangle in triangles])
    square = np.full((len(triangles), len(triangles)), nothing)
    for m, row in enumerate(triangles):
        square[m, : m + 1] = row
    return square


def triangle_of(logits):
    """The causal entries of (..., T, T), one after the other."""
    return logits[(..., *np.tril_indices(logits.shape[-1]))]


def test_every_method_has_logits_in_its_vectors():
    assert {g["parameters"]["variant"] for g, *_ in scored("maps")} == {*MAPS}
    assert {g["parameters"]["variant"] for g, *_ in scored("biases")} == {*BIASES} - {"sinusoidal"}
    assert {g["parameters"]["variant"] for g in groups("axes") if g["rotations"]} == {*AXES}
    shifts = [g["parameters"]["shift"] for g, *_ in scored("maps", "self-extend")]
    assert {*shifts} == {"floor", "fraction"}
    assert {g["parameters"]["overlap"] for g, *_ in scored("maps", "string")} == {False, True}
    assert {g["parameters"]["heads"] for g in groups("biases", "alibi")} == {2, 3, 8, 12}
    assert {g["parameters"]["kernel"] for g, *_ in scored("biases", "dape")} == {1, 3}


# ---- maps ----


def half_layout(x, layout):
    """Features as the half layout has them, so that `rotate` as it is turns the same pairs."""
    return x if layout == "half" else np.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)


def test_effective_positions_are_equal():
    for group in groups("maps"):
        position_map = made(group["parameters"], MAPS)
        for case in group["cases"]:
            found = position_map.effective(np.array(case["query"]), np.array(case["keys"]))
            assert np.allclose(found, case["effective"], rtol=VALUES, atol=0), case["id"]
            scale = float(position_map.query_scale(np.array([case["query"]]))[0])
            assert abs(scale - case["query_factor"]) <= VALUES * case["query_factor"], case["id"]
        for score in group["scores"]:
            places = np.arange(len(score["effective"]))
            found = position_map.effective(places[:, None], places)
            assert np.allclose(triangle_of(found), triangle_of(filled(score["effective"])), rtol=VALUES, atol=0), score[
                "id"
            ]


def test_logits_by_the_definition_of_a_map_are_within_their_bound():
    for group, score, q, k in scored("maps"):
        q, k = half_layout(q, score["layout"]), half_layout(k, score["layout"])
        logits, _ = mapped_reference(q, k, k, made(group["parameters"], MAPS), scale=score["scale"])
        error = np.abs(triangle_of(logits[0]) - triangle_of(filled(score["logits"])))
        assert error.max() < LOGITS, group["id"]


@pytest.mark.parametrize("ops", OPERATIONS, ids=lambda ops: ops.__name__)
def test_the_passes_of_a_map_give_the_attention_of_these_logits(ops):
    for group, score, q, k in scored("maps"):
        v = np.random.default_rng(3).standard_normal(k.shape)
        passes = made(group["parameters"], MAPS).tables(q.shape[2], np.float64)
        q, k = half_layout(q, score["layout"]), half_layout(k, score["layout"])
        out, lse = mapped_forward(ops, q, k, v, passes, scale=score["scale"])
        exact = np.exp(filled(score["logits"]))
        assert np.abs(lse[0] - np.log(exact.sum(axis=-1))).max() < LOGITS, group["id"]
        assert np.abs(out[0] - exact / exact.sum(axis=-1, keepdims=True) @ v[0]).max() < LOGITS, group["id"]


# ---- biases ----


def weights_of(group):
    return {name: np.array(values) for name, values in group["weights"].items()}


def values_of(bias, group, distances, queries=None):
    """Values of a bias; for DAPE those of the bias inside."""
    inside = bias.bias if isinstance(bias, DAPE) else bias
    own = {name: weight for name, weight in weights_of(group).items() if not name.startswith("mix.")}
    return inside.forward(own, group["parameters"]["heads"], np.array(distances), queries)


def test_slopes_of_alibi_are_equal():
    for group in groups("biases", "alibi"):
        found = ALiBi().slopes(group["parameters"]["heads"])
        assert np.allclose(found, group["slopes"], rtol=VALUES, atol=0), group["id"]
        if np.log2(group["slopes"]).tolist() == np.rint(np.log2(group["slopes"])).tolist():
            assert found.tolist() == group["slopes"], group["id"]


def test_buckets_of_t5_are_equal():
    for group in groups("biases", "t5"):
        bias = made(group["parameters"], BIASES, "heads")
        assert len(group["buckets"]) == 201
        assert bias.buckets(np.arange(201)).tolist() == group["buckets"], group["id"]


def test_values_of_a_bias_are_within_their_bound():
    for group in groups("biases", "alibi", "t5", "kerple", "fire", "dape"):
        bias = made(group["parameters"], BIASES, "heads")
        for case in group["cases"]:
            queries = None if case["queries"] is None else np.array(case["queries"])
            found, exact = values_of(bias, group, case["distances"], queries), np.array(case["values"])
            bound = NETWORKS if group["parameters"]["variant"] == "fire" else VALUES * np.maximum(1, np.abs(exact))
            assert (np.abs(found - exact) <= bound).all(), case["id"]


def test_logits_with_a_bias_are_within_their_bound():
    for group, score, q, k in scored("biases"):
        bias = made(group["parameters"], BIASES, "heads")
        places = np.arange(q.shape[2])
        values = values_of(bias, group, places[:, None] - places, places[:, None])
        scores = score["scale"] * q @ k.transpose(0, 1, 3, 2)
        logits = scores + values
        if isinstance(bias, DAPE):
            mix = {name: weight for name, weight in weights_of(group).items() if name.startswith("mix.")}
            logits += bias.mix_forward(mix, scores, values)[0]
        error = np.abs(triangle_of(logits[0]) - triangle_of(filled(score["logits"])))
        assert error.max() < (NETWORKS if group["parameters"]["variant"] in ("fire", "dape") else LOGITS), group["id"]


def test_sinusoids_are_within_the_bound_of_tables():
    for group in groups("biases", "sinusoidal"):
        p = group["parameters"]
        for case in group["cases"]:
            row = made(p, BIASES, "d_model").table([case["position"]], p["d_model"])[0]
            assert np.abs(row - case["row"]).max() <= ANGLES * case["position"] + TABLES, case["id"]


# ---- axes ----


def test_axes_and_frequencies_are_equal_bit_for_bit():
    for group in groups("axes"):
        encoding = made(group["parameters"], AXES)
        assert encoding.axes.tolist() == group["axes"], group["id"]
        assert encoding.inv_freq.tolist() == group["inv_freq"], group["id"]
        assert abs(encoding.attention_factor - group["attention_factor"]) <= ONE_ULP * group["attention_factor"]


def test_tables_of_several_axes_are_within_their_bound():
    for group in groups("axes"):
        encoding = made(group["parameters"], AXES)
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
            cos, sin = made(group["parameters"], AXES).cos_sin(rotation["positions"], np.float64)
            q, k = (rotate(np.array(rotation[x]), cos, sin, layout=rotation["layout"]) for x in ("q", "k"))
            assert np.abs(q - rotation["rotated_q"]).max() < LOGITS, rotation["id"]
            assert np.abs(k - rotation["rotated_k"]).max() < LOGITS, rotation["id"]
            assert np.abs(q @ k.T - rotation["logits"]).max() < LOGITS, rotation["id"]
            layouts.add(rotation["layout"])
    assert layouts == {"half", "interleaved"}


def test_axial_rotations_have_the_published_layout_and_first_id():
    for group in groups("axes", "axial-2d"):
        axial = made(group["parameters"], AXES)
        for rotation in group["rotations"]:
            assert rotation["layout"] == axial.layout, rotation["id"]
