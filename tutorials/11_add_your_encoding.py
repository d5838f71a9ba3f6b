# %% [markdown]
# # 11 Add your encoding
#
# **You will** invent a way to slow RoPE's pairs down, write it in a few lines, test it, round its wavelengths with
# Resonance, and let a tiny transformer read sequences three times as long as any it was trained on.
#
# **You will learn** what an encoding has to define, what it gets for nothing, and what to test.
#
# **You need** tutorials 03 to 06 and 08, NumPy and matplotlib (`pip install -e ".[experiments]"` in the clone). Runs in
# about ten seconds, without a network.

# %%
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import refrope as rr
from refrope.encodings import LinearPI, NTKAware
from refrope.encodings.base import exact
from refrope.errors import check_number
from refrope.evaluate import accuracy_by_position, split_accuracy
from refrope.train import TrainSettings, train

FIGURES = Path(__file__).parent / "figures" if "__file__" in globals() else Path("figures")
FIGURES.mkdir(exist_ok=True)

# %% [markdown]
# ## One method
#
# Nearly every published variant is plain RoPE with pair j made `stretch[j]` times slower (tutorial 04). So that is all
# a variant has to say. Position interpolation stretches every pair by the factor s; NTK-aware scaling stretches the
# fastest not at all, the slowest by s, and those between geometrically: with u = j / (pairs - 1), from 0 to 1, by s^u.
#
# Ours bends that: s^(u^power). Numbers are decimals of 50 digits here; `rr.RotaryEncoding`, from which every encoding
# inherits, rounds them to float64 once. `exact` makes a decimal of a number, without rounding. `check_number` raises a
# ValueError unless a field is a finite number and at least the last argument (with `above=True`, above it).

# %%


@dataclass(frozen=True)
class PowerStretch(rr.RotaryEncoding):
    """Pair j turns ``factor ** (u ** power)`` times slower, with u = j / (pairs - 1)."""

    factor: float = 4.0
    power: float = 1.0

    def __post_init__(self):
        """Check the fields; the class above has checked its own."""
        super().__post_init__()
        check_number(self.name, "factor", self.factor, "a finite number >= 1", 1.0)
        check_number(self.name, "power", self.power, "a finite number > 0", 0.0, above=True)

    def exact_stretch(self):
        """(pairs,) decimals."""
        last = max(self.pairs - 1, 1)
        shares = [(Decimal(j) / last) ** exact(self.power) for j in range(self.pairs)]
        return np.array([exact(self.factor) ** share for share in shares])


# %% [markdown]
# In the package this would be one file in `refrope/encodings/`, and its test. Tables, wavelengths, Resonance, analysis
# and training know nothing of it and work with it.
#
# **Predict** before you look: head_dim 8 has four pairs. By how much is each stretched for factor 8, at power 1?

# %%
print("stretch at power 1:  ", PowerStretch(8, factor=8).stretch)
print("stretch at power 0.5:", PowerStretch(8, factor=8, power=0.5).stretch.round(3))
assert PowerStretch(8, factor=8).stretch.tolist() == [1, 2, 4, 8]

# %% [markdown]
# ## Its test
#
# A new encoding seldom comes with published numbers. But it has limits where it must be something known, and these are
# what to test: exactly where it is the same formula, and in the last digits where only the mathematics is the same.


# %%
def test_power_stretch():
    """What would stand in tests/."""
    for head_dim in (2, 4, 6, 64, 128):
        plain, bent = rr.RoPE(head_dim), PowerStretch(head_dim, factor=8, power=0.7)
        assert np.array_equal(replace(bent, factor=1).inv_freq, plain.inv_freq)  # factor 1 is RoPE
        assert bent.inv_freq[0] == plain.inv_freq[0]  # the fastest pair is left alone
        assert (bent.inv_freq <= plain.inv_freq).all()
        if head_dim > 2:
            assert np.isclose(bent.stretch[-1], 8, rtol=1e-15)  # the slowest gets all
            assert np.allclose(replace(bent, power=1).stretch, NTKAware(head_dim, factor=8).stretch, rtol=1e-15)
        # Nearly flat, it is position interpolation but for the fastest pair.
        flat, linear = PowerStretch(head_dim, factor=8, power=1e-9), LinearPI(head_dim, factor=8)
        assert np.allclose(flat.inv_freq[1:], linear.inv_freq[1:], rtol=1e-6)
    for wrong in ({"factor": 0.5}, {"power": 0.0}, {"power": float("nan")}):
        message = "taken"
        try:
            PowerStretch(8, **wrong)
        except ValueError as error:  # in tests/: with pytest.raises(ValueError, match=...)
            message = str(error)
        assert f"PowerStretch: {next(iter(wrong))} is" in message


test_power_stretch()

# %% [markdown]
# ## Resonance, for nothing
#
# `rr.Resonance` rounds whatever wavelengths an encoding has after its scaling.
#
# **Predict**: trained on 33 tokens and tested on 97 (the sizes below: 32 and 96 and a front token), how large is the
# feature gap of pairs whose rounded wavelength is at most 33?

# %%
bent = PowerStretch(32, factor=97 / 33, power=0.5)
whole = rr.Resonance(bent)
print("wavelengths:        ", bent.wavelengths[:6].round(2))
print("rounded:            ", whole.periods[:6])
gap_bent, gap_whole = (rr.feature_gap(encoding, 33, 97) for encoding in (bent, whole))
print("feature gap:        ", gap_bent[:6].round(3))
print("feature gap rounded:", gap_whole[:6].round(3))
known = whole.periods <= 33
assert known.any()
assert (gap_whole[known] == 0).all()
assert (gap_bent[known] > 0).all()
cos, sin = whole.cos_sin([5, 5 + 10**6 * int(whole.periods[3])])
assert np.array_equal(cos[0, 3], cos[1, 3])  # bit for bit, millions of tokens later

# %% [markdown]
# ## Does it help?
#
# PosGen (tutorial 06) in small: five different tokens, each the sum (mod 5) of the first token and the three before
# it. A model of 25,000 weights learns it from 300 sequences of 32 tokens, with plain RoPE and with Resonance RoPE. It
# is then tested on sequences of 96, with the encoding it was trained with and, as the paper's code does with YaRN,
# with a stretched one in its place. With the front token before each, sequences have 33 and 97 tokens. (The last of
# them is never read, so tutorial 08 did not count it; the paper's code does, and so do we here.) After each epoch
# `train` tests `watched` validation sequences.

# %%
TRAIN_LENGTH, TEST_LENGTH = 32, 96
FACTOR = (TEST_LENGTH + 1) / (TRAIN_LENGTH + 1)
POWERS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
SEED = 0

dataset = rr.posgen.make_splits(
    "cot", seed=SEED, train=300, validation=32, test=200,
    train_length=TRAIN_LENGTH, test_length=TEST_LENGTH, modulus=5,
)  # fmt: skip
sizes = rr.TransformerConfig(vocabulary=6, d_model=32, heads=1, head_dim=32, d_ff=128)
settings = TrainSettings(epochs=60, batch_size=64, learning_rate=6e-3, watched=32)


def accuracy(model, encoding):
    """(inside, beyond) the training length."""
    return split_accuracy(accuracy_by_position(model, encoding, dataset, dataset.test), TRAIN_LENGTH)


rope = rr.RoPE(32)
scores = {}
for name, wrap in {"RoPE": lambda encoding: encoding, "Resonance": rr.Resonance}.items():
    model = rr.Transformer(sizes, seed=SEED)
    assert 20_000 < model.flat_params.size < 30_000
    history = train(model, wrap(rope), dataset, settings, seed=SEED)
    assert history.loss[-1] < history.loss[0] / 2, history.loss
    scores[name, "as trained"] = accuracy(model, wrap(rope))
    for power in POWERS:
        scores[name, power] = accuracy(model, wrap(PowerStretch(32, factor=FACTOR, power=power)))

# %% [markdown]
# **Predict**: chance is 0.2. Stretching changes the angles that the model was trained with. Does swapping in a
# stretched encoding that the model has never seen make it better or worse on the long part? And up to the training
# length?

# %%
print(f"{'':24}  inside  beyond")
for (name, power), (inside, beyond) in scores.items():
    print(f"{name:10}{power!s:>14}  {inside:6.3f}  {beyond:6.3f}")
for name in ("RoPE", "Resonance"):
    inside, beyond = scores[name, "as trained"]
    assert beyond < inside  # far keys stand at distances never seen, and disturb
    assert max(scores[name, power][1] for power in (0.5, 1.0, 2.0)) > beyond  # brought back among those seen
    assert scores[name, 0.125][0] < inside - 0.1  # but to stretch the fast pairs too blurs the near tokens

# %% [markdown]
# Better beyond, worse inside: a choice of which pairs to slow down. Slow pairs tell far from near and may be stretched;
# fast pairs tell neighbours apart and should not. YaRN's ramp says the same, with more parameters. This is one seed of
# a tiny model, and between 0.5 and 2 the best power changes from seed to seed: enough to see that an idea works, not
# enough to say by how much (tutorial 08).

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for power, shade in zip((0.25, 0.5, 1.0, 2.0), ("#CC79A7", "#009E73", "#E69F00", "#0072B2"), strict=True):
    left.plot(PowerStretch(32, factor=FACTOR, power=power).stretch, ".-", color=shade, label=f"power {power:g}")
left.set(title="What we defined", xlabel="pair", ylabel="times slower than RoPE")
left.legend(frameon=False)
for name, colour in {"RoPE": "#0072B2", "Resonance": "#D55E00"}.items():
    for part, style in ((1, "o-"), (0, "o:")):
        words = f"{name}, {'beyond' if part else 'inside'}"
        right.plot(POWERS, [scores[name, power][part] for power in POWERS], style, color=colour, label=words)
unstretched = [scores[name, "as trained"][1] for name in ("RoPE", "Resonance")]
right.axhline(np.mean(unstretched), color="black", lw=1, ls="--", label="beyond, not stretched (mean of both)")
right.set(
    title="What it does",
    xlabel="power",
    ylabel="accuracy",
    xscale="log",
    xticks=POWERS,
    xticklabels=[f"{power:g}" for power in POWERS],
)
right.minorticks_off()
right.legend(frameon=False, fontsize="small")
figure.savefig(FIGURES / "11_add_your_encoding.png", dpi=110)

# %% [markdown]
# ## Exercises
#
# 1. Give the encoding YaRN's attention factor: cos and sin times 0.1 ln(factor) + 1. (An encoding's `attention_factor`
#    is a property.)
# 2. Which pairs are pre-critical after stretching by factor 8 at power 0.5, for head_dim 64 and length 64? Can there be
#    more of them than before?
# 3. An encoding need not be a stretch. Make pair j turn once in exactly 2^(j + 3) tokens. (Define `exact_inv_freq`, and
#    say that there is no stretch by returning None.)
#
# ### Answers


# %%
# 1. The factor is in the tables that `cos_sin` gives.
@dataclass(frozen=True)
class Warm(PowerStretch):
    """Exercise 1."""

    @property
    def attention_factor(self):
        """YaRN's."""
        return 0.1 * np.log(self.factor) + 1


hot = Warm(32, factor=4.0).cos_sin([7], np.float64)[0] / PowerStretch(32, factor=4.0).cos_sin([7], np.float64)[0]
assert np.allclose(hot, rr.YaRN(32, factor=4.0).attention_factor)

# 2. The first 6 instead of 9. There cannot be more: a stretched pair is slower, and does not become pre-critical.
before, after = (rr.critical_pair(e, 64) for e in (rr.RoPE(64), PowerStretch(64, factor=8, power=0.5)))
print("pre-critical before and after:", before, after)
assert (before, after) == (9, 6)


# 3. All wavelengths are whole numbers already, and Resonance leaves them alone.
@dataclass(frozen=True)
class Octaves(rr.RotaryEncoding):
    """Exercise 3."""

    def exact_stretch(self):
        """None: it is not a stretched RoPE."""

    def exact_inv_freq(self):
        """(pairs,) decimals."""
        return 2 * rr.encodings.base.PI / np.array([Decimal(2) ** (j + 3) for j in range(self.pairs)])


assert Octaves(8).wavelengths.tolist() == [8, 16, 32, 64]
assert rr.Resonance(Octaves(8)).periods.tolist() == [8, 16, 32, 64]
assert Octaves(8).stretch is None
