"""Reordered weights give the same attention in the other layout."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrope.encodings import ProportionalRoPE, RoPE
from refrope.permute import feature_order, permute_rows
from refrope.rotary import rotate

# Scores are sums of at most 66 products of numbers near 1, taken in another order: a few hundred units of 2^-53.
REORDERED = 1e-12
other = {"half": "interleaved", "interleaved": "half"}

layouts = st.sampled_from(["half", "interleaved"])


@st.composite
def heads_and_dims(draw):
    """head_dim and rotary_dim, which is None, less than it, or equal."""
    head_dim = 2 * draw(st.integers(1, 33))
    return head_dim, draw(st.none() | st.integers(1, head_dim // 2).map(lambda pairs: 2 * pairs))


def scores(weights, encoding, layout, suffix, heads, groups):
    """Scores (heads, T, T) of a layer with biases and a norm on queries and keys, whose gain the heads share."""
    x, (wq, bq, gq), (wk, bk, gk) = weights
    positions = np.arange(len(x)) * 37
    turned = []
    for w, b, gain, count in ((wq, bq, gq, heads), (wk, bk, gk, groups)):
        features = (x @ w.T + b).reshape(len(x), count, -1).transpose(1, 0, 2)
        normed = features / np.sqrt((features**2).mean(-1, keepdims=True)) * gain
        turned.append(rotate(normed, *encoding.cos_sin(positions, np.float64), layout=layout, suffix=suffix))
    q, k = turned
    return q @ np.repeat(k, heads // groups, axis=0).transpose(0, 2, 1)


def random_weights(head_dim, heads, groups, seed=0):
    def numbers(*shape):
        count = int(np.prod(shape))
        return (np.random.PCG64(seed + count).random_raw(count) / 2.0**63 - 1).reshape(shape)

    sides = [
        (numbers(n * head_dim, 11), numbers(n * head_dim, 1)[:, 0], 1 + numbers(head_dim, 1)[:, 0] / 2)
        for n in (heads, groups)
    ]
    return numbers(5, 11), *sides


def permuted(weights, to, head_dim, rotary_dim, suffix, heads, groups):
    x, *sides = weights
    how = {"to": to, "head_dim": head_dim, "rotary_dim": rotary_dim, "suffix": suffix}
    return x, *(
        (permute_rows(w, heads=n, **how), permute_rows(b, heads=n, **how), permute_rows(g, heads=1, **how))
        for (w, b, g), n in zip(sides, (heads, groups), strict=True)
    )


@given(heads_and_dims(), layouts, st.booleans(), st.sampled_from([(1, 1), (3, 3), (6, 2), (6, 3), (5, 1)]))
def test_scores_stay_the_same_in_the_other_layout(dims, layout, suffix, counts):
    head_dim, rotary_dim = dims
    encoding = RoPE(head_dim, rotary_dim=rotary_dim)
    weights = random_weights(head_dim, *counts)
    moved = permuted(weights, other[layout], head_dim, rotary_dim, suffix, *counts)
    here = scores(weights, encoding, layout, suffix, *counts)
    there = scores(moved, encoding, other[layout], suffix, *counts)
    assert np.allclose(there, here, rtol=0, atol=REORDERED * head_dim)


@pytest.mark.parametrize("proportion", [0.0, 0.25, 1.0])
def test_proportional_pairs_lie_over_the_whole_head(proportion):
    weights = random_weights(16, 4, 2)
    encoding = ProportionalRoPE(16, proportion=proportion)
    moved = permuted(weights, "interleaved", 16, None, False, 4, 2)
    here, there = scores(weights, encoding, "half", False, 4, 2), scores(moved, encoding, "interleaved", False, 4, 2)
    assert np.allclose(there, here, rtol=0, atol=REORDERED * 16)


def test_scores_change_if_only_one_side_or_the_wrong_way_is_permuted():
    weights = random_weights(16, 4, 2)
    encoding = RoPE(16)
    here = scores(weights, encoding, "half", False, 4, 2)
    right = permuted(weights, "interleaved", 16, None, False, 4, 2)
    wrong_way = permuted(weights, "half", 16, None, False, 4, 2)
    one_side = (weights[0], right[1], weights[2])
    no_gain = (weights[0], (*right[1][:2], weights[1][2]), right[2])
    for wrong in (weights, wrong_way, one_side, no_gain):
        assert np.abs(scores(wrong, encoding, "interleaved", False, 4, 2) - here).max() > 0.1


@given(heads_and_dims(), layouts, st.booleans(), st.integers(1, 3))
def test_one_layout_undoes_the_other(dims, layout, suffix, heads):
    head_dim, rotary_dim = dims
    weight = np.arange(heads * head_dim * 2, dtype=np.int16).reshape(heads * head_dim, 2)
    how = {"heads": heads, "head_dim": head_dim, "rotary_dim": rotary_dim, "suffix": suffix}
    back = permute_rows(permute_rows(weight, to=layout, **how), to=other[layout], **how)
    assert back.dtype == weight.dtype
    assert np.array_equal(back, weight)


@given(heads_and_dims(), layouts, st.booleans())
def test_features_that_do_not_turn_stay_where_they_are(dims, layout, suffix):
    head_dim, rotary_dim = dims
    order = feature_order(head_dim, to=layout, rotary_dim=rotary_dim, suffix=suffix)
    turned = head_dim if rotary_dim is None else rotary_dim
    still = np.arange(head_dim - turned) if suffix else np.arange(turned, head_dim)
    assert np.array_equal(order[still], still)
    assert np.array_equal(np.sort(order), np.arange(head_dim))


def test_pair_j_moves_from_both_halves_to_neighbours():
    assert feature_order(8, to="interleaved").tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert feature_order(8, to="half").tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert feature_order(8, to="interleaved", rotary_dim=4).tolist() == [0, 2, 1, 3, 4, 5, 6, 7]
    assert feature_order(8, to="interleaved", rotary_dim=4, suffix=True).tolist() == [0, 1, 2, 3, 4, 6, 5, 7]


def test_the_weight_is_left_alone():
    weight = np.arange(16.0).reshape(8, 2)
    before = weight.copy()
    result = permute_rows(weight, to="half", heads=2, head_dim=4)
    assert np.array_equal(weight, before)
    assert not np.shares_memory(result, weight)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"heads": 3}, r"permute_rows: weight is float64\(16, 2\), expected \(24, ...\) for 3 heads of 8 features"),
        ({"heads": 0}, "permute_rows: heads is 0"),
        ({"to": "neox"}, "unknown to 'neox'; known: half, interleaved"),
        ({"head_dim": 7}, "head_dim is 7, expected an even number"),
        ({"rotary_dim": 3}, "rotary_dim is 3, expected an even number"),
        ({"rotary_dim": 10}, "rotary_dim is 10, expected at most head_dim = 8"),
        ({"weight": [1.0] * 16}, "permute_rows: weight is "),
        ({"weight": np.float64(1)}, "permute_rows: weight is "),
    ],
)
def test_wrong_calls_are_named(arguments, words):
    call = {"weight": np.zeros((16, 2)), "to": "interleaved", "heads": 2, "head_dim": 8} | arguments
    with pytest.raises(ValueError, match=words):
        permute_rows(call.pop("weight"), **call)
