"""Encodings in the place of a model's own, and the tables that it reads with."""

import json

import numpy as np
import pytest
from lm_standins import CONTEXT, transformer

from refrope import DynamicNTK, LinearPI, NTKAware, Resonance, RoPE, YaRN
from refrope.encodings.huggingface import HuggingFaceWarning
from refrope.lm.swapping import (
    float32_inv_freq,
    from_rope_parameters,
    rotation_source,
    split_names,
    swapped,
    with_softmax_factor,
)

OWN = RoPE(8, 500.0)
SIZES = {"head_dim": 8, "base": 500.0}


@pytest.mark.parametrize(
    ("name", "factor", "wanted"),
    [
        ("none", None, OWN),
        ("resonance", None, Resonance(OWN)),
        ("rope", None, OWN),
        ("linear", None, LinearPI(**SIZES, factor=4.0)),
        ("linear", 2.5, LinearPI(**SIZES, factor=2.5)),
        ("ntk", 2.0, NTKAware(**SIZES, factor=2.0)),
        ("dynamic-ntk", 2.0, DynamicNTK(**SIZES, factor=2.0, original_length=64, length=256)),
        ("yarn:ramp=turns,factor=8", 2.0, YaRN(**SIZES, factor=8.0, original_length=64, ramp="turns")),
        ("resonance-yarn", 2.0, Resonance(YaRN(**SIZES, factor=2.0, original_length=64))),
        ("dynamic-ntk:length=100", 2.0, DynamicNTK(**SIZES, factor=2.0, original_length=64, length=100)),
    ],
)
def test_a_name_is_the_encoding_with_the_models_sizes(name, factor, wanted):
    assert swapped(name, OWN, CONTEXT, 256, factor=factor) == wanted


def test_without_a_factor_a_text_within_the_context_is_not_scaled():
    assert swapped("linear", OWN, CONTEXT, 48) == LinearPI(**SIZES, factor=1.0)


def test_own_and_its_resonance_are_taken_in_their_form_for_the_length():
    own = DynamicNTK(**SIZES, factor=2.0, original_length=64)
    assert swapped("none", own, CONTEXT, 256) == own.for_length(256)
    assert swapped("resonance", own, CONTEXT, 256) == Resonance(own.for_length(256))


def test_names_in_a_list_keep_their_options():
    assert split_names("none, yarn:factor=4,ramp=turns,resonance-ntk,c.json:length=4") == [
        *("none", "yarn:factor=4,ramp=turns", "resonance-ntk", "c.json:length=4")
    ]


@pytest.mark.parametrize("text", ["", ",", "rope,rope"])
def test_a_list_without_names_or_with_one_twice_is_an_error(text):
    with pytest.raises(ValueError, match="expected at least one, each once"):
        split_names(text)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("yarm", "did you mean 'yarn'"),
        ("xpos", "xpos turns queries and keys differently"),
        ("resonance-xpos", "turns queries and keys differently"),
        ("rope:head_dim=16", "has head_dim 16, expected the model's 8"),
    ],
)
def test_encodings_that_do_not_fit_are_an_error(name, words):
    with pytest.raises(ValueError, match=words):
        swapped(name, OWN, CONTEXT, 64)


def test_a_factor_below_one_is_an_error():
    with pytest.raises(ValueError, match=r"factor is 0.5, expected a number >= 1"):
        swapped("linear", OWN, CONTEXT, 64, factor=0.5)


# ---- rope parameters ----


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        ({"rope_type": "linear", "factor": 3}, LinearPI(**SIZES, factor=3.0)),
        ({"type": "linear", "factor": 3}, LinearPI(**SIZES, factor=3.0)),
        ({"rope_theta": 77.0}, RoPE(8, 77.0)),
        (
            {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
            YaRN(**SIZES, factor=2.0, original_length=32),
        ),
    ],
)
def test_rope_parameters_take_the_models_sizes(parameters, wanted):
    config = {"head_dim": 99, "rope_scaling": {"rope_type": "linear", "factor": 9.0}, "rope_theta": 1e6}
    assert from_rope_parameters(json.dumps(parameters), OWN, CONTEXT, config) == wanted


def test_dynamic_parameters_scale_from_the_models_context():
    with pytest.warns(HuggingFaceWarning, match="longest row"):
        made = from_rope_parameters('{"rope_type": "dynamic", "factor": 2}', OWN, CONTEXT, {})
    assert made == DynamicNTK(**SIZES, factor=2.0, original_length=CONTEXT)


def test_the_share_of_features_that_turn_is_the_models():
    own = RoPE(8, 500.0, rotary_dim=6)
    with pytest.warns(HuggingFaceWarning):
        assert from_rope_parameters('{"rope_type": "default"}', own, CONTEXT, {}) == own


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "--rope is not JSON"), ("[1]", "expected a JSON object"), ('{"rope_type": "yern"}', "unknown rope_type")],
)
def test_rope_parameters_that_are_none_are_an_error(text, words):
    with pytest.raises(ValueError, match=words):
        from_rope_parameters(text, OWN, CONTEXT, {})


# ---- softmax factor ----


def test_the_softmax_factor_multiplies_the_scale_of_a_copy():
    for scale, wanted in ((None, 3 / np.sqrt(8)), (0.25, 0.75)):
        model = transformer(softmax_scale=scale)
        other = with_softmax_factor(model, 3.0)
        assert other.config.softmax_scale == pytest.approx(wanted)
        assert model.config.softmax_scale == scale
        assert other.flat_params is model.flat_params
        assert other.replicas(1) == [other]


def test_a_softmax_factor_scales_the_scores_as_larger_queries_would():
    tokens, tables = np.arange(7)[None], OWN.cos_sin(np.arange(7), np.float64)
    model = transformer(dtype=np.float64)
    before = model.forward(tokens, tables).copy()
    found = with_softmax_factor(model, 1.7).forward(tokens, tables).copy()
    assert np.array_equal(model.forward(tokens, tables), before)
    for i in range(model.config.layers):
        model.params[f"layers.{i}.attention.qkv"][:, :24] *= 1.7
    np.testing.assert_allclose(found, model.forward(tokens, tables), rtol=0, atol=1e-12)
    assert np.abs(found - before).max() > 1e-3


def test_a_softmax_factor_of_one_is_the_model_itself():
    model = transformer()
    assert with_softmax_factor(model, 1.0) is model


# ---- tables ----


def test_exact_tables_are_those_of_the_encoding():
    encoding = YaRN(**SIZES, factor=4.0, original_length=64)
    places = np.arange(3, 20)
    for mine, wanted in zip(
        rotation_source(encoding, np.float64)(places), encoding.cos_sin(places, np.float64), strict=True
    ):
        assert np.array_equal(mine, wanted)


def test_the_transformers_pipeline_is_float32_at_every_step():
    encoding = YaRN(head_dim=64, base=100_000.0, factor=4.0, original_length=8192)
    places = np.arange(100_000, 100_007)
    inv_freq = float32_inv_freq(encoding)
    assert inv_freq.dtype == np.float32
    angles = np.array([[np.float32(place) * f for f in inv_freq] for place in places])
    assert angles.dtype == np.float32
    cos, sin = rotation_source(encoding, np.float32, "transformers")(places)
    assert cos.dtype == sin.dtype == np.float32
    np.testing.assert_allclose(cos, encoding.attention_factor * np.cos(angles.astype(np.float64)), rtol=0, atol=3e-7)
    np.testing.assert_allclose(sin, encoding.attention_factor * np.sin(angles.astype(np.float64)), rtol=0, atol=3e-7)
    exact, _ = encoding.cos_sin(places, np.float32)
    assert np.abs(cos - exact).max() > 1e-4  # what float32 angles lose at such positions


@pytest.mark.parametrize(
    "encoding",
    [
        RoPE(64, 100_000.0),
        LinearPI(64, 100_000.0, factor=3.0),
        DynamicNTK(64, 100_000.0, factor=2.0, original_length=64).for_length(256),
        Resonance(RoPE(64, 100_000.0)),
    ],
    ids=lambda e: e.name,
)
def test_float32_frequencies_are_a_few_roundings_from_the_exact_ones(encoding):
    np.testing.assert_allclose(float32_inv_freq(encoding), encoding.inv_freq, rtol=4e-7)
    if isinstance(encoding, Resonance):
        assert np.array_equal(float32_inv_freq(encoding), encoding.inv_freq.astype(np.float32))


def test_tables_that_cannot_be_had_are_an_error():
    from refrope import FoPE

    with pytest.raises(ValueError, match="unknown pipeline 'transformer'; did you mean"):
        rotation_source(OWN, np.float32, "transformer")
    with pytest.raises(ValueError, match="expected pipeline 'exact'"):
        rotation_source(FoPE(8, 500.0, train_length=64), np.float32, "transformers")
