"""Attention with a position map: passes, merged, against the formulas of the papers one number at a time."""

import math

import numpy as np
import pytest
from conftest import BACKENDS, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from refrope.encodings import DynamicNTK, Resonance, RoPE, YaRN
from refrope.encodings.remap import STRING, DualChunk, LeakyReRoPE, PassTables, ReRoPE, SelfExtend
from refrope.nn.backends import NumpyOps, operations
from refrope.nn.dropout import drop_threshold, random_bits, site_seed
from refrope.nn.gradcheck import gradient_error
from refrope.nn.mapped import mapped_backward, mapped_forward
from refrope.nn.mapped_oracle import mapped_reference

BATCH, HEADS, LENGTH, HEAD_DIM = 2, 3, 23, 10
BASE = 100.0  # slow and fast pairs within LENGTH tokens

# float64: some hundred roundings of 1e-16 on scores up to 10. Measured 2e-15.
FLOAT64 = 1e-12
# float32 against float64: scores up to 6 are known to 5e-7, one more rounding a merge. Measured 6e-7 and 1e-6.
OUT32, GRAD32 = 3e-6, 5e-6
# Five-point differences with step 1e-3: truncation 1e-12, rounding 1e-15 / 1e-3 on sums of 1 to 100. Measured 1e-12.
DIFFERENCES = 1e-10
# Scores of some 1e4 are known to 1e-12, and so is the logarithm of a weight. Measured 4e-13.
LARGE = 1e-11

both = pytest.mark.parametrize("backend", BACKENDS)


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def inputs(length=LENGTH, kv_heads=HEADS, dtype=np.float64, seed=0):
    """q, k, v and the gradient of out, all different."""
    heads = [HEADS, kv_heads, kv_heads, HEADS]
    return [normal(BATCH, h, length, HEAD_DIM, seed=4 * seed + i, dtype=dtype) for i, h in enumerate(heads)]


def merged(backend, position_map, q, k, v, dout, **options):
    """out, lse, dq, dk, dv."""
    ops, passes = operations(backend), position_map.tables(q.shape[2], q.dtype)
    out, lse = mapped_forward(ops, q, k, v, passes, **options)
    return out, lse, *mapped_backward(ops, dout, q, k, v, out, lse, passes, **options)


def largest_error(results, expected):
    errors = [float(np.abs(a - b).max(initial=0)) for a, b in zip(results, expected, strict=True)]
    assert not any(map(math.isnan, errors))
    return max(errors)


# ---- the papers' formulas, by loops over single numbers; nothing of refrope in them ----


def rerope(w):
    return lambda m, n: [m - n if m - n < w else w]


def leaky(w, k):
    return lambda m, n: [m - n if m - n < w else w + (m - n - w) / k]


def self_extend(w, g):
    return lambda m, n: [m - n if m - n < w else m // g - n // g + w - w // g]


def dual_chunk(chunk, local):
    c = chunk - local

    def place(m, n):
        if m // c == n // c:
            return [m % c - n % c]
        if m // c - n // c == 1:
            return [min(m % c + c, chunk) - n % c]
        return [min(2 * c - 1, chunk) - n % c]

    return place


def string(s, w, overlap=False):
    def place(m, n):
        if overlap and m - n == s:
            return [s, w]
        return [m - n if m - n < s else m - n - s + w]

    return place


def by_loops(q, k, v, places, scale_of=lambda m: 1.0):
    """Softmax attention with pairs (j, j + d/2) turned by f * BASE**(-2j/d); `places(m, n)` lists the f of a pair."""
    batch, heads, length, d = q.shape
    group = heads // k.shape[1]
    out, lse = np.zeros(q.shape), np.zeros(q.shape[:3])
    for b, h, m in np.ndindex(batch, heads, length):
        terms = []
        for n in range(m + 1):
            for f in places(m, n):
                score = 0.0
                for j in range(d // 2):
                    angle = f * BASE ** (-2 * j / d)
                    q1, q2 = float(q[b, h, m, j]), float(q[b, h, m, j + d // 2])
                    k1, k2 = float(k[b, h // group, n, j]), float(k[b, h // group, n, j + d // 2])
                    score += math.cos(angle) * (q1 * k1 + q2 * k2) + math.sin(angle) * (q1 * k2 - q2 * k1)
                terms.append((scale_of(m) * score / math.sqrt(d), n))
        top = max(score for score, _ in terms)
        total = math.fsum(math.exp(score - top) for score, _ in terms)
        lse[b, h, m] = top + math.log(total)
        for score, n in terms:
            for feature in range(d):
                out[b, h, m, feature] += math.exp(score - top) / total * float(v[b, h // group, n, feature])
    return out, lse


ENCODING = RoPE(HEAD_DIM, BASE)
MAPS = {
    "rerope": (ReRoPE(ENCODING, 5), rerope(5)),
    "rerope of all but one": (ReRoPE(ENCODING, LENGTH - 1), rerope(LENGTH - 1)),
    "rerope of one": (ReRoPE(ENCODING, 1), rerope(1)),
    "leaky": (LeakyReRoPE(ENCODING, 5, 3.5), leaky(5, 3.5)),
    "self-extend": (SelfExtend(ENCODING, 7, 3), self_extend(7, 3)),
    "dual chunk": (DualChunk(ENCODING, 8, 3), dual_chunk(8, 3)),
    "dual chunk of one": (DualChunk(ENCODING, 4, 3), dual_chunk(4, 3)),
    "string": (STRING(ENCODING, 7, 3), string(7, 3)),
    "string, overlap": (STRING(ENCODING, 7, 3, overlap=True), string(7, 3, True)),
    "no effect": (ReRoPE(ENCODING, LENGTH), rerope(LENGTH)),
}
all_maps = pytest.mark.parametrize(("position_map", "places"), MAPS.values(), ids=MAPS)


@all_maps
@pytest.mark.parametrize("kv_heads", [HEADS, 1])
def test_merged_passes_and_the_reference_are_the_papers_formula(position_map, places, kv_heads):
    q, k, v, dout = inputs(kv_heads=kv_heads)
    out, lse = by_loops(q, k, v, places)
    for backend in BACKENDS:
        assert largest_error(merged(backend, position_map, q, k, v, dout)[:2], (out, lse)) < FLOAT64
    logits, reference = mapped_reference(q, k, v, position_map)
    assert largest_error((reference,), (out,)) < FLOAT64
    assert largest_error((np.logaddexp.reduce(logits, axis=-1),), (lse,)) < FLOAT64


def test_a_window_off_by_one_is_caught():
    q, k, v, dout = inputs()
    out, lse = by_loops(q, k, v, rerope(5))
    passes = ReRoPE(ENCODING, 5).tables(LENGTH, np.float64)
    for wrong in (4, 6):
        planted = (passes[0]._replace(window=wrong), *passes[1:])
        results = mapped_forward(NumpyOps, q, k, v, planted)
        assert largest_error(results, (out, lse)) > 1e-3
        assert largest_error(merged("numpy", ReRoPE(ENCODING, wrong), q, k, v, dout)[:2], (out, lse)) > 1e-3


def test_the_log_of_the_length_sharpens_late_queries():
    q, k, v, dout = inputs()
    position_map = ReRoPE(ENCODING, 5, log_length=4)
    out, lse = by_loops(q, k, v, rerope(5), lambda m: max(1.0, math.log(m + 1) / math.log(4)))
    for backend in BACKENDS:
        assert largest_error(merged(backend, position_map, q, k, v, dout)[:2], (out, lse)) < FLOAT64
    assert largest_error((mapped_reference(q, k, v, position_map)[1],), (out,)) < FLOAT64


@both
@pytest.mark.parametrize(
    "encoding",
    [
        YaRN(HEAD_DIM, BASE, 4.0, original_length=8),
        Resonance(YaRN(HEAD_DIM, BASE, 4.0, original_length=8)),
        RoPE(HEAD_DIM, BASE, rotary_dim=4),
        DynamicNTK(HEAD_DIM, BASE, factor=2.0, original_length=8),
    ],
    ids=lambda encoding: encoding.name,
)
def test_any_encoding_that_only_turns_is_merged_as_the_reference_says(backend, encoding):
    q, k, v, dout = inputs(kv_heads=1)
    for position_map in (
        *(ReRoPE(encoding, 5), SelfExtend(encoding, 7, 3), DualChunk(encoding, 8, 3), STRING(encoding, 7, 3, True)),
        *([] if isinstance(encoding, Resonance) else [LeakyReRoPE(encoding, 5, 3.5)]),
    ):
        position_map = position_map.for_length(LENGTH)
        logits, reference = mapped_reference(q, k, v, position_map, scale=0.4)
        out, lse, *_ = merged(backend, position_map, q, k, v, dout, scale=0.4)
        assert largest_error((out, lse), (reference, np.logaddexp.reduce(logits, axis=-1))) < FLOAT64


@both
@settings(max_examples=40)
@given(st.data())
def test_merged_passes_are_the_reference_for_any_sizes(backend, data):
    size, length = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 41))
    position_map = data.draw(
        st.sampled_from(
            [
                ReRoPE(ENCODING, size),
                LeakyReRoPE(ENCODING, size, 2.5),
                SelfExtend(
                    ENCODING, size, data.draw(st.integers(1, 6)), data.draw(st.sampled_from(["floor", "fraction"]))
                ),
                DualChunk(ENCODING, size + 1, data.draw(st.integers(1, size))),
                STRING(ENCODING, size, data.draw(st.integers(1, size)), data.draw(st.booleans())),
            ]
        )
    )
    q, k, v, dout = inputs(length, kv_heads=data.draw(st.sampled_from([1, HEADS])))
    out, lse, *_ = merged(backend, position_map, q, k, v, dout)
    logits, reference = mapped_reference(q, k, v, position_map)
    assert largest_error((out, lse), (reference, np.logaddexp.reduce(logits, axis=-1))) < FLOAT64


# ---- the backward pass ----


def gradient_errors(backend, position_map, kv_heads, change=lambda grads: grads):
    q, k, v, dout = inputs(kv_heads=kv_heads)
    _, _, *grads = merged(backend, position_map, q, k, v, dout)
    return gradient_error(
        lambda x: float((mapped_reference(x["q"], x["k"], x["v"], position_map)[1] * dout).sum()),
        {"q": q, "k": k, "v": v},
        change(dict(zip("qkv", grads, strict=True))),
        directions=2,
    )


@both
@all_maps
@pytest.mark.parametrize("kv_heads", [HEADS, 1])
def test_gradients_are_those_of_the_reference(backend, position_map, places, kv_heads):
    assert gradient_errors(backend, position_map, kv_heads) < DIFFERENCES


def test_a_gradient_that_misses_a_pass_is_caught():
    position_map = ReRoPE(ENCODING, 5)
    near, _ = position_map.tables(LENGTH, np.float64)
    q, k, v, dout = inputs()
    out, lse, *_ = merged("numpy", position_map, q, k, v, dout)
    planted = dict(zip("qkv", mapped_backward(NumpyOps, dout, q, k, v, out, lse, (near,)), strict=True))
    for name in "qkv":
        assert gradient_errors("numpy", position_map, HEADS, lambda grads, n=name: grads | {n: planted[n]}) > 1e-3


@both
@all_maps
def test_results_go_to_the_given_arrays_of_any_strides(backend, position_map, places):
    ops = operations(backend)
    q, k, v, dout = inputs(kv_heads=1)
    passes = position_map.tables(LENGTH, np.float64)
    expected = merged(backend, position_map, q, k, v, dout)

    def spread(x):
        """The same numbers in the layout of a model, with the heads of a token side by side in longer rows."""
        rows = np.full((x.shape[0], x.shape[2], x.shape[1] + 2, x.shape[3]), np.nan)
        view = rows.transpose(0, 2, 1, 3)[:, 1:-1]
        view[...] = x
        return rows, view

    (_, q2), (_, k2), (_, v2), (_, dout2) = map(spread, (q, k, v, dout))
    rows, out = spread(np.full_like(q, np.nan))
    result, lse = mapped_forward(ops, q2, k2, v2, passes, out=out)
    assert result is out
    places_of = [spread(np.full_like(x, np.nan)) for x in (q, k, v)]
    grads = tuple(view for _, view in places_of)
    assert mapped_backward(ops, dout2, q2, k2, v2, out, lse, passes, grads=grads) is grads
    assert largest_error((out, lse, *grads), expected) < FLOAT64
    for around in (rows, *(rows for rows, _ in places_of)):
        assert np.isnan(around[:, :, [0, -1]]).all()
    assert same_bits(q2, q)
    assert same_bits(k2, k)


@pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")
@all_maps
def test_float32_in_c_is_near_float64(position_map, places):
    exact = merged("numpy", position_map, *inputs())
    rounded = [x.astype(np.float32) for x in inputs()]
    single = merged("c", position_map, *rounded)
    assert all(x.dtype == np.float32 for x in single)
    assert largest_error(single[:2], exact[:2]) < OUT32
    assert largest_error(single[2:], exact[2:]) < GRAD32


@both
@all_maps
def test_results_may_overlap_the_inputs(backend, position_map, places):
    ops, passes = operations(backend), position_map.tables(LENGTH, np.float64)
    q, k, v, dout = inputs()
    expected = merged(backend, position_map, q, k, v, dout)
    out, lse = mapped_forward(ops, q, k, v.copy(), passes, out=(place := q.copy()))
    assert out is place
    memory = np.concatenate([q[:, :, :1], q], axis=2)  # the result begins one row before the queries
    shifted, _ = mapped_forward(ops, memory[:, :, 1:], k, v, passes, out=memory[:, :, :-1])
    q2, k2, v2 = q.copy(), k.copy(), v.copy()
    grads = mapped_backward(ops, dout, q2, k2, v2, out, lse, passes, grads=(v2, q2, k2))
    assert largest_error((out, lse, *grads), expected) < FLOAT64
    assert same_bits(shifted, expected[0])


# ---- one pass is plain attention; the edges ----


@both
def test_a_map_without_effect_is_rotation_and_attention_bit_for_bit(backend):
    ops = operations(backend)
    q, k, v, dout = inputs(kv_heads=1)
    tables = ENCODING.cos_sin(np.arange(LENGTH), np.float64)
    options = {"scale": 0.3, "dropout": 0.25, "seed": 7, "first_slice": 11}
    q_turned, k_turned = ops.rotate(q, *tables), ops.rotate(k, *tables)
    out, lse = ops.attention_forward(q_turned, k_turned, v, **options)
    dq, dk, dv = ops.attention_backward(dout, q_turned, k_turned, v, out, lse, **options)
    expected = (out, lse, ops.rotate(dq, *tables, transpose=True), ops.rotate(dk, *tables, transpose=True), dv)
    for position_map in (
        *(ReRoPE(ENCODING, LENGTH), LeakyReRoPE(ENCODING, 3, 1), SelfExtend(ENCODING, 3, 1), STRING(ENCODING, 5, 5)),
        *(DualChunk(ENCODING, LENGTH + 2, 2), SelfExtend(ENCODING, 40, 3, "fraction")),
    ):
        results = merged(backend, position_map, q, k, v, dout, **options)
        assert all(same_bits(a, b) for a, b in zip(results, expected, strict=True))


@both
@pytest.mark.parametrize("position_map", [ReRoPE(ENCODING, 5), DualChunk(ENCODING, 8, 3)])
def test_dropout_drops_weights_of_the_merged_softmax(backend, position_map):
    q, k, v, dout = inputs()
    dropout, seed, first = 0.3, 7, 11
    logits, _ = mapped_reference(q, k, v, position_map)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    factors = np.zeros_like(weights)
    threshold = drop_threshold(dropout)
    for number, p in enumerate(position_map.passes(LENGTH)):
        rows, columns = (np.arange(LENGTH)[part] for part in (p.queries, p.keys))
        counters = np.arange(rows.size * columns.size, dtype=np.uint32).reshape(rows.size, columns.size)
        own = site_seed(seed, number) if number else seed
        for place, (b, h) in enumerate(np.ndindex(*q.shape[:2])):
            kept = random_bits(own, first + place, counters) >= threshold
            away = np.arange(rows.size)[:, None] + columns.size - rows.size - np.arange(columns.size)
            seen = (away >= 0) & (away < (p.window or LENGTH)) if p.causal else np.ones_like(away, bool)
            block = factors[b, h][p.queries, p.keys]  # a view
            block[seen] = kept[seen] / (1 - threshold / 2**32)
    assert 0.25 < (factors[..., np.tri(LENGTH, dtype=bool)] == 0).mean() < 0.35
    options = {"dropout": dropout, "seed": seed, "first_slice": first}
    out, _ = mapped_forward(operations(backend), q, k, v, position_map.tables(LENGTH, np.float64), **options)
    assert largest_error((out,), ((weights * factors) @ v,)) < FLOAT64
    gradients = dict(zip("qkv", merged(backend, position_map, q, k, v, dout, **options)[2:], strict=True))

    def loss(arrays):
        passes = position_map.tables(LENGTH, np.float64)
        return float((mapped_forward(operations(backend), *arrays.values(), passes, **options)[0] * dout).sum())

    assert gradient_error(loss, {"q": q, "k": k, "v": v}, gradients) < DIFFERENCES


@both
def test_scores_far_apart_are_merged_without_overflow(backend):
    q, k, v, dout = inputs()
    for large in (200.0, 2000.0):  # exp overflows beyond 709, and both passes have such scores
        results = merged(backend, ReRoPE(ENCODING, 5), large * q, k, v, dout)
        assert all(np.isfinite(x).all() for x in results)
        _, reference = mapped_reference(large * q, k, v, ReRoPE(ENCODING, 5))
        assert largest_error(results[:1], (reference,)) < LARGE


@both
def test_any_rectangles_are_merged_into_given_memory(backend):
    """No map has such passes: rows of which a part has been seen before, and keys that nobody sees."""
    ops = operations(backend)
    q, k, v, dout = inputs()
    tables = ENCODING.cos_sin(np.arange(LENGTH), np.float64)
    early, all_rows, first_keys = slice(0, 9), slice(0, LENGTH), slice(0, 2)
    passes = (
        PassTables(early, early, True, 3, tables, tables),
        PassTables(all_rows, first_keys, False, None, tables, None),
        PassTables(all_rows, early, False, None, tables, tables),
    )
    counts = np.zeros((2, LENGTH, LENGTH))  # how often a pair counts with its key turned, and with its key as it is
    counts[0][:9, :9] += np.tril(np.ones((9, 9))) - np.tril(np.ones((9, 9)), -3)
    counts[1][:, first_keys] += 1
    counts[0][:, early] += 1
    with np.errstate(divide="ignore"):
        bias = np.broadcast_to(np.log(np.concatenate(counts, axis=1)), (BATCH, HEADS, LENGTH, 2 * LENGTH))
    q_turned, keys = NumpyOps.rotate(q, *tables), np.concatenate([NumpyOps.rotate(k, *tables), k], axis=2)
    whole = (q_turned, keys, np.concatenate([v, v], axis=2))
    out, lse = NumpyOps.attention_forward(*whole, causal=False, bias=bias)
    dq, dk, dv = NumpyOps.attention_backward(dout, *whole, out, lse, causal=False, bias=bias)
    dk = NumpyOps.rotate(dk[:, :, :LENGTH], *tables, transpose=True) + dk[:, :, LENGTH:]
    dv = dv[:, :, :LENGTH] + dv[:, :, LENGTH:]
    expected = (out, lse, NumpyOps.rotate(dq, *tables, transpose=True), dk, dv)
    result = mapped_forward(ops, q, k, v, passes, out=np.full_like(q, np.nan))
    grads = tuple(np.full_like(x, np.nan) for x in (q, k, v))
    mapped_backward(ops, dout, q, k, v, *result, passes, grads=grads)
    assert largest_error((*result, *grads), expected) < FLOAT64
    assert (grads[1][:, :, 9:] == 0).all()


@both
@pytest.mark.parametrize("length", [0, 1, 2])
def test_the_shortest_texts(backend, length):
    q, k, v, dout = inputs(length)
    for position_map in (ReRoPE(ENCODING, 1), DualChunk(ENCODING, 2, 1), STRING(ENCODING, 1, 1, overlap=True)):
        out, _, *grads = merged(backend, position_map, q, k, v, dout)
        if length:
            assert same_bits(out[:, :, 0], v[:, :, 0])
        assert [x.shape for x in grads] == [q.shape] * 3


def test_each_token_is_turned_once_for_all_passes_that_turn_it_alike():
    class Counting(NumpyOps):
        turned: list[int] = []  # noqa: RUF012

        @staticmethod
        def rotate(x, *tables, **options):
            Counting.turned.append(x.shape[2])
            return NumpyOps.rotate(x, *tables, **options)

    q, k, v, _ = inputs()
    c = 5
    mapped_forward(Counting, q, k, v, DualChunk(ENCODING, 8, 3).tables(LENGTH, np.float64))
    assert Counting.turned == [LENGTH, LENGTH - c, LENGTH - 2 * c, LENGTH]
    Counting.turned.clear()
    mapped_forward(Counting, q, k, v, ReRoPE(ENCODING, 6).tables(LENGTH, np.float64))
    assert Counting.turned == [LENGTH, LENGTH - 6, LENGTH]  # the far keys stay as they are


# ---- errors ----


@pytest.mark.parametrize("function", ["mapped_forward", "mapped_backward"])
def test_what_does_not_fit_is_refused_with_its_name(function):
    q, k, v, dout = inputs()
    out, lse = np.zeros_like(q), np.zeros(q.shape[:3])
    passes = ReRoPE(ENCODING, 5).tables(LENGTH, np.float64)

    def call(q=q, k=k, v=v, out=out, passes=passes, **options):
        if function == "mapped_forward":
            return mapped_forward(NumpyOps, q, k, v, passes, out=out, **options)
        return mapped_backward(NumpyOps, dout, q, k, v, out, lse, passes, **options)

    with pytest.raises(ValueError, match=rf"^{function}: dropout is 1\.5, expected a number in \[0, 1\)"):
        call(dropout=1.5)
    with pytest.raises(ValueError, match=f"^{function}: q is .*3, 1, 10.*, expected T = 23 like the passes"):
        call(q=q[:, :, -1:])
    with pytest.raises(ValueError, match=f"^{function}: k is .*3, 22, 10.*, expected T = 23 like the passes"):
        call(k=k[:, :, 1:], v=v[:, :, 1:])
    with pytest.raises(ValueError, match=rf"^{function}: v is .*, expected float64\(2, 3, 23, 10\) to fit k"):
        call(v=np.concatenate([v, v], axis=2))
    with pytest.raises(ValueError, match=rf"^{function}: out is .*, expected float64\(2, 3, 23, 10\) to fit q"):
        call(out=np.concatenate([out, out], axis=2))
    with pytest.raises(ValueError, match=f"^{function}: passes are empty"):
        call(passes=())
    with pytest.raises(ValueError, match=f"^{function}: q is None, expected float32 or float64"):
        call(q=None)
    with pytest.raises(ValueError, match="rotate: cos is float32"):
        call(passes=ReRoPE(ENCODING, 5).tables(LENGTH, np.float32))
