# %% [markdown]
# # 03 Read the wavelengths
#
# **You will** take two numbers from a model's configuration, its base and its training length, and read from them what
# its training can have shown and what not.
#
# **You will learn** how wavelengths grow from pair to pair, what the base does, what pre- and post-critical pairs are,
# and why Llama 3 was trained on longer texts than Llama 2 and yet leaves more pairs without a full turn.
#
# **You need** tutorials 01 and 02, NumPy and matplotlib (`pip install -e ".[experiments]"` in the clone). Runs in a few
# seconds, without a network.

# %%
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import refrope as rr
from refrope.analysis import circle_coverage
from refrope.decay import long_range_decay

FIGURES = Path(__file__).parent / "figures" if "__file__" in globals() else Path("figures")
FIGURES.mkdir(exist_ok=True)

# %% [markdown]
# ## Hands of a clock
#
# Pair j takes `2 * pi * base ** (2 * j / head_dim)` tokens for a turn. From one pair to the next that is always the
# same factor: wavelengths are a *geometric series*, like the hands of a clock with 64 hands instead of three. A fast
# hand tells neighbours apart and says the same again after a few tokens; a slow one tells the beginning from the end.
#
# Llama 2 (Touvron et al. 2023, arXiv:2307.09288) has heads of 128 features and base 10,000.
#
# **Predict** the wavelength of its fastest pair. And by which factor does each pair take longer than the one before?
# (64 such factors make 10,000.)

# %%
llama2 = rr.RoPE(head_dim=128, base=10_000.0)
print("fastest:", llama2.wavelengths[0], " slowest:", llama2.wavelengths[-1], "tokens")
factors = llama2.wavelengths[1:] / llama2.wavelengths[:-1]
print("from pair to pair:", factors[0])
assert np.allclose(factors, 10_000 ** (1 / 64))
assert np.isclose(llama2.wavelengths[0], 2 * np.pi)

# %% [markdown]
# ## What the base does
#
# Llama 3 (Grattafiori et al. 2024, arXiv:2407.21783) has heads of the same size and base 500,000.
#
# **Predict**: what happens to the fastest pair? And to the slowest, whose wavelength was 54,410?

# %%
llama3 = rr.RoPE(head_dim=128, base=500_000.0)
print("Llama 3, fastest:", llama3.wavelengths[0], " slowest:", llama3.wavelengths[-1], "tokens")
assert llama3.wavelengths[0] == llama2.wavelengths[0]  # base ** 0 is 1 for every base
assert np.isclose(llama3.wavelengths[-1] / llama2.wavelengths[-1], 50 ** (63 / 64))

# %% [markdown]
# ## Before the turn is full
#
# The *training length* L is the length of the texts that the model was trained on: 4,096 tokens for Llama 2, 8,192 for
# Llama 3 (before it was extended). A pair whose wavelength is below L has made at least one full turn in training:
# training has shown it all the way round its circle. Wang et al. (2024, arXiv:2403.00071) call it *pre-critical*. A
# pair that has not is *post-critical*: beyond L it goes on to angles that training never showed.
#
# `2 * pi * base ** (j / 64) < L` means `j < 64 * log(L / (2 * pi)) / log(base)`.
#
# **Predict** the number of pre-critical pairs of 64. Llama 3 was trained on texts of twice the length: more, or fewer?

# %%
for name, encoding, length in (("Llama 2", llama2, 4096), ("Llama 3", llama3, 8192)):
    by_hand = int(np.ceil(64 * np.log(length / (2 * np.pi)) / np.log(encoding.base)))
    pre = rr.critical_pair(encoding, length)
    print(f"{name}: {pre} of 64 pairs are pre-critical, {64 - pre} post-critical")
    assert pre == by_hand
assert rr.critical_pair(llama2, 4096) == 46
assert rr.critical_pair(llama3, 8192) == 35

# %% [markdown]
# Fewer: twice the length makes up for a factor of 2 in wavelength, and the larger base makes wavelengths up to 47 times
# as long. Nearly half of Llama 3's pairs never came round in training.
#
# The paper counts 17 pre-critical pairs for heads of 64 features, base 10,000 and 64 tokens. By its own formula for the
# wavelengths they are 9; 17 is the number for heads of 128 features.

# %%
print("64 features:", rr.critical_pair(rr.RoPE(64), 64), " 128 features:", rr.critical_pair(rr.RoPE(128), 64))
assert rr.critical_pair(rr.RoPE(64), 64) == 9
assert rr.critical_pair(rr.RoPE(128), 64) == 17

# %% [markdown]
# ## How much of the circle
#
# `circle_coverage` tells which share of its circle each pair sweeps in L tokens: L / wavelength, and 1 if that is more.
#
# **Predict**, in degrees: how far does the slowest hand of Llama 2 get in 4,096 of its 54,410 tokens? And that of
# Llama 3 in 8,192 of 2,559,196?

# %%
degrees = [360 * circle_coverage(encoding, length)[-1] for encoding, length in ((llama2, 4096), (llama3, 8192))]
print(f"Llama 2: {degrees[0]:.1f} degrees, Llama 3: {degrees[1]:.2f} degrees")
assert np.allclose(degrees, [27.1, 1.15], rtol=0.01)
assert np.cos(np.radians(degrees[1])) > 0.999

# %% [markdown]
# A hand that moves by one degree hardly tells any position from another: to such a pair of features all tokens stand at
# nearly the same place, and their dot product is nearly what it would be without RoPE. That is also why it does little
# harm to such a pair to read on. The pairs in the middle are the ones that get far into new angles. `rr.feature_gap`
# (tutorial 01) tells how far: the distance, on a circle of radius 1, from the worst new angle to the nearest of
# training.
#
# **Predict** for Llama 3, read up to 32,768 tokens: how long is the wavelength of the pair with the largest gap? (The
# worst place is opposite the middle of the arc that training swept. Which hand gets just there?)

# %%
gap = rr.feature_gap(llama3, 8192, 32_768)
worst = int(gap.argmax())
print(f"largest gap {gap[worst]:.2f} at pair {worst}, with a wavelength of {llama3.wavelengths[worst]:,.0f} tokens")
print(f"slowest pair: {gap[-1]:.2f}, pre-critical pairs: at most {gap[:35].max():.3f}")
opposite = 2 * 32_768 - 8192  # half of this is the way from token 4,096, the middle of the arc, to token 32,768
assert abs(np.log(llama3.wavelengths[worst] / opposite)) < np.log(llama3.wavelengths[1] / llama3.wavelengths[0])
assert gap[-1] < 0.1
assert gap[:35].max() < 0.02

# %% [markdown]
# ## A page of models
#
# Each dot is a pair at its wavelength: filled if it is pre-critical, empty if not; the bar is the training length.
# Settings are those published with each model; for Mistral the bar is the longest text that its configuration names.

# %%
MODELS = {  # features that turn, base, training length in tokens
    "Falcon 7B": (64, 1e4, 2048),
    "Llama 2 7B": (128, 1e4, 4096),
    "Gemma 2 9B": (256, 1e4, 8192),
    "Llama 3 8B": (128, 5e5, 8192),
    "Code Llama 7B": (128, 1e6, 16_384),
    "Mistral 7B v0.2": (128, 1e6, 32_768),
}
figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
labels = []
for row, (name, (features, base, length)) in enumerate(MODELS.items()):
    encoding = rr.RoPE(features, base)
    pre = rr.critical_pair(encoding, length)
    labels.append(f"{name}\n{pre} of {encoding.pairs} pairs")
    axes.plot(encoding.wavelengths[:pre], [row] * pre, "o", color="#0072B2", markersize=4)
    post = encoding.wavelengths[pre:]
    axes.plot(post, [row] * len(post), "o", color="#D55E00", markersize=4, markerfacecolor="none")
    axes.plot([length, length], [row - 0.35, row + 0.35], color="black", linewidth=2)
    assert 0 < pre < encoding.pairs  # in no model does every pair make a turn
axes.set_yticks(range(len(MODELS)), labels)
axes.set(xscale="log", xlabel="wavelength (tokens per turn)", ylim=(len(MODELS) - 0.5, -0.75))
axes.plot([], [], "o", color="#0072B2", markersize=4, label="pre-critical")
axes.plot([], [], "o", color="#D55E00", markersize=4, markerfacecolor="none", label="post-critical")
axes.plot([], [], color="black", linewidth=2, label="training length")
axes.legend(frameon=False, loc="upper right", fontsize=9)
axes.grid(axis="x", alpha=0.3)
figure.savefig(FIGURES / "03_read_the_wavelengths.png", dpi=110)

# %% [markdown]
# ## From the command line
#
# `refrope inspect` prints all of this for any encoding, one pair a line; with the path of a model's `config.json` it
# reads the settings from there. (Below, `python -m refrope` is the same as `refrope`.)

# %%
command = "inspect rope --head-dim 128 --base 500000 --train-length 8192 --test-length 32768"
print("$ refrope", command)
lines = subprocess.run(
    [sys.executable, "-m", "refrope", *command.split()], capture_output=True, text=True, check=True
).stdout.splitlines()
print("\n".join([*lines[:4], "...", *lines[35:39], "...", *lines[-5:]]))
assert "35 of 64 pairs make a full turn within 8192 tokens (pre-critical)." in lines

# %% [markdown]
# ## Exercises
#
# 1. For which base is the slowest pair of 128 features pre-critical at 8,192 tokens, so that all are?
# 2. How many more pairs become pre-critical when Llama 2's training length is doubled? Does that depend on the length?
# 3. With a larger base, far keys that resemble the query keep more of their score: compare `long_range_decay` of both
#    models up to their training length. (Tutorial 02; it is 64 at distance 0.)
#
# ### Answers

# %%
# 1. 2 pi base ** (63 / 64) = 8192: base 1,461, a seventh of the usual one.
base = (8192 / (2 * np.pi)) ** (64 / 63)
assert rr.critical_pair(rr.RoPE(128, base - 1), 8192) == 64
assert rr.critical_pair(rr.RoPE(128, base + 1), 8192) == 63

# 2. Each pair takes 1.155 times as long as the one before, so a factor of 2 is log(2) / log(1.155) = 4.8 pairs: 4 or 5.
counts = [rr.critical_pair(llama2, 2**k) for k in range(8, 15)]
print("Llama 2's pre-critical pairs at 256, 512, ..., 16,384 tokens:", counts)
assert set(np.diff(counts)) <= {4, 5}

# 3. Llama 2's falls below 0 within its training length, Llama 3's does not.
lowest = [long_range_decay(e, np.arange(n)).min() for e, n in ((llama2, 4096), (llama3, 8192))]
print("lowest sums of 64 cosines:", np.round(lowest, 1))
assert np.allclose(lowest, [-8.4, 6.0], rtol=0, atol=0.05)
