# %% [markdown]
# # 10 Lose positions in bfloat16
#
# **You will** run the arithmetic that programs use for tables of cos and sin, in seven versions, and see how far into a
# text each of them knows where it is.
#
# **You will learn** why angles want float64 even if tables do not, what bfloat16 does to a score that should depend on
# the distance alone, and why Resonance's tables do not wear out.
#
# **You need** tutorials 01, 02 and 05, NumPy and matplotlib (`pip install -e ".[experiments]"` in the clone). Runs in a
# few seconds, without a network.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import refrope as rr
from refrope import analysis, precision

FIGURES = Path(__file__).parent / "figures" if "__file__" in globals() else Path("figures")
FIGURES.mkdir(exist_ok=True)
rope = rr.RoPE(128, base=10_000.0)
resonance = rr.Resonance(rope)

# %% [markdown]
# ## Numbers have gaps
#
# A floating-point number has a fixed number of binary digits: float64 has 53, float32 has 24, and *bfloat16*, which
# takes half the memory and in which many models are trained and run, has 8. Between 2^k and 2^(k+1) the numbers of p
# digits stand 2^(k+1-p) apart, and all others are rounded to one of them.
#
# **Predict**: with 8 digits, what becomes of the positions 256, 257 and 258? And of 4,000 to 4,015?

# %%
print("256, 257, 258 ->", precision.round_to_bfloat16([256, 257, 258]))
print("different ones of 4,000 to 4,015:", len(np.unique(precision.round_to_bfloat16(np.arange(4000, 4016)))))
assert precision.round_to_bfloat16(255.0) != precision.round_to_bfloat16(256.0) == precision.round_to_bfloat16(257.0)
assert len(np.unique(precision.round_to_bfloat16(np.arange(4000, 4016)))) == 2  # 16 apart: 4,000 and 4,016

# %% [markdown]
# ## How far off is a table?
#
# To make a table a program goes through four stages: `inv_freq`, the position, their product (the angle), its cos and
# sin. Each is stored in some number format. Programs differ in these formats; one choice is a *pipeline* here, and
# `precision.table_error` gives the largest error of its cos and sin over all pairs.
#
# **Predict** the error in float32 at position 131,071. The angles of fast pairs are just below 2^17 radians, where
# numbers of 24 digits are 2^-7 = 0.008 apart. How far can the rounded angle be from the true one?

# %%
at = np.array([131_071])
for pipeline in ("float64", "refrope", "float32", "ggml", "bfloat16-position", "bfloat16-table"):
    print(f"{pipeline:18s} {precision.table_error(rope, at, pipeline)[0]:.1e}   {precision.PIPELINES[pipeline]}")
assert 1e-3 < precision.table_error(rope, at, "float32")[0] < 2 * 2.0**-8  # half a gap, and inv_freq is rounded, too
assert precision.table_error(rope, at, "float32")[0] > 2.0**-9  # the most that rounding to 8 digits changes below 1
assert precision.table_error(rope, at, "refrope")[0] < 2.0**-24
assert rope.cos_sin(at)[0].dtype == np.float32

# %% [markdown]
# `refrope` calculates angles in float64 and rounds the table to float32 at the end: it takes no more memory. ggml, the
# library of llama.cpp, gets each pair's angle from the one before, and roundings add up. `float32` and `bfloat16-table`
# are nearly alike: here the float32 angle's error is already as large as bfloat16's rounding.
#
# ## On and on
#
# The same at positions from 256 to a million, in each case the largest error over 64 positions.
#
# **Predict**: by which factor does float32's error grow when the position doubles? And that of Resonance, if position
# mod wavelength is taken in whole numbers first (tutorial 05), and all the rest is float32?

# %%
ends = 2 ** np.arange(8, 21)
shown = {
    "bfloat16-position": (rope, "#000000", "positions in bfloat16"),
    "ggml": (rope, "#D55E00", "float32 recurrence (ggml)"),
    "bfloat16-table": (rope, "#999999", "float32 product, table in bfloat16"),
    "float32": (rope, "#E69F00", "float32 product (Hugging Face)"),
    "float32-theta": (rope, "#CC79A7", "float32 inv_freq, then float64"),
    "periodic": (resonance, "#0072B2", "Resonance, one float32 turn a pair"),
    "refrope": (rope, "#009E73", "float64 angles, float32 table (refrope)"),
}
errors = {
    name: np.array([precision.table_error(encoding, np.arange(end - 64, end), name).max() for end in ends])
    for name, (encoding, _, _) in shown.items()
}
print("float32, from 256 to 1,048,576:", errors["float32"].round(6))
print(f"a doubling: {(errors['float32'][-1] / errors['float32'][0]) ** (1 / 12):.2f} times on average")
print(f"Resonance: {errors['periodic'].min():.1e} to {errors['periodic'].max():.1e}")
assert 1.8 < (errors["float32"][-1] / errors["float32"][0]) ** (1 / 12) < 2.2
assert errors["periodic"].max() < 1e-6  # at every position, as far as positions go
assert errors["refrope"].max() < 2.0**-24
assert errors["float32"][-1] > 1e4 * errors["periodic"][-1]
assert errors["bfloat16-position"][-1] > 1  # it does not know where it is

# %% [markdown]
# ## A score that should not move
#
# Move a query and its key together, and the score stays as it is (tutorial 01). That is algebra; now let the tables,
# and every product and sum of the rotation, be bfloat16, as in much training code (Wang et al. 2024, arXiv:2411.13476).
#
# **Predict**: rounding to 8 digits changes a number by up to 1/256 of its size. Scores of random queries and keys,
# divided by √d, are about 1. By how much do they change, in the mean, when both tokens move on by 32,768?

# %%
queries, keys = np.random.default_rng(0).standard_normal((2, 500, 128))
shifts = 2 ** np.arange(0, 18)
moved = {
    name: [precision.relative_score_error(rope, queries, keys, 100, 0, int(s), pipeline=name).mean() for s in shifts]
    for name in ("bfloat16-table", "float32", "refrope")
}
print("mean change of the score after 32,768 tokens:", {name: f"{v[15]:.1e}" for name, v in moved.items()})
assert 1e-3 < moved["bfloat16-table"][15] < 1e-2
assert moved["bfloat16-table"][0] > 1e-3  # moved by one token
assert moved["float32"][16] > 10 * moved["float32"][8]
assert max(moved["refrope"]) < 1e-6

# %% [markdown]
# In bfloat16 position counts, not only distance, from the first token on: what shows is the rounding of tables and
# rotation. In float32 the change grows with the position, with float64 angles it does not.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 5.4), layout="constrained")
for name, (_, colour, _) in shown.items():
    left.loglog(ends, errors[name], marker="o", markersize=3, color=colour)
left.set(title="Error of cos and sin", xlabel="position (tokens)", ylabel="largest error over pairs")
for name, values in moved.items():
    right.loglog(shifts, values, marker="o", markersize=3, color=shown[name][1])
right.set(title="Score of two tokens, both moved", xlabel="moved by (tokens)", ylabel="mean change of the score")
for _, colour, label in shown.values():
    left.plot([], [], color=colour, marker="o", markersize=3, label=label)
figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
figure.savefig(FIGURES / "10_lose_positions_in_bfloat16.png", dpi=110)

# %% [markdown]
# ## Exercises
#
# 1. Which is worse at 4,096 tokens: rounding `inv_freq` to float32 and going on in float64, or float32 all the way?
# 2. From which position on do two neighbours share a float16 position? (It has 11 digits.) And a float32 one?
# 3. How many bytes has Resonance's table for a million positions, one turn of each pair, and how many a usual one?
#
# ### Answers

# %%
# 1. All the way: the rounded product is one more error.
place = np.arange(4096 - 64, 4096)
once, always = (precision.table_error(rope, place, name).max() for name in ("float32-theta", "float32"))
assert once < always

# 2. From 2^11 = 2,048 and from 2^24 = 16,777,216 on: beyond, the gap is 2.
for dtype, digits in ((np.float16, 11), (np.float32, 24)):
    assert dtype(2**digits) == dtype(2**digits + 1)
    assert dtype(2**digits - 1) != dtype(2**digits)

# 3. A usual one has 165 times as many.
sizes = analysis.table_bytes(resonance, 2**20)
print(f"one turn of each pair {sizes.periodic / 1e6:.2f} MB, usual {sizes.dense / 1e6:.1f} MB")
assert sizes.dense // sizes.periodic == 165
