"""One row times a matrix in C. The time goes into reading the matrix, which BLAS does at half the speed of memory."""

from __future__ import annotations

from refrope.kernels._call import Array, kernel, pointer, run

# Numbers in a matrix: smaller ones stay in the cache, where BLAS is as fast.
LARGE = 2**18


def suits(row: Array, matrix: Array) -> bool:
    """True for a product (1, K) x (K, N) that `row_product` may take over: large, and rows without gaps inside."""
    if len(row) != 1 or matrix.size < LARGE or min(matrix.shape) == 1:  # whose strides need not say how it lies
        return False
    lies = matrix if matrix.strides[1] == matrix.itemsize else matrix.T
    return (
        row.flags.aligned
        and matrix.flags.aligned
        and row.strides[1] == row.itemsize
        and lies.strides[1] == lies.itemsize
        and lies.strides[0] >= lies.shape[1] * lies.itemsize
        and lies.strides[0] % lies.itemsize == 0
    )


def row_product(row: Array, matrix: Array, out: Array) -> None:
    """``out[...] = row @ matrix``, columns spread over the threads; `out` (1, N) without gaps, apart from both."""
    transposed = matrix.strides[1] != matrix.itemsize
    lies = matrix.T if transposed else matrix
    arguments = (
        *(pointer(row), pointer(lies), pointer(out)),
        *(row.shape[1], lies.strides[0] // lies.itemsize, transposed, False),
    )
    run(kernel("row_product", row.dtype), arguments, matrix.shape[1], "row_product")
