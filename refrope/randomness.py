"""Random numbers that are the same with every NumPy: our own algorithms over raw 64-bit words.

    seed, purpose ──► bit_source ──► 64-bit words ──► bounded_integers, permutation,
                                                      distinct_rows, latin_square,
                                                      normal_numbers, uniform_numbers

NumPy promises that the words of a bit generator and its seeding never change, but not that the methods of
`numpy.random.Generator` never do (NEP 19). So only ``random_raw`` is used here. All but `normal_numbers` work
on integers alone, scaled by a power of two at most, and so are the same on every machine too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from refrope.errors import check_integer

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

LARGEST_LATIN_ORDER = 128  # the time grows like order**3: 17 takes 0.1 seconds, 128 a minute


class BitSource(Protocol):
    """What the functions below draw from: independent uniform 64-bit words."""

    def random_raw(self, size: int, /) -> NDArray[np.uint64]:
        """Return the next `size` words of the stream."""


def bit_source(seed: int, purpose: str = "") -> np.random.PCG64:
    """Return the stream of 64-bit words that belongs to `seed` and `purpose`.

    Parameters
    ----------
    seed : int >= 0
        Of any size, but SeedSequence mixes it into 128 bits: beyond 2**128 two seeds might share a stream.
    purpose : str
        What the words are for ("shuffle", "dropout", ...). Its UTF-8 bytes are the spawn key of
        SeedSequence: one seed serves many purposes, and each has a stream of its own.

    Returns
    -------
    PCG64, at the start of its stream.

    Raises
    ------
    ValueError
        `seed` is no integer, or negative.
    """
    seed = check_integer("bit_source", "seed", seed, 0)
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=tuple(purpose.encode())))


def bounded_integers(source: BitSource, bound: int, size: int) -> IntArray:
    """Draw `size` integers, each of 0 .. bound - 1 equally likely, by rejection.

    A word counts if it lies below the largest multiple of `bound` within 2**64, and gives ``word mod bound``;
    the others are thrown away. No word is taken beyond the last that counts: drawing 3 and then 5 gives the
    same as drawing 8.

    Parameters
    ----------
    source : BitSource
        Gives the words, and moves on.
    bound : int in [1, 2**63]
        One more than the largest value.
    size : int >= 0
        How many to draw.

    Returns
    -------
    (size,) int64

    Raises
    ------
    ValueError
        `bound` or `size` is no integer, or out of its range.
    """
    bound = check_integer("bounded_integers", "bound", bound, 1, 2**63)
    size = check_integer("bounded_integers", "size", size, 0)
    last = np.uint64(2**64 - 2**64 % bound - 1)  # the last word that counts
    drawn = np.empty(size, np.int64)
    filled = 0
    while filled < size:
        words = source.random_raw(size - filled)
        words = words[words <= last]
        drawn[filled : filled + len(words)] = words % np.uint64(bound)
        filled += len(words)
    return drawn


def permutation(source: BitSource, n: int) -> IntArray:
    """Return 0 .. n - 1 in random order, all n! orders equally likely: the order that sorts n random words.

    Distinct words have one sorting order, whatever the algorithm, and by symmetry every order is as likely as
    any other. If two words are equal (at n = 10,000 once in 10**11 calls) all n are drawn anew.

    Parameters
    ----------
    source : BitSource
        Gives the words, and moves on.
    n : int >= 0
        How many numbers to put in order.

    Returns
    -------
    (n,) int64

    Raises
    ------
    ValueError
        `n` is no integer, or negative.
    """
    n = check_integer("permutation", "n", n, 0)
    while True:
        words = source.random_raw(n)
        order = np.argsort(words)
        words = words[order]
        if not np.any(words[1:] == words[:-1]):
            return order.astype(np.int64)


def distinct_rows(source: BitSource, count: int, bound: int, width: int) -> IntArray:
    """Draw `count` different rows of `width` integers, uniformly without replacement, in random order.

    If `count` is less than half of the bound**width rows that exist, which may be more than 2**63, rows are
    drawn, and those that came before are dropped and drawn anew. Otherwise all rows that exist are put in
    random order and the first `count` kept.

    Parameters
    ----------
    source : BitSource
        Gives the words, and moves on.
    count : int in [0, bound**width]
        How many rows to draw.
    bound : int in [1, 2**63]
        One more than the largest value in a row.
    width : int >= 1
        Integers in a row.

    Returns
    -------
    (count, width) int64

    Raises
    ------
    ValueError
        `count`, `bound` or `width` is no integer, or out of its range.
    """
    bound = check_integer("distinct_rows", "bound", bound, 1, 2**63)
    width = check_integer("distinct_rows", "width", width, 1)
    count = check_integer("distinct_rows", "count", count, 0, bound**width)
    if bound**width <= 2 * count:
        chosen = permutation(source, bound**width)[:count]
        return np.stack(np.unravel_index(chosen, (bound,) * width), axis=1).astype(np.int64)
    rows = np.empty((0, width), np.int64)
    while len(rows) < count:
        fresh = bounded_integers(source, bound, (count - len(rows)) * width).reshape(-1, width)
        rows = np.concatenate([rows, fresh])
        rows = rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
    return rows


def latin_square(source: BitSource, order: int) -> IntArray:
    """Return a random Latin square: every row and every column is a permutation of 0 .. order - 1.

    The method is Jacobson and Matthews' random walk. Write the square as a cube of zeros and ones, with a
    one at (row, column, symbol), so that every line of the cube sums to 1. A move takes a zero, finds the
    one on each of the three lines through it, and adds +1 and -1 at alternate corners of the box that these
    cells span, +1 at the zero. The far corner may fall to -1. Then the move goes on from there, and as the
    lines through it hold two ones each, coins decide between them, until no -1 is left. In the limit every
    Latin square is equally likely. The walk starts from (row + column) mod order and makes 4 order**2 such
    moves. That this is enough is measured, not proved: at order 4 all 576 squares come up equally often, at
    order 5 the two kinds of squares in their true ratio.

    Parameters
    ----------
    source : BitSource
        Gives the words, and moves on by whole blocks of 1024 accepted ones.
    order : int in [1, 128]
        The number of rows, columns and symbols.

    Returns
    -------
    (order, order) int64

    Raises
    ------
    ValueError
        `order` is no integer, or out of its range.

    References
    ----------
    Jacobson and Matthews 1996, "Generating uniformly distributed random Latin squares", J. Combin. Des. 4(6).
    """
    n = check_integer("latin_square", "order", order, 1, LARGEST_LATIN_ORDER)
    cube = [0] * n**3  # cell (row, column, symbol) at (row n + column) n + symbol
    for row in range(n):
        for column in range(n):
            cube[(row * n + column) * n + (row + column) % n] = 1
    cells, coins = _endless(source, n**3), _endless(source, 2)
    moves = 0
    negative = -1  # the cell that holds a -1; -1 if none does
    while moves < 4 * n**2 or negative >= 0:
        # Only moves that start at a square count. Were the steps inside a move counted too, the last move
        # would more likely be a long one, and the squares that long moves lead to would come up too often.
        moves += negative < 0
        cell = next(cells) if negative < 0 else negative
        if cube[cell] == 1:
            continue  # every square has n**2 such cells: the walk waits, equally often everywhere
        row, column, symbol = cell // n**2, cell // n % n, cell % n
        lines = (
            cube[column * n + symbol :: n**2],
            cube[row * n**2 + symbol : (row + 1) * n**2 : n],
            cube[cell - symbol : cell - symbol + n],
        )
        ones = [line.index(1) for line in lines]
        if negative >= 0:
            ones = [line.index(1, first + 1) if next(coins) else first for line, first in zip(lines, ones, strict=True)]
        for r, r_sign in ((row, 1), (ones[0], -1)):
            for c, c_sign in ((column, 1), (ones[1], -1)):
                for s, s_sign in ((symbol, 1), (ones[2], -1)):
                    cube[(r * n + c) * n + s] += r_sign * c_sign * s_sign
        corner = (ones[0] * n + ones[1]) * n + ones[2]
        negative = corner if cube[corner] < 0 else -1
    square: IntArray = np.argmax(np.reshape(cube, (n, n, n)), axis=2).astype(np.int64)
    return square


def _endless(source: BitSource, bound: int) -> Iterator[int]:
    """Yield bounded integers for ever, drawn in blocks of 1024."""
    while True:
        yield from bounded_integers(source, bound, 1024).tolist()


def normal_numbers(source: BitSource, size: int) -> NDArray[np.float64]:
    """Draw `size` numbers from the standard normal distribution, by the polar form of Box and Muller.

    Two words give two numbers, r cos a and r sin a, with r = sqrt(-2 ln u), u in (0, 1] and a in [0, 2 pi) on
    grids of 2**-53. Logarithm and sine are those of the C library: two machines may differ in a last bit.

    References
    ----------
    Box and Muller 1958, "A note on the generation of random normal deviates", Ann. Math. Statist. 29(2).
    """
    size = check_integer("normal_numbers", "size", size, 0)
    half = (size + 1) // 2
    words = (source.random_raw(2 * half) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    radius = np.sqrt(-2 * np.log(1 - words[:half]))
    angle = 2 * np.pi * words[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]


def uniform_numbers(source: BitSource, size: int) -> NDArray[np.float64]:
    """Draw `size` numbers from the uniform distribution on [0, 1): the upper 53 bits of one word each."""
    size = check_integer("uniform_numbers", "size", size, 0)
    numbers: NDArray[np.float64] = (source.random_raw(size) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers
