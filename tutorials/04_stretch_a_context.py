# %% [markdown]
# # 04 Stretch a context
#
# **You will** let a model that was trained on 4,096 tokens read eight times as many, in seven ways, and measure what
# each of them breaks before any model runs. (A model's *context* is the longest text that it was made to read.)
#
# **You will learn** extrapolation and interpolation, position interpolation, NTK-aware scaling and its dynamic form,
# NTK-by-parts, YaRN and Llama 3's scaling: all of them one list of numbers.
#
# **You need** tutorials 01 to 03, NumPy and matplotlib (`pip install -e ".[experiments]"` in the clone). Runs in a few
# seconds, without a network.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import refrope as rr
from refrope.decay import long_range_decay

FIGURES = Path(__file__).parent / "figures" if "__file__" in globals() else Path("figures")
FIGURES.mkdir(exist_ok=True)
LENGTH, FACTOR = 4096, 8  # Llama 2's training length L, and how many times as long a text we want: L' = 32,768
LONG = FACTOR * LENGTH
rope = rr.RoPE(head_dim=128, base=10_000.0)
pre_critical = rr.critical_pair(rope, LENGTH)  # the first 46 of 64 pairs made a full turn in training

# %% [markdown]
# ## Just read on?
#
# The slowest pair of Llama 2 sweeps 27 degrees in training. **Predict**: its cosine, between a query and a key at a
# distance, was never below cos 27° = 0.89. What is it at a distance of 32,767?

# %%
slowest = np.cos(rope.inv_freq[-1] * np.array([LENGTH - 1, LONG - 1]))
print("cosine of the slowest pair at distances 4,095 and 32,767:", slowest.round(2))
assert slowest[0] > 0.89
assert slowest[1] < -0.8

# %% [markdown]
# What meant "somewhat far" has changed its sign. To go on beyond what was shown is *extrapolation*, and sums of
# cosines are bad at it. Chen et al. (2023, arXiv:2306.15595) fit a score to points and look what it does beyond. So
# do we: 128 numbers, one for each pair's cosine and one for its sine (tutorial 02's length and phase in another form:
# length · cos(angle + phase) = a cos(angle) + b sin(angle)), chosen so that the score comes near 1,000 random points
# between -1 and 1 at distances below 4,096.
#
# **Predict** its size within the training length. And up to 32,768: about 10, or above 10,000?

# %%
draws = np.random.default_rng(0)
seen, points = draws.choice(LENGTH, 1000, replace=False), draws.uniform(-1, 1, 1000)


def terms(encoding, distances):
    """(distances, 128): the cosine and sine of every pair."""
    return np.concatenate(encoding.cos_sin(distances, np.float64), axis=1)


# Least squares: the numbers whose misses, squared, add up to the least. rcond drops directions that the points hardly
# determine.
coefficients = np.linalg.lstsq(terms(rope, seen), points, rcond=1e-8)[0]


def largest_score(encoding, start, end):
    """The largest size of the fitted score at distances from start to end."""
    return np.abs(terms(encoding, np.arange(start, end)) @ coefficients).max()


print(f"within training {largest_score(rope, 0, LENGTH):.2f}, beyond {largest_score(rope, LENGTH, LONG):,.0f}")
assert largest_score(rope, 0, LENGTH) < 2
assert largest_score(rope, LENGTH, LONG) > 10_000

# %% [markdown]
# ## Position interpolation
#
# *Interpolation* stays between what was shown. Chen et al. divide positions by the *factor* L'/L, which is to slow
# every pair down by it (`LinearPI`). Then the last of 32,768 tokens stands within one token of where the last of 4,096
# stood.
#
# **Predict** the largest size of the same score now.

# %%
interpolated = rr.LinearPI(128, factor=FACTOR)
print(f"interpolated, up to 32,768 {largest_score(interpolated, 0, LONG):.2f}")
assert 0 < (LONG - 1) / FACTOR - (LENGTH - 1) < 1
assert largest_score(interpolated, 0, LONG) < 2

# %% [markdown]
# So why not always? Look at the other end. In training, neighbours differ by 1 radian in the fastest pair; now by 1/8.
# For a query and a key that are alike, the sum of cosines (`long_range_decay`) falls by about 1.9 of 64 from distance 0
# to distance 1: that is how a head tells "this token" from "the one before".
#
# **Predict** that fall after interpolation. (For small angles cos x is about 1 - x²/2.)


# %%
def fall(encoding):
    """How much of the sum of cosines is lost from distance 0 to distance 1."""
    return float(-np.diff(long_range_decay(encoding, [0, 1]))[0])


print(f"fall from distance 0 to 1: {fall(rope):.3f}, interpolated {fall(interpolated):.3f}")
assert np.isclose(fall(rope), 1.906, rtol=1e-3)
assert 55 < fall(rope) / fall(interpolated) < 65  # about 8 squared

# %% [markdown]
# ## Slow down the slow ones
#
# Each pair has its own answer to this. A pre-critical pair has been all the way round and may go on as it is. Only
# post-critical ones have to be slowed down, and 8 times is enough for any of them. `stretch[j]` is how many times
# slower pair j turns than in plain RoPE; every method here is a way to choose that list.
#
# *NTK-aware* scaling (bloc97 2023, as Peng et al. 2023, arXiv:2309.00071, report; NTK is the *neural tangent kernel*,
# a theory that suggested it and is not needed here) takes a larger base, such that the fastest pair is not slowed
# down at all and the slowest 8 times. In between, the stretch grows geometrically.
#
# **Predict**: pair j of 64 is stretched 8 ** (j / 63) times. Of the 18 post-critical pairs, 46 to 63, how many stay
# within the angles of training up to 32,768 tokens? Which factor would keep all, so that 8 = factor ** (46 / 63)?


# %%
def overshoot(encoding):
    """(18,): the largest angle of each post-critical pair over 32,768 tokens, divided by that of training."""
    return FACTOR / encoding.stretch[pre_critical:]


ntk, needed = rr.NTKAware(128, factor=FACTOR), FACTOR ** (63 / 46)
inside = int((overshoot(ntk) < 1 + 1e-9).sum())
print(f"{inside} stays within; pair 46 goes {overshoot(ntk)[0]:.2f} times as far as in training")
print(f"to read 8 times as much, ask NTK-aware scaling for {needed:.2f} times")
assert np.allclose(ntk.stretch, 8.0 ** (np.arange(64) / 63))
assert inside == 1
assert overshoot(rr.NTKAware(128, factor=1.001 * needed)).max() < 1
assert overshoot(rr.NTKAware(128, factor=0.999 * needed)).max() > 1

# %% [markdown]
# Only the last; one has to ask for more than one wants, as Peng et al. say, too. *Dynamic NTK* does so by the length
# N of the text at hand: as it is up to L, and beyond, in the form of Hugging Face's code, with
# `factor * N / L - (factor - 1)` in the place of the factor. (Peng et al. print N / L, which is that with factor 1.)
# `for_length` gives the encoding for a length, and `original_length` is L.
#
# Its price is another: the angle of one and the same key changes while the text grows. Programs that write text keep
# the keys of earlier tokens, turned, so as not to compute them again.
#
# **Predict** the slowest pair's stretch at N = 32,768. And: a key at position 4,000 was turned when the text was 4,096
# tokens long. By how many turns is its most affected pair off when the text has 32,768: under 1, or above 50?

# %%
dynamic = rr.DynamicNTK(128, factor=FACTOR, original_length=LENGTH)
short, long = dynamic.for_length(LENGTH), dynamic.for_length(LONG)
turns_off = 4000 * (short.inv_freq - long.inv_freq) / (2 * np.pi)
print(
    f"slowest pair: stretched {long.stretch[-1]:.0f} times; pair {turns_off.argmax()}: {turns_off.max():.0f} turns off"
)
assert short.stretch.max() == 1
assert np.isclose(long.stretch[-1], 57)
assert overshoot(long).max() < 0.5  # more than enough
assert turns_off.max() > 80

# %% [markdown]
# ## By parts
#
# *YaRN* ("yet another RoPE extension", Peng et al. 2023) sorts the pairs by how many turns they make within L. It keeps
# those with more than 32 and interpolates those with less than one, the post-critical ones; between them the stretch
# rises gradually, the *ramp*. Besides, it multiplies the cosines and sines by an *attention factor* of
# 0.1 ln(factor) + 1, for queries and for keys: softmax gets larger logits, and so less even weights. Without that
# factor the paper calls it *NTK-by-parts*. The class of that name is an older form, from the authors' code: it keeps
# pairs with more than 16 turns and interpolates those with less than 0.75, by way of NTK-aware scaling between.
#
# Llama 3.1 has a ramp from 4 turns to one and no attention factor (`apply_scaling` in meta-llama/llama-models).
#
# **Predict**: for factor 8, by how much does YaRN multiply the logits (ln 8 = 2.08)? And how many of Llama 3.1's 64
# pairs (base 500,000, L = 8,192, factor 8) are slowed down 8 times? Tutorial 03 counted its pre-critical pairs: 35.

# %%
yarn = rr.YaRN(128, factor=FACTOR, original_length=LENGTH)
parts = rr.NTKByParts(128, factor=FACTOR, original_length=LENGTH)
llama3 = rr.Llama3(128, base=500_000.0, factor=8.0, original_length=8192)
print("YaRN's logits are multiplied by", round(yarn.attention_factor**2, 3))
print("pairs kept and slowed down 8 times:")
print("    YaRN, Llama 2", (yarn.stretch == 1).sum(), (yarn.stretch == 8).sum())
print("    Llama 3.1    ", (llama3.stretch == 1).sum(), (llama3.stretch == 8).sum())
assert np.isclose(yarn.attention_factor**2, 1.208**2, rtol=1e-3)
assert (yarn.stretch == 8).sum() == 64 - pre_critical
for encoding, kept, interpolated_below in ((yarn, 32, 1), (parts, 16, 0.75)):
    assert np.array_equal(encoding.stretch == 1, LENGTH / rope.wavelengths > kept)
    assert np.array_equal(encoding.stretch == 8, LENGTH / rope.wavelengths < interpolated_below)
assert (llama3.stretch == 8).sum() == 64 - 35

# %% [markdown]
# ## What each of them breaks
#
# Side by side, all for Llama 2. *Changed* are pairs that no longer turn as the model learned; *beyond* are
# post-critical pairs that leave the angles of training; *worst* is how many times as far the worst of them goes.

# %%
METHODS = {
    "RoPE": (rope, "0.5"),
    "position interpolation": (interpolated, "#0072B2"),
    "NTK-aware": (ntk, "#D55E00"),
    "dynamic NTK": (long, "#E69F00"),
    "NTK-by-parts": (parts, "#CC79A7"),
    "YaRN": (yarn, "#009E73"),
    "Llama 3's scaling": (rr.Llama3(128, base=10_000.0, factor=FACTOR, original_length=LENGTH), "black"),
}
print("method                   changed  beyond  worst  fall from 0 to 1")
for name, (encoding, _) in METHODS.items():
    changed, beyond = (encoding.stretch > 1 + 1e-9).sum(), (overshoot(encoding) > 1 + 1e-9).sum()
    print(f"{name:24s} {changed:7d} {beyond:7d} {overshoot(encoding).max():6.2f} {fall(encoding):10.3f}")
for name in ("YaRN", "Llama 3's scaling"):
    assert fall(METHODS[name][0]) > 0.99 * fall(rope)  # neighbours as far apart as before
    assert overshoot(METHODS[name][0]).max() == 1  # and nothing beyond
assert (overshoot(METHODS["NTK-by-parts"][0]) > 1 + 1e-9).sum() == 2

# %% [markdown]
# YaRN and Llama 3's scaling break neither end, NTK-by-parts hardly. What is left is the ramp, where each pair is slowed
# down by another amount, and the fast pairs, which go on to angles close to those of training, but not the same ones:
# tutorial 05 is about these. What all of this does to a model is tutorial 08's question.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
for name, (encoding, colour) in METHODS.items():
    style = {"NTK-by-parts": "--", "Llama 3's scaling": ":"}.get(name, "-")
    left.semilogy(encoding.stretch, style, color=colour, label=name)
    right.semilogy(np.arange(pre_critical, 64), overshoot(encoding), style, color=colour)
left.axvline(pre_critical - 0.5, color="0.7", linewidth=0.8)
left.text(pre_critical - 0.5, 0.77, "pre-critical  post-critical", ha="center", fontsize=9)
left.set(ylabel="stretch (times slower than RoPE)", title="What each method does", ylim=(0.7, 80))
left.set_yticks([1, 2, 4, 8, 16, 32, 57], labels=[1, 2, 4, 8, 16, 32, 57])
left.legend(frameon=False, fontsize=8, loc="upper left")
right.axhspan(0.1, 1, color="#009E73", alpha=0.12, linewidth=0)
right.text(46.5, 0.12, "angles that training has shown")
right.text(46.5, 0.82, "three methods at 1:\nposition interpolation, YaRN, Llama 3's scaling", va="top", fontsize=8)
right.set(ylabel="largest angle / that of training", title="Post-critical pairs at 32,768 tokens", ylim=(0.1, 10))
right.set_xticks([46, 50, 55, 60, 63])
right.set_yticks([0.125, 0.25, 0.5, 1, 2, 4, 8], labels=["1/8", "1/4", "1/2", 1, 2, 4, 8])
for axes in (left, right):
    axes.set(xlabel="pair")
    axes.minorticks_off()
figure.savefig(FIGURES / "04_stretch_a_context.png", dpi=110)

# %% [markdown]
# ## Exercises
#
# 1. What do all of these become for factor 1?
# 2. YaRN's code and its paper draw the ramp differently, linear in the pair's index and linear in its turns
#    (`ramp="turns"`). At which pair do they differ most, and by how much?
# 3. The fitted score of the beginning stays small under position interpolation. And under YaRN? Then fit it anew with
#    `rcond=1e-2`, which keeps the 128 numbers small. What was the catch?
#
# ### Answers

# %%
# 1. Plain RoPE, all but dynamic NTK: its N / L - 0 still grows.
for method in (rr.LinearPI, rr.NTKAware, rr.NTKByParts, rr.YaRN, rr.Llama3):
    assert np.array_equal(method(128, base=10_000.0, factor=1.0).inv_freq, rope.inv_freq)
assert np.isclose(rr.DynamicNTK(128, factor=1.0, original_length=LENGTH).for_length(LONG).stretch[-1], 8)

# 2. Turns fall geometrically with the index: in the middle of the ramp most pairs have few left, and the paper's ramp
#    slows them down nearly all the way.
printed = rr.YaRN(128, factor=FACTOR, original_length=LENGTH, ramp="turns")
ratio = printed.stretch / yarn.stretch
print(f"pair {ratio.argmax()}: paper {printed.stretch[ratio.argmax()]:.2f}, code {yarn.stretch[ratio.argmax()]:.2f}")
assert ratio.argmax() == 36
assert ratio.max() > 2

# 3. It explodes, since large terms that cancel each other in training do so only if all pairs are stretched alike. With
#    small ones nothing explodes, not even in plain RoPE: the fit is a worst case, and no trained model's score.
print(f"YaRN {largest_score(yarn, 0, LONG):,.0f}; largest of the 128 numbers {np.abs(coefficients).max():.0f}")
assert largest_score(yarn, 0, LONG) > 10_000
coefficients = np.linalg.lstsq(terms(rope, seen), points, rcond=1e-2)[0]
print(f"with small numbers: RoPE beyond {largest_score(rope, LENGTH, LONG):.2f}")
assert largest_score(rope, LENGTH, LONG) < 5
