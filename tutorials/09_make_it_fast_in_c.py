# %% [markdown]
# # 09 Make it fast in C
#
# **You will** hold NumPy functions beside their twins in C, count the bytes that they move, write a faster rotation
# yourself, and see how far each is from what the machine allows.
#
# **You will learn** when two programs agree to the last bit and when they cannot, how threads leave the bits alone, and
# what a roofline tells.
#
# **You need** tutorials 01, 02 and 07, NumPy and matplotlib (`pip install -e ".[experiments]"` in the clone), and a C
# compiler when refrope is installed. Runs in about ten seconds, without a network.

# %%
import inspect
import os
import time
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np

import refrope as rr
from refrope import kernels
from refrope.bench.kernel_cases import plain_copy
from refrope.kernels.threads import run_ranges
from refrope.nn import attention_forward

SMOKE = "REFROPE_SMOKE" in os.environ  # a short run for checks: smaller sizes, and no figure is kept
FIGURES = Path(__file__).parent / "figures" if "__file__" in globals() else Path("figures")
FIGURES.mkdir(exist_ok=True)
if not kernels.available():
    print("This tutorial needs refrope's C kernels:", kernels.REMEDY)
    raise SystemExit(0)
rope = rr.RoPE(head_dim=128)
positions = np.arange(256 if SMOKE else 2048)
x = np.random.default_rng(0).standard_normal((1, 32, len(positions), 128)).astype(np.float32)  # a layer's queries
cos, sin = rope.cos_sin(positions)

# %% [markdown]
# ## Twins
#
# A program spends most of its time in a few small loops. Here each of them is there twice: as a NumPy function, which
# says what is meant, and as a *kernel*, a small function in C, of the same name and arguments. The heart of the
# rotation, in NumPy and in C (where the sources are at hand):

# %%
print(inspect.getsource(rr.rotate).split('"""')[-1])
source = Path(rr.__file__).parent.parent / "csrc" / "rotary_body.h"
if source.exists():
    print("void half_pair" + source.read_text().split("RR(half_pair)", 1)[1].split("\n}\n")[0] + "\n}")
print(kernels.build_info())

# %% [markdown]
# ## What NumPy does between the lines
#
# `a * cos - b * s` looks like one step. NumPy makes three of it, and each reads whole arrays and writes one. Let us
# count: this array adds up the bytes of what is done with it. (NumPy calls `__array_ufunc__` for all arithmetic.)


# %%
class Counted(np.ndarray):
    """An array that counts the bytes that arithmetic and assignments read and write."""

    moved = 0

    def __array_ufunc__(self, operation, method, *inputs, out=(), **options):
        plain = [np.asarray(array) for array in inputs]
        where = {"out": tuple(np.asarray(array) for array in out)} if out else {}
        result = getattr(operation, method)(*plain, **where, **options)
        Counted.moved += sum(array.nbytes for array in (*plain, result))
        return result.view(Counted)

    def __setitem__(self, place, value):
        super().__setitem__(place, value)
        Counted.moved += 2 * self[place].nbytes


def sizes_moved(rotation):
    """The bytes that a rotation of x moves, in sizes of x."""
    Counted.moved = 0
    rotation(x.view(Counted), cos, sin)
    return Counted.moved / x.nbytes


# %% [markdown]
# The C loop reads each number of x once and writes each number of y once: two sizes of x. **Predict** it for NumPy:
# four products, a sum, a difference, two assignments of halves of x, and `y[...] = x`.

# %%
print(f"NumPy moves {sizes_moved(rr.rotate):.2f} sizes of x")
assert 11 < sizes_moved(rr.rotate) < 11.1  # products 4 * 1, sum and difference 2 * 3/2, assignments 1 + 1 + 2; tables

# %% [markdown]
# ## Equal to the last bit
#
# **Predict**: of what the twins make of x, how many numbers differ in their last bit? (Each is two products and a sum,
# each of them rounded to the 24 binary digits that a float32 has.)


# %%
def different(one, other):
    """How many numbers of two arrays have not the same bits."""
    bits = np.dtype(f"u{one.itemsize}")
    return int((one.view(bits) != other.view(bits)).sum())


print("different:", different(rr.rotate(x, cos, sin), kernels.rotate(x, cos, sin)), "of", x.size)
for layout in rr.rotary.LAYOUTS:
    for transpose in (False, True):
        twins = (f(x, cos, sin, layout=layout, transpose=transpose) for f in (rr.rotate, kernels.rotate))
        assert different(*twins) == 0

# %% [markdown]
# None. The standard for floating-point numbers, IEEE 754, fixes what a product or a sum gives: the exact result,
# rounded to the nearest number there is. The same operations in the same order have the same bits in any language.
#
# But processors have an instruction for `a * c + b` that rounds once instead of twice, and compilers like to put it in:
# *contraction*. **Predict**: how many results would that change, under 1 % or above 10 %? Below, the first product is
# exact: 24 digits times 24 are 48, and float64 has 53.

# %%
a, b = x[0, :4, :, :64], x[0, :4, :, 64:]
contracted = (a.astype(np.float64) * cos - (b * sin).astype(np.float64)).astype(np.float32)
share = different(contracted, a * cos - b * sin) / contracted.size
print(f"contracted, {share:.0%} would differ")
assert 0.2 < share < 0.3
flags = kernels.build_info()["flags"]
assert "-ffp-contract=off" in flags or "/fp:strict" in flags  # the compiler was told not to

# %% [markdown]
# ## Close, and no more: sums
#
# In float32, (10^8 + 1) - 10^8 is 0 and (10^8 - 10^8) + 1 is 1: the order of a sum counts. Attention is full of sums,
# over features and over keys. A processor adds *vectors* of up to 16 numbers at a time, so that a fast sum is 16 sums
# which meet at the end; and the kernel takes keys in blocks, so that the scores of all queries with all keys never
# stand in memory (Dao et al. 2022, arXiv:2205.14135). So it promises something else: results within 2e-6 of float64's.
#
# **Predict**: how many of the results have other bits than NumPy's? And which of the two is closer to the truth?

# %%
assert (np.float32(1e8) + np.float32(1)) - np.float32(1e8) == 0
queries, keys, values = text = x[:, :24, :256, :64].reshape(3, 1, 8, 256, 64)
truth = attention_forward(*text.astype(np.float64))[0]
slow, fast = (f(queries, keys, values)[0] for f in (attention_forward, kernels.attention_forward))
print(f"other bits: {different(slow, fast) / fast.size:.0%}")
print(f"largest error: NumPy {np.abs(slow - truth).max():.1e}, C {np.abs(fast - truth).max():.1e}")
assert different(slow, fast) > 0.5 * fast.size
assert max(np.abs(slow - truth).max(), np.abs(fast - truth).max()) < 2e-6
assert max(np.median(np.abs(slow - truth)), np.median(np.abs(fast - truth))) < 2.0**-24

# %% [markdown]
# Neither, to speak of: of both, half of the results are within 2^-24, which is what a single rounding may change in a
# number between 1 and 2.
#
# ## Threads
#
# A *thread* is a part of a program that runs at the same time as others, on a core of its own. Our kernels know nothing
# of it: each works on *slices* from a first to a last, a slice being one head of one text, and each thread is given
# such a range. **Predict**: how many numbers change from one thread to two, three and seven? And of a sum, where each
# thread adds its part first?

# %%
print(inspect.getsource(run_ranges).split('"""')[-1])
usual, results = kernels.get_num_threads(), {}
for threads in (1, 2, 3, 7):
    kernels.set_num_threads(threads)
    # lse: the logarithm of each softmax's denominator, for the backward pass
    out, lse = kernels.attention_forward(queries, keys, values)
    gradients = kernels.attention_backward(queries, queries, keys, values, out, lse)
    results[threads] = [kernels.rotate(x, cos, sin), out, *gradients]
    changed = [different(one, other) for one, other in zip(results[1], results[threads], strict=True)]
    print(f"{threads} threads, changed in y, out and gradients: {changed}")
    assert not any(changed)

parts = [[np.cumsum(part)[-1] for part in np.array_split(x.ravel()[:100_000], n)] for n in (1, 2, 3)]
sums = [float(np.cumsum(part)[-1]) for part in parts]
print("a sum shared by one, two and three threads:", sums)
assert len(set(sums)) == 3

# %% [markdown]
# None, since no slice takes anything from another; and three different sums.
#
# ## Your turn
#
# Write a rotation yourself, in NumPy. `judge` checks its bits and says how many bytes it moves and how long it takes.
# (Times are printed and never asserted: they change with the machine, and with what else runs on it. From here on all
# is done by one thread.)


# %%
def seconds(task):
    """Of this thread's core, which others do not count for; the least of several runs."""
    times = [time.thread_time()]
    for _ in range(2 if SMOKE else 8):
        task()
        times.append(time.thread_time())
    return max(float(np.diff(times).min()), time.get_clock_info("thread_time").resolution)


def judge(rotation):
    """Hold a rotation against rr.rotate; returns the sizes of x that it moves."""
    assert different(rotation(x, cos, sin), rr.rotate(x, cos, sin)) == 0, "not the same bits"
    moved, took = sizes_moved(rotation), seconds(lambda: rotation(x, cos, sin))
    print(f"{rotation.__name__:14s} moves {moved:5.2f} sizes of x in {1e3 * took:6.1f} ms")
    return moved


def attempt(x, cos, sin):
    """Yours: change it as you like. This one multiplies into the place where the result shall stand."""
    y = np.empty_like(x)
    (a, b), (first, second) = (np.split(z, 2, axis=-1) for z in (x, y))
    np.multiply(a, cos, out=first)
    first -= b * sin
    np.multiply(a, sin, out=second)
    second += b * cos
    return y


kernels.set_num_threads(1)
assert judge(attempt) < judge(rr.rotate)
print(f"in C {1e3 * seconds(lambda: kernels.rotate(x, cos, sin)):.1f} ms")

# %% [markdown]
# Fewer bytes need not take less time: each new array costs, too, and what fits into the *cache*, a small fast memory
# beside the core, is read back from there (exercise 1).
#
# ## The roof
#
# A kernel that does *flops* (floating-point operations: products, sums) on bytes of memory takes no less time than
# memory takes for the bytes, and no less than arithmetic takes for the flops. So at an *intensity* of flops per byte
# its rate is at most `min(intensity * bytes per second, flops per second)`: a slope, then a level, the *roofline*
# (Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785).
#
# **Predict** three intensities. Rotation: 4 products and 2 sums a pair, 2 numbers of 4 bytes read and 2 written. Causal
# attention over T tokens: a query sees T/2 keys on average, each with 64 features for the score and 64 for the value, a
# product and a sum each; queries, keys, values and results are T x 64 numbers. And one new query that sees T keys.

# %%
new, known = x[:, :8, :1, :64], np.ones((2, 1, 8, 16 * len(positions), 64), np.float32)
whole, single, y = (queries, keys, values), (new, *known), np.empty_like(x)
work = {  # flops, bytes, a call
    "rotation": (6 * x.size // 2, 2 * x.nbytes, lambda f: f.rotate(x, cos, sin, out=y)),
    "attention, 256 tokens": (4 * keys.size * 128, 4 * keys.nbytes, lambda f: f.attention_forward(*whole)),
    "attention, one query": (2 * known.size, known.nbytes + 2 * new.nbytes, lambda f: f.attention_forward(*single)),
}
intensity = {name: flops / moved for name, (flops, moved, _) in work.items()}
print({name: round(value, 3) for name, value in intensity.items()})
assert intensity["rotation"] == 3 / 8
assert intensity["attention, 256 tokens"] == 256 / 8
assert np.isclose(intensity["attention, one query"], 1 / 2, rtol=1e-3)

# %% [markdown]
# Now measure the roof: memory by a copy, arithmetic by a product of matrices. **Predict**: which of the three hang on
# memory, and which on arithmetic, where the machine does some 3 to 20 flops in the time of a byte?

# %%
square = np.ones((256 if SMOKE else 1024,) * 2, np.float32)
bandwidth = 2 * x.nbytes / seconds(plain_copy(2 * x.nbytes)[1])
arithmetic = 2 * len(square) ** 3 / seconds(lambda: square @ square)
print(f"memory {bandwidth / 1e9:.0f} GB/s, arithmetic {arithmetic / 1e9:.0f} Gflop/s")
numpy_twins = SimpleNamespace(rotate=rr.rotate, attention_forward=attention_forward)
rates = {}
for name, (flops, _, call) in work.items():
    rates[name] = [flops / seconds(lambda c=call, f=twin: c(f)) / 1e9 for twin in (kernels, numpy_twins)]
    roof = min(intensity[name] * bandwidth, arithmetic) / 1e9
    print(f"{name:22s} C {rates[name][0]:7.2f} Gflop/s, NumPy {rates[name][1]:6.2f}, roof {roof:6.1f}")

figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
slope = np.geomspace(0.1, 300, 200)
axes.loglog(slope, np.minimum(slope * bandwidth, arithmetic) / 1e9, color="black")
axes.text(0.11, 0.22 * bandwidth / 1e9, "memory:\na copy", fontsize=10)
axes.text(280, arithmetic / 1e9 * 1.2, "arithmetic: a product of matrices", fontsize=10, ha="right")
for (name, both), colour in zip(rates.items(), ("#0072B2", "#009E73", "#D55E00"), strict=True):
    axes.plot(intensity[name], both[0], "o", color=colour, markersize=9, label=f"{name}, C")
    axes.plot(intensity[name], both[1], "s", color=colour, markersize=9, mfc="none", label=f"{name}, NumPy")
axes.set(xlabel="intensity (flops per byte)", ylabel="rate of one thread (Gflop/s)", ylim=(0.1, arithmetic / 1e9 * 3))
axes.legend(frameon=False, loc="lower right", fontsize=9)
if not SMOKE:
    figure.savefig(FIGURES / "09_make_it_fast_in_c.png", dpi=110)

# %% [markdown]
# Rotation and the single query hang on memory: who wants them faster must move fewer bytes. (Of the single query NumPy
# makes products of a matrix and a vector, which read keys and values once, too.) `refrope bench` checks all kernels and
# times them beside such floors.
#
# ## Exercises
#
# 1. Make a rotation that works on one head at a time, with the attempt above. Why may it be faster, though `judge`
#    counts more bytes?
# 2. AdamW (tutorial 08), the rule that changes weights in training, reads four numbers a weight (the weight, its
#    gradient, and running means of the gradient and of its square) and writes three (all but the gradient), of 4
#    bytes each. SmolLM2 (tutorial 13) has 134,515,008 weights. What is the least time of a step at 20 GB/s?
# 3. From how many tokens on does causal attention hang on arithmetic, where that does 10 flops in the time of a byte?
#
# ### Answers


# %%
# 1. A head's products fit into the cache and are read back from there. The count is of what operations ask for, not of
#    what comes from memory.
def head_by_head(x, cos, sin):
    """The attempt, one head at a time."""
    y = np.empty_like(x)
    for head in range(x.shape[1]):
        y[:, head] = attempt(x[:, head], cos, sin)
    return y


assert judge(head_by_head) > judge(attempt)
kernels.set_num_threads(usual)

# 2. 28 bytes a weight: 0.19 s, however clever the program.
assert round(134_515_008 * 7 * 4 / 20e9, 2) == 0.19

# 3. Its intensity is T / 8: from 80 tokens on.
assert intensity["attention, 256 tokens"] / 256 * 80 == 10
