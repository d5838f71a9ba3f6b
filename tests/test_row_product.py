"""One row times a matrix: every layout, length and range, against float64; the same bits for any number of threads."""

import numpy as np
import pytest
from conftest import BACKENDS, same_bits

from refrope import get_num_threads, kernels, set_num_threads
from refrope.kernels import row_product as module

pytestmark = pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")
# A sum of k products may be off by k units of the last place of the sum of their sizes, and a few where k is small.
UNITS = 4
SIZES = [1, 2, 7, 15, 16, 17, 31, 33, 63, 64, 65, 127, 130, 257]
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 1)


def layouts(numbers, k, n, dtype):
    """The same kind of matrix (k, n): by rows, by columns, and both with gaps."""
    yield numbers.standard_normal((k, n)).astype(dtype)
    yield numbers.standard_normal((n, k)).astype(dtype).T
    yield numbers.standard_normal((k, n + 3)).astype(dtype)[:, 2 : n + 2]
    yield numbers.standard_normal((n, k + 5)).astype(dtype)[:, 1 : k + 1].T


@dtypes
@pytest.mark.parametrize("k", SIZES)
def test_every_layout_and_length_gives_the_product(k, dtype):
    numbers = np.random.default_rng(k)
    for n in SIZES:
        row = numbers.standard_normal((1, k)).astype(dtype)
        for matrix in layouts(numbers, k, n, dtype):
            assert module.suits(row, matrix) == (k > 1 and n > 1)
            wide_row, wide = row.astype(np.float64), matrix.astype(np.float64)
            bound = (k + UNITS) * np.finfo(dtype).eps * (abs(wide_row) @ abs(wide))
            for product in (kernels.matmul(row, matrix), kernels.linear_forward(row, matrix)):
                assert product.dtype == dtype
                assert product.shape == (1, n)
                assert (abs(product - wide_row @ wide) <= bound).all(), (n, matrix.strides)


@dtypes
def test_the_bits_do_not_depend_on_the_number_of_threads(dtype):
    numbers, before = np.random.default_rng(0), get_num_threads()
    row = numbers.standard_normal((1, 131)).astype(dtype)
    for matrix in layouts(numbers, 131, 149, dtype):
        products = []
        try:
            for threads in (1, 2, 3, 7):
                set_num_threads(threads)
                products.append(kernels.matmul(row, matrix))
        finally:
            set_num_threads(before)
        assert all(same_bits(product, products[0]) for product in products)


@dtypes
def test_a_product_may_be_written_anywhere(dtype):
    numbers = np.random.default_rng(1)
    row, matrix = numbers.standard_normal((1, 37)).astype(dtype), numbers.standard_normal((37, 37)).astype(dtype)
    expected = kernels.matmul(row, matrix)
    apart = np.full((1, 2 * 37), 7, dtype)
    assert same_bits(np.ascontiguousarray(kernels.matmul(row, matrix, out=apart[:, ::2])), expected)
    assert (apart[:, 1::2] == 7).all()
    over_matrix, over_row = matrix.copy(), row.copy()
    assert same_bits(kernels.matmul(row, over_matrix, out=over_matrix[4:5]).copy(), expected)
    assert same_bits(kernels.matmul(over_row, matrix, out=over_row), expected)


def test_what_is_not_finite_comes_through():
    row, matrix = np.array([[0.0, 1.0, -0.0]]), np.ones((3, 21))
    matrix[0, 3], matrix[1, 5], matrix[2, 20] = np.inf, np.nan, -np.inf
    for each in (matrix, np.asfortranarray(matrix)):
        product = kernels.matmul(row, each)[0]
        assert np.isnan(product[[3, 5, 20]]).all()
        assert (np.delete(product, [3, 5, 20]) == 1).all()


@pytest.mark.parametrize(
    ("row", "matrix"),
    [
        (np.ones((2, 5)), np.ones((5, 7))),  # two rows
        (np.ones((1, 10))[:, ::2], np.ones((5, 7))),  # gaps between the row's numbers
        (np.ones((1, 5)), np.ones((10, 14))[::2, ::2]),  # and between the matrix's
        (np.ones((1, 5)), np.ones((5, 7))[::-1]),  # rows that go backwards
        (np.ones((1, 5)), np.broadcast_to(np.ones(7), (5, 7))),  # or stand still
    ],
)
def test_other_products_are_left_to_blas(row, matrix):
    assert not module.suits(row, matrix)
    assert (kernels.matmul(row, matrix) == 5).all()


def test_small_products_are_left_to_blas(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 36)
    assert not module.suits(np.ones((1, 5)), np.ones((5, 7)))
    assert module.suits(np.ones((1, 5)), np.ones((5, 8)))
