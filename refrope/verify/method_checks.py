"""Position maps, biases, several axes: against the vectors, between C and NumPy, and where they must be plain RoPE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refrope import kernels, rotary
from refrope.encodings import Axial2D, MRoPE, Resonance, RoPE, RotaryEncoding, YaRN
from refrope.encodings.remap import SHIFTS, STRING, DualChunk, LeakyReRoPE, PositionMap, ReRoPE, SelfExtend
from refrope.nn.attending import Attending
from refrope.nn.backends import NumpyOps, operations
from refrope.nn.biases import ALiBi, T5Bias
from refrope.nn.mapped import mapped_backward, mapped_forward
from refrope.nn.mapped_oracle import mapped_reference
from refrope.vectors import methods
from refrope.vectors.methods import ANGLES, LOGITS, NETWORKS, TABLES, VALUES, causal_entries, square
from refrope.verify.method_gradient_checks import GRADIENT_CHECKS
from refrope.verify.tally import Array, Check, Draws, Tally
from refrope.verify.twin_checks import DTYPES, LENGTHS, attention_calls, compare_attention

_ONE_ULP = 2.0**-52
# Of unit normal inputs, relative to the largest number: the bounds of attention, and as much again for the tables that
# are rounded to float32 here and not there, and for merging passes.
_OUT = {np.float32: 4e-6, np.float64: 2e-13}
_GRADIENT = {np.float32: 3e-5, np.float64: 2e-13}


# ---- maps ----


def _effective_positions(tally: Tally) -> None:
    for group in methods.groups("maps"):
        position_map = methods.method(group["parameters"])
        for case in group["cases"]:
            exact = np.array(case["effective"], float)
            found = position_map.effective(case["query"], np.array(case["keys"]))
            tally.within(found, exact, VALUES * np.abs(exact), f"{case['id']}: effective positions")
            scale, factor = position_map.query_scale(case["query"]), case["query_factor"]
            tally.within(scale, factor, VALUES * factor, f"{case['id']}: factor of the query")
        for score in group["scores"]:
            exact = causal_entries(square(score["effective"]))
            places = np.arange(len(score["effective"]))
            found = causal_entries(position_map.effective(places[:, None], places))
            tally.within(found, exact, VALUES * np.abs(exact), f"{score['id']}: effective positions")


def _map_definitions(tally: Tally) -> None:
    for group, score, q, k in methods.scores("maps"):
        q, k = (methods.half_layout(x, score["layout"]) for x in (q, k))
        logits, _ = mapped_reference(q, k, k, methods.method(group["parameters"]), scale=score["scale"])
        exact = causal_entries(square(score["logits"]))
        tally.within(causal_entries(logits[0]), exact, LOGITS, f"{score['id']}: logits")


def _map_passes(backend: str) -> Callable[[Tally], None]:
    def run(tally: Tally) -> None:
        for group, score, q, k in methods.scores("maps"):
            v = tally.draws.normal(*k.shape)
            q, k = (methods.half_layout(x, score["layout"]) for x in (q, k))
            passes = methods.method(group["parameters"]).tables(q.shape[2], np.float64)
            found = mapped_forward(operations(backend), q, k, v, passes, scale=score["scale"])
            _compare_softmax(tally, found, square(score["logits"]), v, LOGITS, score["id"])

    return run


def _compare_softmax(tally: Tally, found: Any, logits: Array, v: Array, bound: float, where: str) -> None:
    """`out` and `lse` of attention, (1, H, T, D) and (1, H, T), against those of logits, which are right to `bound`."""
    exact = np.exp(logits)
    total = exact.sum(axis=-1, keepdims=True)
    tally.within(found[1][0], np.log(total[..., 0]), bound, f"{where}: lse")
    tally.within(found[0][0], exact / total @ v[0], bound * max(1.0, float(np.abs(v).max())), f"{where}: out")


# ---- biases and sinusoids ----


def _bias_values(tally: Tally) -> None:
    for group in methods.groups("biases"):
        parameters = group["parameters"]
        if parameters["variant"] == "sinusoidal":
            continue
        bias = methods.method(parameters)
        if isinstance(bias, ALiBi):
            exact = np.array(group["slopes"])
            tally.within(bias.slopes(parameters["heads"]), exact, VALUES * exact, f"{group['id']}: slopes")
        if isinstance(bias, T5Bias):
            buckets = np.array(group["buckets"])
            tally.same(bias.buckets(np.arange(len(buckets))), buckets, f"{group['id']}: buckets")
        for case in group["cases"]:
            queries = None if case["queries"] is None else np.array(case["queries"])
            exact = np.array(case["values"])
            found = methods.bias_values(bias, group, np.array(case["distances"]), queries)
            bound = NETWORKS if parameters["variant"] == "fire" else VALUES * np.maximum(1, np.abs(exact))
            tally.within(found, exact, bound, f"{case['id']}: values")


def _bias_logits(backend: str) -> Callable[[Tally], None]:
    """As a model computes them: a table by distance, or all pairs, and DAPE's network of the scores."""

    def run(tally: Tally) -> None:
        for group, score, q, k in methods.scores("biases"):
            v, places = tally.draws.normal(*k.shape), np.arange(q.shape[2])
            bias, scale = methods.method(group["parameters"]), score["scale"]
            attending = Attending(operations(backend), None, bias, None, places, places)
            saved = attending.forward(q, k, v, methods.bias_weights(group), {"scale": scale}, np.empty_like(v))
            bound = NETWORKS if group["parameters"]["variant"] in ("fire", "dape") else LOGITS
            exact = square(score["logits"])
            found = np.broadcast_to(scale * (q @ np.swapaxes(k, -1, -2)) + saved.bias, (1, *exact.shape))[0]
            tally.within(causal_entries(found), causal_entries(exact), bound, f"{score['id']}: logits")
            _compare_softmax(tally, (saved.out, saved.lse), exact, v, LOGITS, score["id"])

    return run


def _sinusoids(tally: Tally) -> None:
    for group in methods.groups("biases", "sinusoidal"):
        sinusoids = methods.method(group["parameters"])
        for case in group["cases"]:
            row = sinusoids.table([case["position"]], len(case["row"]))[0]
            tally.within(row, np.array(case["row"]), ANGLES * case["position"] + TABLES, f"{case['id']}: row")


# ---- several axes ----


def _axes_tables(tally: Tally) -> None:
    for group in methods.groups("axes"):
        encoding, factor = methods.method(group["parameters"]), group["attention_factor"]
        tally.same(encoding.axes, np.array(group["axes"], np.int64), f"{group['id']}: axes")
        tally.same(encoding.inv_freq, np.array(group["inv_freq"]), f"{group['id']}: inv_freq")
        tally.within(encoding.attention_factor, factor, _ONE_ULP * factor, f"{group['id']}: attention_factor")
        for case in group["cases"]:
            angles = np.abs(np.array(case["position"], float))[encoding.axes] * encoding.inv_freq
            exact = np.array([case["cos"], case["sin"]])
            found = np.stack(encoding.cos_sin([case["position"]], np.float64))[:, 0]
            tally.within(found, exact, factor * (ANGLES * angles + TABLES), f"{case['id']}: cos and sin")


def _axes_rotations(rotate: Any) -> Callable[[Tally], None]:
    def run(tally: Tally) -> None:
        for group in methods.groups("axes"):
            for rotation in group["rotations"]:
                tables = methods.method(group["parameters"]).cos_sin(rotation["positions"], np.float64)
                turned = [rotate(np.array(rotation[x]), *tables, layout=rotation["layout"]) for x in ("q", "k")]
                found = (*turned, turned[0] @ turned[1].T)
                for name, x in zip(("rotated_q", "rotated_k", "logits"), found, strict=True):
                    tally.within(x, np.array(rotation[name]), LOGITS, f"{rotation['id']}: {name}")

    return run


def _equal_ids(tally: Tally) -> None:
    """MRoPE is the encoding inside; Axial2D of one list of frequencies is RoPE, its even pairs first."""
    draws = tally.draws
    for encoding in (RoPE(32), YaRN(32, factor=4.0, original_length=64), Resonance(RoPE(32)), RoPE(128, 1e6)):
        most = encoding.pairs // 3
        rest = encoding.pairs - 2 * most
        forms: list[MRoPE] = [
            MRoPE(encoding, (rest, most, most)),
            MRoPE(encoding, (most, rest, most)),
            MRoPE(encoding, (encoding.pairs - most, most)),
            MRoPE(encoding, (rest, most, most), interleaved=True),
            MRoPE(encoding, (rest + 2, most - 1, most - 1), interleaved=True, leftover="fourth"),
        ]
        for form in forms:
            places = draws.integers(0, 2**31, 37)
            ids = np.repeat(places[:, None], form.ids, axis=1)
            for dtype in DTYPES:
                for found, exact in zip(form.cos_sin(ids, dtype), encoding.cos_sin(places, dtype), strict=True):
                    tally.same(found, exact, f"{form} {np.dtype(dtype)}")
    for head_dim in (4, 64, 100):
        places = draws.integers(0, 2**20, 37)
        ids, order = np.repeat(places[:, None], 2, axis=1), np.r_[0 : head_dim // 2 : 2, 1 : head_dim // 2 : 2]
        found = np.stack(Axial2D(head_dim, form="evenodd").cos_sin(ids))
        tally.same(found, np.stack(RoPE(head_dim).cos_sin(places))[..., order], f"Axial2D, head_dim {head_dim}")


# ---- maps that change nothing; twins ----


def _both_passes(
    ops: Any, position_map: PositionMap, q: Array, k: Array, v: Array, dout: Array, **options: Any
) -> list[Array]:
    """out, lse, dq, dk, dv of mapped attention."""
    passes = position_map.tables(q.shape[2], q.dtype)
    out, lse = mapped_forward(ops, q, k, v, passes, **options)
    return [out, lse, *mapped_backward(ops, dout, q, k, v, out, lse, passes, **options)]


def _rotated_passes(
    ops: Any, encoding: RotaryEncoding, q: Array, k: Array, v: Array, dout: Array, **options: Any
) -> list[Array]:
    """The same of rotation and plain attention."""
    tables = encoding.cos_sin(np.arange(q.shape[2]), q.dtype)
    q, k = ops.rotate(q, *tables), ops.rotate(k, *tables)
    out, lse = ops.attention_forward(q, k, v, **options)
    dq, dk, dv = ops.attention_backward(dout, q, k, v, out, lse, **options)
    return [out, lse, *(ops.rotate(x, *tables, transpose=True) for x in (dq, dk)), dv]


def _without_effect(backend: str) -> Callable[[Tally], None]:
    def run(tally: Tally) -> None:
        draws, ops = tally.draws, operations(backend)
        for n in (1, 13, 67):
            for encoding in (RoPE(10), RoPE(10, rotary_dim=4), YaRN(10, factor=4.0, original_length=8)):
                resonance, small = Resonance(encoding), int(draws.integers(1, n + 1, 1)[0])
                maps: list[PositionMap] = [
                    *(ReRoPE(encoding, n), ReRoPE(resonance, n), LeakyReRoPE(encoding, small, 1.0)),
                    *(SelfExtend(encoding, small, 1), SelfExtend(encoding, n, 3, "fraction")),
                    *(DualChunk(encoding, n + small, small), STRING(encoding, small, small)),
                ]
                options = {"scale": 0.3, "dropout": draws.pick([0.0, 0.25]), "seed": 7, "first_slice": 11}
                for position_map in maps:
                    for dtype in DTYPES:
                        arrays = [draws.normal(2, h, n, 10, dtype=dtype) for h in (3, 1, 1, 3)]
                        found = _both_passes(ops, position_map, *arrays, **options)
                        exact = _rotated_passes(ops, position_map.encoding, *arrays, **options)
                        for name, a, b in zip(("out", "lse", "dq", "dk", "dv"), found, exact, strict=True):
                            tally.same(a, b, f"{name} of {position_map}, {n} tokens, {np.dtype(dtype)}")

    return run


def random_maps(draws: Draws, encoding: RotaryEncoding, n: int) -> list[PositionMap]:
    """One of each, which `n` tokens may or may not reach."""

    def between(low: int, high: int) -> int:
        return int(draws.integers(low, high + 1, 1)[0])

    window, chunk = between(1, n + 1), between(1 + n // 8, n + 1)
    local = between(1, n + 1)
    return [
        ReRoPE(encoding, window, log_length=draws.pick([None, 4.0])),
        LeakyReRoPE(encoding, window, 1.0 + 3 * float(draws.integers(0, 100, 1)[0]) / 100),
        SelfExtend(encoding, window, between(1, 5), draws.pick(SHIFTS)),
        DualChunk(encoding, chunk + local, local),
        STRING(encoding, window, between(1, window), draws.pick([False, True])),
    ]


def _window_twins(tally: Tally) -> None:
    for arrays, options, words in attention_calls(tally.draws, 40):
        window = int(tally.draws.integers(1, arrays[1].shape[2] + 2, 1)[0])
        compare_attention(tally, arrays, options | {"causal": True, "window": window}, f"window {window}, {words}")


def _map_twins(tally: Tally) -> None:
    """Both precisions against the NumPy twin in float64."""
    draws = tally.draws
    for n in LENGTHS:
        head_dim, kv_heads = draws.pick([2, 14, 16, 34, 64]), draws.pick([1, 3])
        encoding = draws.pick([RoPE(head_dim), YaRN(head_dim, factor=4.0, original_length=8)])
        options = {"dropout": draws.pick([0.0, 0.3]), "seed": int(draws.integers(0, 2**63, 1)[0])}
        for position_map in random_maps(draws, encoding, n):
            arrays = [draws.normal(2, h, n, head_dim, dtype=np.float32) for h in (3, kv_heads, kv_heads, 3)]
            wide = [x.astype(np.float64) for x in arrays]
            with kernels.single_blas_thread():
                slow = _both_passes(NumpyOps, position_map, *wide, **options)
            for dtype, given in zip(DTYPES, (arrays, wide), strict=True):
                fast = _both_passes(kernels, position_map, *given, **options)
                for name, a, b in zip(("out", "lse", "dq", "dk", "dv"), fast, slow, strict=True):
                    bound = (_OUT if name in ("out", "lse") else _GRADIENT)[dtype]
                    where = f"{name} of {position_map}, {n} tokens, {np.dtype(dtype)}"
                    tally.within(a, b, bound * max(1.0, float(np.abs(b).max())), where)


CHECKS = [
    Check("methods", "effective positions of every map are the vectors'", _effective_positions),
    Check("methods", "logits of every map by its definition are within their bound", _map_definitions),
    Check("methods", "the passes of every map give the attention of these logits (NumPy)", _map_passes("numpy")),
    Check("methods", "the passes of every map give the attention of these logits (C)", _map_passes("c"), True),
    Check("methods", "slopes, buckets and values of every bias are the vectors'", _bias_values),
    Check(
        "methods", "logits with every bias, and their attention, are within their bound (NumPy)", _bias_logits("numpy")
    ),
    Check(
        "methods", "logits with every bias, and their attention, are within their bound (C)", _bias_logits("c"), True
    ),
    Check("methods", "sinusoids are within their bound", _sinusoids),
    Check("methods", "axes, frequencies and tables of several axes are the vectors'", _axes_tables),
    Check("methods", "rows turned by several ids are within their bound (NumPy)", _axes_rotations(rotary.rotate)),
    Check("methods", "rows turned by several ids are within their bound (C)", _axes_rotations(kernels.rotate), True),
    Check("methods", "equal ids on all axes are one axis, bit for bit", _equal_ids),
    Check("methods", "maps that change nothing are plain RoPE, bit for bit (NumPy)", _without_effect("numpy")),
    Check("methods", "maps that change nothing are plain RoPE, bit for bit (C)", _without_effect("c"), True),
    Check("methods", "attention in a window: C within its error of NumPy in float64", _window_twins, True),
    Check("methods", "attention by every map: C within its error of NumPy in float64", _map_twins, True),
    *GRADIENT_CHECKS,
]
