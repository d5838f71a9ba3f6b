"""Resonance of some pairs, and its name on the command line."""

import numpy as np
import pytest
from lm_standins import CONTEXT

from refrope import DynamicNTK, FoPE, Resonance, RoPE, XPos, YaRN
from refrope.lm.figures import label_of, styles_of
from refrope.lm.rounded_pairs import RoundedPairs
from refrope.lm.swapping import float32_inv_freq, rotation_source, swapped

OWN = RoPE(14, 500.0)  # seven pairs
PLACES = np.array([0, 1, 63, 131071, 2**40])
SOME = (1, 4, 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_columns_are_those_of_resonance_or_of_the_encoding_bit_for_bit(dtype):
    mixed = RoundedPairs(OWN, SOME)
    for found, own, rounded in zip(
        mixed.cos_sin(PLACES, dtype), OWN.cos_sin(PLACES, dtype), Resonance(OWN).cos_sin(PLACES, dtype), strict=True
    ):
        assert found.dtype == dtype
        for pair in range(7):
            wanted, other = (rounded, own) if pair in SOME else (own, rounded)
            assert np.array_equal(found[:, pair], wanted[:, pair])
            assert not np.array_equal(found[:, pair], other[:, pair])


def test_no_pair_is_the_encoding_and_all_pairs_are_its_resonance():
    for rounded, wanted in (((), OWN), (range(7), Resonance(OWN))):
        mixed = RoundedPairs(OWN, rounded)
        assert np.array_equal(mixed.cos_sin(PLACES), wanted.cos_sin(PLACES))
        for name in ("wavelengths", "inv_freq", "stretch"):
            assert np.array_equal(getattr(mixed, name), getattr(wanted, name))
        assert np.array_equal(mixed.turns(PLACES), wanted.turns(PLACES))


def test_wavelengths_of_rounded_pairs_alone_are_whole():
    yarn = YaRN(14, 500.0, factor=4.0, original_length=64)
    mixed = RoundedPairs(yarn, SOME)
    whole = mixed.wavelengths == np.round(mixed.wavelengths)
    assert np.flatnonzero(whole).tolist() == list(SOME)
    assert np.allclose(mixed.inv_freq * mixed.wavelengths, 2 * np.pi, rtol=1e-15)
    assert np.allclose(mixed.stretch, mixed.wavelengths / OWN.wavelengths, rtol=1e-15)
    assert (mixed.attention_factor, mixed.softmax_factor) == (yarn.attention_factor, yarn.softmax_factor)
    assert mixed.attention_factor > 1


def test_order_and_repeats_of_the_pairs_do_not_count():
    assert RoundedPairs(OWN, [5, 1, 4, 1]) == RoundedPairs(OWN, SOME)
    assert RoundedPairs(OWN, SOME) != RoundedPairs(OWN, SOME[1:])


def test_it_is_taken_in_its_form_for_the_length():
    dynamic = DynamicNTK(14, 500.0, factor=2.0, original_length=64)
    assert RoundedPairs(dynamic, SOME).for_length(256) == RoundedPairs(dynamic.for_length(256), SOME)
    assert RoundedPairs(dynamic, SOME).for_length(256).wavelengths[-1] > dynamic.wavelengths[-1]


@pytest.mark.parametrize(
    ("encoding", "rounded", "words"),
    [
        ("rope", (), "encoding is 'rope', expected a RotaryEncoding"),
        (OWN, (7,), r"rounded is 7, expected an integer in \[0, 6\]"),
        (OWN, (-1,), "rounded is -1"),
        (XPos(14), (1,), "depend on more than the phase"),
        (Resonance(FoPE(14, train_length=64)), (1,), "depend on more than the phase"),
    ],
)
def test_what_cannot_be_rounded_is_an_error(encoding, rounded, words):
    with pytest.raises(ValueError, match=words):
        RoundedPairs(encoding, rounded)


def test_positions_between_tokens_are_an_error():
    with pytest.raises(ValueError, match="expected int64 values"):
        RoundedPairs(OWN, SOME).cos_sin(np.array([0.5]))


def test_the_transformers_pipeline_mixes_its_own_frequencies():
    mixed = RoundedPairs(OWN, SOME)
    own, rounded = float32_inv_freq(OWN), float32_inv_freq(Resonance(OWN))
    found = float32_inv_freq(mixed)
    assert found.dtype == np.float32
    assert [bool(x) for x in found == rounded] == [pair in SOME for pair in range(7)]
    assert [bool(x) for x in found == own] == [pair not in SOME for pair in range(7)]
    cos, _ = rotation_source(mixed, np.float32, "transformers")(PLACES[:4])
    assert np.array_equal(cos, np.cos(PLACES[:4].astype(np.float32)[:, None] * found))
    assert RoundedPairs(Resonance(OWN), SOME).innermost is OWN


# ---- its name ----


def test_a_name_rounds_from_a_pair_on():
    assert swapped("resonance:from_pair=3", OWN, CONTEXT, 131) == RoundedPairs(OWN, (3, 4, 5, 6))
    assert swapped("resonance:from-pair = 6", OWN, CONTEXT, 131) == RoundedPairs(OWN, (6,))
    assert swapped("resonance:from_pair=0", OWN, CONTEXT, 131) == Resonance(OWN)
    dynamic = DynamicNTK(14, 500.0, factor=2.0, original_length=64)
    assert swapped("resonance:from_pair=3", dynamic, CONTEXT, 256) == RoundedPairs(dynamic.for_length(256), range(3, 7))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resonance:from_pair=7", "from_pair is 7, expected one of the model's pairs, 0 to 6"),
        ("resonance:from_pair=-1", "from_pair of resonance is '-1', expected a whole number >= 0"),
        ("resonance:from_pair", "from_pair of resonance is '', expected a whole number >= 0"),
        ("resonance:from=3", "unknown option of resonance 'from'; did you mean 'from_pair'"),
    ],
)
def test_a_name_with_a_bad_option_is_an_error(name, words):
    with pytest.raises(ValueError, match=words):
        swapped(name, OWN, CONTEXT, 131)


def test_figures_tell_it_from_the_resonance_of_all_pairs():
    name = "resonance:from_pair=3"
    assert label_of(name) == "Resonance of own, pairs >= 3"
    styles = styles_of(["none", "resonance", name])
    assert styles[name]["color"] not in (styles["none"]["color"], styles["resonance"]["color"])
    assert styles[name]["linestyle"] == styles["resonance"]["linestyle"] == "-"
