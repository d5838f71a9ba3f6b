"""Every number of an encoding is the float64 nearest to its formula."""

import math
from decimal import localcontext

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import bases, encodings, head_dims, resonances, ropes, scaled, yarns

from refrope import Resonance, RoPE, YaRN

# The decimals are rounded once: half a unit in the last place, of a float64 whose mantissa may be as small as 1.
NEAREST = mpmath.mpf(2) ** -53


def relative_error(value, exact):
    return abs(mpmath.mpf(float(value)) - exact) / abs(exact)


def mp_plain(encoding):
    b, d = mpmath.mpf(encoding.base), encoding.turned
    return [b ** (mpmath.mpf(-2 * j) / d) for j in range(encoding.pairs)]


def mp_yarn(yarn):
    """YaRN in 60 digits, written from the papers, not from refrope."""
    length, s = mpmath.mpf(yarn.original_length), mpmath.mpf(yarn.factor)
    ramp_length = mpmath.nint(length * s) if yarn.target_ramp else length
    fast, slow, d = mpmath.mpf(yarn.beta_fast), mpmath.mpf(yarn.beta_slow), yarn.turned

    def pair_with(turns):
        return d * mpmath.log(ramp_length / (turns * 2 * mpmath.pi)) / (2 * mpmath.log(yarn.base))

    low, high = pair_with(fast), pair_with(slow)
    if yarn.truncate:
        low, high = mpmath.floor(low), mpmath.ceil(high)
    low, high = max(low, mpmath.mpf(0)), min(high, mpmath.mpf(d - 1))
    if low == high:
        high += mpmath.mpf("0.001")
    frequencies = []
    for j, theta in enumerate(mp_plain(yarn)):
        turns = length * theta / (2 * mpmath.pi)
        if yarn.ramp == "index":
            keep = 1 - (j - low) / (high - low)
        elif fast > slow:
            keep = (turns - slow) / (fast - slow)
        else:
            keep = mpmath.mpf(turns > slow)
        keep = min(max(keep, mpmath.mpf(0)), mpmath.mpf(1))
        if yarn.blend == "frequency":
            frequencies.append((1 - keep) * theta / s + keep * theta)
        else:
            wavelength = 2 * mpmath.pi / theta
            frequencies.append(2 * mpmath.pi / ((1 - keep) * s * wavelength + keep * wavelength))
    return frequencies


@given(ropes)
def test_rope_is_the_nearest_float_to_the_formula(rope):
    with mpmath.workdps(60):
        for value, exact in zip(rope.inv_freq, mp_plain(rope), strict=True):
            assert relative_error(value, exact) <= NEAREST
        for value, exact in zip(rope.wavelengths, mp_plain(rope), strict=True):
            assert relative_error(value, 2 * mpmath.pi / exact) <= NEAREST


@given(yarns())
def test_yarn_is_the_nearest_float_to_the_papers_formula(yarn):
    with mpmath.workdps(60):
        exact = mp_yarn(yarn)
        for j, value in enumerate(yarn.inv_freq):
            assert relative_error(value, exact[j]) <= NEAREST
        for j, value in enumerate(yarn.stretch):
            assert relative_error(value, mp_plain(yarn)[j] / exact[j]) <= NEAREST


@given(encodings)
def test_inv_freq_is_base_power_over_stretch(encoding):
    plain = encoding.base ** (-np.arange(encoding.pairs) / encoding.pairs)
    assert np.allclose(encoding.inv_freq, plain / encoding.stretch, rtol=1e-13, atol=0)
    assert np.allclose(encoding.inv_freq * encoding.wavelengths, 2 * np.pi, rtol=1e-15, atol=0)


@given(yarns(factors=st.just(1.0)))
def test_factor_one_is_plain_rope(yarn):
    plain = RoPE(yarn.head_dim, yarn.base)
    assert np.array_equal(yarn.inv_freq, plain.inv_freq)
    assert yarn.attention_factor == 1.0
    for mine, theirs in zip(yarn.cos_sin(np.arange(99)), plain.cos_sin(np.arange(99)), strict=True):
        assert np.array_equal(mine, theirs)


@given(yarns())
def test_yarn_keeps_fast_pairs_and_interpolates_slow_ones(yarn):
    assert (yarn.stretch >= 1).all()
    assert (yarn.stretch <= yarn.factor).all()
    if yarn.ramp == "turns":
        turns = yarn.original_length / RoPE(yarn.head_dim, yarn.base).wavelengths
        assert (yarn.stretch[turns > yarn.beta_fast * (1 + 1e-12)] == 1).all()
        assert (yarn.stretch[turns < yarn.beta_slow * (1 - 1e-12)] == yarn.factor).all()
    assert (np.diff(yarn.stretch) >= 0).all() or yarn.original_length < 2 * np.pi * yarn.beta_fast


def test_yarns_four_forms_differ_only_within_the_ramp():
    forms = {
        (ramp, blend): YaRN(128, 1e4, 16.0, 4096, ramp=ramp, blend=blend).inv_freq
        for ramp in ("index", "turns")
        for blend in ("frequency", "wavelength")
    }
    index, turns = forms["index", "frequency"], forms["turns", "frequency"]
    assert 0.60 < np.max(np.abs(turns - index) / index) < 0.70  # the published ramps part by two thirds at pair 38
    assert np.argmax(np.abs(turns - index) / index) == 38
    first, last = forms["turns", "frequency"], forms["turns", "wavelength"]
    inside = first != last
    assert inside.any()
    assert (last[inside] < first[inside]).all()  # the harmonic mean of frequencies is the smaller


def test_llama2_yarn_has_the_ramp_of_its_code():
    yarn = YaRN(128, 1e4, 16.0, 4096)
    assert (yarn.stretch[:21] == 1).all()  # floor(20.94...) = 20 is the last kept pair but one
    assert yarn.stretch[21] > 1
    assert (yarn.stretch[46:] == 16).all()
    assert yarn.stretch[45] < 16
    assert yarn.attention_factor == 0.1 * math.log(16) + 1


@given(resonances)
def test_resonance_wavelengths_are_whole_and_within_a_half(resonance):
    inner = resonance.encoding.wavelengths
    assert np.array_equal(resonance.wavelengths, np.round(resonance.wavelengths))
    # Where a float64 wavelength has no fractional digits left the half is lost in its own rounding.
    assert (np.abs(resonance.wavelengths - inner) <= 0.5 + np.spacing(inner)).all()
    assert np.array_equal(resonance.periods, resonance.wavelengths.astype(np.int64))
    assert resonance.attention_factor == resonance.encoding.attention_factor


@given(resonances)
def test_resonance_is_idempotent(resonance):
    again = Resonance(resonance)
    assert np.array_equal(again.periods, resonance.periods)
    assert np.array_equal(again.inv_freq, resonance.inv_freq)
    assert np.array_equal(again.stretch, resonance.stretch)


@given(head_dims, bases)
def test_whole_wavelengths_are_those_of_sixty_digits(head_dim, base):
    resonance = Resonance(RoPE(head_dim, base))
    with mpmath.workdps(60):
        exact = [int(mpmath.nint(2 * mpmath.pi / f)) for f in mp_plain(resonance)]
    assert resonance.periods.tolist() == exact


def test_resonance_rounds_after_scaling():
    yarn = YaRN(64, 1e4, 4.0, 64)
    assert np.array_equal(Resonance(yarn).wavelengths, np.round(yarn.wavelengths))


def test_partial_rotation_counts_exponents_over_the_turned_features():
    assert np.array_equal(RoPE(64, rotary_dim=16).inv_freq, RoPE(16).inv_freq)
    assert np.array_equal(YaRN(64, rotary_dim=16).inv_freq, YaRN(16).inv_freq)
    assert RoPE(64, rotary_dim=16).pairs == 8


@given(encodings, st.integers(0, 10**6))
def test_encodings_of_this_kind_are_the_same_at_every_length(encoding, length):
    assert encoding.for_length(length) == encoding


@given(scaled)
def test_the_callers_decimal_context_does_not_matter(encoding):
    with localcontext() as context:
        context.prec = 3
        coarse = type(encoding)(**{k: v for k, v in vars(encoding).items() if k in encoding.__dataclass_fields__})
        assert np.array_equal(coarse.inv_freq, encoding.inv_freq)


def test_numbers_of_an_encoding_cannot_be_overwritten():
    with pytest.raises(ValueError, match="read-only"):
        RoPE(8).inv_freq[0] = 2.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RoPE(63), "RoPE: head_dim is 63, expected an even number"),
        (lambda: RoPE(0), "RoPE: head_dim is 0, expected an integer >= 2"),
        (lambda: RoPE(64.0), "RoPE: head_dim is 64.0, expected an integer >= 2"),
        (lambda: RoPE(True), "RoPE: head_dim is True"),
        (lambda: RoPE(64, 1.0), "RoPE: base is 1.0, expected a finite number > 1"),
        (lambda: RoPE(64, math.nan), "RoPE: base is nan"),
        (lambda: RoPE(64, "10000"), "RoPE: base is '10000'"),
        (lambda: RoPE(64, rotary_dim=66), "RoPE: rotary_dim is 66, expected at most head_dim = 64"),
        (lambda: RoPE(64, rotary_dim=7), "RoPE: rotary_dim is 7, expected an even number"),
        (lambda: YaRN(64, factor=0.5), "YaRN: factor is 0.5, expected a finite number >= 1"),
        (lambda: YaRN(64, original_length=0), "YaRN: original_length is 0"),
        (
            lambda: YaRN(64, beta_fast=1.0, beta_slow=2.0),
            "YaRN: beta_fast is 1.0, expected a finite number >= beta_slow = 2.0",
        ),
        (lambda: YaRN(64, beta_slow=0.0), "YaRN: beta_slow is 0.0"),
        (lambda: YaRN(64, ramp="turn"), "unknown ramp 'turn'; did you mean 'turns'"),
        (lambda: YaRN(64, blend="wave"), "unknown blend 'wave'; did you mean 'wavelength'"),
        (lambda: Resonance(64), "Resonance: encoding is 64, expected a RotaryEncoding"),
        (lambda: Resonance(RoPE(64, 1e60)), "Resonance: the wavelength of pair"),
        (lambda: RoPE(64).for_length(-1), "RoPE.for_length: length is -1"),
    ],
)
def test_bad_parameters_are_named(make, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        make()
