"""Every variant and dialect against its published formula in 60 digits, and what is known of them all."""

import copy
import dataclasses
import math
import pickle

import mpmath
import numpy as np
import pytest
from conftest import same_bits, slow
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import (
    bases,
    deepseeks,
    factors,
    fopes,
    head_dims,
    int64_positions,
    lengths,
    llama3s,
    longropes,
    original_lengths,
    scaled,
    variants,
    wide_heads,
    xposes,
    yarns,
)
from test_encodings import NEAREST, mp_plain, mp_yarn, relative_error

from refrope import rotate
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
    XPos,
    YaRN,
)

with mpmath.workdps(60):
    TURN = 2 * mpmath.pi
# Entries of float32 tables, before the attention factor: float32's rounding, three float64 roundings of the angle, cos.
ROUNDING32, PER_RADIAN, COSINE = 2.0**-25, 4 * 2.0**-53, 2.0**-50

# ---- the formulas, written from papers and code, not from refrope ----


def mp_base(base, d):
    return [mpmath.mpf(base) ** (mpmath.mpf(-2 * j) / d) for j in range(d // 2)]


def mp_linear(e):
    return [theta / mpmath.mpf(e.factor) for theta in mp_plain(e)]


def mp_ntk(e):
    b, s, d = mpmath.mpf(e.base), mpmath.mpf(e.factor), mpmath.mpf(e.turned)
    if e.dialect == "ntk-aware":
        return mp_base(b * s ** (d / (d - 2)), e.turned)
    if e.dialect == "scaled-base":
        return mp_base(b * s, e.turned)
    if e.dialect == "fixed":
        return [theta / s ** (2 / d) for theta in mp_base(b * s, e.turned)]
    a = mpmath.log(s) / (d / 2) ** mpmath.mpf(e.mixed_b)
    return [theta * mpmath.exp(-a * mpmath.mpf(j + 1) ** mpmath.mpf(e.mixed_b)) for j, theta in enumerate(mp_plain(e))]


def mp_dynamic(e):
    b, s, d, length = mpmath.mpf(e.base), mpmath.mpf(e.factor), mpmath.mpf(e.turned), e.original_length
    if e.dialect == "vllm":
        return mp_base(b * (s**2 - s + 1) ** (d / (d - 2)), e.turned)
    if e.length is None or e.length <= length:
        return mp_plain(e)
    return mp_base(b * (s * e.length / length - (s - 1)) ** (d / (d - 2)), e.turned)


def mp_parts(e):
    b, s, d = mpmath.mpf(e.base), mpmath.mpf(e.factor), mpmath.mpf(e.turned)

    def mask(fast, slow):
        low, high = (d * mpmath.log(e.original_length / (TURN * t)) / (2 * mpmath.log(b)) for t in (fast, slow))
        low, high = max(mpmath.floor(low), 0), min(mpmath.ceil(high), e.turned - 1)
        high += mpmath.mpf("0.001") if low == high else 0
        return [1 - min(max((j - low) / mpmath.mpf(high - low), 0), 1) for j in range(e.pairs)]

    linear, ntk = mp_linear(e), mp_base(b * s ** (d / (d - 2)), e.turned)
    first = [x * (1 - m) + y * m for x, y, m in zip(linear, ntk, mask(*e.linear_turns), strict=True)]
    return [x * (1 - m) + y * m for x, y, m in zip(first, mp_plain(e), mask(*e.kept_turns), strict=True)]


def mp_llama3(e):
    length, s, low, high = (mpmath.mpf(x) for x in (e.original_length, e.factor, e.low_freq_factor, e.high_freq_factor))
    result = []
    for theta in mp_plain(e):
        wavelength = TURN / theta
        if wavelength < length / high:
            result.append(theta)
        elif wavelength > length / low:
            result.append(theta / s)
        else:
            smooth = (length / wavelength - low) / (high - low)
            result.append((1 - smooth) * theta / s + smooth * theta)
    return result


def mp_longrope(e):
    is_long = e.length is not None and e.length > e.original_length
    return [t / mpmath.mpf(g) for t, g in zip(mp_plain(e), e.long_factor if is_long else e.short_factor, strict=True)]


def mp_proportional(e):
    turning = int(e.proportion * e.turned // 2)
    return [t / mpmath.mpf(e.factor) if j < turning else mpmath.mpf(0) for j, t in enumerate(mp_plain(e))]


def mp_fope(e):
    return [t if t > TURN / e.train_length else mpmath.mpf(0) for t in mp_plain(e)]


FORMULAS = {
    RoPE: mp_plain, LinearPI: mp_linear, NTKAware: mp_ntk, DynamicNTK: mp_dynamic, NTKByParts: mp_parts, YaRN: mp_yarn,
    Llama3: mp_llama3, LongRoPE: mp_longrope, ProportionalRoPE: mp_proportional, XPos: mp_plain, FoPE: mp_fope,
}  # fmt: skip


def formula(encoding):
    return FORMULAS[type(encoding)](encoding)


def mp_yarn_amplitude(factor, coefficient):
    return mpmath.mpf("0.1") * mpmath.mpf(coefficient) * mpmath.log(factor) + 1


def mp_attention_factor(e):
    if isinstance(e, LongRoPE):
        return mpmath.sqrt(1 + mpmath.log(max(e.factor, 1)) / mpmath.log(e.original_length))
    if not isinstance(e, YaRN):
        return mpmath.mpf(1)
    if e.mscale and e.mscale_all_dim:
        return mp_yarn_amplitude(e.factor, e.mscale) / mp_yarn_amplitude(e.factor, e.mscale_all_dim)
    return mp_yarn_amplitude(e.factor, 1)


# ---- numbers ----


@given(variants)
def test_every_variant_is_the_nearest_float_to_its_formula(encoding):
    with mpmath.workdps(60):
        exact = formula(encoding)
        assert len(exact) == len(encoding.inv_freq) == encoding.pairs
        for j, (value, wanted, plain) in enumerate(zip(encoding.inv_freq, exact, mp_plain(encoding), strict=True)):
            if wanted == 0:
                assert value == 0
                assert encoding.wavelengths[j] == np.inf
                assert encoding.stretch is None or encoding.stretch[j] == np.inf
                continue
            assert relative_error(value, wanted) <= NEAREST
            assert relative_error(encoding.wavelengths[j], TURN / wanted) <= NEAREST
            assert encoding.stretch is None or relative_error(encoding.stretch[j], plain / wanted) <= NEAREST


@given(variants, st.lists(int64_positions, min_size=1, max_size=2))
def test_float32_tables_of_every_variant_hold_their_stated_error(encoding, positions):
    assume(not isinstance(encoding, FoPE | XPos))  # whose own tests are below
    cos, sin = encoding.cos_sin(np.array(positions))
    factor = encoding.attention_factor
    rounding = ROUNDING32 * 2.0 ** math.frexp(factor)[1] if factor != 1 else ROUNDING32
    with mpmath.workdps(60):
        frequencies = formula(encoding)
        for i, position in enumerate(positions):
            for j in {0, 1, encoding.pairs // 3, encoding.pairs // 2, encoding.pairs - 1} & set(range(encoding.pairs)):
                angle = position * frequencies[j]
                bound = rounding + factor * (PER_RADIAN * abs(position) * encoding.inv_freq[j] + COSINE)
                assert abs(mpmath.mpf(float(cos[i, j])) - factor * mpmath.cos(angle)) <= bound
                assert abs(mpmath.mpf(float(sin[i, j])) - factor * mpmath.sin(angle)) <= bound


@given(xposes, st.integers(-3000, 3000), st.sampled_from(["q", "k"]), st.sampled_from([np.float32, np.float64]))
def test_xpos_tables_are_plain_ones_times_the_power_of_zeta(encoding, position, role, dtype):
    assume(abs(position) < 30 * encoding.scale_base)  # float32 ends at 0.09**-36
    tables = encoding.cos_sin(np.array([position]), dtype, role=role)
    with mpmath.workdps(60):
        power = (mpmath.mpf(position) - encoding.centre) / mpmath.mpf(encoding.scale_base)
        for j, theta in enumerate(mp_plain(encoding)):
            gamma = mpmath.mpf(encoding.gamma)
            zeta = (mpmath.mpf(2 * j) / encoding.turned + gamma) / (1 + gamma)
            assert relative_error(encoding.zeta[j], zeta) <= NEAREST
            amplitude = zeta ** (power if role == "q" else -power)
            # zeta's and the power's own roundings, magnified by the power; a few units for pow, cos and the product.
            relative = (8 + 4 * abs(power) * (1 + abs(mpmath.log(zeta)))) * 2.0**-53
            rounding = 2 * ROUNDING32 if dtype == np.float32 else 0
            bound = amplitude * (rounding + relative + PER_RADIAN * abs(position) * theta + COSINE) + 2.0**-149
            assert abs(mpmath.mpf(float(tables[0][0, j])) - amplitude * mpmath.cos(position * theta)) <= bound
            assert abs(mpmath.mpf(float(tables[1][0, j])) - amplitude * mpmath.sin(position * theta)) <= bound


@given(fopes(), st.sampled_from([0, 1, 64, 4095, 131_071, -5]), st.sampled_from([np.float32, np.float64]))
def test_fope_tables_are_the_plain_ones_times_their_matrices(encoding, position, dtype):
    kept = encoding.kept
    tables = encoding.cos_sin(np.array([position]), dtype)
    with mpmath.workdps(60):
        theta = mp_plain(encoding)[:kept]
        for table, f, matrix, still in (
            (tables[0][0], mpmath.cos, encoding.cos_coefficients, 1.0),
            (tables[1][0], mpmath.sin, encoding.sin_coefficients, 0.0 if encoding.padding == "identity" else 1.0),
        ):
            matrix = np.eye(kept) if matrix is None else np.array(matrix).reshape(kept, kept)
            assert (table[kept:] == still).all()
            for j in range(kept):
                terms = [f(position * theta[k]) * mpmath.mpf(matrix[k, j]) for k in range(kept)]
                rounding = 2 * ROUNDING32 if dtype == np.float32 else 0
                bound = PER_RADIAN * abs(position) + COSINE + (kept + 1) * 2.0**-52 + rounding
                bound = bound * np.abs(matrix[:, j]).sum() + 2.0**-149  # float32 ends there
                assert abs(mpmath.mpf(float(table[j])) - mpmath.fsum(terms)) <= bound


@given(deepseeks())
def test_yarns_amplitudes_are_those_of_the_formula(yarn):
    with mpmath.workdps(30):
        derived = dataclasses.replace(yarn, attention_factor=None)
        assert relative_error(derived.attention_factor, mp_attention_factor(yarn)) <= 4 * NEAREST
        softmax = mp_yarn_amplitude(yarn.factor, yarn.mscale_all_dim) ** 2 if yarn.mscale_all_dim else 1
        assert relative_error(yarn.softmax_factor, mpmath.mpf(softmax)) <= 8 * NEAREST


@pytest.mark.parametrize(
    ("mscale", "all_dim", "softmax"),
    [(1.0, 1.0, 1.8739), (0.707, 0.707, 1.5896), (None, None, 1.0), (1.0, None, 1.0), (1.0, 0.0, 1.0)],
)
def test_softmax_factors_of_deepseek_v3_and_v2(mscale, all_dim, softmax):
    yarn = YaRN(64, factor=40.0, original_length=4096, mscale=mscale, mscale_all_dim=all_dim)
    assert round(yarn.softmax_factor, 4) == softmax
    assert yarn.attention_factor == (1.0 if all_dim else 0.1 * math.log(40) + 1)


def test_longropes_amplitude_is_that_of_phi_3():
    lists = {"short_factor": [1.0] * 48, "long_factor": [1.0] * 48}
    phi = LongRoPE(96, **lists, original_length=4096, factor=32.0)
    assert round(phi.attention_factor, 4) == 1.1902
    assert LongRoPE(96, **lists, original_length=4096).attention_factor == 1.0


# ---- whole periods ----

QUICK_BASES, SLOW_BASES = [1e4, 5e5], [500.0, 1e3, 2e3, 5e3, 5e4, 1e5, 1e6, 5e6, 1e7, 1e8]


@pytest.mark.parametrize("base", [*QUICK_BASES, *(pytest.param(base, marks=slow) for base in SLOW_BASES)])
def test_periods_of_every_even_width_are_those_of_fifty_digits(base):
    margin = np.inf
    with mpmath.workdps(50):
        for d in range(16, 513, 2):
            ratio = mpmath.exp(2 * mpmath.log(base) / d)
            wavelengths = [TURN]
            for _ in range(d // 2 - 1):
                wavelengths.append(wavelengths[-1] * ratio)
            whole = [int(mpmath.nint(w)) for w in wavelengths]
            assert Resonance(RoPE(d, base)).periods.tolist() == whole
            floats = 2 * np.pi * base ** (np.arange(0, d, 2) / d)
            assert np.rint(floats).astype(int).tolist() == whole
            margin = min(margin, np.min(np.abs(floats - np.floor(floats) - 0.5) / floats))
    # Why float64 is enough: no wavelength comes nearer to a tie than 1700 units in its last place.
    assert margin > 1700 * 2.0**-52


def float32_wavelengths(base, d):
    """The published 2 pi / (1 / base**(2j/d)) as torch does it (a number over a tensor is times its reciprocal, as
    reported), every operation rounded to float32.
    """
    exponents = np.arange(0, d, 2, dtype=np.float32) / np.float32(d)
    powers = (np.float64(base) ** exponents.astype(np.float64)).astype(np.float32)
    inv_freq = np.float32(1) / powers
    return np.float32(2 * np.pi) * (np.float32(1) / inv_freq)


def test_float32_rounds_to_wrong_wholes_where_bases_are_large_and_we_do_not():
    wrong = []
    for base in [*QUICK_BASES, *SLOW_BASES, 2e4, 2e5]:
        for d in (32, 48, 64, 80, 96, 112, 128, 160, 192, 256):
            ours = Resonance(RoPE(d, base)).periods
            theirs = np.rint(float32_wavelengths(base, d)).astype(np.int64)
            wrong += [(base, d, j, int(ours[j])) for j in np.flatnonzero(ours != theirs).tolist()]
    assert len(wrong) > 350
    assert min(base for base, *_ in wrong) > 5e4
    assert 6.5e4 < min(period for *_, period in wrong) < 6.7e4
    for base, d, j, period in wrong:
        with mpmath.workdps(50):
            assert period == int(mpmath.nint(TURN * mpmath.mpf(base) ** (mpmath.mpf(2 * j) / d)))


def test_rounding_before_scaling_leaves_the_ramp_with_fractions():
    counts = []
    for factor in (8.0, 16.0, 32.0):
        yarn = YaRN(128, 1e4, factor, 4096)
        after, before = Resonance(yarn), Resonance(yarn, "before")
        plain = Resonance(RoPE(128)).periods
        assert np.allclose(before.stretch * RoPE(128).wavelengths, before.wavelengths, rtol=1e-15, atol=0)
        with mpmath.workdps(60):
            for j, (plain_theta, theta) in enumerate(zip(mp_plain(yarn), mp_yarn(yarn), strict=True)):
                wanted = TURN / (mpmath.mpf(int(plain[j])) * plain_theta / theta)
                assert relative_error(before.inv_freq[j], wanted) <= NEAREST
        assert (after.wavelengths == np.rint(after.wavelengths)).all()
        counts.append(int((before.wavelengths != np.rint(before.wavelengths)).sum()))
    assert set(counts) <= {24, 25}


def test_rounded_before_scaling_there_are_no_periods_but_tables_of_angles():
    before = Resonance(YaRN(64), "before")
    with pytest.raises(ValueError, match="Resonance: rounded before scaling, wavelengths are not whole"):
        _ = before.periods
    positions = np.array([0.0, 0.5, 3.0, 4095.0])
    cos, sin = before.cos_sin(positions, np.float64)
    angles = positions[:, None] * before.inv_freq
    assert np.allclose(cos, before.attention_factor * np.cos(angles), rtol=0, atol=1e-14)
    assert np.allclose(sin, before.attention_factor * np.sin(angles), rtol=0, atol=1e-14)
    assert np.allclose(np.cos(2 * np.pi * before.turns(positions)), np.cos(angles), rtol=0, atol=1e-11)


@given(scaled)
def test_order_of_rounding_does_not_matter_without_scaling(encoding):
    assume((encoding.stretch == 1).all())
    assert np.array_equal(Resonance(encoding, "before").wavelengths, Resonance(encoding).wavelengths)


# ---- Resonance around anything ----


@given(variants, lengths, st.sampled_from(["after", "before"]))
def test_resonance_at_a_length_is_that_of_the_encoding_at_that_length(encoding, length, dialect):
    assume(dialect == "after" or encoding.stretch is not None)
    resonance = Resonance(encoding, dialect)
    assert resonance.for_length(length) == Resonance(encoding.for_length(length), dialect)
    again = resonance.for_length(length + 1).for_length(length)
    assert again == resonance.for_length(length)
    assert np.array_equal(again.inv_freq, Resonance(encoding.for_length(length), dialect).inv_freq)


@given(variants)
def test_resonance_of_every_variant_has_its_whole_wavelengths(encoding):
    resonance = Resonance(encoding)
    with mpmath.workdps(60):
        exact = [int(mpmath.nint(TURN / theta)) if theta else 0 for theta in formula(encoding)]
        assert resonance.periods.tolist() == exact
        for j, period in enumerate(exact):
            if period:
                assert relative_error(resonance.inv_freq[j], TURN / period) <= NEAREST
            else:
                assert resonance.inv_freq[j] == 0
                assert resonance.wavelengths[j] == np.inf
        if encoding.stretch is None:
            assert resonance.stretch is None
        else:
            for j, plain in enumerate(mp_plain(encoding)):
                if exact[j]:
                    assert relative_error(resonance.stretch[j], exact[j] * plain / TURN) <= NEAREST
    assert np.array_equal(Resonance(resonance).stretch, resonance.stretch) or resonance.stretch is None


@given(variants, st.integers(0, 2**12))
def test_resonance_of_every_variant_turns_by_whole_parts(encoding, position):
    resonance = Resonance(encoding)
    turns = resonance.turns(np.array([position]))[0]
    for turn, period in zip(turns, resonance.periods.tolist(), strict=True):
        assert turn == (position % period / period if period else 0)


@given(xposes, st.sampled_from([0, 1, 63, 2048, -17]), st.sampled_from(["q", "k"]))
def test_resonance_of_xpos_is_whole_phases_with_xposs_amplitudes(xpos, position, role):
    resonance = Resonance(xpos)
    cos, sin = resonance.cos_sin([position], np.float64, role=role)
    whole = Resonance(RoPE(xpos.head_dim, xpos.base)).cos_sin([position], np.float64)
    power = (position - xpos.centre) / xpos.scale_base * (1 if role == "q" else -1)
    assert np.allclose(cos, whole[0] * xpos.zeta**power, rtol=1e-15, atol=0)
    assert np.allclose(sin, whole[1] * xpos.zeta**power, rtol=1e-15, atol=0)
    default = resonance.cos_sin([position], np.float64)
    assert same_bits(default[0], resonance.cos_sin([position], np.float64, role="q")[0])
    assert same_bits(Resonance(resonance).cos_sin([position], np.float64, role=role)[1], sin)


@given(fopes(), st.integers(0, 2**40), st.sampled_from([np.float32, np.float64]))
def test_resonance_of_fope_repeats_bit_for_bit_after_all_its_periods(fope, position, dtype):
    resonance = Resonance(fope)
    together = math.lcm(*(p for p in resonance.periods.tolist() if p))
    assume(together < 2**62)
    near, far = (resonance.cos_sin(np.array(p), dtype) for p in ([position], [3, position + together, 1]))
    assert same_bits(near[0][0], far[0][1])
    assert same_bits(near[1][0], far[1][1])


def test_resonance_of_proportional_rope_leaves_still_pairs_still():
    resonance = Resonance(ProportionalRoPE(16, proportion=0.5, factor=2.0))
    assert resonance.periods.tolist() == [13, 40, 126, 397, 0, 0, 0, 0]
    cos, sin = resonance.cos_sin(np.array([0, 5, 2**63 - 1]))
    assert (cos[:, 4:] == 1).all()
    assert (sin[:, 4:] == 0).all()


# ---- identities ----

POSITIONS = np.array([0, 1, 77, 131_071])


def same_encoding(a, b):
    tables = zip(a.cos_sin(POSITIONS), b.cos_sin(POSITIONS), strict=True)
    return np.array_equal(a.inv_freq, b.inv_freq) and all(same_bits(x, y) for x, y in tables)


UNSCALED = [
    lambda **o: LinearPI(factor=1.0, **o),
    *(lambda dialect=dialect, **o: NTKAware(factor=1.0, dialect=dialect, **o)
      for dialect in ("ntk-aware", "scaled-base", "fixed", "mixed")),
    lambda **o: DynamicNTK(factor=1.0, dialect="vllm", **o),
    lambda **o: DynamicNTK(factor=8.0, original_length=64, **o),
    lambda **o: NTKByParts(factor=1.0, **o),
    *(lambda dialect=dialect, **o: YaRN(factor=1.0, dialect=dialect, **o)
      for dialect in ("code", "paper", "resonance-paper", "official-posgen")),
    lambda **o: YaRN(factor=1.0, mscale=0.5, mscale_all_dim=2.0, **o),
    lambda **o: Llama3(factor=1.0, **o),
    lambda **o: ProportionalRoPE(factor=1.0, **o),
    lambda **o: LongRoPE(short_factor=[1.0] * (o["head_dim"] // 2), long_factor=[2.0] * (o["head_dim"] // 2), **o),
]  # fmt: skip


@pytest.mark.parametrize("make", UNSCALED)
@pytest.mark.parametrize(("head_dim", "base"), [(64, 1e4), (6, 5e5), (128, 1.5), (256, 1e8)])
def test_factor_one_is_plain_rope_bit_for_bit(make, head_dim, base):
    plain, variant = RoPE(head_dim, base), make(head_dim=head_dim, base=base)
    assert same_encoding(variant, plain)
    assert variant.softmax_factor == 1.0
    assert np.array_equal(variant.stretch, np.ones(head_dim // 2))
    assert np.array_equal(Resonance(variant).periods, Resonance(plain).periods)


@given(llama3s())
def test_llama3_is_yarns_paper_from_four_turns_to_one(llama):
    ends = {"beta_fast": llama.high_freq_factor, "beta_slow": llama.low_freq_factor}
    yarn = YaRN(llama.head_dim, llama.base, llama.factor, llama.original_length, **ends, dialect="paper")
    assert np.array_equal(llama.inv_freq, yarn.inv_freq)
    assert llama.attention_factor == 1.0


def test_llama_3_1_keeps_29_pairs_blends_6_and_slows_29():
    stretch = Llama3(128, 5e5).stretch
    assert [(stretch == 1).sum(), ((stretch > 1) & (stretch < 8)).sum(), (stretch == 8).sum()] == [29, 6, 29]


@given(head_dims, bases, factors)
def test_longrope_with_one_number_is_position_interpolation(head_dim, base, factor):
    alike = [factor] * (head_dim // 2)
    longrope = LongRoPE(head_dim, base, short_factor=alike, long_factor=alike)
    assert same_encoding(longrope, LinearPI(head_dim, base, factor))


@given(head_dims, bases, factors)
def test_proportional_rope_of_all_pairs_is_position_interpolation(head_dim, base, factor):
    assert same_encoding(ProportionalRoPE(head_dim, base), RoPE(head_dim, base))
    assert same_encoding(ProportionalRoPE(head_dim, base, factor=factor), LinearPI(head_dim, base, factor))


def test_proportional_is_neither_prefix_nor_base():
    quarter = ProportionalRoPE(64, proportion=0.25)
    assert quarter.pairs == 32
    assert np.array_equal(quarter.inv_freq[:8], RoPE(64).inv_freq[:8])
    assert (quarter.inv_freq[8:] == 0).all()
    assert not np.isin(RoPE(64, rotary_dim=16).inv_freq[1:], quarter.inv_freq[:8]).all()
    x = np.random.RandomState(3).randn(5, 64).astype(np.float32)
    y = rotate(x, *quarter.cos_sin(np.arange(5)))
    still = np.r_[8:32, 40:64]  # features j and j + 32 of the pairs that stand still
    assert np.array_equal(y[:, still], x[:, still])
    assert (y[1:, :8] != x[1:, :8]).all()


@given(wide_heads, bases, factors)
def test_ntk_awares_fastest_pair_is_kept_and_its_slowest_slowed_by_the_factor(head_dim, base, factor):
    stretch = NTKAware(head_dim, base, factor).stretch
    assert stretch[0] == 1
    assert stretch[-1] == factor
    assert (np.diff(stretch) > 0).all() or factor < 1.0000001
    for dialect in ("fixed", "mixed"):
        assert NTKAware(head_dim, base, factor, dialect).stretch[-1] == factor


@pytest.mark.parametrize(
    ("dialect", "first", "last"),
    [("ntk-aware", 1, 8), ("scaled-base", 1, 7.744), ("fixed", 1.033, 8), ("mixed", 1.096, 8)],
)
def test_ntks_meanings_differ_at_the_ends(dialect, first, last):
    stretch = NTKAware(128, 1e4, 8.0, dialect).stretch
    assert [round(stretch[0], 3), round(stretch[-1], 3)] == [first, last]


@given(wide_heads, bases, factors)
def test_mixed_with_exponent_one_is_fixed_and_ntk_is_a_larger_base(head_dim, base, factor):
    mixed = NTKAware(head_dim, base, factor, "mixed", 1.0)
    assert np.array_equal(mixed.inv_freq, NTKAware(head_dim, base, factor, "fixed").inv_freq)
    larger = RoPE(head_dim, base * factor).inv_freq
    assert np.allclose(NTKAware(head_dim, base, factor, "scaled-base").inv_freq, larger, rtol=1e-14, atol=0)


@given(wide_heads, bases, factors, original_lengths, lengths)
def test_dynamic_ntk_is_plain_up_to_the_original_length_and_continuous_there(head_dim, base, factor, original, length):
    dynamic, plain = DynamicNTK(head_dim, base, factor, original), RoPE(head_dim, base)
    assert same_encoding(dynamic, plain)
    assert same_encoding(dynamic.for_length(min(length, original)), plain)
    assert same_encoding(dynamic.for_length(original), plain)
    beyond = dynamic.for_length(original + 1)
    step = 1 + factor / original  # the stretch of the slowest pair, one token later
    assert np.isclose(beyond.stretch[-1], step, rtol=1e-14, atol=0)
    assert (beyond.stretch[1:] > 1).all()
    assert (beyond.stretch <= beyond.stretch[-1]).all()


@given(wide_heads, bases, factors, lengths)
def test_vllms_dynamic_ntk_is_static(head_dim, base, factor, length):
    vllm = DynamicNTK(head_dim, base, factor, 2048, dialect="vllm")
    assert np.isclose(vllm.stretch[-1], factor**2 - factor + 1, rtol=1e-14, atol=0)
    assert same_encoding(vllm.for_length(length), vllm)
    target = DynamicNTK(head_dim, base, 4.0, 2048).for_length(4 * 2048)
    assert same_encoding(target, DynamicNTK(head_dim, base, 4.0, 2048, dialect="vllm"))


@given(variants, lengths, st.lists(lengths, max_size=3))
def test_what_is_in_force_at_a_length_does_not_depend_on_what_came_before(encoding, length, before):
    straight = encoding.for_length(length)
    around = encoding
    for other in before:
        around = around.for_length(other)
        _ = around.inv_freq
    assert around.for_length(length) == straight
    assert np.array_equal(around.for_length(length).inv_freq, straight.inv_freq)


@given(longropes())
def test_longrope_takes_the_long_list_beyond_the_original_length(longrope):
    original = longrope.original_length
    assert tuple(dataclasses.replace(longrope, length=None).stretch) == longrope.short_factor
    assert tuple(longrope.for_length(original).stretch) == longrope.short_factor
    assert tuple(longrope.for_length(original + 1).stretch) == longrope.long_factor


def test_the_official_posgen_ramp_lies_on_other_pairs():
    options = {"factor": 257 / 65, "original_length": 65, "beta_fast": 2.0}

    def inside(yarn):
        return np.flatnonzero((yarn.stretch > 1) & (yarn.stretch < yarn.factor)).tolist()

    official, meant = YaRN(64, **options, dialect="official-posgen"), YaRN(64, **options)
    assert official == YaRN(64, **options, target_ramp=True)
    # The ends of the ramp themselves, 10 and 13 against 5 and 9, are wholly kept and wholly interpolated.
    assert inside(official) == [11, 12]
    assert inside(meant) == [6, 7, 8]
    assert (official.stretch[:11] == 1).all()
    assert (official.stretch[13:] == official.factor).all()
    assert (meant.stretch[9:] == meant.factor).all()
    # Pairs 9 and 10 come round after the training length and are still not interpolated.
    assert (RoPE(64).wavelengths[9:11] > 65).all()
    assert round(float((official.inv_freq / meant.inv_freq).max()) - 1, 2) == 2.95
    assert np.flatnonzero(official.inv_freq != meant.inv_freq).tolist() == list(range(6, 13))
    assert round(official.attention_factor, 4) == 1.1375


@given(xposes, st.integers(-500, 500), st.integers(-500, 500), st.integers(-2000, 2000), st.floats(-99, 99))
def test_xpos_scores_depend_on_the_distance_alone(xpos, m, n, shift, centre):
    random = np.random.RandomState(abs(m) + 1)
    q, k = random.randn(2, 1, xpos.head_dim)

    def score(encoding, m, n):
        turned_q = rotate(q, *encoding.cos_sin(np.array([m]), np.float64, role="q"))
        turned_k = rotate(k, *encoding.cos_sin(np.array([n]), np.float64, role="k"))
        return float((turned_q * turned_k).sum())

    first = score(xpos, m, n)
    size = np.abs(q * k).sum() + np.abs(q).max() * np.abs(k).max() * xpos.head_dim
    size *= float((xpos.zeta.astype(np.longdouble) ** ((m - n) / xpos.scale_base)).max())
    assert abs(score(xpos, m + shift, n + shift) - first) <= 1e-9 * size
    assert abs(score(dataclasses.replace(xpos, centre=centre), m, n) - first) <= 1e-9 * size


def test_xpos_lets_far_keys_fade_and_the_fastest_pair_most():
    xpos = XPos(64)
    growth = [np.hypot(*xpos.cos_sin([1024], np.float64, role=role))[0] for role in "qk"]
    assert np.allclose(growth[0] * growth[1], 1, rtol=1e-14)
    assert (growth[0] < 1).all()
    assert (np.diff(growth[0]) > 0).all()
    assert np.isclose(growth[0][0], (0.4 / 1.4) ** 2, rtol=1e-14)


# ---- encodings as values ----


@given(variants | st.builds(Resonance, variants))
def test_encodings_are_values(encoding):
    same = copy.deepcopy(encoding)
    assert same == encoding
    assert hash(same) == hash(encoding)
    assert dataclasses.replace(encoding) == encoding
    assert pickle.loads(pickle.dumps(encoding)) == encoding
    assert not encoding.inv_freq.flags.writeable
    for again in (copy.deepcopy(encoding), pickle.loads(pickle.dumps(encoding))):
        assert not again.inv_freq.flags.writeable
    assert Resonance(encoding) != encoding
    if not isinstance(encoding, FoPE) and "FoPE" not in repr(encoding):  # whose matrices are not shown
        assert eval(repr(encoding)) == encoding


@given(yarns() | deepseeks(), factors)
def test_replacing_a_field_of_yarn_works_out_the_attention_factor_anew(yarn, factor):
    derived = dataclasses.replace(yarn, attention_factor=None)
    assert dataclasses.replace(derived, factor=factor) == dataclasses.replace(
        yarn, attention_factor=None, factor=factor
    )
    with mpmath.workdps(30):
        replaced = dataclasses.replace(derived, factor=factor)
        assert relative_error(replaced.attention_factor, mp_attention_factor(replaced)) <= 4 * NEAREST
    given = dataclasses.replace(yarn, attention_factor=1.2)
    assert given.attention_factor == 1.2
    assert dataclasses.replace(given, factor=factor).attention_factor == 1.2


def test_replacing_a_field_of_longrope_works_out_the_attention_factor_anew():
    phi = LongRoPE(4, short_factor=[1, 1], long_factor=[2, 3], factor=32.0)
    assert dataclasses.replace(phi, factor=1.0).attention_factor == 1.0
    assert phi.for_length(9999).attention_factor == phi.attention_factor == math.sqrt(1 + math.log(32) / math.log(4096))
    assert copy.deepcopy(phi).for_length(5) == phi.for_length(5)
    kept = dataclasses.replace(phi, attention_factor=1.25)
    assert dataclasses.replace(kept, factor=1.0).attention_factor == kept.for_length(9999).attention_factor == 1.25


def test_a_dialect_is_a_name_for_settings():
    assert YaRN(64, dialect="code") == YaRN(64)
    assert YaRN(64, dialect="paper") == YaRN(64, ramp="turns")
    assert YaRN(64, dialect="resonance-paper") == YaRN(64, ramp="turns", blend="wavelength")
    assert YaRN(64, dialect="code", truncate=False) == YaRN(64, truncate=False)
    assert dataclasses.replace(YaRN(64, dialect="paper"), ramp="index") == YaRN(64)
    assert dataclasses.replace(YaRN(64, dialect="paper"), factor=2.0) == YaRN(64, factor=2.0, dialect="paper")
    official = YaRN(64, factor=2.0, original_length=65, dialect="official-posgen")
    again = dataclasses.replace(official, factor=4.0)
    assert np.array_equal(again.kept_share(), YaRN(64, factor=1.0, original_length=260).kept_share())


def test_numpys_numbers_are_as_good_as_pythons():
    for make in (
        lambda i, f: RoPE(i(64), f(1e4), rotary_dim=i(32)),
        lambda i, f: LinearPI(i(64), f(1e4), f(2)),
        lambda i, f: NTKAware(64, factor=f(2), dialect="mixed", mixed_b=f(0.5)),
        lambda i, f: DynamicNTK(i(64), f(1e4), f(2), i(64)).for_length(i(99)),
        lambda i, f: NTKByParts(64, original_length=i(64), kept_turns=np.array([f(16), f(2)])),
        lambda i, f: YaRN(64, original_length=i(64), mscale=f(0.5), attention_factor=f(1.5)),
        lambda i, f: Llama3(64, original_length=i(64), low_freq_factor=f(2)),
        lambda i, f: LongRoPE(4, short_factor=np.array([f(1), f(2)]), long_factor=[f(1), f(2)], original_length=i(64)),
        lambda i, f: XPos(64, gamma=f(0.5), centre=i(3)),
        lambda i, f: FoPE(4, train_length=i(8), cos_coefficients=np.array([[f(0.5)]]), sin_coefficients=((f(1.0),),)),
        lambda i, f: ProportionalRoPE(64, proportion=f(0.25)),
    ):
        theirs, ours = make(np.int64, np.float32), make(int, float)
        assert theirs == ours
        assert repr(theirs) == repr(ours)
        assert np.array_equal(theirs.inv_freq, ours.inv_freq)


def test_fopes_matrices_cannot_be_changed_from_outside():
    matrix = np.array([[0.5]])
    fope = FoPE(4, train_length=8, cos_coefficients=matrix)
    before = fope.cos_sin([3])
    matrix[0, 0] = 9.0
    assert same_bits(fope.cos_sin([3])[0], before[0])
    assert fope == FoPE(4, train_length=8, cos_coefficients=[[0.5]])
    assert fope != FoPE(4, train_length=8)


def test_partial_rotation_is_that_of_a_smaller_head():
    for make in (LinearPI, NTKAware, DynamicNTK, NTKByParts, YaRN, Llama3, ProportionalRoPE, XPos, FoPE):
        partial, small = make(64, 1e4, rotary_dim=16), make(16, 1e4)
        assert np.array_equal(partial.inv_freq, small.inv_freq)
        assert partial.pairs == 8


# ---- what is refused ----

TWO = {"short_factor": [1, 1], "long_factor": [1, 1]}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LinearPI(8, factor=0.5), "LinearPI: factor is 0.5, expected a finite number >= 1"),
        (lambda: NTKAware(8, factor=math.inf), "NTKAware: factor is inf"),
        (lambda: NTKAware(8, dialect="ntk"), "NTKAware: unknown dialect 'ntk'; did you mean 'ntk-aware'"),
        (lambda: NTKAware(8, mixed_b=0), "NTKAware: mixed_b is 0, expected a finite number > 0"),
        (lambda: NTKAware(2), "NTKAware: 2 features turn, expected at least 4"),
        (lambda: DynamicNTK(64, rotary_dim=2), "DynamicNTK: 2 features turn, expected at least 4"),
        (lambda: DynamicNTK(8, factor=0), "DynamicNTK: factor is 0"),
        (lambda: DynamicNTK(8, original_length=0), "DynamicNTK: original_length is 0"),
        (lambda: DynamicNTK(8, length=-1), "DynamicNTK: length is -1"),
        (lambda: DynamicNTK(8, dialect="HF"), "DynamicNTK: unknown dialect 'HF'"),
        (lambda: DynamicNTK(8).for_length(1.5), "DynamicNTK.for_length: length is 1.5, expected an integer >= 0"),
        (lambda: NTKByParts(8, factor=None), "NTKByParts: factor is None"),
        (lambda: NTKByParts(8, original_length=1.5), "NTKByParts: original_length is 1.5"),
        (lambda: NTKByParts(8, linear_turns=(1, 2)), "NTKByParts: linear_turns[0] is 1.0, expected a finite number >="),
        (lambda: NTKByParts(8, kept_turns=(1, 0)), "NTKByParts: kept_turns[1] is 0, expected a finite number > 0"),
        (lambda: NTKByParts(8, kept_turns=3), "NTKByParts: kept_turns is 3, expected 2 numbers"),
        (lambda: NTKByParts(8, kept_turns=(3,)), "NTKByParts: kept_turns has 1 numbers, expected 2"),
        (lambda: NTKByParts(2), "NTKByParts: 2 features turn"),
        (lambda: YaRN(8, truncate=1), "YaRN: truncate is 1, expected True or False"),
        (lambda: YaRN(8, target_ramp=None), "YaRN: target_ramp is None"),
        (lambda: YaRN(8, mscale=-1.0), "YaRN: mscale is -1.0, expected a finite number >= 0"),
        (lambda: YaRN(8, mscale_all_dim="1"), "YaRN: mscale_all_dim is '1'"),
        (lambda: YaRN(8, attention_factor=0.0), "YaRN: attention_factor is 0.0, expected a finite number > 0"),
        (lambda: YaRN(8, dialect="papers"), "YaRN: unknown dialect 'papers'; did you mean 'paper'"),
        (lambda: YaRN(8, ramp="turns", dialect="code"), "YaRN: ramp is 'turns', but dialect 'code' sets 'index'"),
        (lambda: Llama3(8, factor=0.9), "Llama3: factor is 0.9"),
        (lambda: Llama3(8, original_length=-1), "Llama3: original_length is -1"),
        (lambda: Llama3(8, low_freq_factor=0), "Llama3: low_freq_factor is 0"),
        (lambda: Llama3(8, high_freq_factor=0.5), "Llama3: high_freq_factor is 0.5, expected a finite number >= 1.0"),
        (lambda: LongRoPE(4), "LongRoPE: short_factor has 0 numbers, expected 2"),
        (lambda: LongRoPE(4, **TWO | {"long_factor": 3.0}), "LongRoPE: long_factor is 3.0, expected 2 numbers"),
        (lambda: LongRoPE(4, **TWO | {"long_factor": [1, 0]}), "LongRoPE: long_factor[1] is 0, expected a finite"),
        (
            lambda: LongRoPE(4, **TWO | {"short_factor": [[1], 0]}),
            "LongRoPE: short_factor[0] is [1], expected a finite",
        ),
        (lambda: LongRoPE(4, **TWO, original_length=1), "LongRoPE: original_length is 1, expected an integer >= 2"),
        (lambda: LongRoPE(4, **TWO, factor=0), "LongRoPE: factor is 0"),
        (lambda: LongRoPE(4, **TWO, length=0.5), "LongRoPE: length is 0.5"),
        (lambda: LongRoPE(4, **TWO, attention_factor=-1), "LongRoPE: attention_factor is -1"),
        (lambda: LongRoPE(4, **TWO).for_length(-1), "LongRoPE.for_length: length is -1"),
        (
            lambda: ProportionalRoPE(8, proportion=1.5),
            "ProportionalRoPE: proportion is 1.5, expected a number in [0, 1]",
        ),
        (lambda: ProportionalRoPE(8, proportion=-0.5), "ProportionalRoPE: proportion is -0.5"),
        (lambda: ProportionalRoPE(8, factor=math.nan), "ProportionalRoPE: factor is nan"),
        (lambda: XPos(8, gamma=0), "XPos: gamma is 0"),
        (lambda: XPos(8, scale_base=-1), "XPos: scale_base is -1"),
        (lambda: XPos(8, centre=math.inf), "XPos: centre is inf"),
        (lambda: XPos(8).cos_sin([1], role="v"), "cos_sin: unknown role 'v'"),
        (lambda: XPos(8).cos_sin([99_999], role="k"), "cos_sin: the amplitude reaches 1.83e+106, beyond float32"),
        (lambda: XPos(8).cos_sin([10**9], np.float64, role="k"), "cos_sin: the amplitude reaches inf, beyond float64"),
        (
            lambda: Resonance(XPos(8)).cos_sin([-8000], np.float16),
            "cos_sin: the amplitude reaches 3.17e+08, beyond flo",
        ),
        (lambda: XPos(8).cos_sin([1], np.int32), "cos_sin: dtype is int32"),
        (lambda: FoPE(8, train_length=0), "FoPE: train_length is 0"),
        (lambda: FoPE(8, padding="zeros"), "FoPE: unknown padding 'zeros'"),
        (
            lambda: FoPE(4, train_length=8, cos_coefficients=0.5),
            "FoPE: cos_coefficients is 0.5, expected floats (1, 1)",
        ),
        (lambda: FoPE(4, train_length=8, sin_coefficients=np.eye(2)), "FoPE: sin_coefficients is float64(2, 2), expec"),
        (lambda: FoPE(4, train_length=8, sin_coefficients=[[1, 2]]), "FoPE: sin_coefficients[0] has 2 numbers, expec"),
        (lambda: FoPE(4, train_length=8, cos_coefficients=[["a"]]), "FoPE: cos_coefficients[0][0] is 'a'"),
        (lambda: FoPE(8).cos_sin([1], "int8"), "cos_sin: dtype is int8"),
        (lambda: Resonance(RoPE(8), "middle"), "Resonance: unknown dialect 'middle'"),
        (lambda: Resonance(FoPE(8), "before"), "Resonance: FoPE has no stretch, which dialect 'before' needs"),
        (
            lambda: Resonance(LongRoPE(4, short_factor=[0.01, 1], long_factor=[1, 1])),
            "Resonance: the wavelength of pair 0 is 0.0628, expected above 1/2 and below 2^63",
        ),
    ],
)
def test_bad_parameters_are_named(make, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        make()
    assert words in str(error.value)
