# %% [markdown]
# # 12 Check your RoPE
#
# **You will** hold rotary functions against what they are declared to be: your own, and those of the libraries
# transformers (Hugging Face's), rotary-embedding-torch and MLX (Apple's).
#
# **You will learn** how a mistake in ten lines can be told from its numbers alone, why tests of cos and sin are not
# enough, and how exact the libraries are far into a text.
#
# **You need** tutorials 01 to 04 and 10, NumPy and matplotlib (`pip install -e ".[experiments]"` in the clone). The
# libraries are taken where they are installed (`pip install torch transformers rotary-embedding-torch "mlx[cpu]"`);
# elsewhere the results of our run are shown. Runs in a few seconds, without a network.

# %%
import json
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import refrope as rr
from refrope import precision
from refrope.conformance import check
from refrope.files import write_json

HERE = Path(__file__).parent if "__file__" in globals() else Path(".")
FIGURES = HERE / "figures"
FIGURES.mkdir(exist_ok=True)
STORED = HERE / "results" / "conformance" / "libraries.json"

# %% [markdown]
# ## Ten lines, two mistakes
#
# Here is a rotation as one writes it. The model's card says base 500,000 and Hugging Face's layout.
#
# **Predict**: what is wrong with it? (There are two things.)


# %%
def rotate(x, positions):
    """(T, 64) features at (T,) positions."""
    inv_freq = 10_000.0 ** (-np.arange(0, 64, 2) / 64)
    angles = positions[:, None] * inv_freq
    cos, sin = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
    even, odd = x[:, ::2], x[:, 1::2]
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


report = check(rotate, "rope:head_dim=64,base=500000", layout="half")
print(report)
assert [mistake.name for mistake in report.mistakes] == ["layout-interleaved", "base"]

# %% [markdown]
# Both are named, with nothing but the function to go by. `check` gave it vectors of one 1 and 63 zeros, at six
# positions, and so read off the matrices that it applies. Where their entries are says how features are paired. What
# they hold is cos and sin. With the pairs known, `check` reads those at 51 positions, and searches for the smallest
# number of known mistakes (of frequencies, positions, sign, or amplitude: what cos and sin are multiplied by) that
# explains every one of them.
#
# **Predict**: declared as what it is, the same function passes. Which pipeline of tutorial 10 is it?

# %%
report = check(rotate, "rope:head_dim=64,base=10000", layout="interleaved")
print(report)
assert report.passed
assert report.pipeline == "refrope"  # float64 angles, rounded once
assert "51 positions" in str(report)

# %% [markdown]
# ## Why cos and sin are not enough
#
# A function whose tables are perfect may still pair the wrong features, as this one does: tables are doubled by
# repetition, features are paired by halves. **Predict**: does `check` find fault with the tables? And is the largest
# error of a score, where scores go up to 32, under 1 or above 5?


# %%
def tables(positions):
    """(T, 32) cos and sin, which are right."""
    angles = positions[:, None] * 10_000.0 ** (-np.arange(0, 64, 2) / 64)
    return np.cos(angles), np.sin(angles)


def repeated(x, positions):
    """Rotate halves with tables for neighbours."""
    cos, sin = (np.repeat(table, 2, axis=-1).astype(x.dtype) for table in tables(positions))
    return x * cos + np.concatenate([-x[:, 32:], x[:, :32]], axis=-1) * sin


assert check(tables, "rope:head_dim=64").passed
report = check(repeated, "rope:head_dim=64")
print(report)
assert [mistake.name for mistake in report.mistakes] == ["tables-doubled-wrongly"]

encoding = rr.RoPE(64)
rows = np.arange(64)
x = np.cos(np.arange(64.0) ** 2)[None, :] + np.zeros((64, 1))
right = rr.rotate(x, *encoding.cos_sin(rows, np.float64))
scores = [y @ y.T for y in (right, repeated(x, rows))]
print(f"Largest error of a score: {np.abs(scores[0] - scores[1]).max():.1f}, of scores up to {scores[0].max():.1f}")
assert np.abs(scores[0] - scores[1]).max() > max(5, 0.25 * scores[0].max())

# %% [markdown]
# ## Three libraries
#
# The same for functions that many models run on. Each is wrapped so that it takes x and positions; nothing else is
# changed. Dynamic NTK (tutorial 04) is declared for a model of 2,048 tokens, so that its base changes with the length
# of each call. **Predict**: which of them fails?


# %%
def transformers_llama(length=131_072, **rope_parameters):
    """Rotary embedding of transformers' Llama with a configuration, and that configuration."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(head_dim=128, max_position_embeddings=length, rope_parameters=rope_parameters)
    embedding = LlamaRotaryEmbedding(config)

    def turn(x, positions):
        cos, sin = embedding(x, positions[None])
        return apply_rotary_pos_emb(x, x, cos, sin)[0]

    return turn, config.to_dict()


def rotary_embedding_torch():
    """The package rotary-embedding-torch, by lucidrains."""
    from rotary_embedding_torch import RotaryEmbedding, apply_rotary_emb

    embedding = RotaryEmbedding(dim=128)
    return lambda x, positions: apply_rotary_emb(embedding(positions.float()), x)


def mlx_fast():
    """MLX's fused kernel, each row as a sequence of its own that starts at the row's position."""
    import mlx.core as mx

    def turn(x, positions):
        offset = positions.astype(mx.int32)
        rows = x[:, None, None, :]
        return mx.fast.rope(rows, 128, traditional=False, base=10_000.0, scale=1.0, offset=offset)[:, 0, 0]

    return turn


def error_by_position(turn, ends, *, layout="half", **call):
    """The largest error of cos and sin over the 64 positions before each end: x = (1, 0) in every pair shows both."""
    from refrope.conformance.calling import Caller
    from refrope.conformance.observing import Rotation

    rotation = Rotation(Caller(turn, dtype="float32", time_limit=60.0, arrays=call["arrays"]), call["axes"], 128)
    first, second = rr.rotary.pair_slices(layout, 0, 64)
    errors = []
    for end in ends:
        places = np.arange(end - 64, end)
        ones = np.zeros((64, 128))
        ones[:, first] = 1.0
        turned = rotation.rotate(ones, places)
        wanted = precision.exact_cos_sin(rr.RoPE(128), places)
        errors.append(max(np.abs(turned[:, part] - t).max() for part, t in zip((first, second), wanted, strict=True)))
    return [float(error) for error in errors]


ENDS = [2**k for k in range(8, 18)]
stored = json.loads(STORED.read_text()) if STORED.exists() else {"checks": [], "errors": {}}
results = {"command": "python tutorials/12_check_your_rope.py", "versions": {}, "checks": [], "errors": {}}


def show(who, report):
    """Print a report and keep it."""
    print(f"{who}\n{report}\n")
    results["checks"].append({"who": who, "said": str(report), **report.as_dict()})
    return report


HALF, INTERLEAVED = {"axes": "BHTD", "arrays": "torch"}, {"axes": "BHTD", "arrays": "torch", "layout": "interleaved"}
MLX = {"axes": "TD", "arrays": "mlx"}
if find_spec("torch") and find_spec("transformers"):
    import transformers

    results["versions"]["transformers"] = transformers.__version__
    llama, config = transformers_llama(rope_type="default", rope_theta=10_000.0)
    assert show("transformers, Llama", check(llama, config, **HALF)).passed
    results["errors"]["transformers"] = error_by_position(llama, ENDS, **HALF)
    assert show("transformers, Llama in bfloat16", check(llama, config, dtype="bfloat16", **HALF)).passed
    llama3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 8192}
    turn, config = transformers_llama(**llama3, low_freq_factor=1.0, high_freq_factor=4.0)
    assert show("transformers, Llama 3.1", check(turn, config, **HALF)).passed
    turn, config = transformers_llama(2048, rope_type="dynamic", rope_theta=10_000.0, factor=4.0)
    show("transformers, dynamic NTK", check(turn, config, **HALF))
if find_spec("rotary_embedding_torch"):
    from importlib.metadata import version

    results["versions"]["rotary-embedding-torch"] = version("rotary-embedding-torch")
    turn = rotary_embedding_torch()
    report = check(turn, "rope:head_dim=128", **INTERLEAVED)
    assert show("rotary-embedding-torch", report).passed
    results["errors"]["rotary-embedding-torch"] = error_by_position(turn, ENDS, **INTERLEAVED)
    show("rotary-embedding-torch, declared as half", check(turn, "rope:head_dim=128", **HALF))
if find_spec("mlx"):
    from importlib.metadata import version

    results["versions"]["mlx"] = version("mlx")
    turn = mlx_fast()
    assert show("mlx.core.fast.rope", check(turn, "rope:head_dim=128", **MLX)).passed
    results["errors"]["mlx"] = error_by_position(turn, ENDS, **MLX)

if len(results["errors"]) == 3:
    STORED.parent.mkdir(parents=True, exist_ok=True)
    write_json(STORED, results)
else:
    print("Not all three libraries are installed. From our run:", stored["versions"])
    for one in stored["checks"]:
        print(f"{one['who']}\n{one['said']}\n")
    results = stored
failed = [one["who"] for one in results["checks"] if not one["passed"]]
assert failed == ["transformers, dynamic NTK", "rotary-embedding-torch, declared as half"]

# %% [markdown]
# All pass as plain RoPE, and all of them with float32 angles: good near the start of a text, and off by some
# thousandths at 131,072 tokens. transformers' dynamic NTK is another matter. After a longer call its tables at exactly
# the original length are those of the longer call; a call that is one token shorter resets them. Which numbers a
# sequence gets depends on what was computed before, and `check` says so.
#
# ## How exact, by position
#
# **Predict** how many times the error at 131,072 tokens is that at 256, a 512th of the way.

# %%
figure, axes = plt.subplots(figsize=(8, 4.4), layout="constrained")
styles = {
    "transformers": ("#E69F00", 14, "transformers, float32"),
    "rotary-embedding-torch": ("#CC79A7", 9, "rotary-embedding-torch, float32"),
    "mlx": ("#0072B2", 4, "mlx.core.fast.rope, float32"),
}
for name, (colour, size, label) in styles.items():  # the three lie on each other: rings of different sizes
    axes.loglog(ENDS, results["errors"][name], "o", color=colour, markersize=size, mfc="none", mew=2, label=label)
for name, label, line in (
    ("float32", "pipeline float32", ":"),
    ("ggml", "pipeline ggml (recurrence)", "--"),
    ("refrope", "refrope", "-"),
):
    errors = [precision.table_error(rr.RoPE(128), np.arange(end - 64, end), name).max() for end in ENDS]
    axes.loglog(ENDS, errors, color="#009E73" if name == "refrope" else "#666666", linestyle=line, label=label)
axes.set(xlabel="position (tokens)", ylabel="largest error of cos and sin")
axes.grid(alpha=0.3)
axes.legend(fontsize=9, loc="center right", bbox_to_anchor=(1, 0.4))
figure.savefig(FIGURES / "12_check_your_rope.png", dpi=110)

growth = {name: errors[-1] / errors[0] for name, errors in results["errors"].items()}
print({name: f"{errors[-1]:.1e}, {growth[name]:.0f} times" for name, errors in results["errors"].items()})
assert all(1e-3 < errors[-1] < 2e-2 for errors in results["errors"].values())
assert all(256 < times < 1024 for times in growth.values())  # in proportion to the position, 512 times

# %% [markdown]
# ## In your own tests
#
#     refrope check mypackage.rope:apply --encoding rope:head_dim=128,base=500000 --axes BHTD
#
# does the same from the command line, in a process of its own. In pytest, `-p refrope.conformance.pytest_plugin` brings
# the fixture `check_rope`:
#
#     def test_rope(check_rope):
#         check_rope(apply, "rope:head_dim=128,base=500000", axes="BHTD")
#
# ## Exercises
#
# 1. Let `rotate` above count positions from 1. What does `check` call that?
# 2. Let it turn backward, as for `transpose=True`. Scores still depend on distance alone: which of them are wrong?
# 3. Round its positions to float16. Which is the first position that is off, and does `check` find it if it may look at
#    positions up to 1,000 only (`max_position=1000`)?
#
# ### Answers


# %%
def mistakes(function, **options):
    """The names of what `check` finds."""
    return [mistake.name for mistake in check(function, encoding, layout="interleaved", **options).mistakes]


# 1. By its name. No score would show it: all distances are right.
assert mistakes(lambda x, positions: rotate(x, positions + 1)) == ["off-by-one"]

# 2. Each gets the score of the opposite distance. Only where query and key are alike is that the same (tutorial 02).
assert mistakes(lambda x, positions: rotate(x, -positions)) == ["sign-reversed"]

# 3. 2,049: eleven digits count to 2,048. A check is as good as the positions it looks at.
halved = lambda x, positions: rotate(x, positions.astype(np.float16))  # noqa: E731
assert mistakes(halved, max_position=60_000) == ["positions-float16"]
assert np.flatnonzero(np.arange(3000).astype(np.float16) != np.arange(3000))[0] == 2049
assert mistakes(halved, max_position=1000) == []
