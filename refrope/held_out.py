"""Prefixes of PosGen whose sequences never meet some contexts, so that a test can ask for what training never had."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refrope.randomness import BitSource, IntArray, permutation

_AT_ONCE = 2048  # sequences tried together


def context_codes(tokens: IntArray, modulus: int) -> IntArray:
    """Number contexts (..., w) by reading their tokens as digits: (...) int64 in [0, modulus**w)."""
    return np.asarray(tokens @ (modulus ** np.arange(tokens.shape[-1] - 1, -1, -1)))


def all_but(rows: IntArray, source: BitSource, modulus: int) -> IntArray:
    """All rows of as many tokens as `rows` (n, w) have, in random order, without these: (modulus**w - n, w)."""
    width = rows.shape[1]
    codes = permutation(source, modulus**width)
    others = codes[~np.isin(codes, context_codes(rows, modulus))]
    return np.stack(np.unravel_index(others, (modulus,) * width), axis=1).astype(np.int64)


def avoiding(
    left_out: IntArray, read: Callable[[IntArray], IntArray], prefixes: IntArray, modulus: int, count: int
) -> IntArray:
    """The first `count` prefixes whose sequences meet none of the contexts `left_out`, or all such if these are fewer.

    Parameters
    ----------
    left_out : (c, w) ints in [0, modulus)
    read : callable
        Prefixes (n, p) -> all contexts (n, steps, w) of their sequences.
    prefixes : (n, p) ints
    modulus, count : int

    Returns
    -------
    (at most `count`, p) int64
    """
    marked = np.zeros(modulus ** left_out.shape[1], bool)
    marked[context_codes(left_out, modulus)] = True
    kept = prefixes[:0]
    for start in range(0, len(prefixes), _AT_ONCE):
        rows = prefixes[start : start + _AT_ONCE]
        kept = np.concatenate([kept, rows[~marked[context_codes(read(rows), modulus)].any(axis=1)]])
        if len(kept) >= count:
            break
    return kept[:count]
