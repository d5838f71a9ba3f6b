"""Configurations of Hugging Face models: read as transformers 5.23 does, written back, warned of where engines part."""

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrope.encodings import (
    DynamicNTK,
    FoPE,
    LinearPI,
    Llama3,
    LongRoPE,
    NTKAware,
    NTKByParts,
    ProportionalRoPE,
    Resonance,
    RoPE,
    RotaryEncoding,
    XPos,
    YaRN,
)
from refrope.encodings.huggingface import HuggingFaceWarning, from_huggingface, huggingface_config, to_huggingface
from refrope.encodings.huggingface_fields import LARGEST_FILE

# transformers computes in float32: a quotient of powers, each off by some units of 2^-24, and in llama3 a difference.
FLOAT32 = 2.5e-6

TOP = {"hidden_size": 512, "num_attention_heads": 8, "max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 2048}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 4096,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1 + j / 32 for j in range(32)],
    "long_factor": [1.0 + j for j in range(32)], "original_max_position_embeddings": 2048,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
DYNAMIC = {**LINEAR, "rope_type": "dynamic"}
DEFAULT = {"rope_type": "default", "rope_theta": 1e4}


def read(rope, layer_type=None, **top):
    """The encoding, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoding = from_huggingface({**TOP, "rope_parameters": rope, **top}, layer_type)
    assert all(w.category is HuggingFaceWarning and w.filename == __file__ for w in caught)
    return encoding, [str(w.message) for w in caught]


# ---- the numbers ----


# Printed by ROPE_INIT_FUNCTIONS (for "default": GPT-NeoX's own function) of transformers 5.23.0 on torch's CPU backend,
# for a LlamaConfig of TOP and these rope_parameters, with seq_len where a length is given.
@pytest.mark.parametrize(
    ("rope", "length", "inv_freq", "attention_factor"),
    [
        (
            {**DEFAULT, "partial_rotary_factor": 0.5}, None,
            {1: 0.562341332, 4: 0.100000001, 8: 0.00999999978, 15: 0.00017782794}, 1.0,
        ),
        (
            {**LINEAR, "factor": 2.5}, None,
            {1: 0.299957693, 8: 0.0399999991, 16: 0.00399999972, 31: 5.33408602e-05}, 1.0,
        ),
        (
            {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25, "factor": 2.0}, None,
            {1: 0.324690819, 8: 0.0, 16: 0.0, 31: 0.0}, 1.0,
        ),
        (DYNAMIC, 20_000, {1: 0.705043435, 8: 0.0610558093, 16: 0.00372781185, 31: 1.97102472e-05}, 1.0),
        (
            {**YARN, "factor": 16.0, "original_max_position_embeddings": 512}, None,
            {1: 0.749894202, 8: 0.0639423057, 16: 0.000624999986, 31: 8.3345094e-06}, 1.2772588722239782,
        ),
        (
            {**YARN, "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.707, "mscale_all_dim": 0.5,
             "truncate": False}, None,
            {1: 0.749894202, 8: 0.100000001, 16: 0.00552406255, 31: 3.33380353e-06}, 1.064468903941252,
        ),
        (LLAMA3, None, {1: 0.663601279, 8: 0.0376060307, 16: 0.000176776681, 31: 3.7673226e-07}, 1.0),
        (LONGROPE, 4096, {1: 0.374947101, 8: 0.0111111114, 16: 0.000588235271, 31: 4.1672547e-06}, 1.087114613009218),
    ],
    ids=["default", "linear", "proportional", "dynamic", "yarn", "yarn-deepseek", "llama3", "longrope"],
)  # fmt: skip
def test_numbers_are_those_of_transformers(rope, length, inv_freq, attention_factor):
    encoding, _ = read(rope)
    if length is not None:
        encoding = encoding.for_length(length)
    for pair, value in inv_freq.items():
        assert math.isclose(encoding.inv_freq[pair], value, rel_tol=FLOAT32), pair
    assert math.isclose(encoding.attention_factor, attention_factor, rel_tol=1e-15)


@pytest.mark.parametrize(
    ("rope", "wanted"),
    [
        (DEFAULT, RoPE(64, 1e4)),
        (LINEAR, LinearPI(64, 1e4, factor=4.0)),
        (DYNAMIC, DynamicNTK(64, 1e4, factor=4.0, original_length=8192)),
        (YARN, YaRN(64, 1e4, factor=4.0, original_length=2048)),
        (LLAMA3, Llama3(64, 5e5, factor=8.0, original_length=4096)),
        (
            LONGROPE,
            LongRoPE(
                64, 1e4, short_factor=LONGROPE["short_factor"], long_factor=LONGROPE["long_factor"],
                original_length=2048, factor=4.0,
            ),
        ),
        (
            {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
            ProportionalRoPE(64, 1e6, proportion=0.25),
        ),
    ],
    ids=lambda value: value["rope_type"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_old_and_new_forms_mean_the_same(rope, wanted):
    new, _ = read(rope)
    assert new == wanted
    old = {key: value for key, value in rope.items() if key not in ("rope_type", "rope_theta")}
    old["type"] = rope["rope_type"]
    assert read(None, rope_scaling=old, rope_theta=rope["rope_theta"])[0] == wanted
    assert read(None, rope_scaling=rope)[0] == wanted
    nested = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 77.0}}
    assert read(nested, "full_attention")[0] == wanted
    assert read(nested, "sliding_attention")[0] == RoPE(64, 77.0)


@pytest.mark.parametrize("scaling", [None, {}])
def test_no_scaling_is_plain_rope(scaling):
    assert read(None, rope_scaling=scaling, rope_theta=5e5) == (RoPE(64, 5e5), [])
    assert from_huggingface({"head_dim": 64}) == RoPE(64)
    assert from_huggingface({"hidden_size": 96, "num_attention_heads": 3, "head_dim": None}) == RoPE(32)
    assert from_huggingface({"hidden_size": 96, "num_attention_heads": 3, "head_dim": 64}) == RoPE(64)


def test_rope_scaling_counts_where_both_are_given():
    assert read(YARN, rope_scaling=LINEAR)[0] == read(LINEAR)[0]


def test_su_is_longrope():
    assert read({**LONGROPE, "rope_type": "su"}) == read(LONGROPE)


@pytest.mark.parametrize("where", ["inside", "above"])
def test_a_share_of_the_head_turns_wherever_the_share_is_written(where):
    share = {"partial_rotary_factor": 0.4}
    inside, above = (share, {}) if where == "inside" else ({}, share)
    encoding, said = read({**YARN, **inside}, head_dim=80, **above)
    assert encoding == YaRN(80, 1e4, factor=4.0, original_length=2048, rotary_dim=32)
    assert said == []
    encoding, said = read({**DEFAULT, **inside}, head_dim=80, **above)
    assert encoding == RoPE(80, 1e4, rotary_dim=32)
    assert len(said) == 1
    assert "Llama among them, ignore it" in said[0]


def test_the_share_is_cut_off_as_python_does():
    assert read({**LINEAR, "partial_rotary_factor": 0.29}, head_dim=100)[0].rotary_dim == 28  # 100 * 0.29 < 29
    assert read({**LINEAR, "partial_rotary_factor": 1.0})[0].rotary_dim is None


def test_a_share_that_leaves_nothing_turns_nothing():
    encoding, said = read({**LINEAR, "partial_rotary_factor": 0.0})
    assert (encoding.inv_freq == 0).all()
    assert said == ["partial_rotary_factor = 0.0 leaves no feature that turns"]


def test_older_names_of_fields_are_known():
    neox = {"model_type": "gpt_neox", "hidden_size": 512, "num_attention_heads": 8, "rotary_emb_base": 5000}
    assert from_huggingface({**neox, "rotary_pct": 0.5}) == RoPE(64, 5000, rotary_dim=32)
    assert from_huggingface(neox) == RoPE(64, 5000, rotary_dim=16)  # GPT-NeoX turns a quarter where nothing is said
    assert from_huggingface({"n_embd": 512, "n_head": 8, "rotary_dim": 32}) == RoPE(64, rotary_dim=32)


def test_deepseek_turns_its_rope_heads_and_scales_the_softmax():
    deepseek = {
        "hidden_size": 7168, "num_attention_heads": 128, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "max_position_embeddings": 163840, "rope_theta": 10000,
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32,
                         "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
    }  # fmt: skip
    encoding = from_huggingface(deepseek)
    assert encoding.head_dim == 64
    assert from_huggingface({**deepseek, "head_dim": 192}) == encoding
    assert encoding.attention_factor == 1.0
    assert math.isclose(encoding.softmax_factor, (0.1 * math.log(40) + 1) ** 2)


def test_a_share_of_deepseeks_whole_head_is_its_rope_heads():
    config = {"head_dim": 128, "qk_rope_head_dim": 64, "rope_parameters": {**YARN, "partial_rotary_factor": 0.5}}
    assert from_huggingface(config).turned == 64


def test_two_bases_of_older_gemma_are_two_layer_types():
    gemma = {"head_dim": 64, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {**LINEAR}}
    del gemma["rope_scaling"]["rope_theta"]
    assert from_huggingface(gemma, "full_attention") == LinearPI(64, 1e6, factor=4.0)
    assert from_huggingface(gemma, "sliding_attention") == RoPE(64, 1e4)
    modern = {"head_dim": 64, "global_rope_theta": 160000.0, "local_rope_theta": 1e4}
    assert from_huggingface(modern, "full_attention") == RoPE(64, 160000.0)
    assert from_huggingface(modern, "sliding_attention") == RoPE(64, 1e4)


def test_a_wider_head_of_one_layer_type_is_found():
    rope = {"full_attention": {**DEFAULT, "rope_type": "proportional"}, "sliding_attention": DEFAULT}
    layers = {"layer_types": ["sliding_attention", "full_attention"]}
    for wide in ({"global_head_dim": 128}, {"per_layer_config": {"1": {"head_dim": 128}}}):
        assert read(rope, "full_attention", head_dim=64, **layers, **wide)[0].head_dim == 128
        assert read(rope, "sliding_attention", head_dim=64, **layers, **wide)[0].head_dim == 64


def test_the_text_part_of_a_larger_model_counts():
    assert from_huggingface({"text_config": {"head_dim": 32, "rope_theta": 77.0}}) == RoPE(32, 77.0)
    assert from_huggingface({"head_dim": 64, "text_config": {"head_dim": 32}}) == RoPE(64)


def test_hunyuans_alpha_is_an_ntk_aware_stretch():
    encoding, said = read({**DYNAMIC, "alpha": 1000.0}, model_type="hunyuan_v1_dense")
    assert encoding == NTKAware(64, 1e4, factor=1000.0)
    assert "alpha = 1000.0" in said[0]
    encoding, said = read({**DYNAMIC, "alpha": 1000.0}, model_type="llama")
    assert isinstance(encoding, DynamicNTK)
    assert "ignored by rope_type 'dynamic': alpha" in said


def test_yarn_without_a_factor_takes_the_ratio_of_lengths():
    assert read({**YARN, "factor": None}) == (YaRN(64, 1e4, factor=4.0, original_length=2048), [])


def test_yarns_zero_betas_are_its_defaults():
    encoding, said = read({**YARN, "beta_fast": 0, "beta_slow": 0})
    assert (encoding.beta_fast, encoding.beta_slow) == (32.0, 1.0)
    assert len(said) == 2


def test_llama3_with_crossed_factors_is_a_step():
    crossed, said = read({**LLAMA3, "low_freq_factor": 4.0, "high_freq_factor": 1.0})
    assert np.array_equal(crossed.inv_freq, read({**LLAMA3, "low_freq_factor": 4.0})[0].inv_freq)
    assert set(crossed.stretch) == {1.0, 8.0}
    assert "high_freq_factor = 1.0 is not above low_freq_factor = 4.0" in said[0]


# ---- layer types ----


def test_layer_types_that_agree_need_no_choice():
    rope = {"full_attention": YARN, "sliding_attention": {**YARN, "beta_fast": 32}}
    assert read(rope) == read(YARN)


@pytest.mark.parametrize("second", [DEFAULT, {**YARN, "factor": 2.0}, None])
def test_layer_types_that_differ_must_be_chosen_from(second):
    with pytest.raises(ValueError, match="choose a layer_type of 'full_attention', 'sliding_attention'"):
        read({"full_attention": YARN, "sliding_attention": second})


def test_an_unknown_layer_type_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown layer_type 'global'; this configuration has 'full_attention', 'x'"):
        read({"full_attention": YARN, "x": DEFAULT}, "global")


def test_a_layer_type_without_rotation_is_an_error():
    with pytest.raises(ValueError, match="layer type 'x' are null: these layers do not rotate"):
        read({"full_attention": YARN, "x": None}, "x")


def test_flat_parameters_hold_for_every_layer_type():
    assert read(YARN, "full_attention") == read(YARN)


def test_a_nested_truncate_is_ignored_as_in_transformers():
    inner = {**YARN, "truncate": False}
    encoding, said = read({"full_attention": inner})
    assert encoding.truncate
    assert len(said) == 1
    assert "truncate = False is ignored" in said[0]
    encoding, said = read({"full_attention": YARN, "truncate": False})
    assert not encoding.truncate
    assert not read(inner)[0].truncate
    assert not read({**YARN, "truncate": None})[0].truncate  # null is not the default there


# ---- what is warned of ----


@pytest.mark.parametrize(
    ("rope", "top", "words"),
    [
        (DYNAMIC, {}, "vLLM computes one table for factor * max_position_embeddings"),
        (LONGROPE, {}, "vLLM once by the length that its engine is set to"),
        ({**DEFAULT, "mrope_section": [8, 12, 12]}, {}, "mrope: only tokens whose position ids are equal"),
        ({**DEFAULT, "rope_type": "mrope"}, {}, "mrope: only tokens whose position ids are equal"),
        ({**YARN, "mscale": 0.707}, {}, "mscale without mscale_all_dim does not change"),
        ({**YARN, "mscale": 0.707, "mscale_all_dim": 0.0}, {}, "mscale without mscale_all_dim does not change"),
        ({**YARN, "mscale_all_dim": 0.7}, {"qk_rope_head_dim": 64}, "mscale_all_dim without mscale does not change"),
        ({**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}, {}, "mscale_all_dim = 1.0 also multiplies the softmax scale"),
        ({**YARN, "attn_factor": 2.0}, {}, "attn_factor = 2.0 is ignored, as in transformers 5.23"),
        ({**YARN, "extrapolation_factor": 0.5}, {}, "extrapolation_factor = 0.5 is ignored"),
        ({**YARN, "attention_factor": 1}, {}, "attention_factor = 1.0 replaces 0.1 ln"),
        ({**YARN, "truncate": False}, {}, "truncate is false"),
        ({**YARN, "beta_fast": 2, "beta_slow": 2}, {}, "beta_fast equals beta_slow = 2.0"),
        ({**YARN, "beta_fast": 0}, {}, "beta_fast is 0: transformers 5.23 takes its default 32.0"),
        ({**YARN, "factor": 8.0}, {}, "factor = 8.0 counts, though max_position_embeddings"),
        ({**LONGROPE, "long_factor": LONGROPE["short_factor"], "factor": 8.0}, {}, "factor = 8.0 counts, though"),
        (
            {**LLAMA3, "original_max_position_embeddings": 16384}, {},
            "original_max_position_embeddings = 16384 is more than max_position_embeddings = 8192",
        ),
        (
            {**YARN, "original_max_position_embeddings": None}, {},
            "original_max_position_embeddings is missing: max_position_embeddings = 8192 is taken for it",
        ),
        (
            YARN, {"original_max_position_embeddings": 4096, "max_position_embeddings": 16384},
            "original_max_position_embeddings = 2048 in the rope parameters is ignored: the top level says 4096",
        ),
        (YARN, {"rope_theta": 5e5}, "rope_theta = 500000.0 at the top level is ignored: the rope parameters say 10"),
        (
            {**YARN, "partial_rotary_factor": 0.5}, {"partial_rotary_factor": 0.25},
            "partial_rotary_factor = 0.25 at the top level is ignored: the rope parameters say 0.5",
        ),
        (YARN, {"rope_scaling": DEFAULT}, "rope_parameters is ignored: rope_scaling is given too"),
        ({**DEFAULT, "factor": 4.0, "beta_fast": 3}, {}, "ignored by rope_type 'default': beta_fast, factor"),
        ({**LINEAR, "finetuned": True}, {}, "ignored by rope_type 'linear': finetuned"),
        ({**LINEAR, "type": "dynamic"}, {}, "type = 'dynamic' is ignored: rope_type says 'linear'"),
        ({"rope_type": "default"}, {"model_type": "llama"}, "rope_theta is missing: 10000 is taken"),
        (DEFAULT, {"hidden_size": 520, "num_attention_heads": 64}, "hidden_size = 520 is not a multiple"),
        ({"full_attention": YARN, "factor": 3.0}, {}, "factor: ignored next to rope parameters that are nested"),
        ({**LONGROPE, "rope_type": "yarn", "long_factor": LONGROPE["short_factor"]}, {"model_type": "phi3"},
         "rope_type 'yarn' is read as 'longrope'"),
    ],
)  # fmt: skip
def test_one_sentence_says_where_a_configuration_is_read_differently(rope, top, words):
    _, said = read(rope, **top)
    assert len(said) == 1, said
    assert words in said[0]


@pytest.mark.parametrize("rope", [DEFAULT, LINEAR, YARN, LLAMA3, {**DEFAULT, "rope_type": "proportional"}])
def test_nothing_is_said_of_a_configuration_that_all_read_alike(rope):
    assert read(rope)[1] == []


def test_the_same_sentence_is_said_once():
    assert len(read({"a": DYNAMIC, "b": DYNAMIC})[1]) == 1


# ---- what makes little sense and can be computed ----


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        *(({**rope, "factor": 0.5}, "factor is 0.5, below 1") for rope in (LINEAR, DYNAMIC, YARN, LLAMA3)),
        ({**DEFAULT, "rope_type": "proportional", "factor": 0.5}, "factor is 0.5, below 1"),
        ({**DYNAMIC, "alpha": 0.5}, "alpha is 0.5, below 1"),
        (
            {**YARN, "factor": None, "original_max_position_embeddings": 16384},
            "max_position_embeddings / original_max_position_embeddings is 0.5, below 1",
        ),
        ({**YARN, "beta_fast": 1, "beta_slow": 2}, "beta_fast = 1.0 is below beta_slow = 2.0: the ramp is reversed"),
    ],
)
def test_odd_settings_are_computed_as_in_transformers_with_a_warning(rope, words):
    encoding, said = read(rope, **({"model_type": "hunyuan_v1_dense"} if "alpha" in rope else {}))
    assert any(words in sentence for sentence in said), said
    assert encoding.for_length(9000).inv_freq.shape == (32,)  # also the copy that for_length makes
    plain = 1e4 ** (-np.arange(32) / 32)
    if rope["rope_type"] in ("linear", "proportional"):
        assert np.allclose(encoding.inv_freq, plain / 0.5, rtol=1e-12)
    if rope["rope_type"] == "yarn":
        assert np.allclose(encoding.inv_freq, slow_yarn(rope, plain), rtol=1e-9)
        assert encoding.attention_factor == (1.0 if rope["factor"] != 4.0 else 0.1 * math.log(4.0) + 1.0)


def slow_yarn(rope, plain):
    """The formula of transformers 5.23 in plain floats, whatever the order of its ends."""
    factor, length = rope["factor"] or 0.5, rope["original_max_position_embeddings"]
    ends = [64 * math.log(length / (rope.get(name, usual) * 2 * math.pi)) / (2 * math.log(1e4))
            for name, usual in (("beta_fast", 32), ("beta_slow", 1))]  # fmt: skip
    low, high = max(math.floor(ends[0]), 0), min(math.ceil(ends[1]), 63)
    keep = 1 - np.clip((np.arange(32) - low) / (high - low), 0, 1)
    return plain / factor * (1 - keep) + plain * keep


# ---- what cannot be computed ----


@pytest.mark.parametrize(
    ("rope", "top", "words"),
    [
        ({**DEFAULT, "rope_type": "yran"}, {}, "unknown rope_type 'yran'; did you mean 'yarn'?"),
        ({**DEFAULT, "rope_type": "alibi"}, {}, "unknown rope_type 'alibi'"),
        ({**DEFAULT, "rope_type": 3}, {}, "rope_type is 3, expected a string"),
        ({**DEFAULT, "rope_type": "axial"}, {}, "rope_type 'axial' is not one encoding"),
        ({"rope_type": "linear"}, {}, "factor is missing, but rope_type 'linear' needs it"),
        ({"rope_type": "dynamic"}, {}, "factor is missing, but rope_type 'dynamic' needs it"),
        ({"rope_type": "yarn"}, {}, "factor is missing, but rope_type 'yarn' needs it"),
        ({**LINEAR, "factor": None}, {}, "factor is None, expected a finite number"),
        ({**LINEAR, "factor": "4"}, {}, "factor is '4', expected a finite number"),
        ({**LINEAR, "factor": math.nan}, {}, "factor is nan, expected a finite number"),
        ({**LINEAR, "factor": math.inf}, {}, "factor is inf, expected a finite number"),
        ({**LINEAR, "factor": 10**400}, {}, "factor is an integer too large"),
        ({**LINEAR, "factor": 0}, {}, "factor is 0"),
        *(({**rope, "factor": -0.5}, {}, "^from_huggingface: factor is -0.5, expected a number > 0")
          for rope in (LINEAR, DYNAMIC, YARN, LLAMA3, {**DEFAULT, "rope_type": "proportional"})),
        ({**DEFAULT, "rope_type": "proportional", "partial_rotary_factor": 1.5}, {},
         "^from_huggingface: partial_rotary_factor is 1.5, expected a number in"),
        ({**DEFAULT, "rope_theta": "10000"}, {}, "rope_theta is '10000'"),
        ({**DEFAULT, "rope_theta": 0}, {}, "rope_theta is 0.0"),
        (DYNAMIC, {"max_position_embeddings": None}, "max_position_embeddings is missing, but rope_type 'dynamic'"),
        ({**YARN, "original_max_position_embeddings": None}, {"max_position_embeddings": None},
         "max_position_embeddings is missing, but original_max_position_embeddings, which rope_type 'yarn' needs"),
        ({**YARN, "factor": None}, {"max_position_embeddings": None}, "max_position_embeddings is missing, but factor"),
        ({**YARN, "original_max_position_embeddings": "2048"}, {}, "original_max_position_embeddings is '2048'"),
        ({**YARN, "original_max_position_embeddings": 0}, {}, "original_max_position_embeddings is 0"),
        ({key: LLAMA3[key] for key in LLAMA3 if key != "low_freq_factor"}, {}, "low_freq_factor is missing"),
        ({key: LONGROPE[key] for key in LONGROPE if key != "long_factor"}, {}, "long_factor is missing"),
        ({**LONGROPE, "short_factor": [1.0] * 31}, {}, "short_factor has 31 numbers, expected 32"),
        ({**LONGROPE, "short_factor": 1.0}, {}, "short_factor is 1.0, expected a list"),
        ({**LONGROPE, "long_factor": ["1"] * 32}, {}, r"long_factor\[0\] is '1'"),
        ({**LONGROPE, "partial_rotary_factor": 0.0}, {}, "short_factor has 32 numbers, expected 0"),
        ({**LONGROPE, "short_mscale": 1.0, "long_mscale": 1.2}, {"model_type": "phimoe"}, "short_mscale is 1.0"),
        (DEFAULT, {"hidden_size": None}, "head_dim is missing"),
        (DEFAULT, {"head_dim": 63}, "head_dim is 63, expected an even number"),
        (DEFAULT, {"head_dim": "64"}, "head_dim is '64'"),
        (DEFAULT, {"head_dim": 2**63}, "head_dim is 9223372036854775808"),
        ({**DEFAULT, "partial_rotary_factor": 1.5}, {}, "partial_rotary_factor is 1.5: 96 of 64 features would turn"),
        ({**DEFAULT, "partial_rotary_factor": 0.25}, {"head_dim": 100}, "25 of 100 features would turn, expected"),
        ([1], {}, r"rope_parameters is \[1\], expected an object or null"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_named_with_its_value(rope, top, words):
    with pytest.raises(ValueError, match=words) as caught:
        read(rope, **top)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_file_means_what_its_object_means(tmp_path, kind):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**TOP, "rope_parameters": YARN, "time_step_limit": [0.0, math.inf]}))
    assert "Infinity" in path.read_text()
    assert from_huggingface(kind(path)) == read(YARN)[0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not JSON"),
        (b"{'head_dim': 64}", "is not JSON"),
        (b'{"head_dim": 64', "is not JSON"),
        (b'{"head_dim": "\xff"}', "is not JSON"),
        (b'{"head_dim": 6' + b"4" * 5000 + b"}", "config.json is not JSON|head_dim is"),
        (b"[64]", "holds a list, expected a JSON object"),
        (b"64", "holds a int, expected a JSON object"),
        (b'{"head_dim": NaN}', "head_dim is nan"),
        (b'{"head_dim": 64, "x": ' + b"[" * 70 + b"]" * 70 + b"}", "nested more than 64 levels deep"),
        (b'{"x":' * 200_000 + b"1" + b"}" * 200_000, "nested more than 64 levels deep"),
        (b'{"head_dim": 64}' + b" " * LARGEST_FILE, "has more than 10000000 bytes"),
    ],
    ids=["empty", "quotes", "cut", "bytes", "digits", "list", "number", "nan", "deep", "deeper", "huge"],
)
def test_a_file_that_is_not_a_configuration_is_refused(tmp_path, data, words):
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=words):
        from_huggingface(path)


def test_other_things_than_dicts_and_paths_are_refused(tmp_path):
    with pytest.raises(ValueError, match="config is a list"):
        from_huggingface([1])
    with pytest.raises(ValueError, match="config is the text of a JSON object"):
        from_huggingface('{"head_dim": 64}')
    with pytest.raises(FileNotFoundError):
        from_huggingface(tmp_path / "config.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**5) | st.floats() | st.sampled_from(["yarn", "linear", "x"]),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(["rope_type", "x"]), inside),
    max_leaves=4,
)
rope_types = ["default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional", "mrope", "axial"]


@given(
    st.sampled_from([DEFAULT, LINEAR, DYNAMIC, YARN, LLAMA3, LONGROPE]),
    st.dictionaries(
        st.sampled_from(sorted({*YARN, *LLAMA3, *LONGROPE, "type", "mscale", "mscale_all_dim", "attention_factor"})),
        json_values | st.sampled_from(rope_types),
        max_size=3,
    ),
    st.dictionaries(st.sampled_from([*TOP, "head_dim", "rope_scaling", "rope_theta", "layer_types"]), json_values),
)
def test_any_configuration_is_read_or_refused_with_a_value_error(rope, changes, top):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HuggingFaceWarning)
        try:
            outcome = from_huggingface({**TOP, "rope_parameters": {**rope, **changes}, **top})
        except ValueError as error:
            outcome = str(error)
    assert isinstance(outcome, RotaryEncoding) or "from_huggingface: " in outcome or "expected " in outcome


# ---- there and back ----

bases = st.sampled_from([1e4, 5e5, 1e6]) | st.floats(1.5, 1e9)
factors = st.sampled_from([1.0, 4.0, 257 / 65]) | st.floats(1.0, 64.0)
lengths = st.integers(2, 2**20)
amounts = st.none() | st.floats(0.5, 2.0)


@st.composite
def sayable(draw):
    """Any encoding that rope parameters can say, whole or partial."""
    pairs = draw(st.integers(2, 40))
    rotary_dim = draw(st.none() | st.integers(2, pairs - 1).map(lambda p: 2 * p)) if pairs > 2 else None
    common = {"head_dim": 2 * pairs, "base": draw(bases), "rotary_dim": rotary_dim}
    scaled = {**common, "factor": draw(factors)}
    original = {"original_length": draw(lengths)}
    kind = draw(st.sampled_from([RoPE, LinearPI, DynamicNTK, YaRN, LongRoPE, Llama3, ProportionalRoPE]))
    if kind is RoPE:
        return RoPE(**common)
    if kind is LinearPI:
        return LinearPI(**scaled)
    if kind is ProportionalRoPE:
        return ProportionalRoPE(2 * pairs, common["base"], factor=scaled["factor"], proportion=draw(st.floats(0, 1)))
    if kind is DynamicNTK:
        return DynamicNTK(**scaled, **original)
    if kind is Llama3:
        low = draw(st.floats(0.25, 8.0))
        return Llama3(**scaled, **original, low_freq_factor=low, high_freq_factor=low * draw(st.floats(1.0, 8.0)))
    if kind is LongRoPE:
        turned = rotary_dim or 2 * pairs
        numbers = st.lists(st.floats(0.5, 64.0), min_size=turned // 2, max_size=turned // 2)
        lists = {"short_factor": draw(numbers), "long_factor": draw(numbers)}
        return LongRoPE(**scaled, **original, **lists, attention_factor=draw(amounts))
    slow = draw(st.floats(0.25, 4.0))
    betas = {"beta_slow": slow, "beta_fast": slow * draw(st.floats(1.0, 64.0))}
    scales = {name: draw(amounts) for name in ("mscale", "mscale_all_dim", "attention_factor")}
    return YaRN(**scaled, **original, **betas, **scales, truncate=draw(st.booleans()))


@given(sayable())
def test_what_is_written_is_read_back(encoding):
    written = huggingface_config(encoding)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HuggingFaceWarning)
        assert from_huggingface(written) == encoding
        assert from_huggingface(json.loads(json.dumps(written))) == encoding
        old = {"head_dim": written["head_dim"], "max_position_embeddings": written.get("max_position_embeddings")}
        again = from_huggingface({**old, "rope_scaling": to_huggingface(encoding)})
    assert again == encoding
    assert np.array_equal(again.inv_freq, encoding.inv_freq)


@given(sayable(), st.integers(1, 2**20))
def test_a_longest_length_changes_nothing_or_is_refused(encoding, longest):
    if isinstance(encoding, DynamicNTK) and longest != encoding.original_length:
        with pytest.raises(ValueError, match="expected the original length"):
            huggingface_config(encoding, max_position_embeddings=longest)
        return
    written = huggingface_config(encoding, max_position_embeddings=longest)
    assert written["max_position_embeddings"] == longest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HuggingFaceWarning)
        assert from_huggingface(written) == encoding


def test_every_share_of_every_head_is_written_so_that_it_is_read():
    for head_dim in range(4, 514, 2):
        for rotary_dim in range(2, head_dim, 2):
            share = to_huggingface(RoPE(head_dim, rotary_dim=rotary_dim))["partial_rotary_factor"]
            assert int(head_dim * share) == rotary_dim


def test_numpy_numbers_are_written_as_plain_ones():
    encoding = YaRN(np.int64(64), np.float32(1e4), np.float64(4), np.int32(2048), rotary_dim=np.int16(32))
    assert json.loads(json.dumps(huggingface_config(encoding))) == huggingface_config(encoding)


def test_rotating_the_whole_head_explicitly_is_the_same_as_by_default():
    assert from_huggingface(huggingface_config(RoPE(64, rotary_dim=64))) == RoPE(64)


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        (Resonance(RoPE(64)), "no rope_type rounds wavelengths"),
        (XPos(64), "no rope_type scales queries and keys"),
        (FoPE(64), "no place for learnt coefficients"),
        (NTKAware(64), "no rope_type stretches so at every length"),
        (NTKByParts(64), "no rope_type has its two ramps"),
        (YaRN(64, ramp="turns"), "ramp of YaRN is 'turns': rope_type 'yarn' means 'index'"),
        (YaRN(64, blend="wavelength"), "blend of YaRN is 'wavelength'"),
        (YaRN(64, dialect="official-posgen"), "target_ramp of YaRN is True"),
        (DynamicNTK(64, dialect="vllm"), "dialect of DynamicNTK is 'vllm'"),
        (DynamicNTK(64).for_length(9), "length of DynamicNTK is 9"),
        (ProportionalRoPE(64, rotary_dim=32), "rotary_dim of ProportionalRoPE is 32"),
        ("RoPE", "encoding is 'RoPE'"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_rope_parameters_cannot_say_is_refused_by_name(encoding, words):
    with pytest.raises(ValueError, match=words):
        to_huggingface(encoding)
    if encoding != "RoPE":
        with pytest.raises(ValueError, match=words):
            huggingface_config(encoding)


PROPORTIONAL = {"rope_type": "proportional", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "factor": 4.0}
SHORTENING = math.nextafter(1, 0)


@pytest.mark.parametrize("field", ["factor", "alpha"])
@pytest.mark.parametrize("rope", [LINEAR, DYNAMIC, YARN, LLAMA3, PROPORTIONAL], ids=lambda rope: rope["rope_type"])
def test_only_a_factor_below_1_asks_for_lenience(rope, field):
    if field == "alpha" and rope is not DYNAMIC:
        pytest.skip("alpha is a field of rope_type 'dynamic'")
    for value, lenient in ((SHORTENING, True), (1.0, False), (4.0, False)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            encoding = from_huggingface({**TOP, "rope_parameters": {**rope, field: value}})
        assert encoding.lenient is lenient
        below = [str(w.message) for w in caught if "below 1: it shortens the context" in str(w.message)]
        assert below == ([f"{field} is {value!r}, below 1: it shortens the context instead of stretching it"] * lenient)


def test_only_a_reversed_ramp_asks_for_lenience():
    for fast, lenient, words in (
        (SHORTENING, True, "is below beta_slow = 1.0: the ramp is reversed"),
        (1.0, False, "beta_fast equals beta_slow = 1.0: the ramp has no width but that of rounding"),
        (2.0, False, None),
    ):
        encoding, said = read({**YARN, "beta_fast": fast, "beta_slow": 1.0})
        assert encoding.lenient is lenient
        assert [note for note in said if "the ramp" in note] == [note for note in said if words and words in note]
        assert len([note for note in said if "the ramp" in note]) == (words is not None)


def test_shares_of_the_features_count_from_none_to_all():
    for share, turned in ((0.0, 0), (0.5, 32), (1.0, 64)):
        encoding, _ = read({**LINEAR, "partial_rotary_factor": share})
        assert (encoding.inv_freq > 0).sum() * 2 == turned
    for share in (-0.25, 1.25, 0.05):  # -16, 80 and 3 of 64 features
        with pytest.raises(ValueError, match=f"partial_rotary_factor is {share}: .* of 64 features would turn"):
            read({**LINEAR, "partial_rotary_factor": share})
    for share in (0.0, 1.0):
        assert read({**PROPORTIONAL, "partial_rotary_factor": share})[0].proportion == share
    for share in (-5e-324, math.nextafter(1, 2)):
        with pytest.raises(ValueError, match=r"partial_rotary_factor is .*, expected a number in \[0, 1\]"):
            read({**PROPORTIONAL, "partial_rotary_factor": share})


def test_a_layer_type_that_is_chosen_or_named_finds_its_wider_head():
    wide = {"head_dim": 64, "global_head_dim": 128}
    assert read(DEFAULT, "full_attention", **wide)[0].head_dim == 128  # flat parameters, of every layer
    assert read(DEFAULT, "sliding_attention", **wide)[0].head_dim == 64
    assert read(DEFAULT, **wide)[0].head_dim == 64
    assert read({"full_attention": DEFAULT}, **wide)[0].head_dim == 128
    with pytest.raises(ValueError, match="layers differ; choose a layer_type of 'full_attention', 'sliding_attention'"):
        read({"full_attention": DEFAULT, "sliding_attention": DEFAULT}, **wide)


def test_the_longest_sequence_has_a_token():
    assert huggingface_config(RoPE(8), max_position_embeddings=1)["max_position_embeddings"] == 1
    with pytest.raises(ValueError, match="max_position_embeddings is 0, expected an integer >= 1"):
        huggingface_config(RoPE(8), max_position_embeddings=0)


def test_a_number_that_no_float_can_hold_is_named():
    with pytest.raises(ValueError, match="factor is an integer too large for a float, expected a finite number"):
        read({**LINEAR, "factor": 10**400})


def test_a_lone_amplitude_of_phi_moe_is_missed():
    phi = {**LONGROPE, "short_mscale": 1.25, "long_mscale": 1.25}
    assert read(phi, model_type="phimoe")[0].attention_factor == 1.25
    with pytest.raises(ValueError, match=r"short_mscale is 1\.25, expected long_mscale = 1\.5: one amplitude for both"):
        read({**phi, "long_mscale": 1.5}, model_type="phimoe")
    del phi["long_mscale"]
    with pytest.raises(ValueError, match="long_mscale is missing, but rope_type 'longrope' needs it"):
        read(phi, model_type="phimoe")


def test_the_factor_that_other_engines_take_is_named():
    words = (
        "factor = 8.0 counts, though max_position_embeddings / original_max_position_embeddings is 4.0, "
        "which some engines take instead"
    )
    assert words in read({**YARN, "factor": 8.0})[1]
    for rope, top in ((YARN, {}), ({**YARN, "factor": 8.0}, {"max_position_embeddings": 2048})):
        assert not any("some engines take instead" in note for note in read(rope, **top)[1])


QUARTERS = ("gpt_neox", "qwen3_5", "qwen3_5_moe", "qwen3_next", "stablelm")
HALVES = ("bamba", "glm", "glm4", "glm4_moe", "nemotron", "persimmon", "phi", "recurrent_gemma")


@pytest.mark.parametrize(
    ("model_type", "turned"),
    [*((name, 16) for name in QUARTERS), *((name, 32) for name in HALVES), ("llama", None), (None, None), (7, None)],
)
def test_some_models_turn_a_share_of_the_features_without_saying_so(model_type, turned):
    assert read(DEFAULT, model_type=model_type)[0] == RoPE(64, rotary_dim=turned)
    assert read({**DEFAULT, "partial_rotary_factor": 0.75}, model_type=model_type)[0] == RoPE(64, rotary_dim=48)


def test_layers_of_a_type_that_no_layer_has_may_be_null():
    rope = {"full_attention": DEFAULT, "x": None}
    assert read(rope, layer_types=["full_attention"])[0] == RoPE(64)
    with pytest.raises(ValueError, match="layers differ; choose a layer_type of 'full_attention', 'x'"):
        read(rope, layer_types=["x"])
    with pytest.raises(ValueError, match="layers differ; choose a layer_type of 'full_attention', 'x'"):
        read(rope)


@pytest.mark.parametrize("head_dim", [4, 6, 64, 98, 100, 128, 230, 256])
def test_the_share_of_features_is_the_quotient_or_the_float_above_it(head_dim):
    for turned in range(2, head_dim, 2):
        share = to_huggingface(RoPE(head_dim, rotary_dim=turned))["partial_rotary_factor"]
        assert int(head_dim * share) == turned
        assert share == turned / head_dim or int(turned / head_dim * head_dim) < turned
        assert turned / head_dim <= share <= math.nextafter(turned / head_dim, 1)


def test_an_attention_factor_is_worth_a_word_where_it_is_not_the_usual_one():
    usual = 0.1 * math.log(4) + 1
    shortened = {**YARN, "factor": 0.5}
    assert not any("replaces" in note for note in read({**shortened, "attention_factor": 1.0})[1])
    assert any("replaces" in note for note in read({**shortened, "attention_factor": 0.1 * math.log(0.5) + 1})[1])
    for value, words in ((usual, 0), (usual * (1 + 1e-7), 0), (usual * (1 + 1e-5), 1), (1.0, 1)):
        said = read({**YARN, "attention_factor": value})[1]
        assert len([note for note in said if "replaces 0.1 ln(factor) + 1" in note]) == words


def test_leftovers_beside_hunyuans_alpha_are_not_worth_a_word():
    leftovers = {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
    rope = {**DYNAMIC, "alpha": 1000.0, **leftovers}
    encoding, said = read(rope, model_type="hunyuan_v1_dense")
    assert encoding == NTKAware(64, factor=1000.0)
    assert len(said) == 1
    assert "ignored by rope_type 'dynamic': x" in read({**rope, "x": 1}, model_type="hunyuan_v1_dense")[1]
