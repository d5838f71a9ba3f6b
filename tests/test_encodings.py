"""Every number of an encoding is the float64 nearest to its formula."""

import math
from dataclasses import FrozenInstanceError, fields
from decimal import localcontext

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import bases, encodings, head_dims, resonances, ropes, scaled, yarns

from refrope import (
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
from refrope.encodings.fope import mixed

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


# ---- the fields of all encodings ----

PLAIN = {"base": 1e4, "rotary_dim": None, "lenient": False}
DEFAULTS = {
    RoPE: PLAIN,
    ProportionalRoPE: {**PLAIN, "proportion": 1.0, "factor": 1.0},
    LinearPI: {**PLAIN, "factor": 4.0},
    NTKAware: {**PLAIN, "factor": 4.0, "dialect": "ntk-aware", "mixed_b": 0.75},
    DynamicNTK: {**PLAIN, "factor": 4.0, "original_length": 2048, "length": None, "dialect": "hf"},
    NTKByParts: {
        **PLAIN, "factor": 4.0, "original_length": 2048, "linear_turns": (1.25, 0.75), "kept_turns": (16.0, 2.0)
    },
    YaRN: {
        **PLAIN, "factor": 4.0, "original_length": 2048, "beta_fast": 32.0, "beta_slow": 1.0, "ramp": "index",
        "blend": "frequency", "truncate": True, "mscale": None, "mscale_all_dim": None, "target_ramp": False,
        "attention_factor": pytest.approx(1 + 0.1 * math.log(4), rel=1e-15),
    },
    Llama3: {
        **PLAIN, "base": 5e5, "factor": 8.0, "original_length": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0
    },
    XPos: {**PLAIN, "gamma": 0.4, "scale_base": 512.0, "centre": 0},
    FoPE: {**PLAIN, "train_length": 4096, "cos_coefficients": None, "sin_coefficients": None, "padding": "identity"},
}  # fmt: skip


@pytest.mark.parametrize("kind", DEFAULTS, ids=lambda kind: kind.__name__)
def test_defaults_are_those_of_the_sources(kind):
    encoding = kind(6)
    values = {field.name: getattr(encoding, field.name) for field in fields(kind)}
    assert values == {"head_dim": 6, **DEFAULTS[kind]}


def test_longrope_has_no_default_lists_and_those_of_phi_else():
    ones = (1.0, 1.0, 1.0)
    encoding = LongRoPE(6, short_factor=ones, long_factor=ones)
    values = {field.name: getattr(encoding, field.name) for field in fields(LongRoPE)}
    lists = {"short_factor": ones, "long_factor": ones}
    assert values == {
        "head_dim": 6, **PLAIN, **lists, "original_length": 4096, "factor": 1.0, "length": None, "attention_factor": 1.0
    }  # fmt: skip
    for name in lists:
        with pytest.raises(ValueError, match=f"LongRoPE: {name} has 0 numbers, expected 3"):
            LongRoPE(6, **{**lists, name: ()})


def test_resonance_shows_and_compares_its_encoding_and_dialect_alone():
    assert repr(Resonance(RoPE(6))) == (
        "Resonance(encoding=RoPE(head_dim=6, base=10000.0, rotary_dim=None), dialect='after')"
    )
    assert Resonance(RoPE(6)) == Resonance(RoPE(6)) != Resonance(RoPE(6), "before")
    assert not Resonance(RoPE(6)).lenient


def test_lenience_is_not_shown_and_makes_no_difference_between_equal_numbers():
    assert LinearPI(6, lenient=True) == LinearPI(6)
    assert "lenient" not in repr(LinearPI(6, lenient=True))
    assert "lenient" not in repr(Resonance(RoPE(6)))


def test_matrices_are_not_shown():
    shown = FoPE(2, train_length=7, cos_coefficients=[[0.5]], sin_coefficients=[[0.25]])
    assert repr(shown) == "FoPE(head_dim=2, base=10000.0, rotary_dim=None, train_length=7, padding='identity')"


LISTS = {"short_factor": [1, 1, 1], "long_factor": [1, 1, 1]}
LEAST = [  # the smallest value that a field takes, and the nearest that it does not
    (RoPE, "head_dim", 2, 0),
    (RoPE, "rotary_dim", 2, 0),
    (RoPE, "rotary_dim", 6, 8),
    (RoPE, "base", math.nextafter(1, 2), 1.0),
    (ProportionalRoPE, "proportion", 0.0, -5e-324),
    (ProportionalRoPE, "proportion", 1.0, math.nextafter(1, 2)),
    *((kind, "factor", 1.0, math.nextafter(1, 0)) for kind in (ProportionalRoPE, LinearPI, NTKAware, DynamicNTK)),
    *((kind, "factor", 1.0, math.nextafter(1, 0)) for kind in (NTKByParts, YaRN, Llama3)),
    *((kind, "original_length", 1, 0) for kind in (DynamicNTK, NTKByParts, YaRN, Llama3)),
    (NTKAware, "mixed_b", 5e-324, 0.0),
    (DynamicNTK, "length", 0, -1),
    (NTKByParts, "linear_turns", (1.0, 1.0), (1.0, math.nextafter(1, 2))),
    (NTKByParts, "kept_turns", (1.0, 1.0), (math.nextafter(1, 0), 1.0)),
    (NTKByParts, "kept_turns", (1.0, 5e-324), (1.0, 0.0)),
    (YaRN, "beta_fast", 1.0, math.nextafter(1, 0)),
    (YaRN, "beta_slow", 1e-300, 0.0),
    (YaRN, "mscale", 0.0, -5e-324),
    (YaRN, "mscale_all_dim", 0.0, -5e-324),
    (YaRN, "attention_factor", 5e-324, 0.0),
    (Llama3, "low_freq_factor", 5e-324, 0.0),
    (Llama3, "high_freq_factor", 1.0, math.nextafter(1, 0)),
    (LongRoPE, "original_length", 2, 1),
    (LongRoPE, "factor", 5e-324, 0.0),
    (LongRoPE, "length", 0, -1),
    (LongRoPE, "attention_factor", 5e-324, 0.0),
    (LongRoPE, "short_factor", (5e-324, 1, 1), (0.0, 1, 1)),
    (LongRoPE, "long_factor", (5e-324, 1, 1), (0.0, 1, 1)),
    (XPos, "gamma", 5e-324, 0.0),
    (XPos, "scale_base", 5e-324, 0.0),
    (XPos, "centre", -1.7e308, -math.inf),
    (FoPE, "train_length", 1, 0),
]


@pytest.mark.parametrize(("kind", "field", "least", "beyond"), LEAST)
def test_every_field_takes_its_least_value_and_none_below(kind, field, least, beyond):
    others = {"head_dim": 6, **(LISTS if kind is LongRoPE else {})}
    assert getattr(kind(**{**others, field: least}), field) == least
    with pytest.raises(ValueError, match=rf"^{kind.__name__}: {field}(\[\d\])? is "):
        kind(**{**others, field: beyond})


@pytest.mark.parametrize("kind", [ProportionalRoPE, LinearPI, NTKAware, DynamicNTK, NTKByParts, YaRN, Llama3])
def test_lenience_allows_any_factor_above_nought(kind):
    assert kind(6, factor=5e-324, lenient=True).factor == 5e-324
    with pytest.raises(ValueError, match=rf"^{kind.__name__}: factor is 0\.0, expected a finite number > 0$"):
        kind(6, factor=0.0, lenient=True)


@pytest.mark.parametrize("kind", [NTKAware, DynamicNTK, NTKByParts])
def test_an_exponent_of_d_over_d_minus_2_needs_two_pairs(kind):
    assert kind(4).pairs == 2
    with pytest.raises(ValueError, match=f"^{kind.__name__}: 2 features turn, expected at least 4"):
        kind(2)
    assert NTKAware(2, dialect="fixed").pairs == 1


def test_the_sum_of_all_periods_may_be_the_most_that_is_allowed():
    resonance = Resonance(ProportionalRoPE(8, base=1e4, proportion=0.5))  # 6 + 63, and one entry for each still pair
    assert resonance.periods.tolist() == [6, 63, 0, 0]
    assert len(resonance.period_tables(max_entries=71).cos) == 71
    with pytest.raises(ValueError, match="71 entries, expected at most max_entries = 70"):
        resonance.period_tables(max_entries=70)
    with pytest.raises(ValueError, match=f"expected at most max_entries = {2**24}"):
        Resonance(RoPE(64, 1e9)).period_tables()


def test_a_reversed_ramp_over_turns_keeps_the_slow_pairs():
    reversed_ramp = YaRN(
        8, 100.0, 2.0, original_length=100, ramp="turns", beta_fast=1.0, beta_slow=4.0, lenient=True
    )  # 15.9, 5.03, 1.59 and 0.503 turns
    share = (4 - 100 / (20 * math.pi)) / 3
    assert [float(kept) for kept in reversed_ramp.kept_share()] == [0, 0, pytest.approx(share, rel=1e-15), 1]
    step = YaRN(8, 100.0, 2.0, original_length=100, ramp="turns", beta_fast=4.0, beta_slow=4.0)
    assert [float(kept) for kept in step.kept_share()] == [1, 1, 0, 0]


def test_a_variant_that_defines_nothing_says_so():
    class Empty(RotaryEncoding):
        def exact_stretch(self):
            return None

    assert Empty(8).stretch is None
    with pytest.raises(NotImplementedError, match=r"^Empty defines neither exact_stretch nor exact_inv_freq$"):
        _ = Empty(8).inv_freq


@pytest.mark.parametrize("digits", [3, 200])
def test_the_callers_decimal_context_counts_for_nothing(digits):
    with localcontext() as context:
        context.prec = digits
        found = Resonance(YaRN(64)), RoPE(64)
        numbers = [(each.inv_freq.tolist(), each.wavelengths.tolist()) for each in found]
        assert context.prec == digits
    assert numbers == [(each.inv_freq.tolist(), each.wavelengths.tolist()) for each in (Resonance(YaRN(64)), RoPE(64))]


def test_numbers_of_an_encoding_are_read_only_and_kept():
    encoding = Resonance(YaRN(8))
    for name in ("inv_freq", "wavelengths", "stretch", "periods"):
        assert not getattr(encoding, name).flags.writeable, name
        assert getattr(encoding, name) is getattr(encoding, name), name


def test_numpy_s_scalars_become_python_s():
    encoding = YaRN(np.int64(8), np.float32(500), factor=np.float64(2), truncate=np.bool_(False))
    assert repr(encoding) == repr(YaRN(8, 500.0, factor=2.0, truncate=False))
    assert encoding == YaRN(8, 500.0, factor=2.0, truncate=False)


def test_a_ramp_ends_at_the_last_feature_at_the_latest():
    # beta_slow turns would be made at index 9, but the code of YaRN's authors stops at d - 1 = 7.
    encoding = YaRN(8, 10.0, 2.0, original_length=810, beta_fast=64.0)
    assert [float(kept) for kept in encoding.kept_share()] == [1, 1, pytest.approx(5 / 6), pytest.approx(4 / 6)]


@pytest.mark.parametrize(("length", "kept"), [(1, 0), (6, 0), (7, 1), (62, 1), (63, 2), (628, 2), (629, 3), (6284, 4)])
def test_fope_keeps_pairs_that_make_more_than_a_turn_in_training(length, kept):
    assert FoPE(8, 1e4, train_length=length).kept == kept  # wavelengths 6.28, 62.8, 628.3 and 6283.2
    assert FoPE(8, 1e4, train_length=length).inv_freq.tolist() == [*RoPE(8).inv_freq[:kept], *[0.0] * (4 - kept)]


def test_as_many_rows_are_mixed_as_there_are_columns():
    table = np.array([[1.0, 10.0, 100.0]])
    assert mixed(table, np.eye(3)[::-1]).tolist() == [[100, 10, 1]]
    with pytest.raises(ValueError, match="shorter"):
        mixed(table, np.eye(3)[:2])


def test_a_wavelength_of_exactly_one_half_rounds_to_nothing():
    half = 0.5 / (2 * math.pi)
    near = [math.nextafter(half, 0), half, math.nextafter(half, 1)]
    scaled = [LinearPI(2, factor=factor, lenient=True) for factor in near]
    exactly = [encoding for encoding in scaled if encoding.wavelengths[0] == 0.5]
    assert exactly
    for encoding in exactly:
        with pytest.raises(ValueError, match=r"the wavelength of pair 0 is 0\.5, expected above 1/2 and below 2\^63"):
            Resonance(encoding)
    assert Resonance(LinearPI(2, factor=half * 1.001, lenient=True)).periods.tolist() == [1]


def test_an_amplitude_of_the_largest_number_is_no_larger():
    largest, hits = float(np.finfo(np.float16).max), 0
    for gamma in np.linspace(0.1, 1, 200):
        xpos = XPos(2, gamma=gamma, scale_base=1.0)
        middle = math.log(largest) / math.log(xpos.zeta[0])
        for position in middle + np.spacing(middle) * np.arange(-3, 4):
            amplitude = (xpos.zeta ** np.array([position]))[0]
            if amplitude > largest:
                with pytest.raises(ValueError, match=r"amplitude reaches 6\.55e\+04, beyond float16; move the centre"):
                    xpos.cos_sin(np.array([position]), np.float16)
            else:
                assert np.isfinite(xpos.cos_sin(np.array([position]), np.float16)).all()
                hits += amplitude == largest
    assert hits > 0


@pytest.mark.parametrize("field", ["linear_turns", "kept_turns"])
def test_the_ends_of_a_ramp_are_named_with_their_bound(field):
    words = rf"^NTKByParts: {field}\[0\] is 2\.0, expected a finite number >= {field}\[1\] = 3\.5$"
    with pytest.raises(ValueError, match=words):
        NTKByParts(6, **{field: (2, 3.5)})


@pytest.mark.parametrize("beta_fast", [0.001, 0.5, 0.999])
def test_lenience_allows_a_reversed_ramp_of_any_width(beta_fast):
    assert YaRN(6, beta_fast=beta_fast, beta_slow=1.0, lenient=True).inv_freq.shape == (3,)
    with pytest.raises(ValueError, match=r"beta_fast is .*, expected a finite number >= beta_slow = 1\.0"):
        YaRN(6, beta_fast=beta_fast, beta_slow=1.0)
    for none in (0.0, -beta_fast):  # no pair makes so few turns
        with pytest.raises(ValueError, match=f"^YaRN: beta_fast is {none}, expected a finite number > 0$"):
            YaRN(6, beta_fast=none, lenient=True)


@pytest.mark.parametrize("kind", [*DEFAULTS, Resonance])
def test_an_encoding_never_changes(kind):
    encoding = Resonance(RoPE(6)) if kind is Resonance else kind(6)
    for field in fields(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(encoding, field.name, 8)
    assert len({encoding, encoding}) == 1


def test_fope_mixes_tables_of_positions_of_any_shape():
    encoding = FoPE(8, 100.0, train_length=700, cos_coefficients=np.ones((4, 4)), sin_coefficients=np.eye(4)[::-1])
    whole = encoding.cos_sin(np.arange(6), np.float64)
    for shape in ((2, 3), (1, 3, 2)):
        for found, wanted in zip(encoding.cos_sin(np.arange(6).reshape(shape), np.float64), whole, strict=True):
            assert np.array_equal(found.reshape(6, 4), wanted)
    assert np.array_equal(encoding.cos_sin(4, np.float64)[1], whole[1][4])


def test_a_wavelength_of_two_to_the_63_is_beyond_int64():
    edge = 2.0**63 / (2 * math.pi)
    scaled = [LinearPI(2, factor=edge + step * math.ulp(edge)) for step in range(-3, 4)]
    assert 2.0**63 in [encoding.wavelengths[0] for encoding in scaled]
    for encoding in scaled:
        if encoding.wavelengths[0] >= 2.0**63:
            with pytest.raises(
                ValueError, match=r"the wavelength of pair 0 is 9\.22e\+18, expected above 1/2 and below"
            ):
                Resonance(encoding)
        else:
            assert 0 < Resonance(encoding).periods[0] < 2**63
