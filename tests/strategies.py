"""Hypothesis strategies for encodings and positions."""

from hypothesis import strategies as st

from refrope import Resonance, RoPE, YaRN

INT64_MAX = 2**63 - 1
EDGE_POSITIONS = [0, 1, 2, 63, 64, 65, 4095, 131_071, 2**31 - 1, 2**31, 2**53 - 1, 2**53, 2**53 + 1, INT64_MAX]

head_dims = st.sampled_from([2, 4, 14, 16, 18, 32, 64, 66, 128, 256])
bases = st.sampled_from([1.5, 500.0, 1e4, 5e5, 1e6, 1e8]) | st.floats(2.0, 1e8)
factors = st.sampled_from([1.0, 2.0, 257 / 65, 4.0, 16.0, 40.0]) | st.floats(1.0, 64.0)
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
        original_length=draw(st.sampled_from([1, 64, 65, 257, 2048, 4096, 131_072])),
        beta_fast=slow * draw(st.floats(1.0, 64.0)),
        beta_slow=slow,
        ramp=draw(st.sampled_from(["index", "turns"])),
        blend=draw(st.sampled_from(["frequency", "wavelength"])),
        truncate=draw(st.booleans()),
    )


scaled = ropes | yarns()
resonances = st.builds(Resonance, scaled)
encodings = scaled | resonances
