"""refrope verify, section methods: each of its checks fails when the thing that it checks is broken."""

import numpy as np
import pytest
from conftest import BACKENDS
from test_verify import C_BUILT, fails, result_of

from refrope import kernels
from refrope.encodings import Axial2D, MRoPE, RoPE, axes
from refrope.encodings.position_map import PositionMap
from refrope.encodings.remap import STRING, DualChunk, LeakyReRoPE, ReRoPE, SelfExtend
from refrope.methods import METHODS
from refrope.nn import attending, attention, mapped
from refrope.nn.absolute import LearnedPositions, Sinusoidal
from refrope.nn.attending import Attending
from refrope.nn.backends import NumpyOps, operations
from refrope.nn.biases import ALiBi, Kerple, T5Bias
from refrope.nn.dape import DAPE
from refrope.nn.fire import FIRE
from refrope.nn.transformer import Transformer
from refrope.randomness import bit_source
from refrope.verify import certificate, method_checks, method_gradient_checks
from refrope.verify.tally import Draws
from refrope.verify.twin_checks import LENGTHS, attention_calls

NAMED = {"numpy": "(NumPy)", "c": "(C)"}
both = pytest.mark.parametrize("backend", BACKENDS)


def named(claim, backend):
    """Both backends' checks have the same claim but for its end."""
    [found] = [c.claim for c in certificate.CHECKS if c.claim.startswith(claim) and c.claim.endswith(NAMED[backend])]
    return found


def changed(monkeypatch, owner, name, change):
    """Put `change` of a function's result in its place; of a property's too."""
    right = owner.__dict__[name]
    if isinstance(right, (staticmethod, property)) or hasattr(right, "func"):
        inside = getattr(right, "__func__", None) or getattr(right, "fget", None) or right.func
        wrapped = staticmethod if isinstance(right, staticmethod) else property
        monkeypatch.setattr(owner, name, wrapped(lambda *a, **o: change(inside(*a, **o))))
    else:
        monkeypatch.setattr(owner, name, lambda *a, **o: change(right(*a, **o)))


def on_backend(monkeypatch, backend, name, wrong):
    """Give a backend the function `wrong(right)` in the place of its own."""
    ops = operations(backend)
    wrong = wrong(getattr(ops, name))
    monkeypatch.setattr(ops, name, staticmethod(wrong) if ops is NumpyOps else wrong)


def test_the_section_has_the_same_checks_for_each_backend():
    claims = [check.claim for check in certificate.CHECKS if check.section == "methods"]
    assert len(claims) == len({*claims}) == 24
    for claim in claims:
        if claim.endswith("(NumPy)"):
            assert claim.replace("(NumPy)", "(C)") in claims
    assert all(check.needs_kernels for check in certificate.CHECKS if check.claim.endswith("(C)"))


# ---- against the vectors ----


@pytest.mark.parametrize("kind", [ReRoPE, LeakyReRoPE, SelfExtend, DualChunk, STRING])
def test_positions_that_are_one_off_beyond_the_fifth_token_are_noticed(monkeypatch, kind):
    right = kind.effective
    monkeypatch.setattr(kind, "effective", lambda s, m, n: right(s, m, n) + (np.subtract(m, n) > 5))
    assert fails("effective positions of every map", "logits of every map by its definition")


def test_queries_that_are_not_sharpened_are_noticed(monkeypatch):
    monkeypatch.setattr(ReRoPE, "query_scale", PositionMap.query_scale)
    assert fails("effective positions of every map", "logits of every map by its definition")
    assert fails(*(named("the passes of every map", backend) for backend in BACKENDS))


def test_a_pair_that_is_not_counted_twice_is_noticed(monkeypatch):
    monkeypatch.setattr(STRING, "second", PositionMap.second)
    assert fails("logits of every map by its definition")


@both
@pytest.mark.parametrize("kind", [ReRoPE, LeakyReRoPE, SelfExtend, DualChunk, STRING])
def test_far_queries_that_are_one_off_are_noticed(monkeypatch, backend, kind):
    right = kind.passes

    def wrong(self, n):
        near, *far = right(self, n)
        return (near, *(p._replace(q_positions=p.q_positions + 1) for p in far))

    monkeypatch.setattr(kind, "passes", wrong)
    assert fails(named("the passes of every map", backend))


@pytest.mark.parametrize(
    ("owner", "name", "change"),
    [
        (ALiBi, "slopes", lambda slopes: slopes * (1 + 2.0**-40)),
        (T5Bias, "buckets", lambda buckets: buckets - (buckets == 9)),
        (Kerple, "_bounded", lambda pair: (pair[0], pair[1] + 1e-12)),
        (FIRE, "_hidden", lambda hidden: np.maximum(hidden, 0.1)),
    ],
)
def test_a_bias_that_is_off_is_noticed(monkeypatch, owner, name, change):
    changed(monkeypatch, owner, name, change)
    assert fails("slopes, buckets and values")
    assert fails(*(named("logits with every bias", backend) for backend in BACKENDS))


def test_weights_of_kerple_beyond_their_bounds_are_noticed(monkeypatch):
    monkeypatch.setattr(Kerple, "LEAST", -np.inf)
    assert fails("slopes, buckets and values")


@both
@pytest.mark.parametrize(
    ("owner", "name", "change"),
    [
        (Attending, "_bias_forward", lambda values: np.roll(values, 1, axis=-1)),
        (DAPE, "mix_forward", lambda result: (result[0] * (1 + 1e-12), result[1])),
        (DAPE, "_edges", lambda layer: np.maximum(layer, 0)),
    ],
)
def test_a_bias_that_reaches_other_scores_is_noticed(monkeypatch, backend, owner, name, change):
    changed(monkeypatch, owner, name, change)
    assert fails(named("logits with every bias", backend))


@both
def test_a_bias_that_attention_leaves_out_is_noticed(monkeypatch, backend):
    on_backend(
        monkeypatch, backend, "attention_forward", lambda right: lambda *a, **o: right(*a, **{**o, "bias": None})
    )
    assert fails(named("logits with every bias", backend))


def test_sinusoids_of_float32_are_noticed(monkeypatch):
    changed(monkeypatch, Sinusoidal, "table", lambda rows: rows.astype(np.float32).astype(float))
    assert fails("sinusoids are")


@both
@pytest.mark.parametrize("owner", [MRoPE, Axial2D])
def test_axes_in_another_order_are_noticed(monkeypatch, owner, backend):
    changed(monkeypatch, owner, "axes", lambda axes: axes[::-1].copy())
    assert fails("axes, frequencies and tables", named("rows turned by several ids", backend))


def test_frequencies_of_axes_that_are_one_bit_off_are_noticed(monkeypatch):
    changed(monkeypatch, Axial2D, "inv_freq", lambda inv_freq: np.nextafter(inv_freq, 1))
    assert fails("axes, frequencies and tables")


@both
def test_rows_that_are_turned_back_are_noticed(monkeypatch, backend):
    changed(monkeypatch, axes, "_by_axis", lambda tables: (tables[0], -tables[1]))
    assert fails("axes, frequencies and tables", named("rows turned by several ids", backend))


# ---- where a method is plain RoPE ----


@pytest.mark.parametrize("owner", [MRoPE, Axial2D])
def test_equal_ids_that_are_one_bit_from_one_axis_are_noticed(monkeypatch, owner):
    changed(
        monkeypatch, owner, "cos_sin", lambda tables: (np.nextafter(tables[0], 2, dtype=tables[0].dtype), tables[1])
    )
    assert fails("equal ids on all axes")


@both
@pytest.mark.parametrize("kind", [ReRoPE, LeakyReRoPE, SelfExtend, DualChunk, STRING])
def test_a_map_that_changes_nothing_and_moves_a_bit_is_noticed(monkeypatch, backend, kind):
    right = kind._tables

    def wrong(self, positions, dtype, scaled):
        tables = right(self, positions, dtype, scaled)
        return tables and (np.nextafter(tables[0], 2, dtype=tables[0].dtype), tables[1])

    monkeypatch.setattr(kind, "_tables", wrong)
    assert fails(named("maps that change nothing", backend))


# ---- twins ----


@C_BUILT
def test_a_window_that_is_one_key_wider_in_numpy_is_noticed(monkeypatch):
    right = attention._seen
    monkeypatch.setattr(method_checks, "attention_calls", lambda draws, count: attention_calls(draws, 5))
    monkeypatch.setattr(attention, "_seen", lambda n_q, n_k, causal, window: right(n_q, n_k, causal, window + 1))
    assert fails("attention in a window")


@C_BUILT
@pytest.mark.parametrize("name", ["attention_forward", "attention_backward", "rotate"])
def test_maps_that_differ_between_c_and_numpy_are_noticed(monkeypatch, name):
    def wrong(right):
        def run(*arguments, **options):
            result = right(*arguments, **options)
            first = result[0] if isinstance(result, tuple) else result
            first *= first.dtype.type(1 + 1e-4)
            return result

        return run

    monkeypatch.setattr(method_checks, "LENGTHS", (1, 17, 33))
    assert result_of("attention by every map: C").passed
    on_backend(monkeypatch, "c", name, wrong)
    assert fails("attention by every map: C")


def test_the_maps_of_the_twins_move_pairs_of_most_lengths_and_of_each_kind():
    moved = []
    for n in LENGTHS:
        maps = method_checks.random_maps(Draws(0, str(n)), RoPE(6), n)
        assert [type(m) for m in maps] == [ReRoPE, LeakyReRoPE, SelfExtend, DualChunk, STRING]
        moved.append([len(m.passes(n)) > 1 for m in maps])
    assert (np.mean(moved, axis=0) >= 0.4).all()


# ---- gradients ----


@both
def test_a_backward_pass_without_the_window_is_noticed(monkeypatch, backend):
    def wrong(right):
        return lambda *a, **o: right(*a, **{**o, "window": None})

    on_backend(monkeypatch, backend, "attention_backward", wrong)
    assert fails(named("gradients of attention in a window", backend))


@both
@pytest.mark.parametrize("kind", [ReRoPE, LeakyReRoPE, SelfExtend, DualChunk, STRING])
def test_a_backward_pass_of_a_map_that_is_wrong_by_a_thousandth_is_noticed(monkeypatch, backend, kind):
    right = mapped.mapped_backward
    monkeypatch.setattr(kind, "tables", lambda self, *a: Marked(PositionMap.tables(self, *a)))

    def wrong(ops, dout, q, k, v, out, lse, passes, **options):
        grads = right(ops, dout, q, k, v, out, lse, passes, **options)
        if isinstance(passes, Marked):
            grads[1][...] *= 1.001
        return grads

    monkeypatch.setattr(attending, "mapped_backward", wrong)
    result = result_of(named("gradients of attention by every map", backend))
    assert result.failed >= 2  # with both encodings
    assert all(kind.__name__ in failure and "gradient of k" in failure for failure in result.failures)


class Marked(tuple):
    """Passes that a test knows again."""


def times(number, *names):
    """Change of a dictionary of gradients."""
    return lambda grads: {name: g * number if name in names else g for name, g in grads.items()}


@pytest.mark.parametrize(
    ("owner", "name", "change", "words"),
    [
        (T5Bias, "backward", times(1.001, "table"), "T5Bias"),
        (Kerple, "backward", times(1.001, "p"), "Kerple"),
        (Kerple, "backward", times(1.001, "a"), "Kerple"),
        (FIRE, "backward", times(-1, "c"), "FIRE"),
        (FIRE, "backward", times(1.001, "multiplier"), "FIRE"),
        (FIRE, "backward", times(1.001, "in.bias"), "FIRE"),
        (DAPE, "mix_backward", lambda result: (result[0] * 1.001, *result[1:]), "gradient of q"),
        (DAPE, "mix_backward", lambda result: (result[0], result[1] * 1.001, result[2]), "DAPE"),
        (DAPE, "mix_backward", lambda r: (*r[:2], times(1.001, "mix.in.weight")(r[2])), "mix.in.weight"),
        (
            DAPE,
            "mix_backward",
            lambda r: (*r[:2], r[2] | {"mix.out.bias": r[2]["mix.out.bias"] + 1e-6}),
            "mix.out.bias",
        ),
    ],
)
def test_wrong_gradients_of_a_bias_are_noticed(monkeypatch, owner, name, change, words):
    changed(monkeypatch, owner, name, change)
    result = result_of(named("gradients of every bias's weights", BACKENDS[-1]))
    assert not result.passed
    assert words in result.failures[0]


@both
def test_gradients_of_a_bias_that_never_leave_attention_are_noticed(monkeypatch, backend):
    on_backend(
        monkeypatch, backend, "attention_backward", lambda right: lambda *a, **o: right(*a, **{**o, "dbias": None})
    )
    assert fails(named("gradients of every bias's weights", backend))
    assert fails(named("gradients of every weight of a model of each method", backend))


@both
@pytest.mark.parametrize("name", METHODS)
def test_a_wrong_gradient_in_a_model_of_each_method_is_noticed(monkeypatch, backend, name):
    monkeypatch.setattr(method_gradient_checks, "METHODS", [name])
    claim = named("gradients of every weight of a model of each method", backend)
    assert result_of(claim).passed
    right = Transformer._attention_backward

    def wrong(self, i, dy):
        dx = right(self, i, dy)
        self.grads["layers.0.attention.qkv"] *= 1.001
        return dx

    monkeypatch.setattr(Transformer, "_attention_backward", wrong)
    result = result_of(claim)
    assert result.failed == 1
    assert f"model with {name}: gradient of layers.0.attention.qkv" in result.failures[0]


def test_wrong_gradients_of_learned_positions_are_noticed(monkeypatch):
    changed(monkeypatch, LearnedPositions, "backward", times(1.001, "positions"))
    result = result_of(named("gradients of every weight of a model of each method", BACKENDS[-1]))
    assert [failure.split(":")[:2] for failure in result.failures] == [
        ["model with learned", " gradient of absolute.positions"]
    ]


def test_inputs_near_a_kink_are_drawn_again_and_not_for_ever():
    margins = iter([0.0, method_gradient_checks.MARGIN / 2, method_gradient_checks.MARGIN, 1.0])
    cases = ((i, margin) for i, margin in enumerate(margins))
    assert method_gradient_checks._far_from_kinks(cases) == 2
    with pytest.raises(ValueError, match=r"none of 500 random inputs is 0\.0005 from every kink"):
        method_gradient_checks._far_from_kinks(iter([("near", 0.0)] * 600))
    assert method_gradient_checks._far_from_kinks(iter([("broken", np.nan)])) == "broken"


@pytest.mark.parametrize("bias", [FIRE(5, 4.5), DAPE(Kerple(), 5), DAPE(FIRE(5, 4.5), 5, kernel=3)], ids=repr)
def test_the_nearest_kink_is_as_far_as_the_bias_of_a_hidden_unit_must_move_to_meet_it(bias):
    places, heads = np.arange(7), 3
    weights = method_gradient_checks._differentiable(bias.initial(heads, bit_source(1, "kinks")))
    q = np.random.default_rng(0).standard_normal((2, heads, 7, 4))
    call = Attending(NumpyOps, None, bias, None, places, places)

    def nearest(name, unit, change):
        moved = {**weights, name: weights[name] + change * (np.arange(5) == unit)}
        saved = call.forward(q, q, q, moved, {"scale": 0.4}, np.empty_like(q))
        return method_gradient_checks._nearest_kink_of_bias(bias, moved, call, saved)

    names = [name for name in weights if name.endswith("in.bias")]
    distance = nearest(names[0], 0, 0.0)
    assert distance > 1e-6
    met = [nearest(name, unit, sign * distance) for name in names for unit in range(5) for sign in (-1, 1)]
    assert min(met) < 1e-15


@C_BUILT
def test_the_number_of_threads_is_put_back():
    before = kernels.get_num_threads()
    kernels.set_num_threads(2)
    try:
        assert result_of(named("gradients of attention in a window", "c")).passed
        assert kernels.get_num_threads() == 2
    finally:
        kernels.set_num_threads(before)
