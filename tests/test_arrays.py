"""Which arrays may be written to: held against the addresses of all their elements."""

import numpy as np
import pytest
from conftest import BACKENDS
from hypothesis import given
from hypothesis import strategies as st

from refrope import arrays
from refrope.arrays import check_results, distinct, in_the_way, overlap, put
from refrope.nn.backends import operations

ITEM = 8
axes = st.lists(st.tuples(st.integers(0, 4), st.integers(-6, 6)), min_size=1, max_size=3)


def addresses(shape, strides):
    """The byte at which each element begins."""
    places = sum(
        (np.arange(n).reshape(-1, *[1] * i) * s for i, (n, s) in enumerate(zip(shape, strides, strict=True))), 0
    )
    return np.asarray(places).ravel()


@given(axes)
def test_elements_that_share_memory_are_never_called_distinct(pairs):
    shape, strides = [n for n, _ in pairs], [ITEM * s for _, s in pairs]
    # The last axis is the one that `addresses` puts first; the set of addresses is the same.
    places = addresses(shape, strides)
    if distinct(zip(shape, strides, strict=True), ITEM):
        assert len(np.unique(places)) == len(places)


@given(st.permutations(range(3)), st.tuples(*[st.sampled_from([1, 2, 3, -1, -2])] * 3))
def test_slices_and_transposes_of_an_ordinary_array_are_distinct(order, steps):
    array = np.zeros((3, 5, 7))[:: steps[0], :: steps[1], :: steps[2]].transpose(order)
    assert distinct(zip(array.shape, array.strides, strict=True), ITEM)


def test_axes_that_run_into_each_other_are_refused():
    line = np.zeros(8)
    shared = np.lib.stride_tricks.as_strided(line, (3, 2), (8, 16))  # [2, 0] and [0, 1] are one
    with pytest.raises(ValueError, match=r"f: out has the strides .*, expected elements that share no memory"):
        check_results("f", out=shared)
    check_results("f", out=np.lib.stride_tricks.as_strided(line, (2, 2), (8, 16)), other=None)


def test_results_are_writable_and_apart():
    line = np.zeros(8)
    check_results("f", a=line[:4], b=line[4:], c=line[:0])
    with pytest.raises(ValueError, match="f: a and b share memory, expected results that do not"):
        check_results("f", a=line[:5], b=line[4:])
    line.setflags(write=False)
    with pytest.raises(ValueError, match="f: a is read-only, expected an array to write to"):
        check_results("f", a=line)


def test_overlap_is_of_bytes_and_in_the_way_of_all_but_the_same_places():
    line = np.zeros(12)
    assert overlap(line[:5], line[4:])
    assert not overlap(line[::2], line[1::2])  # the same stretch of memory, other bytes
    assert not in_the_way(line, [None])
    assert not in_the_way(line[::2], [line[1::2], line.copy()])
    assert not in_the_way(line, [line, line[:]])
    assert in_the_way(line, [line, line[::-1]])
    assert in_the_way(line[1:], [line[:-1]])
    assert in_the_way(line, [line.view(np.int64)])
    assert in_the_way(line.reshape(3, 4), [line.reshape(4, 3)])


def test_what_takes_long_to_find_out_counts_as_overlap(monkeypatch):
    line = np.zeros(2000)
    a = np.lib.stride_tricks.as_strided(line, (40, 30, 20), (8 * 33, 8 * 7, 8 * 11))
    b = np.lib.stride_tricks.as_strided(line[1:], (37, 29, 19), (8 * 31, 8 * 13, 8 * 5))
    monkeypatch.setattr(arrays, "_TRIES", 1)
    with pytest.raises(RuntimeError):
        np.shares_memory(a, b, max_work=1)
    assert overlap(a, b)


def test_values_are_put_where_they_are_wanted():
    values, out = np.arange(3.0), np.zeros(3)
    assert put(values, None) is values
    assert put(values, out) is out
    assert out.tolist() == [0, 1, 2]
    assert put(out, out) is out


@pytest.mark.parametrize("backend", BACKENDS)
def test_slices_of_a_gradient_by_distance_may_touch_and_interleave_but_not_overlap(backend):
    q, n_q, n_k = np.sin(np.arange(30.0)).reshape(1, 2, 3, 5), 3, 3
    out, lse = operations(backend).attention_forward(q, q, q)

    def backward(slice_step, step):
        memory = np.zeros(64)
        table = np.lib.stride_tricks.as_strided(
            memory[ITEM:], (1, 2, n_q, n_k), (0, ITEM * slice_step, ITEM * step, -ITEM * step)
        )
        operations(backend).attention_backward(q, q, q, q, out, lse, dbias=table, bias=np.zeros((1, 1, 1, 1)))
        return table

    width = n_q + n_k - 1  # different distances
    assert backward(width, 1)[0].any()
    assert backward(1, 2)[0].any()  # the two heads in turns
    with pytest.raises(ValueError, match=r"attention_backward: dbias has the strides .*, expected slices"):
        backward(width - 1, 1)
    with pytest.raises(ValueError, match=r"attention_backward: dbias has the strides .*, expected slices"):
        backward(2, 2)
