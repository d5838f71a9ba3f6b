"""Attention to some keys after others: `onto` goes on from an earlier result, `add` adds up gradients."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_attention import C_BUILT, FLOAT64, GRAD32, OUT32, TWINS, both, inputs

PARTS = st.lists(st.integers(1, 70), min_size=1, max_size=4)


def in_parts(module, q, k, v, sizes, **options):
    """The result over all keys, a part of them at a time."""
    result, start = None, 0
    for size in sizes:
        keys = slice(start, start + size)
        part = (q, k[:, :, keys], v[:, :, keys])
        if result is None:
            result = module.attention_forward(*part, causal=False, **options)
        else:
            same = module.attention_forward(*part, causal=False, **options, onto=result)
            assert same[0] is result[0]
            assert same[1] is result[1]
        start += size
    return result


@both
@given(n_q=st.sampled_from([1, 2, 4, 5, 17, 64, 65, 130]), sizes=PARTS, group=st.sampled_from([1, 3]))
def test_keys_may_come_in_any_parts(backend, n_q, sizes, group):
    q, k, v, _ = inputs(n_q, sum(sizes), 9)
    k, v = k[:, ::group], v[:, ::group]
    whole = TWINS["numpy"].attention_forward(q, k, v, causal=False)
    for a, b in zip(in_parts(TWINS[backend], q, k, v, sizes), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=FLOAT64)


@both
@given(n_q=st.sampled_from([1, 4, 17, 65, 520]), sizes=PARTS)
def test_gradients_of_parts_add_up_to_those_of_the_whole(backend, n_q, sizes):
    module, numpy = TWINS[backend], TWINS["numpy"]
    q, k, v, dout = inputs(n_q, sum(sizes), 9)
    out, lse = in_parts(module, q, k, v, sizes)
    expected = numpy.attention_backward(dout, q, k, v, *numpy.attention_forward(q, k, v, causal=False), causal=False)
    before = [np.full_like(x, number) for x, number in zip((q, k, v), (2.0, 3.0, 5.0), strict=True)]
    grads, start = [x.copy() for x in before], 0
    for size in sizes:
        keys = slice(start, start + size)
        part = (grads[0], grads[1][:, :, keys], grads[2][:, :, keys])
        module.attention_backward(
            *(dout, q, k[:, :, keys], v[:, :, keys], out, lse), causal=False, grads=part, add=True
        )
        start += size
    for found, exact, held in zip(grads, expected, before, strict=True):
        np.testing.assert_allclose(found - held, exact, rtol=0, atol=2 * FLOAT64)


@C_BUILT
@pytest.mark.parametrize("n_q", [1, 3, 4, 5, 64, 65, 520])
def test_c_in_float32_is_near_the_whole_in_float64(n_q):
    exact = inputs(n_q, n_q + 70, 17)
    q, k, v, dout = (x.astype(np.float32) for x in exact)
    c, numpy = TWINS["c"], TWINS["numpy"]
    near = c.attention_forward(q, k[:, :, 70:], v[:, :, 70:], window=n_q)
    found = c.attention_forward(q, k[:, :, :70], v[:, :, :70], causal=False, onto=near)
    expected = numpy.attention_forward(*exact[:3])
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a - b).max() <= OUT32
    grads = [np.zeros_like(x) for x in (q, k, v)]
    for keys, options in ((slice(70, None), {}), (slice(70), {"causal": False})):
        part = (grads[0], grads[1][:, :, keys], grads[2][:, :, keys])
        c.attention_backward(*(dout, q, k[:, :, keys], v[:, :, keys], *found), **options, grads=part, add=True)
    slow = numpy.attention_backward(exact[3], *exact[:3], *expected)
    for a, b in zip(grads, slow, strict=True):
        assert np.abs(a - b).max() <= GRAD32


@both
@pytest.mark.parametrize("n_q", [3, 70])
def test_a_query_that_has_had_no_key_begins_anew_whatever_its_row_holds(backend, n_q):
    q, k, v, _ = inputs(n_q, 90, 5)
    expected = TWINS[backend].attention_forward(q, k, v, causal=False)
    start = np.full_like(q, np.nan), np.full(q.shape[:3], -np.inf)
    found = TWINS[backend].attention_forward(q, k, v, causal=False, onto=start)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=FLOAT64)


@both
def test_results_in_strided_memory_are_gone_on_with(backend):
    q, k, v, _ = inputs(7, 90, 5)
    whole = TWINS["numpy"].attention_forward(q, k, v, causal=False)
    out, lse = TWINS[backend].attention_forward(q, k[:, :, :40], v[:, :, :40], causal=False)
    wide, apart = np.zeros((*q.shape[:3], 10)), np.zeros((*q.shape[:3], 2))
    wide[..., ::2], apart[..., 0] = out, lse
    TWINS[backend].attention_forward(
        *(q, k[:, :, 40:], v[:, :, 40:]), causal=False, onto=(wide[..., ::2], apart[..., 0])
    )
    np.testing.assert_allclose(wide[..., ::2], whole[0], rtol=0, atol=FLOAT64)
    np.testing.assert_allclose(apart[..., 0], whole[1], rtol=0, atol=FLOAT64)
    assert not wide[..., 1::2].any()
    assert not apart[..., 1].any()


@both
def test_what_is_no_earlier_result_is_refused(backend):
    q, k, v, dout = inputs(5, 7, 11)
    module = TWINS[backend]
    out, lse = module.attention_forward(q, k, v)
    read_only = out.copy()
    read_only.flags.writeable = False
    for onto, message in (
        (out, "onto is float64(2, 3, 5, 11), expected (out, lse) of the same queries"),
        ((out,), "onto is a tuple of 1, expected (out, lse) of the same queries"),
        ((out[:, :2], lse), "onto[0] is float64(2, 2, 5, 11), expected float64(2, 3, 5, 11) to fit q"),
        ((out, lse[..., :4]), "onto[1] is float64(2, 3, 4), expected float64(2, 3, 5) to fit q"),
        ((q, lse), "onto[0] and an input share memory, expected memory of its own"),
        ((read_only, lse), "onto[0] is read-only"),
    ):
        with pytest.raises(ValueError, match="^attention_forward: " + re.escape(message)):
            module.attention_forward(q, k, v, onto=onto)
    with pytest.raises(ValueError, match=r"^attention_forward: onto and out, expected one of them"):
        module.attention_forward(q, k, v, onto=(out.copy(), lse), out=out)
    with pytest.raises(ValueError, match=r"^attention_backward: add without grads, expected what to add to"):
        module.attention_backward(dout, q, k, v, out, lse, add=True)


@both
def test_adding_to_nothing_changes_nothing(backend):
    q, k, v, dout = inputs(0, 7, 11)
    out, lse = TWINS[backend].attention_forward(q, k, v)
    grads = tuple(np.ones_like(x) for x in (q, k, v))
    TWINS[backend].attention_backward(dout, q, k, v, out, lse, grads=grads, add=True)
    assert all((x == 1).all() for x in grads)
