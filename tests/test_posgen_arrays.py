"""PosGen: what models are given, and what digests hash."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from posgen_problems import problems, standard

from refrope.posgen import digest, generate, inputs_and_targets, make_splits, with_front_token

# ---- what models are given


def test_with_the_front_token_x_l_stands_at_position_l_plus_1():
    x = standard("cot", "disjoint").test
    framed = with_front_token(x)
    assert framed.shape == (1_000, 257)
    assert framed.dtype == np.int64
    assert (framed[:, 0] == 17).all()
    assert np.array_equal(framed[:, 1:], x)


@given(problem=problems(), front=st.booleans())
def test_every_target_is_the_token_after_its_input_and_counts_if_generated(problem, front):
    task, prefixes, length, modulus, j, k = problem
    x = generate(task, prefixes, length, modulus, j, k).tolist()
    inputs, targets, loss_mask, target_index = inputs_and_targets(x, front_token=front, modulus=modulus, j=j, k=k)
    framed = [[modulus, *row] if front else row for row in x]
    assert inputs.tolist() == [row[:-1] for row in framed]
    assert targets.tolist() == [row[1:] for row in framed]
    assert loss_mask.sum() == length - (j + k)
    assert loss_mask.dtype == bool
    for place, index in enumerate(target_index.tolist()):
        assert targets[:, place].tolist() == [row[index] for row in x]
        assert loss_mask[place] == (index >= j + k)


def test_target_indices_split_in_distribution_from_beyond():
    arrays = inputs_and_targets(standard("cot", "disjoint").test)
    assert (arrays.loss_mask & (arrays.target_index < 64)).sum() == 60
    assert (arrays.loss_mask & (arrays.target_index >= 64)).sum() == 192


@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize("length", [0, 1, 2])
def test_the_shortest_sequences_give_arrays_of_one_length(front, length):
    arrays = inputs_and_targets(np.zeros((3, length), int), front_token=front)
    size = length if front else max(length - 1, 0)
    assert arrays.inputs.shape == arrays.targets.shape == (3, size)
    assert arrays.loss_mask.shape == arrays.target_index.shape == (size,)


# ---- digest


def test_a_digest_hashes_sizes_and_tokens_as_little_endian_int64():
    expected = hashlib.sha256(struct.pack("<8q", 2, 3, 1, 2, 3, 4, 5, 16)).hexdigest()
    for tokens in ([[1, 2, 3], [4, 5, 16]], np.array([[1, 4], [2, 5], [3, 16]], ">i2").T):
        assert digest(tokens) == expected


def test_the_digest_of_a_dataset_hashes_its_three_arrays_in_order():
    made = make_splits("cot", seed=3, train=2, validation=1, test=1, train_length=5, test_length=6)
    sha = hashlib.sha256()
    for array in (made.train, made.validation, made.test):
        sha.update(struct.pack(f"<{2 + array.size}q", *array.shape, *array.ravel().tolist()))
    assert digest(made) == sha.hexdigest()
