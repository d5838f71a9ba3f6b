"""One good call of every kernel, as data: its arrays by name and how they are handed over. Hostile calls start here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refrope import kernels
from refrope.nn import attention
from refrope.tables import PeriodTables

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A kernel with arrays that fit.

    `sizes` are the axes; `make(draw, **sizes)` gives the inputs, among them those of `state`, which change in place;
    `outs` says which input a result that the caller may provide is like, or gives its shape; `run(ops, inputs, outs)`
    calls the function of that name, with no `outs` or all of them, and returns its results.
    """

    name: str
    sizes: dict[str, int]
    make: Callable[..., Arrays]
    run: Callable[[Any, Arrays, Arrays], Any]
    outs: dict[str, Any] = field(default_factory=dict)
    state: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    exact: bool = False

    def inputs(self, dtype, **sizes) -> Arrays:
        """Fresh inputs, the same at every call."""
        generator = np.random.default_rng(1)
        return self.make(lambda *shape: generator.standard_normal(shape).astype(dtype), **{**self.sizes, **sizes})

    def results(self, inputs: Arrays) -> Arrays:
        """Memory for all results, with something in it."""
        forms = {name: form(inputs) if callable(form) else inputs[form].shape for name, form in self.outs.items()}
        dtype = next(a.dtype for a in inputs.values() if a.dtype.kind == "f")
        return {name: np.full(shape, 7.5, dtype) for name, shape in forms.items()}


def whole(low, high, *shape):
    return np.random.default_rng(2).integers(low, max(high, low + 1), shape)


# ---- rotary ----


def turning(draw, B, H, T, P, E):
    return {"x": draw(B, H, T, 2 * (P + E)), "cos": draw(T, P), "sin": draw(T, P)}


def turning_by_period(draw, B, H, T, P, E):
    starts, periods = 3 * np.arange(P), 1 + whole(0, 3, P)
    return {
        **{"x": draw(B, H, T, 2 * (P + E)), "positions": whole(-(2**63), 2**63 - 1, T)},
        **{"cos": draw(3 * P + 1), "sin": draw(3 * P + 1), "starts": starts, "periods": periods},
    }


def run_periodic(ops, a, o, **options):
    tables = PeriodTables(a["cos"], a["sin"], a["starts"], a["periods"])
    return ops.rotate_periodic(a["x"], a["positions"], tables, **options, **o)


# ---- attention ----


def scores(draw, B, KV, G, T, E, D):
    heads, keys = KV * G, T + E
    return {
        **{"q": draw(B, heads, T, D), "k": draw(B, KV, keys, D), "v": draw(B, KV, keys, D)},
        "bias": draw(B, heads, T, keys),
    }


def scores_back(draw, **sizes):
    a = scores(draw, **sizes)
    out, lse = a["q"], a["q"].sum(axis=-1)
    if sizes["D"]:
        out, lse = attention.attention_forward(a["q"], a["k"], a["v"], bias=a["bias"])
    return {"dout": draw(*out.shape), **a, "out": out, "lse": lse, "dbias": draw(*a["bias"].shape)}


def run_attention(ops, a, o, **options):
    return ops.attention_forward(a["q"], a["k"], a["v"], bias=a["bias"], **options, **o)


def run_attention_back(ops, a, o, **options):
    grads = (o["dq"], o["dk"], o["dv"]) if o else None
    names = ("dout", "q", "k", "v", "out", "lse")
    return ops.attention_backward(*(a[n] for n in names), bias=a["bias"], dbias=a["dbias"], grads=grads, **options)


ATTENTION_SIZES = {"B": 2, "KV": 3, "G": 2, "T": 5, "E": 2, "D": 11}
GRADS = {"dq": "q", "dk": "k", "dv": "v"}


# ---- layers ----


def product(draw, M, K, N):
    return {"a": draw(M, K), "b": draw(K, N)}


def run_matmul_alone(ops, a, o):
    with kernels.single_blas_thread():
        return ops.matmul(a["a"], a["b"], **o)


def linear(draw, N, I, O):  # noqa: E741
    return {"x": draw(N, I), "weight": draw(I, O)}


def linear_back(draw, N, I, O):  # noqa: E741
    return {"dy": draw(N, O), **linear(draw, N, I, O)}


def norm_back(draw, N, D):
    arrays = {"dy": draw(N, D), "x": draw(N, D), "gain": draw(D), "inv_rms": np.abs(draw(N)), "residual": draw(N, D)}
    return arrays


def run_swiglu_back(ops, a, o):
    return ops.swiglu_backward(a["dy"], a["gate"], a["up"], out=(o["dgate"], o["dup"]) if o else None)


def loss(draw, N, V):
    return {"logits": draw(N, V), "targets": whole(0, V, N), "weights": np.abs(draw(N)) + 1}


def loss_back(draw, N, V):
    return {"probabilities": np.abs(draw(N, V)), "targets": whole(0, V, N), "weights": np.abs(draw(N)) + 1}


def adam(draw, N, parts=None):
    arrays = {"weight": draw(N), "moment1": draw(N), "moment2": np.abs(draw(N))}
    settings = np.array([0.99, 0.9, 0.1, 0.999, 0.001, 0.01, 1.5, 1e-8])
    return {**arrays, "grad": draw(N) if parts is None else draw(parts, N), "settings": settings}


def run_adam(ops, a, o):
    return ops.adamw_update(*(a[name] for name in ("weight", "moment1", "moment2", "grad", "settings")))


TURNS = {"B": 2, "H": 3, "T": 5, "P": 7, "E": 1}
STATE = ("weight", "moment1", "moment2")
CALLS = {
    "rotate": Call(
        *("rotate", TURNS, turning, lambda f, a, o: f.rotate(a["x"], a["cos"], a["sin"], **o)),
        *({"out": "x"}, (), (), True),
    ),
    "rotate, interleaved, backward": Call(
        *("rotate", TURNS, turning),
        lambda f, a, o: f.rotate(*a.values(), layout="interleaved", transpose=True, suffix=True, **o),
        *({"out": "x"}, (), (), True),
    ),
    "rotate_periodic": Call(
        *("rotate_periodic", TURNS, turning_by_period, run_periodic, {"out": "x"}, (), ("positions",), True),
    ),
    "attention_forward": Call(
        *("attention_forward", ATTENTION_SIZES, scores, run_attention, {"out": "q"}, (), ("bias",)),
    ),
    "attention_forward, all keys, dropout": Call(
        *("attention_forward", ATTENTION_SIZES, scores),
        lambda f, a, o: run_attention(f, a, o, causal=False, dropout=0.3, seed=3),
        *({"out": "q"}, (), ("bias",)),
    ),
    "attention_forward, window": Call(
        *("attention_forward", ATTENTION_SIZES, scores),
        lambda f, a, o: run_attention(f, a, o, window=2),
        *({"out": "q"}, (), ("bias",)),
    ),
    "attention_backward": Call(
        *("attention_backward", ATTENTION_SIZES, scores_back, run_attention_back, GRADS, ("dbias",), ("bias", "dbias")),
    ),
    "matmul": Call(
        *("matmul", {"M": 5, "K": 7, "N": 11}, product, lambda f, a, o: f.matmul(a["a"], a["b"], **o)),
        {"out": lambda a: (a["a"].shape[0], a["b"].shape[1])},
    ),
    "matmul, our threads": Call(
        *("matmul", {"M": 5, "K": 7, "N": 11}, product, run_matmul_alone),
        {"out": lambda a: (a["a"].shape[0], a["b"].shape[1])},
    ),
    "linear_forward": Call(
        *("linear_forward", {"N": 5, "I": 7, "O": 11}, linear),
        lambda f, a, o: f.linear_forward(a["x"], a["weight"], **o),
        {"out": lambda a: (a["x"].shape[0], a["weight"].shape[1])},
    ),
    "linear_backward": Call(
        *("linear_backward", {"N": 5, "I": 7, "O": 11}, linear_back),
        lambda f, a, o: f.linear_backward(a["dy"], a["x"], a["weight"], **o),
        {"dweight": "weight", "out": "x"},
    ),
    "rmsnorm_forward": Call(
        *("rmsnorm_forward", {"N": 5, "D": 17}, lambda draw, N, D: {"x": draw(N, D), "gain": draw(D)}),
        lambda f, a, o: f.rmsnorm_forward(a["x"], a["gain"], **o),
        {"out": "x"},
    ),
    "rmsnorm_backward": Call(
        *("rmsnorm_backward", {"N": 5, "D": 17}, norm_back),
        lambda f, a, o: f.rmsnorm_backward(*list(a.values())[:4], residual=a["residual"], **o),
        *({"dgain": "gain", "out": "x"}, (), ("residual",)),
    ),
    "relu_forward": Call(
        *("relu_forward", {"N": 5, "F": 17}, lambda draw, N, F: {"x": draw(N, F)}),
        *(lambda f, a, o: f.relu_forward(a["x"], **o), {"out": "x"}, (), (), True),
    ),
    "relu_backward": Call(
        *("relu_backward", {"N": 5, "F": 17}, lambda draw, N, F: {"dy": draw(N, F), "y": draw(N, F)}),
        *(lambda f, a, o: f.relu_backward(a["dy"], a["y"], **o), {"out": "dy"}, (), (), True),
    ),
    "swiglu_forward": Call(
        *("swiglu_forward", {"N": 5, "F": 17}, lambda draw, N, F: {"gate": draw(N, F), "up": draw(N, F)}),
        *(lambda f, a, o: f.swiglu_forward(a["gate"], a["up"], **o), {"out": "gate"}),
    ),
    "swiglu_backward": Call(
        *("swiglu_backward", {"N": 5, "F": 17}),
        lambda draw, N, F: {"dy": draw(N, F), "gate": draw(N, F), "up": draw(N, F)},
        *(run_swiglu_back, {"dgate": "gate", "dup": "gate"}),
    ),
    "cross_entropy_forward": Call(
        *("cross_entropy_forward", {"N": 5, "V": 17}, loss),
        lambda f, a, o: f.cross_entropy_forward(a["logits"], a["targets"], a["weights"], total=3.0, **o),
        {"out": "logits"},
    ),
    "cross_entropy_backward": Call(
        *("cross_entropy_backward", {"N": 5, "V": 17}, loss_back),
        lambda f, a, o: f.cross_entropy_backward(a["probabilities"], a["targets"], a["weights"], total=3.0),
        *({}, ("probabilities",), (), True),
    ),
    "embedding_forward": Call(
        *("embedding_forward", {"N": 5, "V": 7, "D": 17}),
        lambda draw, N, V, D: {"tokens": whole(0, V, N), "table": draw(V, D)},
        lambda f, a, o: f.embedding_forward(a["tokens"], a["table"], **o),
        *({"out": lambda a: (*a["tokens"].shape, *a["table"].shape[1:])}, (), (), True),
    ),
    "embedding_backward": Call(
        *("embedding_backward", {"N": 5, "V": 7, "D": 17}),
        lambda draw, N, V, D: {"dy": draw(N, D), "tokens": whole(0, V, N), "dtable": draw(V, D)},
        *(lambda f, a, o: f.embedding_backward(a["dy"], a["tokens"], a["dtable"]), {}, ("dtable",)),
    ),
    "dropout": Call(
        *("dropout", {"N": 5, "F": 17}, lambda draw, N, F: {"x": draw(N, F)}),
        *(lambda f, a, o: f.dropout(a["x"], 0.3, 5, first=11, **o), {"out": "x"}, (), (), True),
    ),
    "adamw_update": Call(*("adamw_update", {"N": 300}, adam, run_adam, {}, STATE, (), True)),
    "adamw_update, parts": Call(
        *("adamw_update", {"N": 300}, lambda draw, N: adam(draw, N, 3), run_adam, {}, STATE, (), True),
    ),
}
