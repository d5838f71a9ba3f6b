# %% [markdown]
# # 05 Resonate
#
# **You will** prove Theorem 1 of the Resonance RoPE paper in your head, then by trying every position, and then look at
# position 9,223,372,036,854,775,807.
#
# **You will learn** what whole-number wavelengths buy, why ordinary angles lose it again, and what they do not buy.
#
# **You need** tutorials 01, 03 and 04, NumPy and matplotlib (`pip install -e ".[experiments]"` in the clone). Runs in a
# few seconds, without a network.

# %%
import inspect
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import refrope as rr
from refrope import analysis, tables

FIGURES = Path(__file__).parent / "figures" if "__file__" in globals() else Path("figures")
FIGURES.mkdir(exist_ok=True)

# %% [markdown]
# ## The gap by hand
#
# Heads of 64 features, base 10,000, trained on 64 tokens, tested on 256: the setting of Wang et al. (2024,
# arXiv:2403.00071). Pair 1 takes 8.38 tokens for a turn and so has been round its circle seven times in training. Its
# feature gap, by the book: for each test position the distance to the nearest training position on the circle, and of
# these the largest.
#
# **Predict**: is the gap of a pair that went round seven times 0? (64 dots lie on its circle, which is 6.28 around.)

# %%
TRAIN, TEST = 64, 256
rope = rr.RoPE(head_dim=64, base=10_000.0)


def points(encoding, positions, pair):
    """(positions, 2): where a pair points."""
    cos, sin = encoding.cos_sin(positions, np.float64)
    return np.stack([cos[:, pair], sin[:, pair]], axis=-1)


trained, tested = points(rope, np.arange(TRAIN), 1), points(rope, np.arange(TRAIN, TEST), 1)
distances = np.linalg.norm(tested[:, None] - trained, axis=-1)  # of every test position to every training position
by_hand = distances.min(axis=1).max()
print(f"gap of pair 1: {by_hand:.3f}")
assert np.isclose(by_hand, rr.feature_gap(rope, TRAIN, TEST)[1])
assert by_hand > 0.05

# %% [markdown]
# Small, not 0: no test position ever meets a training position. Now let the wavelength be 8 instead of 8.38, and
# think of test position n = 100. It is 12 turns and 4 tokens from the start, so it points where position 4 points,
# which is a training position. Nothing in that depends on 8 or 100. If the wavelength w is a whole number and at most
# L, position n points where `n mod w` points, and that is below w, so it was in training: the gap is 0. This is
# *Theorem 1*. (It holds for w = L, too; `critical_pair` counts wavelengths below L, as in tutorial 03.)
#
# **Predict**: of the 32 pairs, how many have gap 0 with Resonance? (Tutorial 03 counted the pre-critical pairs.)

# %%
resonance = rr.Resonance(rope)
print("whole wavelengths:", resonance.periods[:12], "...")
gaps = {encoding.name: rr.feature_gap(encoding, TRAIN, TEST) for encoding in (rope, resonance)}
print("pairs with gap 0:", {name: int((gap == 0).sum()) for name, gap in gaps.items()})
assert (gaps["Resonance"] == 0).sum() == 9
assert (gaps["RoPE"] > 0).all()

# %% [markdown]
# ## All of it, bit for bit
#
# `feature_gap` calculates with whole numbers. Let us not trust it, and try every position: Llama 2's sizes, trained on
# 4,096 tokens, tested on 32,768, 46 pre-critical pairs. Is each cosine and sine of each test position *equal* to one of
# training, without a tolerance?
#
# **Predict**: of 2.6 million numbers, how many differ from those of the training position `n mod w` in their last bit?

# %%
llama2 = rr.Resonance(rr.RoPE(head_dim=128, base=10_000.0))
fast = llama2.periods[: rr.critical_pair(llama2, 4096)]
trained = [table[:, : len(fast)] for table in llama2.cos_sin(np.arange(4096), np.float64)]
beyond = np.arange(4096, 32_768)
tested = [table[:, : len(fast)] for table in llama2.cos_sin(beyond, np.float64)]
repeated = [np.take_along_axis(table, beyond[:, None] % fast, axis=0) for table in trained]
differ = sum(int((one != other).sum()) for one, other in zip(tested, repeated, strict=True))
print(f"{differ} of {sum(table.size for table in tested):,} numbers differ")
assert len(fast) == 46
assert differ == 0

# %% [markdown]
# ## Why it takes whole numbers all the way
#
# Whole wavelengths alone do not do that. Programs multiply the position by `inv_freq` and take the cosine; for a
# wavelength of 6 that is `n * (2 * pi / 6)`. There are four different cosines in such a turn: 1, 1/2, -1/2 and -1.
# (refrope has at most six, one for each position: cos 60° and cos 300° may differ in the last bit.)
#
# But a floating-point number has a fixed number of binary digits, float64 53 and float32 24, and every result is
# rounded to the nearest such number. (An *int64* is a whole number below 2^63, and exact.)
#
# **Predict**: in float64, over 4,096 positions, how many different numbers come out: 4, or more than 1,000?

# %%
positions = np.arange(4096)
by_angle = np.cos(positions * (2 * np.pi / 6))
by_remainder = llama2.cos_sin(positions, np.float64)[0][:, 0]
print("different cosines by angle:", len(np.unique(by_angle)), " of Resonance:", len(np.unique(by_remainder)))
assert len(np.unique(by_angle)) > 1000
assert len(np.unique(by_remainder)) <= 6
assert [np.finfo(dtype).nmant + 1 for dtype in (np.float64, np.float32)] == [53, 24]  # with the first, always 1
assert np.iinfo(np.int64).max == 2**63 - 1
assert np.allclose(by_angle, by_remainder, rtol=0, atol=1e-9)

# %% [markdown]
# Each product is rounded anew, and each rounding is another angle. The further on, the more: between 2^53 and 2^54
# float64 does not even have the odd positions. refrope never makes the product. It takes `n mod w` in integers first:

# %%
print(inspect.getsource(tables.periodic_turns).split('"""')[-1])

# %% [markdown]
# **Predict** for position 2^63 - 1, the last one that an int64 can hold: what is its cosine at wavelength 6? (It is 1
# more than a multiple of 6.) And what does the product say?

# %%
LAST = 2**63 - 1
for position in (10**9 + 1, 6 * 10**17 + 1, LAST):
    product, exact = np.cos(position * (2 * np.pi / 6)), llama2.cos_sin([position], np.float64)[0][0, 0]
    print(f"{position:19d} = 6 k + {position % 6}: by angle {product:+.7f}, refrope {exact:+.7f}")
assert LAST % 6 == 1
assert abs(product - 0.5) > 0.1  # float64 rounds this position to a multiple of 1024
at_last, home = llama2.cos_sin([LAST], np.float64), np.int64(LAST) % fast
for one, other in zip(at_last, trained, strict=True):
    assert np.array_equal(one[0, : len(fast)], other[home, np.arange(len(fast))])  # numbers of training again

# %% [markdown]
# So one turn of each pair is all the table there is to store. `period_tables` holds it, and `rr.rotate_periodic` turns
# queries and keys by it.
#
# **Predict** its bytes for Llama 2, for all positions up to 2^63 - 1: 64 pairs, 405,898 tokens in all their turns
# together, a cosine and a sine each, of 4 bytes. (A usual table up to 131,072 tokens has 67 MB.)

# %%
table = llama2.period_tables()
print(f"{(table.cos.nbytes + table.sin.nbytes) / 1e6:.2f} MB")
assert table.cos.nbytes + table.sin.nbytes == 8 * analysis.sum_of_periods(llama2) == 8 * 405_898
query = np.random.default_rng(0).standard_normal((2, 128)).astype(np.float32)
far = np.array([131_071, LAST])
assert np.array_equal(rr.rotate_periodic(query, far, table), rr.rotate(query, *llama2.cos_sin(far)))

# %% [markdown]
# ## What it does not buy: the slow pairs
#
# A post-critical pair has not seen its whole circle, and rounding 83.79 to 84 shows it no more of it.
#
# **Predict** by how much Resonance changes the largest gap of the 23 post-critical pairs.

# %%
slow = {name: gap[9:].max() for name, gap in gaps.items()}
print("largest gap of post-critical pairs:", {name: round(float(gap), 3) for name, gap in slow.items()})
assert abs(slow["RoPE"] - slow["Resonance"]) < 0.01

# %% [markdown]
# For these there is YaRN (tutorial 04), and Resonance goes around any encoding: `rr.Resonance(rr.YaRN(...))` rounds the
# wavelengths that YaRN has made. Only in this order are all those in use whole numbers. **Predict**: YaRN slows some
# pre-critical pairs down, and training still has 64 tokens. Has Resonance of YaRN gap 0 for more pairs than 9, or for
# fewer?

# %%
yarn = rr.YaRN(64, factor=TEST / TRAIN, original_length=TRAIN)
around = rr.Resonance(yarn)
for encoding in (yarn, around):
    gaps[encoding.name if encoding is yarn else "Resonance of YaRN"] = rr.feature_gap(encoding, TRAIN, TEST)
print("with YaRN:", int((gaps["Resonance of YaRN"] == 0).sum()), "pairs, of periods", around.periods[:6])
assert (gaps["Resonance of YaRN"] == 0).sum() == rr.critical_pair(yarn, TRAIN) == 6
assert not np.array_equal(around.wavelengths, yarn.wavelengths)

# %% [markdown]
# Fewer: 6. (The gap here is that of a model which is trained with YaRN on 64 tokens. If YaRN is put in after training
# with RoPE, its slow pairs stay within the angles of training, as tutorial 04 showed.)
#
# ## What it does not buy: combinations
#
# Each fast pair repeats. All of them together repeat when all are back at once: after the *least common multiple* of
# their wavelengths. **Predict** it for the first three, 6, 8 and 11 tokens. Then guess for all 46 of Llama 2.

# %%
print("three pairs:", np.lcm.reduce(resonance.periods[:3]), " nine pairs:", f"{analysis.lcm_horizon(rope, TRAIN):,}")
print(f"46 pairs of Llama 2: {analysis.lcm_horizon(llama2, 4096):.3e}")
assert np.lcm.reduce(resonance.periods[:3]) == 264
assert analysis.lcm_horizon(rope, TRAIN) == 16_936_920
assert analysis.lcm_horizon(llama2, 4096) > 7e51  # as the paper says

# %% [markdown]
# Of 16,936,920 combinations training has shown 64. How much does that matter? Compare positions by the *worst* of the
# nine pairs: two are close if all nine point nearly the same way. **Predict**: how far is the best of all test
# positions from its nearest training position? (Nine gaps are 0. A circle of radius 1 is 2 across.)


# %%
def together(encoding, pairs=9):
    """(192,): for each test position the nearest training position, by the worst pair."""
    apart = encoding.turns(np.arange(TRAIN, TEST))[:, None, :pairs] - encoding.turns(np.arange(TRAIN))[:, :pairs]
    return (2 * np.abs(np.sin(np.pi * apart))).max(axis=-1).min(axis=-1)


for encoding in (rope, resonance):
    print(f"{encoding.name}: best {together(encoding).min():.2f}, worst {together(encoding).max():.2f}")
assert together(resonance).min() > 0.99  # at least one pair points 60 degrees elsewhere
assert together(resonance, pairs=1).max() == 0

# %% [markdown]
# Every hand is where it has been, and the clock as a whole shows a time that it has never shown. A score is a sum over
# pairs, and what the model makes of a sum with known terms in a new combination is for experiments to say
# (tutorial 08).

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
for axes, (plain, rounded) in zip(panels, (("RoPE", "Resonance"), ("YaRN", "Resonance of YaRN")), strict=True):
    covered = int((gaps[rounded] == 0).sum())
    axes.axvspan(-0.7, covered - 0.5, color="#009E73", alpha=0.15, linewidth=0, label=f"{covered} pre-critical pairs")
    axes.plot(gaps[plain], "o", color="#0072B2", markersize=8, markerfacecolor="none", label=plain)
    axes.plot(gaps[rounded], ".", color="#D55E00", markersize=6, label=rounded)
    axes.set(xlabel="pair", xlim=(-0.7, 31.7), ylim=(-0.05, 2.1))
    axes.legend(frameon=False, loc="upper right")
panels[0].set_ylabel("feature gap (chord of a circle of radius 1)")
figure.suptitle("Trained on 64 tokens, tested on 256", fontsize=11)
figure.savefig(FIGURES / "05_resonate.png", dpi=110)

# %% [markdown]
# ## Exercises
#
# 1. Rounding moves a wavelength by at most half a token. Which of Llama 2's pairs is furthest from plain RoPE after 100
#    tokens, and how many radians? What does that mean for a model that was trained without Resonance?
# 2. Gemma 2 has heads of 256 features and base 10,000. Which of its pairs become one and the same by rounding?
#    (`analysis.period_collisions`)
# 3. `dialect` says in which order Resonance rounds and stretches: `rr.Resonance(yarn, dialect="before")` rounds first
#    and stretches then. Is any gap 0?
#
# ### Answers

# %%
# 1. Pair 0, 4.7 % faster and so 4.7 radians ahead: it reads another distance than the one that training taught it.
ahead = 100 * (llama2.inv_freq - rr.RoPE(128).inv_freq)
print(f"pair {np.abs(ahead).argmax()} is {np.abs(ahead).max():.2f} radians ahead after 100 tokens")
assert np.abs(ahead).argmax() == 0
assert np.isclose(ahead[0], 100 * (2 * np.pi / 6 - 1))

# 2. Three times two neighbours; a head of 128 features has none.
print("pairs of equal wavelength:", analysis.period_collisions(rr.RoPE(256)))
assert list(analysis.period_collisions(rr.RoPE(256)).values()) == [(1, 2), (3, 4), (6, 7)]
assert analysis.period_collisions(rr.RoPE(128)) == {}

# 3. Where the stretched wavelength happens to be whole: 6 (not stretched), 20 and 30. Others are 8.727 and the like.
before = rr.Resonance(yarn, dialect="before")
gap = rr.feature_gap(before, TRAIN, TEST)[:6]
print("wavelengths:", before.wavelengths[:6].round(3), " gaps:", gap.round(3))
assert gap[[0, 3, 4]].max() < 1e-9 < 0.05 < gap[[1, 2, 5]].min()
