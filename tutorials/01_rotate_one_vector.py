# %% [markdown]
# # 01 Rotate one vector
#
# **You will** turn a query by hand, see why only the distance between two tokens counts, and watch one pair of features
# come home exactly, ten thousand tokens later.
#
# **You will learn** what a pair, a wavelength and Resonance are.
#
# **You need** the sine and cosine of school, NumPy and matplotlib (`pip install -e ".[experiments]"` in the clone).
# Runs in a few seconds, without a network.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import refrope as rr

FIGURES = Path(__file__).parent / "figures" if "__file__" in globals() else Path("figures")
FIGURES.mkdir(exist_ok=True)

# %% [markdown]
# ## A score that knows no places
#
# A language model reads a text as *tokens*: words, or pieces of words. Counted from 0, the number of a token is its
# *position*. For each token the model works out two lists of numbers: a *query*, what the token looks for in the
# others, and a *key*, what it has to offer them. One number of such a list is a *feature*. The *score* of a query and a
# key is their dot product, and the higher it is, the more the one token takes from the other. How queries and keys come
# out of tokens is fixed by *training*: the model's numbers are adjusted until it guesses the next token of example
# texts well.
#
# A dot product does not know where its two tokens stand. Rotary position embedding, *RoPE* (Su et al. 2021,
# arXiv:2104.09864), lets it know by turning each query and each key, and the further on its token, the further.
#
# ## A pair of features is an arrow
#
# RoPE takes the features two by two. With d features (`head_dim`) *pair* j is feature j and feature j + d/2, first half
# with second half: the *half layout*. A pair (a, b) is read as an arrow in the plane, and turned by an *angle* φ it is
#
#     (a cos φ - b sin φ,  a sin φ + b cos φ)
#
# At position m the angle of pair j is `m * inv_freq[j]` radians, with `inv_freq[j] = base ** (-2 * j / head_dim)`:
# the radians per token are the pair's *frequency*, under the name that programs give it. The *base* is a number that
# the model's makers choose, often 10,000. A whole turn is 2 π radians, so that it takes pair j `2 * pi / inv_freq[j]`
# tokens: its *wavelength*.
#
# **Predict**: four features and base 100 give two pairs. How many tokens does each of them take for a turn?

# %%
rope = rr.RoPE(head_dim=4, base=100.0)
print("radians per token:", rope.inv_freq)
print("tokens per turn:  ", rope.wavelengths)
assert np.allclose(rope.inv_freq, [1, 1 / 10])
assert np.allclose(rope.wavelengths, [2 * np.pi, 20 * np.pi])

# %% [markdown]
# `cos_sin` makes the table of cosines and sines for a list of positions, and `rr.rotate` turns the rows of an array by
# it, one row for each position. Here the list has one position, 3.
#
# **Predict** before you look: pair 0 of the query below is (1, 0), and turns by 3 radians, nearly half a turn. Where
# does it point?

# %%
query = np.array([[1.0, 0.0, 0.0, 1.0]])  # pair 0 is features 0 and 2, (1, 0); pair 1 is features 1 and 3, (0, 1)
cos, sin = rope.cos_sin([3], np.float64)
turned = rr.rotate(query, cos, sin)
print("pair 0 now points to", turned[0, [0, 2]])
assert np.allclose(turned[0, [0, 2]], [np.cos(3), np.sin(3)])
lengths = [np.hypot(each[0, :2], each[0, 2:]) for each in (query, turned)]  # of both arrows, before and after
assert np.allclose(*lengths)  # neither becomes longer or shorter

# %% [markdown]
# ## Only the distance counts
#
# The score of a query at m and a key at n is the dot product of both, turned. Turning both by the same angle changes no
# dot product, so the score depends on m - n alone.
#
# **Predict**: by how much do the scores of (m, n) = (7, 2) and (1007, 1002) differ? And those of (7, 2) and (7, 3)?

# %%
key = np.array([[0.5, -1.0, 2.0, 0.3]])


def score(m, n):
    """The dot product of the query at position m and the key at position n."""
    query_at_m = rr.rotate(query, *rope.cos_sin([m], np.float64))
    key_at_n = rr.rotate(key, *rope.cos_sin([n], np.float64))
    return float(query_at_m[0] @ key_at_n[0])


print("score(7, 2) =", score(7, 2), " score(1007, 1002) =", score(1007, 1002), " score(7, 3) =", score(7, 3))
assert abs(score(7, 2) - score(1007, 1002)) < 1e-12  # rounding, and no more
assert abs(score(7, 2) - score(7, 3)) > 0.1

# %% [markdown]
# ## Coming home
#
# Pair 0 makes a turn in 2 π = 6.28... tokens. That is no whole number: no two positions ever have the same angle, and
# at every new position the model sees an angle that it has never seen in training. *Resonance* (Wang et al. 2024,
# arXiv:2403.00071) rounds each wavelength to a whole number of tokens, here 6.28 to 6. Such a rule, which says how
# far each pair turns at each position, is an *encoding* here: RoPE is one, Resonance of RoPE (*Resonance RoPE*)
# another. (The "embedding" in RoPE's name means the same.)
#
# **Predict**: how many different angles does pair 0 take at the positions 0 to 9,999? And with Resonance? (`turns`
# tells which part of a whole turn each pair has made, from 0 to 1; `periods` are the whole wavelengths.)

# %%
positions = np.arange(10_000)
resonance = rr.Resonance(rope)
different = {}
for encoding in (rope, resonance):
    different[encoding.name] = len(np.unique(encoding.turns(positions)[:, 0]))
    print(encoding.name, "takes", different[encoding.name], "different angles")
assert different == {"RoPE": 10_000, "Resonance": 6}

cos, sin = resonance.cos_sin(positions, np.float64)
assert resonance.periods.tolist() == [6, 63]  # 6.28 and 62.83, each to the nearest
assert np.array_equal(cos[:-6, 0], cos[6:, 0])  # bit for bit
assert np.array_equal(sin[:-6, 0], sin[6:, 0])

# %% [markdown]
# ## What training has not shown
#
# Say that training had texts of 16 tokens, and that the model now reads one of 24. Each position beyond has an angle;
# how far from it is the nearest angle of training? The *feature gap* of a pair is that distance for the worst of the
# new positions, measured straight across a circle of radius 1.
#
# The figure shows where pair 0 points at the positions of training (grey) and at the first positions beyond (orange).
# With Resonance every orange dot falls on a grey one.

# %%
figure, panels = plt.subplots(1, 2, figsize=(8, 4.6))
for axes, encoding in zip(panels, (rope, resonance), strict=True):
    trained, beyond = (2 * np.pi * encoding.turns(p)[:, 0] for p in (np.arange(16), np.arange(16, 24)))
    axes.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.85"))
    axes.scatter(np.cos(trained), np.sin(trained), s=150, color="0.7", label="positions 0 to 15 (training)")
    axes.scatter(np.cos(beyond), np.sin(beyond), s=25, color="#D55E00", label="positions 16 to 23 (beyond)", zorder=3)
    gap = rr.feature_gap(encoding, 16, 24)[0]
    axes.set(title=f"{encoding.name}: feature gap {gap:.3f}", aspect="equal", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3))
    axes.set(xlabel="cos of the angle", ylabel="sin of the angle", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
figure.legend(*axes.get_legend_handles_labels(), loc="lower center", ncols=2, frameon=False)
figure.tight_layout(rect=(0, 0.07, 1, 1))
figure.savefig(FIGURES / "01_rotate_one_vector.png", dpi=110)
assert rr.feature_gap(resonance, 16, 24)[0] == 0
assert rr.feature_gap(rope, 16, 24)[0] > 0.25

# %% [markdown]
# ## Exercises
#
# 1. Which base gives pair 1 of `head_dim=4` a wavelength of exactly 100 tokens?
# 2. Turning is multiplying by the matrix with rows (cos φ, -sin φ) and (sin φ, cos φ). Its transpose swaps rows and
#    columns. What does `rr.rotate(turned, cos, sin, transpose=True)`, which takes that matrix, make of the turned
#    query?
# 3. Pair 1 of `rr.Resonance(rr.RoPE(4, base=10_000.0))` has a whole wavelength as well. Why is its feature gap from 16
#    to 24 tokens not 0?
#
# ### Answers

# %%
# 1. inv_freq[1] = base ** (-2 / 4), so the wavelength is 2 pi sqrt(base).
assert np.isclose(rr.RoPE(4, base=(100 / (2 * np.pi)) ** 2).wavelengths[1], 100)

# 2. The transpose has -sin for sin, which is the matrix of the angle -3: it turns the query back.
cos, sin = rope.cos_sin([3], np.float64)
assert np.allclose(rr.rotate(turned, cos, sin, transpose=True), query)

# 3. Its turn takes 628 tokens, and training showed the first 16: position 16 is a new angle of the first turn.
slow = rr.Resonance(rr.RoPE(4, base=10_000.0))
assert slow.periods[1] == 628
assert rr.feature_gap(slow, 16, 24)[1] > 0
