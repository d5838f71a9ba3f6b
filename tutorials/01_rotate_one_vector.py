# %% [markdown]
# # 01 Rotate one vector
#
# **You will** turn a query by hand, see why only the distance between two tokens counts, and watch one pair of features
# come home exactly, thousands of tokens later.
#
# **You will learn** what a pair, a wavelength and Resonance are.
#
# **You need** NumPy and matplotlib (`pip install "refrope[experiments]"`). Runs in a few seconds, without a network.

# %%
from pathlib import Path

import matplotlib as mpl
import numpy as np

import refrope as rr

mpl.use("Agg")
import matplotlib.pyplot as plt

FIGURES = Path(__file__).parent / "figures" if "__file__" in globals() else Path("figures")
FIGURES.mkdir(exist_ok=True)

# %% [markdown]
# ## A pair of features is an arrow
#
# RoPE takes the features of a query two by two and reads each pair as an arrow in the plane. At position m the arrow of
# pair j is turned by `m * inv_freq[j]` radians. Nothing else happens: no arrow becomes longer or shorter.

# %%
rope = rr.RoPE(head_dim=4, base=100.0)
print("radians per token:", rope.inv_freq)
print("tokens per turn:  ", rope.wavelengths)

query = np.array([[1.0, 0.0, 0.0, 1.0]])  # half layout: pair 0 is features (0, 2), pair 1 is features (1, 3)
cos, sin = rope.cos_sin([3], np.float64)
turned = rr.rotate(query, cos, sin)

# %% [markdown]
# **Predict** before you look: pair 0 starts at (1, 0), and turns by 3 radians. Where does it point?

# %%
print("pair 0 now points to", turned[0, [0, 2]])
assert np.allclose(turned[0, [0, 2]], [np.cos(3), np.sin(3)])
assert np.isclose(np.linalg.norm(turned), np.linalg.norm(query))

# %% [markdown]
# ## Only the distance counts
#
# The score of a query at m and a key at n is the dot product of both, turned. Turning both by the same angle changes no
# dot product, so the score depends on m - n alone.
#
# **Predict**: by how much do the scores of (m, n) = (7, 2) and (1007, 1002) differ?

# %%
key = np.array([[0.5, -1.0, 2.0, 0.3]])


def score(m, n):
    """The dot product of the query at position m and the key at position n."""
    return float(
        (rr.rotate(query, *rope.cos_sin([m], np.float64)) @ rr.rotate(key, *rope.cos_sin([n], np.float64)).T)[0, 0]
    )


print("score(7, 2) =", score(7, 2), " score(1007, 1002) =", score(1007, 1002))
assert abs(score(7, 2) - score(1007, 1002)) < 1e-12  # rounding, and no more

# %% [markdown]
# ## Coming home
#
# Pair 0 makes a turn in 2 pi = 6.28... tokens. That is no whole number: no two positions ever have the same angle, and
# at every new position the model sees an angle that it has never seen in training. Resonance rounds 6.28 to 6.
#
# **Predict**: with Resonance, how many different angles does pair 0 take at the positions 0 to 9,999?

# %%
positions = np.arange(10_000)
resonance = rr.Resonance(rope)
for encoding in (rope, resonance):
    print(type(encoding).__name__, "takes", len(np.unique(encoding.turns(positions)[:, 0])), "different angles")
cos, sin = resonance.cos_sin(positions, np.float64)
assert resonance.periods[0] == 6
assert np.array_equal(cos[:-6, 0], cos[6:, 0])  # bit for bit
assert np.array_equal(sin[:-6, 0], sin[6:, 0])

# %% [markdown]
# The figure shows where pair 0 points at the positions of training (grey) and at the first positions beyond (coloured).
# With Resonance every coloured dot falls on a grey one: that is Theorem 1 of the paper (arXiv:2403.00071).

# %%
figure, panels = plt.subplots(1, 2, figsize=(8, 4.6), layout="constrained")
for axes, (title, encoding) in zip(panels, {"RoPE": rope, "Resonance RoPE": resonance}.items(), strict=True):
    trained, beyond = (2 * np.pi * encoding.turns(p)[:, 0] for p in (np.arange(16), np.arange(16, 24)))
    axes.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.85"))
    axes.scatter(np.cos(trained), np.sin(trained), s=150, color="0.7", label="positions 0 to 15 (training)")
    axes.scatter(np.cos(beyond), np.sin(beyond), s=25, color="#D55E00", label="positions 16 to 23 (beyond)", zorder=3)
    gap = rr.feature_gap(encoding, 16, 24)[0]
    axes.set(
        title=f"{title}: feature gap {gap:.3f}",
        aspect="equal",
        xlim=(-1.3, 1.3),
        ylim=(-1.3, 1.3),
        xticks=[],
        yticks=[],
    )
handles, labels = axes.get_legend_handles_labels()
figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
figure.savefig(FIGURES / "01_rotate_one_vector.png", dpi=110)
assert rr.feature_gap(resonance, 16, 24)[0] == 0
assert rr.feature_gap(rope, 16, 24)[0] > 0.01

# %% [markdown]
# ## Exercises
#
# 1. Which base gives pair 1 of `head_dim=4` a wavelength of exactly 100 tokens? (`2 pi sqrt(base) = 100`.)
# 2. What does `transpose=True` do to the turned query?
# 3. Why is the feature gap of the *slowest* pair not zero, even with Resonance?
#
# ### Answers

# %%
assert np.isclose(rr.RoPE(4, (100 / (2 * np.pi)) ** 2).wavelengths[1], 100)  # 1
cos, sin = rope.cos_sin([3], np.float64)
assert np.allclose(rr.rotate(turned, cos, sin, transpose=True), query)  # 2: it turns back
assert rr.Resonance(rr.RoPE(4, 1e4)).periods[1] > 24  # 3: it has not made a full turn within training
assert rr.feature_gap(rr.Resonance(rr.RoPE(4, 1e4)), 16, 24)[1] > 0
