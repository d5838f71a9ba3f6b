"""Log-likelihoods of a long text, in chunks."""

import tracemalloc

import mpmath
import numpy as np
import pytest
from conftest import BACKENDS
from lm_standins import transformer

from refrope import Resonance, RoPE
from refrope.lm import scoring
from refrope.lm.scoring import log_likelihoods, token_log_likelihoods
from refrope.randomness import bit_source, bounded_integers, normal_numbers

TEXT = bounded_integers(bit_source(7, "text"), 256, 61)


def exact_tables(dtype=np.float32, encoding=RoPE(8, 500.0)):  # noqa: B008  # a value
    return lambda positions: encoding.cos_sin(positions, dtype)


def whole(model, encoding=RoPE(8, 500.0)):  # noqa: B008
    """Log-likelihoods by the plain formula, out of one call without a cache."""
    logits = model.forward(TEXT[None], encoding.cos_sin(np.arange(len(TEXT)), model.dtype))[0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.log(shares[np.arange(60), TEXT[1:]])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chunk", [1, 7, 60, 512])
@pytest.mark.parametrize("encoding", [RoPE(8, 500.0), Resonance(RoPE(8, 500.0))], ids=lambda e: e.name)
def test_chunks_give_what_one_call_gives(backend, chunk, encoding):
    model = transformer(backend=backend, dtype=np.float64, kv_heads=1)
    scores = token_log_likelihoods(model, TEXT, exact_tables(np.float64, encoding), chunk=chunk)
    assert scores.shape == (60,)
    np.testing.assert_allclose(scores, whole(model, encoding), rtol=0, atol=1e-11)


def test_scores_of_a_prefix_are_the_first_scores_of_the_text():
    model = transformer(dtype=np.float64)
    scores = token_log_likelihoods(model, TEXT, exact_tables(np.float64), chunk=13)
    prefix = token_log_likelihoods(model, TEXT[:23], exact_tables(np.float64), chunk=13)
    np.testing.assert_allclose(prefix, scores[:22], rtol=0, atol=1e-12)


def test_progress_counts_all_tokens_that_are_read():
    told = []
    token_log_likelihoods(transformer(), TEXT, exact_tables(), chunk=16, advance=told.append)
    assert told == [16, 16, 16, 12]


def test_log_softmax_is_that_of_fifty_digits():
    logits = (30 * normal_numbers(bit_source(1), 5 * 11)).reshape(5, 11).astype(np.float32)
    targets = np.array([0, 10, 3, 3, 7])
    found = log_likelihoods(logits, targets)
    with mpmath.workdps(50):
        for row, target, value in zip(logits.tolist(), targets.tolist(), found.tolist(), strict=True):
            exact = row[target] - mpmath.log(mpmath.fsum(mpmath.exp(x) for x in row))
            assert abs(value - exact) <= 1e-15 * max(1, abs(exact))  # a few float64 roundings


def test_large_logits_neither_overflow_nor_vanish():
    logits = np.array([[3e38, 0.0, 3e38], [-3e38, -3e38, -3e38]], np.float32)
    np.testing.assert_allclose(log_likelihoods(logits, np.array([0, 2])), [-np.log(2), -np.log(3)], rtol=1e-15)


def test_no_float64_array_of_all_rows_is_made():
    logits, targets = np.zeros((600, 4096), np.float32), np.zeros(600, np.int64)
    tracemalloc.start()
    found = log_likelihoods(logits, targets)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == pytest.approx(-np.log(4096))
    assert peak < 600 * 4096 * 8 / 2  # blocks on each of a few threads


def test_logits_that_are_not_finite_are_an_error():
    for bad in (np.nan, np.inf):
        for rows in (1, 9):  # on one thread, on several
            logits = np.zeros((rows, 3), np.float32)
            logits[-1, 1] = bad
            with pytest.raises(FloatingPointError, match="expected finite weights"):
                log_likelihoods(logits, np.zeros(rows, np.int64))


@pytest.mark.parametrize(
    ("logits", "targets"), [((2, 3), (3,)), ((2, 3, 1), (2,)), ((2, 3), (2, 1))], ids=["rows", "axes", "target axes"]
)
def test_shapes_that_do_not_fit_are_an_error(logits, targets):
    with pytest.raises(ValueError, match="expected"):
        log_likelihoods(np.zeros(logits, np.float32), np.zeros(targets, np.int64))


def test_targets_outside_the_vocabulary_are_an_error():
    for bad in (-1, 3):
        with pytest.raises(ValueError, match=r"expected values in \[0, 3\)"):
            log_likelihoods(np.zeros((1, 3), np.float32), np.array([bad]))


def test_texts_that_cannot_be_scored_are_an_error():
    for bad in (TEXT[:1], TEXT[None], TEXT.astype(float)):
        with pytest.raises(ValueError, match="expected \\(n,\\) integers"):
            token_log_likelihoods(transformer(), bad, exact_tables())
    with pytest.raises(ValueError, match="chunk is 0"):
        token_log_likelihoods(transformer(), TEXT, exact_tables(), chunk=0)


def test_more_than_memory_holds_is_refused_before_anything_is_read(monkeypatch):
    def refuse(config, batch, capacity, dtype):
        raise ValueError(f"no room for {capacity}")

    monkeypatch.setattr(scoring.KVCache, "check_memory", refuse, raising=False)
    with pytest.raises(ValueError, match="no room for 60"):
        token_log_likelihoods(transformer(), TEXT, lambda positions: pytest.fail("it reads"))


def test_scratch_memory_does_not_grow_with_the_text():
    sizes = []
    for text in (TEXT, np.tile(TEXT, 5)):
        model = transformer()
        token_log_likelihoods(model, text, exact_tables(), chunk=16)
        sizes.append(model.buffers.nbytes)
    assert sizes[0] == sizes[1] > 0  # the cache alone does, and linearly
