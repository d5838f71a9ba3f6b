"""Hypothesis strategies for encodings and positions."""

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
    XPos,
    YaRN,
)

INT64_MAX = 2**63 - 1
EDGE_POSITIONS = [0, 1, 2, 63, 64, 65, 4095, 131_071, 2**31 - 1, 2**31, 2**53 - 1, 2**53, 2**53 + 1, INT64_MAX]

head_dims = st.sampled_from([2, 4, 14, 16, 18, 32, 64, 66, 128, 256])
wide_heads = st.sampled_from([4, 14, 16, 18, 32, 64, 66, 128, 256])  # two pairs or more: d / (d - 2) exists
bases = st.sampled_from([1.5, 500.0, 1e4, 5e5, 1e6, 1e8]) | st.floats(2.0, 1e8)
factors = st.sampled_from([1.0, 2.0, 257 / 65, 4.0, 16.0, 40.0]) | st.floats(1.0, 64.0)
original_lengths = st.sampled_from([1, 64, 65, 257, 2048, 4096, 131_072])
lengths = st.sampled_from([0, 1, 2, 63, 64, 65, 2048, 2049, 131_073]) | st.integers(0, 2**20)
int64_positions = st.sampled_from(EDGE_POSITIONS) | st.integers(-(2**63), INT64_MAX)
ropes = st.builds(RoPE, head_dims, bases)


@st.composite
def yarns(draw, factors=factors):
    """Any YaRN."""
    slow = draw(st.floats(0.25, 4.0))
    return YaRN(
        draw(head_dims),
        draw(bases),
        draw(factors),
        original_length=draw(original_lengths),
        beta_fast=slow * draw(st.floats(1.0, 64.0)),
        beta_slow=slow,
        ramp=draw(st.sampled_from(["index", "turns"])),
        blend=draw(st.sampled_from(["frequency", "wavelength"])),
        truncate=draw(st.booleans()),
        target_ramp=draw(st.booleans()),
    )


@st.composite
def deepseeks(draw):
    """YaRN with the other amplitudes, and its named dialects."""
    coefficients = st.none() | st.sampled_from([0.0, 0.707, 1.0]) | st.floats(0.0, 2.0)
    return YaRN(
        draw(head_dims),
        draw(bases),
        draw(factors),
        draw(original_lengths),
        mscale=draw(coefficients),
        mscale_all_dim=draw(coefficients),
        attention_factor=draw(st.none() | st.floats(0.25, 4.0)),
        dialect=draw(st.sampled_from([None, "code", "paper", "resonance-paper", "official-posgen"])),
    )


@st.composite
def llama3s(draw, factors=factors):
    """Any Llama3."""
    low = draw(st.floats(0.25, 4.0))
    high = low * draw(st.floats(1.0, 16.0))
    return Llama3(draw(head_dims), draw(bases), draw(factors), draw(original_lengths), low, high)


@st.composite
def longropes(draw):
    """Any LongRoPE, at any length."""
    head_dim = draw(st.sampled_from([2, 4, 14, 18, 32]))
    lists = st.lists(st.floats(0.25, 64.0), min_size=head_dim // 2, max_size=head_dim // 2)
    return LongRoPE(
        head_dim,
        draw(bases),
        short_factor=draw(lists),
        long_factor=draw(lists),
        original_length=draw(st.sampled_from([2, 64, 4096])),
        factor=draw(factors),
        length=draw(st.none() | lengths),
    )


@st.composite
def fopes(draw):
    """Any FoPE, with coefficients or without."""
    plain = FoPE(
        draw(st.sampled_from([2, 4, 14, 32])),
        draw(bases),
        train_length=draw(original_lengths),
        padding=draw(st.sampled_from(["identity", "ones"])),
    )
    rows = st.lists(st.floats(-2.0, 2.0, width=32), min_size=plain.kept, max_size=plain.kept)
    matrices = st.none() | st.lists(rows, min_size=plain.kept, max_size=plain.kept)
    return FoPE(
        plain.head_dim,
        plain.base,
        train_length=plain.train_length,
        cos_coefficients=draw(matrices),
        sin_coefficients=draw(matrices),
        padding=plain.padding,
    )


ntks = st.builds(
    NTKAware,
    wide_heads,
    bases,
    factors,
    st.sampled_from(["ntk-aware", "scaled-base", "fixed", "mixed"]),
    st.floats(0.25, 2.0),
)
parts = st.builds(
    NTKByParts,
    wide_heads,
    bases,
    factors,
    original_lengths,
    st.sampled_from([(1.25, 0.75), (2.0, 2.0)]),
    st.sampled_from([(16.0, 2.0), [32.0, 1.0]]),
)
dynamics = st.builds(
    DynamicNTK, wide_heads, bases, factors, original_lengths, st.none() | lengths, st.sampled_from(["hf", "vllm"])
)
proportionals = st.builds(ProportionalRoPE, head_dims, bases, st.sampled_from([0.25, 0.3]) | st.floats(0, 1), factors)
xposes = st.builds(
    XPos, head_dims, bases, gamma=st.floats(0.1, 4.0), scale_base=st.floats(64.0, 4096.0), centre=st.integers(-99, 99)
)

# Moving pairs only, the same at every length; then those that depend on it; then whatever there is.
scaled = ropes | yarns() | deepseeks() | st.builds(LinearPI, head_dims, bases, factors) | ntks | parts | llama3s()
of_length = dynamics | longropes()
variants = scaled | of_length | proportionals | xposes | fopes()
resonances = st.builds(Resonance, scaled)
encodings = scaled | resonances
