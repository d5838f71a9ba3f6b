"""Whatever a kernel is given, it answers with an error or with its NumPy twin's result, and changes no input."""

import re
import warnings

import numpy as np
import pytest
from conftest import BACKENDS, same_bits
from hostile_calls import CALLS

from refrope import kernels
from refrope.nn.backends import operations

pytestmark = pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")
TWINS = {"numpy": operations("numpy"), "c": kernels}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
# Between twins that add in another order, relative to the largest finite result: a few roundings of sums of 20 terms.
ROUNDING = {"float32": 1e-5, "float64": 1e-13}


@pytest.fixture(autouse=True)
def _several_threads():
    before = kernels.get_num_threads()
    kernels.set_num_threads(3)
    yield
    kernels.set_num_threads(before)


def contents(arrays):
    return {name: a.tobytes() for name, a in arrays.items() if isinstance(a, np.ndarray)}


def answer(call, backend, inputs, outs=None, shared=()):
    """What a twin does: the text of its ValueError, or the list of its results with all arrays that it changed.

    Inputs must stay as they were but for those that are `shared` with results; after an error, everything must.
    """
    outs = outs or {}
    before = contents(inputs), contents(outs)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            results = call.run(TWINS[backend], inputs, outs)
        except ValueError as error:
            assert (contents(inputs), contents(outs)) == before, "written to before it was refused"
            return str(error)
    may_change = {*call.state, *shared}
    assert {n: b for n, b in contents(inputs).items() if n not in may_change} == {
        n: b for n, b in before[0].items() if n not in may_change
    }
    listed = list(results) if isinstance(results, tuple) else [results]
    if outs:
        assert all(any(r is o for r in listed) for o in outs.values()), "not what the caller provided"
    changed = [inputs[name] for name in call.state if inputs[name] is not None]
    return [np.array(r) for r in (*listed, *changed) if r is not None]


def assert_equal_answers(call, one, other, dtype, loose=False):
    """`loose`: where a NaN spreads to is up to the order of the sums, but finite results agree."""
    assert isinstance(one, str) == isinstance(other, str), (one, other)
    if isinstance(one, str):
        assert one == other
        return
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if call.exact:
            assert same_bits(a, b)
            continue
        if not loose:
            assert np.array_equal(np.isnan(a), np.isnan(b))
            infinite = np.isinf(a) | np.isinf(b)
            assert np.array_equal(a[infinite], b[infinite])
        finite = np.isfinite(a) & np.isfinite(b)
        with np.errstate(all="ignore"):
            scale = max(1.0, float(np.abs(a[finite]).max(initial=0.0)))
            assert np.abs(a[finite] / scale - b[finite] / scale).max(initial=0.0) <= ROUNDING[dtype]


def assert_alike(call, build, dtype, loose=False):
    """Both twins answer alike to what `build()` gives, (inputs, outs, names of shared inputs) made anew for each."""
    answers = [answer(call, backend, *build()) for backend in ("numpy", "c")]
    assert_equal_answers(call, *answers, dtype, loose)
    return answers[1]


# ---- sizes ----


@each_call
@each_dtype
def test_axes_of_0_and_1_entries_are_answered_alike(call, dtype):
    for axis in call.sizes:
        for size in (0, 1):
            assert_alike(call, lambda axis=axis, size=size: (call.inputs(dtype, **{axis: size}),), dtype)
            inputs = call.inputs(dtype, **{axis: size})
            assert_alike(call, lambda i=inputs: ({n: a.copy() for n, a in i.items()}, call.results(i)), dtype)
    nothing = call.inputs(dtype, **dict.fromkeys(call.sizes, 0))
    assert_alike(call, lambda: ({n: a.copy() for n, a in nothing.items()},), dtype)


@each_call
def test_arrays_of_other_sizes_are_refused_alike(call):
    refused = 0
    for name, array in call.inputs("float64").items():
        for bad in (array[:-1], array[..., :-1], array[None], array[..., None], array[0], array[..., :0]):
            said = assert_alike(call, lambda n=name, b=bad: ({**call.inputs("float64"), n: b.copy()},), "float64")
            refused += isinstance(said, str)
    assert refused >= 3 or len(call.inputs("float64")) == 1  # nothing to fit


@pytest.mark.parametrize("shape", [(2**60, 0), (0, 2**60), (2**30, 2**30, 0), (2**57, 1, 0, 2), (1, 2**57, 2, 0)])
def test_huge_empty_arrays_take_no_time(shape):
    x = np.empty(shape, np.float32)
    assert kernels.relu_forward(x).shape == shape
    assert kernels.dropout(x, 0.5, 1).shape == shape
    if len(shape) == 2:
        assert kernels.swiglu_forward(x, x).shape == shape
    if shape[-1] % 2 == 0:
        tables = np.broadcast_to(np.float32(1), (shape[-2], 0))
        assert kernels.rotate(x, tables, tables).shape == shape


# ---- layouts ----


def misaligned(a):
    view = np.ndarray(a.shape, a.dtype, buffer=bytearray(a.nbytes + 1), offset=1)
    view[...] = a
    assert not view.flags.aligned or not a.size
    return view


def spread(a):
    view = np.zeros([2 * n for n in a.shape], a.dtype)[(slice(None, None, 2),) * a.ndim]
    view[...] = a
    return view


def backwards(a):
    turn = (slice(None, None, -1),) * a.ndim
    return a[turn].copy()[turn]


def in_fortran_order(a):
    return np.array(a, order="F")


def records(a):
    """Fields between bytes of others: strides that are no multiples of an element."""
    view = np.zeros(a.shape, [("before", "u1"), ("value", a.dtype), ("after", "u2")])["value"]
    view[...] = a
    return view


def read_only(a):
    a = a.copy()
    a.setflags(write=False)
    return a


LAYOUTS = [misaligned, spread, backwards, in_fortran_order, records]
EXPECTS_WALKABLE = {"bias", "dbias"}  # no copy of these is made, so they must be of whole, aligned elements


@each_call
@each_dtype
@pytest.mark.parametrize("layout", [*LAYOUTS, read_only], ids=lambda f: f.__name__)
def test_inputs_of_any_layout_give_the_same_result(call, dtype, layout):
    plain = answer(call, "c", call.inputs(dtype))
    for name in call.inputs(dtype):
        if layout is read_only and name in call.state:
            continue

        def build(name=name):
            inputs = call.inputs(dtype)
            inputs[name] = layout(inputs[name])
            return (inputs,)

        given = assert_alike(call, build, dtype)
        if name in EXPECTS_WALKABLE and layout in (misaligned, records):
            assert "expected whole, aligned elements" in given
        else:
            assert_equal_answers(call, given, plain, dtype)


@each_call
@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_results_of_any_layout_get_the_same_values(call, dtype, layout):
    plain = answer(call, "c", call.inputs(dtype))
    for name in call.outs:

        def build(name=name):
            inputs = call.inputs(dtype)
            outs = call.results(inputs)
            return inputs, {**outs, name: layout(outs[name])}

        assert_equal_answers(call, assert_alike(call, build, dtype), plain, dtype)


@each_call
@each_dtype
def test_repeated_inputs_are_read_as_often_as_they_are_repeated(call, dtype):
    for name in call.inputs(dtype):
        if name in call.state:
            continue

        def build(name=name):
            inputs = call.inputs(dtype)
            inputs[name] = np.broadcast_to(inputs[name][:1], inputs[name].shape)
            return (inputs,)

        assert not isinstance(assert_alike(call, build, dtype), str)


@each_call
def test_an_axis_of_one_entry_may_have_any_stride(call):
    for axis in call.sizes:
        for far in (2**62, -(2**62)):

            def build(axis=axis, far=far):
                inputs = call.inputs("float64", **{axis: 1})
                strides = {
                    n: [far if k == 1 else s for k, s in zip(a.shape, a.strides, strict=True)]
                    for n, a in inputs.items()
                }
                return ({n: np.lib.stride_tricks.as_strided(a, a.shape, strides[n]) for n, a in inputs.items()},)

            plain = answer(call, "c", call.inputs("float64", **{axis: 1}))
            assert_equal_answers(call, assert_alike(call, build, "float64"), plain, "float64")


# ---- results that cannot be written ----


def results_and_state(call):
    return [*call.outs, *call.state]


def with_result(call, dtype, name, change):
    """Inputs and results of which the one called `name` is what `change` makes of it."""
    inputs = call.inputs(dtype)
    outs = call.results(inputs)
    where = outs if name in outs else inputs
    where[name] = change(where[name])
    return inputs, outs


@each_call
@each_dtype
def test_read_only_results_are_refused_before_anything_is_written(call, dtype):
    for name in results_and_state(call):
        said = assert_alike(call, lambda n=name: with_result(call, dtype, n, read_only), dtype)
        assert said == f"{call.name}: {name} is read-only, expected an array to write to"


def collapsed(a):
    return np.lib.stride_tricks.as_strided(a.copy(), a.shape, (0, *a.strides[1:]))


def sliding(a):
    strides = (a.itemsize,) * a.ndim
    return np.lib.stride_tricks.as_strided(np.full(sum(a.shape), 7.5, a.dtype), a.shape, strides)


@each_call
@pytest.mark.parametrize("change", [collapsed, sliding])
def test_results_whose_elements_share_memory_are_refused(call, change):
    for name in results_and_state(call):
        good = with_result(call, "float64", name, np.copy)
        if change is sliding and (good[1] if name in call.outs else good[0])[name].ndim == 1:
            continue  # one axis: nothing to share
        said = assert_alike(call, lambda n=name: with_result(call, "float64", n, change), "float64")
        assert re.fullmatch(
            rf"{call.name}: {name} has the strides .*, expected (elements|slices) that share no memory", said
        )


@each_call
def test_two_results_in_one_place_are_refused(call):
    names = results_and_state(call)
    for i, name in enumerate(names):
        for other in names[:i]:

            def build(name=name, other=other):
                inputs = call.inputs("float64")
                outs = call.results(inputs)
                places = {n: outs if n in outs else inputs for n in (name, other)}
                one, two = places[name][name], places[other][other]
                buffer = bytearray(one.nbytes + two.nbytes)
                places[name][name] = np.ndarray(one.shape, one.dtype, buffer)
                places[other][other] = np.ndarray(two.shape, two.dtype, buffer, offset=one.itemsize)
                return inputs, outs

            said = assert_alike(call, build, "float64")
            assert "share memory, expected" in said
            assert name in said
            assert other in said


@each_call
@each_dtype
def test_results_of_another_form_are_refused_alike(call, dtype):
    changes = [
        lambda a: a[..., :-1].copy(), lambda a: a[None], lambda a: a.astype("float16"), lambda a: a.astype(int),
        lambda a: a.astype("float32" if dtype == "float64" else "float64"), lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: a.tolist(), lambda a: "text", lambda a: 3,
    ]  # fmt: skip
    for name in results_and_state(call):
        for change in changes:
            said = assert_alike(call, lambda n=name, c=change: with_result(call, dtype, n, c), dtype)
            assert isinstance(said, str) or name in call.state, (name, said)


# ---- overlap ----


def in_one_buffer(result, source, result_offset, source_offset):
    buffer = bytearray(max(result_offset + result.nbytes, source_offset + source.nbytes))
    views = [
        np.ndarray(a.shape, a.dtype, buffer, offset=offset)
        for a, offset in ((result, result_offset), (source, source_offset))
    ]
    for view, a in zip(views, (result, source), strict=True):
        view[...] = a
    return views


def overlaps(result, source):
    """Views of one buffer with the values of `source`, and results that overlap it in several ways."""
    yield in_one_buffer(result, source, 0, 0)
    yield in_one_buffer(result, source, result.itemsize, 0)
    yield in_one_buffer(result, source, 0, max(result.itemsize, source.itemsize))
    yield in_one_buffer(result, source, source.nbytes // 2 // 8 * 8, 0)
    if result.shape == source.shape and result.dtype == source.dtype:
        same = source.copy()
        yield same, same
        yield same[::-1], same


WAYS = 6


@each_call
@each_dtype
def test_overlap_with_an_input_changes_nothing(call, dtype):
    names = list(call.inputs(dtype))
    checked = 0
    for result in results_and_state(call):
        for source in names:
            if source in call.state:
                continue
            for way in range(WAYS):

                def build(result=result, source=source, way=way):
                    inputs = call.inputs(dtype)
                    outs = call.results(inputs)
                    where = outs if result in outs else inputs
                    pairs = list(overlaps(where[result], inputs[source]))
                    if way >= len(pairs):
                        return None
                    where[result], inputs[source] = pairs[way]
                    return inputs, outs, (source,)

                built = build()
                if built is None:
                    continue
                checked += 1
                apart = {n: a.copy() for n, a in built[0].items()}
                wanted = answer(call, "numpy", apart, call.results(apart))
                given = assert_alike(call, build, dtype)
                if (result, source) == ("dbias", "bias"):
                    assert (
                        given
                        == "attention_backward: dbias and bias share memory, expected a dbias with memory of its own"
                    )
                else:
                    assert_equal_answers(call, given, wanted, dtype)
    assert checked >= 4


# ---- types and things that are no arrays ----


@each_call
@each_dtype
def test_arrays_of_other_types_are_answered_alike(call, dtype):
    types = [np.dtype(t).newbyteorder() for t in ("f4", "f8", "i8")]
    types += [np.dtype(t) for t in ("f4", "f8", "f2", "g", "i4", "u1", "c8", "?", "O", "S4", "M8[s]", [("a", "f4")])]
    for name, array in call.inputs(dtype).items():
        for other in types:
            if other == array.dtype:
                continue

            def build(name=name, other=other):
                inputs = call.inputs(dtype)
                fits = inputs[name].astype(other) if other.kind not in "SMOV" else np.zeros(inputs[name].shape, other)
                return ({**inputs, name: fits},)

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                given = assert_alike(call, build, "float32" if other == np.float32 else dtype)
            if array.dtype.kind == "f" and name != "weights" and other not in (np.float32, np.float64):
                assert isinstance(given, str), (name, other)


@each_call
def test_what_is_no_array_is_refused_alike(call):
    for name, array in call.inputs("float64").items():
        for other in (None, 3, 1.5, "text", [], array.tolist(), {}, np.float64(2), memoryview(array.tobytes())):
            if name in call.optional and (other is None or name == "positions"):
                continue
            said = assert_alike(call, lambda n=name, o=other: ({**call.inputs("float64"), n: o},), "float64")
            assert isinstance(said, str), (name, other)


NUMBERS = {
    "rotate": ({"layout": "both"}, {"layout": None}, {"layout": 3}, {"layout": []}),
    "attention_forward": ({"seed": -1}, {"seed": 2**64}, {"first_slice": 2**32}, {"scale": np.nan}, {"dropout": 1.0}),
    "rmsnorm_forward": ({"eps": -1.0}, {"eps": np.nan}, {"eps": np.inf}, {"eps": "small"}, {"eps": None}),
    "cross_entropy_forward": ({"total": np.nan}, {"total": "3"}, {"total": np.inf}),
    "cross_entropy_backward": ({"total": np.nan}, {"total": []}),
    "dropout": (
        *({"seed": -1}, {"seed": 2**64}, {"seed": 1.5}, {"seed": None}, {"first": -1}, {"first": 1.5}),
        *({"probability": -0.1}, {"probability": 1.0}, {"probability": np.nan}, {"probability": "half"}),
    ),
}


@pytest.mark.parametrize(("name", "options"), [(name, o) for name, listed in NUMBERS.items() for o in listed])
@pytest.mark.parametrize("backend", ["numpy", "c"])
def test_numbers_out_of_range_are_refused(backend, name, options):
    inputs, argument = list(CALLS[name].inputs("float32").values()), next(iter(options))
    if name == "attention_forward":
        inputs.pop()  # the bias
    if name == "dropout":
        options = {"probability": 0.5, "seed": 1, **options}
    with pytest.raises(ValueError, match=rf"^{name}: (unknown )?{argument}"):
        getattr(TWINS[backend], name)(*inputs, **options)


# ---- values ----


def special(dtype):
    least = np.finfo(dtype)
    return [np.nan, np.inf, -np.inf, -0.0, 0.0, least.smallest_subnormal, -least.tiny / 2, least.tiny, 1e30, -1e30]


# A weight below the smallest normal number is 0 in C, and then 0 times infinity is NaN, as the kernels' headers say;
# and which sums a NaN reaches depends on the tiles. Finite results still agree.
SPREADS = {"attention_forward", "attention_backward"}


@each_call
@each_dtype
def test_special_numbers_give_the_twins_result(call, dtype):
    for name, array in call.inputs(dtype).items():
        if array.dtype.kind != "f" or name == "settings":
            continue
        for number in special(dtype):

            def build(name=name, number=number):
                inputs = call.inputs(dtype)
                inputs[name].flat[inputs[name].size // 3] = number
                return (inputs,)

            assert not isinstance(assert_alike(call, build, dtype, loose=call.name in SPREADS), str)


@pytest.mark.parametrize("call", [c for c in CALLS.values() if c.exact], ids=[n for n, c in CALLS.items() if c.exact])
@each_dtype
def test_element_wise_kernels_agree_on_nothing_but_special_numbers(call, dtype):
    def build():
        generator, inputs = np.random.default_rng(5), call.inputs(dtype)
        for array in inputs.values():
            if array.dtype.kind == "f":
                array[...] = generator.choice(special(dtype), array.shape)
        return (inputs,)

    assert not isinstance(assert_alike(call, build, dtype), str)


@pytest.mark.parametrize("eps", [0.0, 1e-60, 1e-40])
def test_an_eps_too_small_for_float32_is_what_float32_makes_of_it(eps):
    x, gain = np.zeros((2, 3), np.float32), np.ones(3, np.float32)
    with np.errstate(all="ignore"):
        (y, inv_rms), (y_c, inv_rms_c) = (twin.rmsnorm_forward(x, gain, eps=eps) for twin in TWINS.values())
    assert same_bits(y, y_c)
    assert np.array_equal(np.isinf(inv_rms), np.isinf(inv_rms_c))
    assert np.isinf(inv_rms).all() == (np.float32(eps) == 0)


@each_dtype
@pytest.mark.parametrize("backend", ["numpy", "c"])
@pytest.mark.parametrize("name", ["q", "k", "v", "bias", "dout", "out", "lse"])
def test_attention_keeps_a_nan_in_its_slice(name, backend, dtype):
    call = CALLS["attention_backward" if name in ("dout", "out", "lse") else "attention_forward"]
    plain, inputs = (call.inputs(dtype) for _ in range(2))
    inputs[name][0, 0, 0] = np.nan  # batch 0, head 0: with two heads of queries that share keys
    with np.errstate(all="ignore"):
        wanted, given = (answer(call, backend, i)[:3] for i in (plain, inputs))
    for a, b in zip(wanted, given, strict=False):
        heads = 1 if name in ("k", "v") and a.shape[1] == 3 else 2
        assert np.isfinite(b[1:]).all()
        assert np.isfinite(b[0, heads:]).all()
        assert same_bits(np.ascontiguousarray(a[1:]), np.ascontiguousarray(b[1:]))
    seen = given[0][0, 0] if name != "lse" else given[1][0, 0]
    assert np.isnan(seen).any()
