# %% [markdown]
# # 02 Score by relative position
#
# **You will** shuffle a text and see that attention does not notice, turn its queries and keys and see that it does,
# and take a score apart into cosines.
#
# **You will learn** what attention is, how RoPE's score depends on distance, what "long-range decay" says and what it
# does not, and how a model runs with the wrong layout without anybody noticing.
#
# **You need** tutorial 01, NumPy and matplotlib (`pip install -e ".[experiments]"` in the clone). Runs in a few
# seconds, without a network.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import refrope as rr
from refrope.decay import long_range_decay, smallest_base
from refrope.nn import attention_forward
from refrope.rotary import pair_slices

FIGURES = Path(__file__).parent / "figures" if "__file__" in globals() else Path("figures")
FIGURES.mkdir(exist_ok=True)
draws = np.random.default_rng(0)
HEAD_DIM = 64
rope = rr.RoPE(HEAD_DIM, base=10_000.0)

# %% [markdown]
# ## Attention reads a bag of words
#
# *Attention* (Vaswani et al. 2017, arXiv:1706.03762) is how one token takes from others. Each token has a query, a key
# and a third list of features, its *value*: what it hands over. A token's score with each key, divided by √d, is a
# *logit*. The *softmax* makes weights of the logits, `exp(logit) / sum of all exp(logit)`, which are above 0 and add up
# to 1. What the token gets is the sum of all values, each times its weight.
#
# A model does this many times side by side, each time with other queries, keys and values: these are its *heads*. So
# arrays are (B, H, T, D): texts, heads, tokens, features. Here is one text of 12 tokens and one head, with random
# features, and the same by hand. With `causal=False` every token sees all keys. (The second thing that
# `attention_forward` returns is for training, tutorial 07.)

# %%
queries, keys, values = draws.standard_normal((3, 1, 1, 12, HEAD_DIM))
result, _ = attention_forward(queries, keys, values, causal=False)

logits = queries[0, 0] @ keys[0, 0].T / np.sqrt(HEAD_DIM)
weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
assert np.allclose(weights.sum(axis=1), 1)
assert np.allclose(weights @ values[0, 0], result[0, 0])

# %% [markdown]
# **Predict**: put the tokens into another order, keys and values together. By how much does what the queries get
# change?

# %%
order = draws.permutation(12)
shuffled, _ = attention_forward(queries, keys[:, :, order], values[:, :, order], causal=False)
print("plain attention changes by", np.abs(shuffled - result).max())
assert np.abs(shuffled - result).max() < 1e-12

# %% [markdown]
# By nothing: a sum does not mind the order of its terms. To attention alone, "dog bites man" is "man bites dog".
#
# A model that guesses the next token must not look at it. Its attention has a *causal mask*, `causal=True`: a token
# sees itself and those before, no other. The last token still sees all of them, in no order. RoPE gives them one:


# %%
def turned(x, positions):
    """Rows of x, turned to their positions."""
    return rr.rotate(x, *rope.cos_sin(positions, np.float64))


def last_token(order, first_position=0):
    """What the last query gets when the tokens come in this order, with RoPE, the text beginning anywhere."""
    positions = first_position + np.arange(12)
    q, k = turned(queries, positions), turned(keys[:, :, order], positions)
    return attention_forward(q, k, values[:, :, order], causal=True)[0][0, 0, -1]


straight = last_token(np.arange(12))
print("with RoPE, a shuffle changes the result by", np.abs(last_token(order) - straight).max())
assert np.abs(last_token(order) - straight).max() > 0.1

# %% [markdown]
# **Predict**: now leave the order, and let the text begin at position 1,000,000.

# %%
moved = last_token(np.arange(12), 1_000_000)
print("and a million tokens before it by", np.abs(moved - straight).max())
assert np.abs(moved - straight).max() < 1e-8  # float64 rounds an angle of a million radians

# %% [markdown]
# ## A score is a sum of cosines
#
# The dot product of two arrows is the product of their lengths times the cosine of the angle between them. Turn the
# query's arrow by m, the key's by n times `inv_freq`, and the angle between them grows by their *distance* m - n times
# `inv_freq`. So with 64 features every score, at every distance, is a sum of 32 cosines:
#
#     score(distance) = sum over pairs of  length * cos(distance * inv_freq + phase)
#
# Here `length` is the product of the two arrows' lengths, and `phase` the angle between them at distance 0.
#
# **Predict**: how many numbers does one need of a query and a key, to know their score at any distance?

# %%
query, key = queries[0, 0, 0], keys[0, 0, 0]
first, second = pair_slices("half", 0, rope.pairs)  # the first and second features of all pairs, from feature 0 on
length = np.hypot(query[first], query[second]) * np.hypot(key[first], key[second])
phase = np.arctan2(query[second], query[first]) - np.arctan2(key[second], key[first])

distances = np.arange(2000)
cosines = length * np.cos(distances[:, None] * rope.inv_freq + phase)
scores = turned(np.tile(query, (2000, 1)), distances) @ key  # the query at 0 to 1,999, the key at 0
assert np.allclose(cosines.sum(axis=1), scores)
assert length.size + phase.size == HEAD_DIM
print("numbers needed:", length.size + phase.size, "where query and key have", query.size + key.size)

# %% [markdown]
# ## What decays, and what does not
#
# Take query = key = (1, 1, ..., 1): every length is 2, every phase 0, and half the score is the plain sum of cosines,
# `long_range_decay`. At distance 0 all of them are 1. Further on, fast pairs are anywhere, and only slow ones still
# agree. Su et al. (Section 3.4.3) call the fall of a bound on such sums long-term decay; long-range decay is the same.
#
# **Predict** the sum at distance 0. Then: is there a distance at which it is below 0?

# %%
alike = long_range_decay(rope, distances)
for distance in (0, 1, 10, 100, 1000):
    print(f"distance {distance:4d}: {alike[distance]:5.1f}")
print("below 0 for the first time at distance", np.argmax(alike < 0))
assert alike[0] == 32
assert alike[:100].mean() > 2 * alike[1000:].mean() > 0
assert np.argmax(alike < 0) == 725

# %% [markdown]
# So at 725 tokens a key like the query may score *less* than one that has nothing to do with it, whose score is 0 on
# average (Men et al. 2024, arXiv:2405.14591).
#
# **Predict** how the typical size of a score falls with distance, for queries and keys that have nothing to do with
# each other: 4,000 random ones, at distance 0 and at distance 1,999.

# %%
many_queries, many_keys = draws.standard_normal((2, 4000, HEAD_DIM))
typical = [np.sqrt(np.mean(np.sum(turned(many_queries, np.full(4000, d)) * many_keys, axis=1) ** 2)) for d in (0, 1999)]
print("typical size of a score at distance 0 and 1,999:", np.round(typical, 2))
assert abs(typical[1] / typical[0] - 1) < 0.05

# %% [markdown]
# It does not fall at all. A random arrow is random after any turn. What decays is how much likeness counts, on average.
#
# Nor does a single score have to decay. **Predict**: at which distance is this key's score the highest?

# %%
wanted_key = turned(query[None], [100])[0]  # the query, turned as at position 100
wanted = turned(np.tile(query, (2000, 1)), distances) @ wanted_key
print("highest at distance", wanted.argmax(), "with", wanted.max().round(2), "= |query|^2 =", (query @ query).round(2))
assert wanted.argmax() == 100
assert np.isclose(wanted.max(), query @ query)  # two arrows of equal length cannot have a larger dot product

# %% [markdown]
# Training can build such a key for any distance it likes. Barbero et al. (2024, arXiv:2410.06205) look into a trained
# model and argue that this is what RoPE is used for: to find, say, the token before, not to forget the far ones.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained")
size = np.sqrt((query @ query) * (key @ key))
left.plot(distances[:301], alike[:301] / 32, color="#0072B2", label="query and key all ones")
left.plot(distances[:301], wanted[:301] / (query @ query), color="#D55E00", label="key made for distance 100")
left.plot(distances[:301], scores[:301] / size, color="0.6", label="unrelated key")
left.set(xlabel="distance (tokens)", ylabel="score / (|query| |key|)", title="Three keys", ylim=(-0.6, 1.35))
left.legend(frameon=False, fontsize=9, loc="upper right")
right.semilogx(distances[1:], alike[1:], color="#0072B2")
right.axhline(0, color="0.6", linewidth=0.8)
right.axvline(725, color="#D55E00", linewidth=1, linestyle="--")
right.text(690, 27, "725 tokens:\nfirst below 0", color="#D55E00", ha="right", fontsize=9)
right.set(xlabel="distance (tokens)", ylabel="sum of 32 cosines", title="How much likeness counts")
figure.savefig(FIGURES / "02_score_by_relative_position.png", dpi=110)

# %% [markdown]
# ## Two layouts
#
# Nothing says which two features are a pair. In the half layout of Hugging Face, whose library *transformers* runs
# many published models, and of the model GPT-NeoX they are j and j + d/2. In the *interleaved* layout of RoFormer and
# Meta's Llama they are neighbours, 2j and 2j + 1. Queries and keys are made from what the model knows of a token by a
# matrix each, W_q and W_k, whose rows make one feature each.
#
# Here is a model that was trained with the interleaved layout, and then loaded into code of the half layout.
#
# **Predict**: does it crash? And at which distance is the score still right?

# %%
tokens = draws.standard_normal((12, 48))
W_q, W_k = draws.standard_normal((2, HEAD_DIM, 48)) / np.sqrt(48)


def all_scores(W_q, W_k, layout, first_position=0):
    """(12, 12): every token's query with every token's key."""
    cos, sin = rope.cos_sin(first_position + np.arange(12), np.float64)
    return rr.rotate(tokens @ W_q.T, cos, sin, layout=layout) @ rr.rotate(tokens @ W_k.T, cos, sin, layout=layout).T


trained, loaded = all_scores(W_q, W_k, "interleaved"), all_scores(W_q, W_k, "half")
off = np.abs(loaded - trained)
for distance in (0, 1, 2, 11):
    error, usual = (np.diagonal(table, -distance).mean() for table in (off, np.abs(trained)))
    print(f"distance {distance:2d}: off by {error:4.1f} on average, scores are about {usual:.1f}")
assert np.diagonal(off).max() < 1e-10
assert np.diagonal(off, -1).mean() > 1
assert np.allclose(all_scores(W_q, W_k, "half", 1000), loaded, rtol=0, atol=1e-8)  # still a matter of distance

# %% [markdown]
# No crash, the score still depends on distance alone, and a test with a single token passes. Only the numbers are
# others than those of the training. The remedy is to put the rows of W_q and W_k into the other order:

# %%
moved_q, moved_k = (rr.permute_rows(weight, to="half", heads=1, head_dim=HEAD_DIM) for weight in (W_q, W_k))
print("with rows moved, scores differ by", np.abs(all_scores(moved_q, moved_k, "half") - trained).max())
assert np.allclose(all_scores(moved_q, moved_k, "half"), trained, rtol=0, atol=1e-10)

# %% [markdown]
# ## Exercises
#
# 1. `smallest_base(head_dim, length)` searches for the least base whose sum of cosines is nowhere below 0 up to that
#    distance. Is 10,000 enough for heads of 128 features and 4,096 tokens, the sizes of Llama 2?
# 2. Somebody turns the keys and forgets the queries. Is a text that begins at position 1,000 still scored as before?
# 3. Without a causal mask: can a head tell a key five tokens before the query from one five tokens after it? Look at
#    query = key first.
#
# ### Answers

# %%
# 1. No: it takes about 27,000.
print("smallest base:", round(smallest_base(128, 4096)))
assert smallest_base(128, 4096) > 26_000

# 2. No: what is left is the angle of the key's own position, and the score changes with it.
at_home, away = (turned(keys[0, 0], start + np.arange(12)) @ query for start in (0, 1000))
assert np.abs(at_home - away).max() > 1

# 3. With query = key all phases are 0, and a cosine is the same on both sides. With other phases it is not.
assert np.allclose(long_range_decay(rope, 5), long_range_decay(rope, -5))
before, after = (np.sum(length * np.cos(distance * rope.inv_freq + phase)) for distance in (5, -5))
assert abs(before - after) > 1
