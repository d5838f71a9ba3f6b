# %% [markdown]
# # 10 Lose positions in bfloat16
#
# **You will** run the arithmetic that people use for rotary tables, in seven versions, and see how far into a text each
# of them knows where it is.
#
# **You will learn** why angles want float64 even if tables do not, what bfloat16 does to a score that should depend on
# the distance alone, and why Resonance's tables do not wear out.
#
# **You need** NumPy and matplotlib (`pip install "refrope[experiments]"`). Runs in a few seconds, without a network.

# %%
from pathlib import Path

import matplotlib as mpl
import numpy as np

import refrope as rr
from refrope import precision

mpl.use("Agg")
import matplotlib.pyplot as plt

FIGURES = Path(__file__).parent / "figures" if "__file__" in globals() else Path("figures")
FIGURES.mkdir(exist_ok=True)
rope = rr.RoPE(128, base=10_000.0)
resonance = rr.Resonance(rope)

# %% [markdown]
# ## How far off is a table?
#
# An angle is position times frequency. In float32 the product is rounded to 24 bits: at position 131,071 the fastest
# pair has turned 20,860 times, and what is left for the place within a turn is 24 bits less the 15 of the whole turns.
#
# **Predict** the error of a float32 cosine at position 131,071, before you run this.

# %%
at = np.array([131_071])
for pipeline in ("float64", "refrope", "float32", "ggml", "bfloat16-position", "bfloat16-table"):
    print(f"{pipeline:18s} {precision.table_error(rope, at, pipeline)[0]:.1e}   {precision.PIPELINES[pipeline]}")
assert precision.table_error(rope, at, "refrope")[0] < 2.0**-24  # float64 angles, rounded once

# %% [markdown]
# The largest error within a window of positions, over all pairs, from 256 to a million. Resonance's table holds one
# period of each pair: float32, and the same error at every position.

# %%
ends = 2 ** np.arange(8, 21)
shown = {
    "ggml": (rope, "#D55E00", "float32 recurrence (ggml)"),
    "float32": (rope, "#E69F00", "float32 product (Hugging Face)"),
    "float32-theta": (rope, "#F0E442", "float32 frequencies only"),
    "bfloat16-table": (rope, "#999999", "float32 product, table in bfloat16"),
    "bfloat16-position": (rope, "#000000", "positions in bfloat16"),
    "periodic": (resonance, "#0072B2", "Resonance, one float32 period a pair"),
    "refrope": (rope, "#009E73", "float64 angles, float32 table (refrope)"),
}
errors = {
    name: [precision.table_error(encoding, np.arange(end - 64, end), name).max() for end in ends]
    for name, (encoding, _, _) in shown.items()
}
assert max(errors["periodic"]) < 1e-6  # at every position, as far as positions go
assert max(errors["refrope"]) < 2.0**-24
assert errors["float32"][-1] > 1e4 * errors["periodic"][-1]
assert errors["bfloat16-position"][-1] > 1  # it does not know where it is

# %% [markdown]
# ## A score that should not move
#
# Move a query and its key together: by RoPE's algebra the score stays. **Predict** what it does when the rotation is
# computed in bfloat16, as in much training code (Wang et al. 2024, arXiv:2411.13476).

# %%
draws = np.random.default_rng(0)
q, k = draws.standard_normal((2, 500, 128))
shifts = 2 ** np.arange(0, 18)
moved = {
    name: [precision.relative_score_error(rope, q, k, 100, 0, int(s), pipeline=name).mean() for s in shifts]
    for name in ("bfloat16-table", "float32", "refrope")
}
print("mean change of the score after 32,768 tokens:", {name: f"{v[15]:.1e}" for name, v in moved.items()})
assert moved["bfloat16-table"][15] > 1e-3
assert moved["refrope"][15] < 1e-6

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
for name, (_, color, label) in shown.items():
    left.loglog(ends, errors[name], marker="o", markersize=3, color=color, label=label)
left.axhline(1e-6, color="0.7", linewidth=0.8, linestyle=":")
left.set(title="Error of cos and sin", xlabel="position", ylabel="largest error over pairs", ylim=(1e-8, 5))
left.legend(frameon=False, fontsize=7.5, loc="lower right", bbox_to_anchor=(1.0, 0.23))
for name, values in moved.items():
    right.loglog(shifts, values, marker="o", markersize=3, color=shown[name][1], label=shown[name][2])
right.set(title="Score of one pair of tokens, both moved", xlabel="moved by, tokens", ylabel="mean change of the score")
right.legend(frameon=False, fontsize=8)
figure.savefig(FIGURES / "10_lose_positions_in_bfloat16.png", dpi=100)

# %% [markdown]
# ## Exercises
#
# 1. Which is worse at 4,096 tokens: float32 frequencies with a float64 product, or everything in float32?
# 2. From which position on do two neighbours share a bfloat16 position?
# 3. How many bytes has Resonance's table for a million positions, and how many a dense one?
#
# ### Answers

# %%
place = np.arange(4096 - 64, 4096)
assert (
    precision.table_error(rope, place, "float32-theta").max() < precision.table_error(rope, place, "float32").max()
)  # 1
assert precision.round_to_bfloat16(256.0) == precision.round_to_bfloat16(257.0)  # 2: 8 bits count to 256
assert precision.round_to_bfloat16(255.0) != precision.round_to_bfloat16(256.0)
sizes = rr.analysis.table_bytes(resonance, 2**20)  # 3
print(f"periodic {sizes.periodic / 1e6:.2f} MB, dense {sizes.dense / 1e6:.1f} MB")
assert sizes.periodic * 100 < sizes.dense
