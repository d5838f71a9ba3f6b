# %% [markdown]
# # 07 Write a backward pass
#
# **You will** write the backward pass of a transformer by hand, compare all of its gradients with refrope's, and plant
# mistakes to see whether a check finds them.
#
# **You will learn** what a backward pass is given and what it returns, why the rotation's is the rotation turned back,
# and how to measure a gradient without any calculus.
#
# **You need** tutorials 01, 02 and 04, NumPy and matplotlib (`pip install -e ".[experiments]"` in the clone), and to
# know what a derivative is. Runs in a few seconds, without a network.

# %%
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import refrope as rr
from refrope.nn import layers
from refrope.nn.gradcheck import gradient_error

FIGURES = Path(__file__).parent / "figures" if "__file__" in globals() else Path("figures")
FIGURES.mkdir(exist_ok=True)
draws = np.random.default_rng(0)
T, HEADS, HEAD_DIM = 7, 2, 6  # tokens, heads, features of each
cos, sin = rr.RoPE(HEAD_DIM).cos_sin(np.arange(T), np.float64)

# %% [markdown]
# ## A gradient, and how to measure it
#
# Training makes one number small, the **loss**. The **gradient** of an array x is called dx and has x's shape: an entry
# says how fast the loss grows with that entry of x. So it can be measured: take a small step up and one down, and
# divide what the loss does by the way between them. That is a **central difference**.
#
# A layer makes y from x. Its **backward pass** is told dy, whatever comes after the layer, and returns dx: the chain
# rule. To test a layer alone, choose dy at random and take `sum(dy * y)` for the loss: its gradient for y is that dy.


# %%
def difference(loss, x, step=1e-5):
    """Central differences, an entry of x at a time."""
    dx = np.empty_like(x)
    for place in np.ndindex(x.shape):
        nudge = np.zeros_like(x)
        nudge[place] = step
        dx[place] = (loss(x + nudge) - loss(x - nudge)) / (2 * step)
    return dx


def error(gradient, wanted):
    """How far off a gradient is, relative to its length."""
    return np.linalg.norm(gradient - wanted) / np.linalg.norm(wanted)


def check(name, gradient, loss, x):
    """Hold a gradient to its measurement; returns how far off it is."""
    print(f"{name}: off by {(off := error(gradient, difference(loss, x))):.0e}")
    assert off < 1e-7
    return off


# %% [markdown]
# ## Rotation
#
# In `y = R x` each entry of x goes into y by way of a column of the matrix R, and collects dy by way of the same
# column: `dx = R^T dy`. The transposed rotation turns back. `rotate` has it as `transpose=True`.
#
# **Predict**: YaRN of factor 4 multiplies cos and sin by 0.1 ln 4 + 1 = 1.139. Turn x with its tables, and then back
# with `transpose=True`. What comes out?

# %%
x, dy = draws.standard_normal((2, T, HEAD_DIM))
check("rotation", rr.rotate(dy, cos, sin, transpose=True), lambda x: np.sum(dy * rr.rotate(x, cos, sin)), x)

yarn = rr.YaRN(HEAD_DIM, factor=4).cos_sin(np.arange(T), np.float64)
there_and_back = rr.rotate(rr.rotate(x, *yarn), *yarn, transpose=True)
print("there and back with YaRN:", (there_and_back / x)[0, 0].round(3), "times x")
assert np.allclose(there_and_back, (0.1 * np.log(4) + 1) ** 2 * x)  # a transpose, not an inverse

# %% [markdown]
# ## Softmax
#
# A step of one logit makes its softmax weight larger and all weights smaller in proportion, so that they still add up
# to 1. Hence the two terms of the backward pass: dw, less the mean of dw under the weights.
#
# **Predict** the sum of a row of `dlogits`. (What happens to the weights if all logits grow by the same?) And all of
# `dlogits`, if dw is 1, 1, ..., 1?


# %%
def softmax(logits):
    """Weights along the last axis."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_backward(dw, w):
    """The gradient of the logits."""
    return w * (dw - (dw * w).sum(axis=-1, keepdims=True))


logits, dw = draws.standard_normal((2, T, T))
dlogits, of_ones = (softmax_backward(each, softmax(logits)) for each in (dw, np.ones((T, T))))
check("softmax", dlogits, lambda x: np.sum(dw * softmax(x)), logits)
print("sum of a row:", np.abs(dlogits.sum(axis=-1)).max(), " for ones:", np.abs(of_ones).max())
assert np.abs(dlogits.sum(axis=-1)).max() < 1e-14
assert np.abs(of_ones).max() < 1e-14  # with ones for dy, a backward pass that returns zeros would pass

# %% [markdown]
# ## Attention
#
# Forward in five steps, backward in the same five, last one first. A product `c = a b` has `da = dc b^T` and `db = a^T
# dc`. (The arguments after `*` are for mistakes, later.)


# %%
def attend(q, k, v, cos, sin):
    """Causal attention with rotation, (H, T, D) each. Returns the result, and what the backward pass needs."""
    q, k = rr.rotate(q, cos, sin), rr.rotate(k, cos, sin)
    products = q @ k.swapaxes(-1, -2)
    logits = np.where(np.tri(T, dtype=bool), products / np.sqrt(HEAD_DIM), -np.inf)
    w = softmax(logits)
    return w @ v, (q, k, v, w)


def attend_backward(dout, saved, cos, sin, *, softmax_backward=softmax_backward, transpose=True, scaled=True):
    """Gradients of q, k and v as they came in; each line names the forward line that it belongs to."""
    q, k, v, w = saved
    dv = w.swapaxes(-1, -2) @ dout  # out = w v
    dw = dout @ v.swapaxes(-1, -2)  # out = w v
    dlogits = softmax_backward(dw, w)  # w = softmax(logits); 0 where w is, so the mask needs no line
    dproducts = dlogits / np.sqrt(HEAD_DIM) if scaled else dlogits  # logits = products / sqrt(D)
    dq, dk = dproducts @ k, dproducts.swapaxes(-1, -2) @ q  # products = q k^T
    return *(rr.rotate(each, cos, sin, transpose=transpose) for each in (dq, dk)), dv  # q, k = rotate(q), rotate(k)


# %% [markdown]
# **Predict**: let dout be 0 at all tokens but the first. Which of dq, dk, dv have an entry that is not 0? (The first
# token sees itself alone.)

# %%
inputs = dict(zip("qkv", draws.standard_normal((3, HEADS, T, HEAD_DIM)), strict=True))
dout = draws.standard_normal((HEADS, T, HEAD_DIM))
saved = attend(**inputs, cos=cos, sin=sin)[1]
of_first = attend_backward(np.where(np.arange(T)[:, None] == 0, dout, 0), saved, cos, sin)
print("largest entry of dq, dk, dv:", *(np.abs(each).max().round(3) for each in of_first))
assert max(np.abs(each).max() for each in of_first[:2]) < 1e-12  # whatever the score, its only weight is 1


def attention_loss(inputs):
    """The number whose gradients `attend_backward` gives."""
    return np.sum(dout * attend(**inputs, cos=cos, sin=sin)[0])


gradients = dict(zip("qkv", attend_backward(dout, saved, cos, sin), strict=True))
for name, gradient in gradients.items():
    check(f"attention, d{name}", gradient, lambda x, name=name: attention_loss(inputs | {name: x}), inputs[name])

# %% [markdown]
# ## A transformer
#
# Two more parts. **RMSNorm** divides a token's features by their root mean square and multiplies each by a learned
# gain. The **feed-forward** multiplies by a matrix, sets what is negative to 0 (**ReLU**) and multiplies by another.
#
# Together: a token picks its row of the *embedding*, a matrix with a row for each token there is: x. Queries, keys
# and values are made from x by a matrix each (`qkv` holds all three), and the results of the heads are put side by
# side and multiplied by one more (`out`). A **layer** is attention and feed-forward; each reads a normed copy of x
# and adds its result to x. Last, each x, normed, is compared with all rows of the embedding: these products, divided
# by √d_model (the number of features of x), are the logits of the next token, and the loss is the mean of -ln(its
# probability).
#
# **Predict**: the embedding is used twice, first and last. What becomes of its two gradients?


# %%
def rmsnorm(x, gain):
    """Rows of root mean square 1, times the gain."""
    rms = np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)  # never 0
    return x / rms * gain, (x / rms, rms)


def rmsnorm_backward(dy, saved, gain):
    """The gradients of x and of the gain. As in softmax: an entry's own term, less what all share."""
    unit, rms = saved
    dunit = dy * gain
    return (dunit - unit * (dunit * unit).mean(axis=-1, keepdims=True)) / rms, (dy * unit).sum(axis=0)


def forward(p, tokens, targets):
    """Loss of a transformer of one layer with weights p, and what the backward pass needs."""
    x = p["embedding"][tokens]
    n0, norm0 = rmsnorm(x, p["layers.0.attention.gain"])
    heads = (n0 @ p["layers.0.attention.qkv"]).reshape(T, 3, HEADS, HEAD_DIM).transpose(1, 2, 0, 3)
    o, attended = attend(*heads, cos, sin)
    o = o.swapaxes(0, 1).reshape(T, -1)
    x = x + o @ p["layers.0.attention.out"]
    n1, norm1 = rmsnorm(x, p["layers.0.feed_forward.gain"])
    a = np.maximum(n1 @ p["layers.0.feed_forward.in"], 0)
    x = x + a @ p["layers.0.feed_forward.out"]
    n2, norm2 = rmsnorm(x, p["final.gain"])
    probabilities = softmax(n2 @ p["embedding"].T / np.sqrt(HEADS * HEAD_DIM))
    loss = -np.log(probabilities[np.arange(T), targets]).mean()
    return loss, (n0, norm0, attended, o, n1, norm1, a, n2, norm2, probabilities)


def backward(p, tokens, targets, saved):
    """The gradients of all weights, by name: `forward` from its last line to its first."""
    n0, norm0, attended, o, n1, norm1, a, n2, norm2, probabilities = saved
    d = {}
    dlogits = (probabilities - np.eye(len(p["embedding"]))[targets]) / T / np.sqrt(HEADS * HEAD_DIM)
    d["embedding"] = dlogits.T @ n2
    dx, d["final.gain"] = rmsnorm_backward(dlogits @ p["embedding"], norm2, p["final.gain"])
    d["layers.0.feed_forward.out"] = a.T @ dx
    dh = (dx @ p["layers.0.feed_forward.out"].T) * (a > 0)
    d["layers.0.feed_forward.in"] = n1.T @ dh
    dn = dh @ p["layers.0.feed_forward.in"].T
    through, d["layers.0.feed_forward.gain"] = rmsnorm_backward(dn, norm1, p["layers.0.feed_forward.gain"])
    dx = dx + through  # what was added to x lets dx pass, and adds its own
    d["layers.0.attention.out"] = o.T @ dx
    do = (dx @ p["layers.0.attention.out"].T).reshape(T, HEADS, HEAD_DIM).swapaxes(0, 1)
    dheads = np.stack(attend_backward(do, attended, cos, sin)).transpose(2, 0, 1, 3).reshape(T, -1)
    d["layers.0.attention.qkv"] = n0.T @ dheads
    through, d["layers.0.attention.gain"] = rmsnorm_backward(
        dheads @ p["layers.0.attention.qkv"].T, norm0, p["layers.0.attention.gain"]
    )
    np.add.at(d["embedding"], tokens, dx + through)  # used twice: its gradients add up
    return d


# %% [markdown]
# Now refrope's model with the same weights and tokens, and our measurements, two forward passes for each of 1,128
# weights. **Predict**: which are closer to our gradients, refrope's or the measured ones, and by how many digits?
# (float64 has 16. A difference of two losses that nearly agree loses some of them.) *Cross entropy* is the name of
# this loss; its last argument weighs the tokens, here all alike. `keep=True` keeps what the backward pass needs, and
# `backend="numpy"` does without the C of tutorial 09.

# %%
sizes = rr.TransformerConfig(
    vocabulary=11, d_model=HEADS * HEAD_DIM, heads=HEADS, head_dim=HEAD_DIM, d_ff=16, layers=1, softmax_scale=None
)  # softmax_scale None is ours, 1 / sqrt(head_dim); refrope's default, 1.0, leaves scores as they are
assert rr.TransformerConfig.softmax_scale == 1.0
model = rr.Transformer(sizes, seed=1, backend="numpy", dtype=np.float64)
tokens, targets = draws.integers(0, 11, (2, T))
logits = model.forward(tokens[None], (cos, sin), keep=True)[0]
_, probabilities = layers.cross_entropy_forward(logits, targets, np.ones(T))
theirs = model.backward(layers.cross_entropy_backward(probabilities, targets, np.ones(T))[None])
ours = backward(model.params, tokens, targets, forward(model.params, tokens, targets)[1])
for name, gradient in ours.items():
    print(f"against refrope {error(gradient, theirs[name]):.0e}; against differences,", end=" ")
    assert error(gradient, theirs[name]) < 1e-12
    off = check(
        name, gradient, lambda x, name=name: forward(model.params | {name: x}, tokens, targets)[0], model.params[name]
    )
    assert off > 1000 * error(gradient, theirs[name])
print(f"{2 * model.flat_params.size:,} forward passes; the backward pass was one")
assert 2 * model.flat_params.size == 2256
assert ours.keys() == theirs.keys()

# %% [markdown]
# ## Would it notice?
#
# Larger models are measured along random directions: for a step along u, the loss must grow by `sum(dx * u)` per
# length. refrope's `gradient_error` does so, with a better difference of four forward passes, in three directions.
#
# A check that cannot fail is worth nothing, so here are four mistakes. **Predict** which are found. And what does an
# error of one in a thousand look like, in one random direction among 84?

# %%
wrong = {
    "none": gradients,
    "not turned back": attend_backward(dout, saved, cos, sin, transpose=False),
    "softmax: one term": attend_backward(dout, saved, cos, sin, softmax_backward=lambda dw, w: w * dw),
    "√d forgotten": attend_backward(dout, saved, cos, sin, scaled=False),
    "0.1 % too large": {name: 1.001 * gradient for name, gradient in gradients.items()},
}
found = {}
for mistake, given in wrong.items():
    given = given if isinstance(given, dict) else dict(zip("qkv", given, strict=True))
    found[mistake] = gradient_error(attention_loss, inputs, given)
    print(f"{mistake:18s} {found[mistake]:.0e}")
assert found["none"] < 1e-10
assert min(error for mistake, error in found.items() if mistake != "none") > 1e-5
assert found["0.1 % too large"] < 1e-3  # a direction at random is hardly ever the right one: about 1 / sqrt(84) of it

# %% [markdown]
# How small a step? The difference's own error falls with the square of the step, and rounding errors are divided by it.
# **Predict** the best step in float64, whose numbers have 16 digits. float32 has 7: does it see an error of 0.1 % at
# the same step?

# %%
steps = 10.0 ** np.arange(-9, 0.1, 0.5)
curves = {}
for dtype in (np.float64, np.float32):
    q, *others = (each.astype(dtype) for each in (*inputs.values(), cos, sin))
    loss = partial(lambda k, v, cos, sin, q: np.sum(dout.astype(q.dtype) * attend(q, k, v, cos, sin)[0]), *others)
    measured = [difference(loss, q, dtype(step)) for step in steps]
    curves[dtype.__name__] = [error(each, gradients["q"]) for each in measured]
    best = np.argmin(curves[dtype.__name__])
    print(f"{dtype.__name__}: best step {steps[best]:.0e}, error {curves[dtype.__name__][best]:.0e}")
assert 1e-6 <= steps[np.argmin(curves["float64"])] <= 1e-4  # near the cube root of 1e-16
assert curves["float32"][np.argmin(curves["float64"])] > 1e-3  # lost, unless the step is a thousand times as large
assert min(curves["float32"]) < 1e-4

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained")
for (name, curve), colour, marker in zip(curves.items(), ("#0072B2", "#D55E00"), "os", strict=True):
    left.loglog(steps, curve, marker=marker, markersize=4, color=colour, label=f"right gradient, {name}")
left.axhline(1e-3, color="#009E73", linestyle="--", label="what a 0.1 % mistake would show")
left.set(xlabel="step", ylabel="error against central differences", title="How small a step?", ylim=(1e-14, 10))
left.legend(frameon=False, fontsize=9, loc="lower left")
colours = ["#0072B2"] + ["#D55E00"] * (len(found) - 1)
bars = right.barh(list(found), list(found.values()), left=1e-16, color=colours, log=True)
right.bar_label(bars, [f"{size:.0e}" for size in found.values()], padding=3)
right.set(xlabel="error that the check reports", title="Planted mistakes", xlim=(1e-14, 50))
right.invert_yaxis()
figure.savefig(FIGURES / "07_write_a_backward_pass.png", dpi=110)

# %% [markdown]
# ## Exercises
#
# 1. Turn everything the wrong way, -sin for sin, forward and backward. Does the check notice?
# 2. ReLU at x = 1e-6, measured with a step of 1e-5: what does the central difference say, and who is wrong?
# 3. Llama's feed-forward has `silu(gate) * up` (*SwiGLU*) for ReLU, where gate and up are products of x with two
#    matrices, silu(x) = x sigmoid(x), and sigmoid(x) = 1 / (1 + exp(-x)). Write its backward pass.
#
# ### Answers


# %%
# 1. No: this is the right gradient of another function. A check holds backward to forward, not forward to RoPE.
result, mirrored = attend(**inputs, cos=cos, sin=-sin)
given = dict(zip("qkv", attend_backward(dout, mirrored, cos, -sin), strict=True))
off = gradient_error(lambda x: np.sum(dout * attend(**x, cos=cos, sin=-sin)[0]), inputs, given)
print(f"the wrong way round: {off:.0e}")
assert off < 1e-10
assert np.abs(result - attend(**inputs, cos=cos, sin=sin)[0]).max() > 0.01

# 2. 0.55, for it reaches over the kink. The gradient, 1, is right.
relu_slope = difference(lambda x: np.maximum(x, 0).sum(), np.array([1e-6]))
assert np.allclose(relu_slope, (1e-6 + 1e-5) / 2e-5)

# 3. d silu(x) / dx = s + x s (1 - s), with s = sigmoid(x).
gate, up, dy = draws.standard_normal((3, T, 5))
s = 1 / (1 + np.exp(-gate))
dgate, dup = dy * up * (s + gate * s * (1 - s)), dy * gate * s
check("SwiGLU, dgate", dgate, lambda gate: np.sum(dy * gate / (1 + np.exp(-gate)) * up), gate)
assert all(np.allclose(a, b) for a, b in zip((dgate, dup), layers.swiglu_backward(dy, gate, up), strict=True))
