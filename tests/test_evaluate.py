"""Predictions in parts and in chunks are those of the whole."""

import numpy as np
import pytest
from conftest import BACKENDS

from refrope import DynamicNTK, RoPE, Transformer, TransformerConfig, evaluate
from refrope.encodings import ReRoPE
from refrope.methods import Lengths, configuration_of, encoding_of
from refrope.nn.attending import rotation_of
from refrope.nn.memory import KVCache

SMALL = TransformerConfig(vocabulary=11, d_model=10, heads=3, head_dim=6, d_ff=14, layers=2)
# float64, other shapes of the same products: other orders of their sums.
ROUNDING = 1e-12


def text(length, seed=0):
    return np.random.default_rng(seed).integers(0, 11, length)


def whole_logits(model, tokens, encoding):
    tables = encoding.for_length(len(tokens)).cos_sin(np.arange(len(tokens)), model.dtype)
    return model.forward(tokens[None], tables)[0].copy()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chunk", [1, 2, 7, 31, 32, 100])
def test_a_streamed_text_has_the_logits_of_the_whole(backend, chunk):
    model, tokens = Transformer(SMALL, seed=1, backend=backend, dtype=np.float64), text(31)
    chunks = [c.copy() for c in evaluate.stream_logits(model, RoPE(6), tokens, chunk=chunk)]
    assert [len(c) for c in chunks] == [min(chunk, 31 - i) for i in range(0, 31, chunk)]
    assert np.abs(np.concatenate(chunks) - whole_logits(model, tokens, RoPE(6))).max() < ROUNDING


def test_a_stream_has_the_encoding_of_its_whole_length():
    model, tokens = Transformer(SMALL, seed=1, backend="numpy", dtype=np.float64), text(40)
    encoding = DynamicNTK(6, original_length=8)
    streamed = np.concatenate([c.copy() for c in evaluate.stream_logits(model, encoding, tokens, chunk=9)])
    assert np.abs(streamed - whole_logits(model, tokens, encoding)).max() < ROUNDING


@pytest.mark.parametrize("name", ["alibi", "fire", "dape-v2", "sinusoidal", "window"])
def test_a_stream_has_biases_rows_and_windows_too(name):
    config = configuration_of(name, SMALL, 8, 40)
    model, tokens = Transformer(config, seed=1, backend="numpy", dtype=np.float64), text(40)
    encoding = encoding_of(name, 6, Lengths(8, 40))
    whole = model.forward(tokens[None], rotation_of(encoding, 40, np.float64))[0].copy()
    streamed = np.concatenate([c.copy() for c in evaluate.stream_logits(model, encoding, tokens, chunk=9)])
    assert np.abs(streamed - whole).max() < ROUNDING


def test_a_streams_memory_is_that_of_its_keys_and_a_chunk():
    model = Transformer(SMALL, seed=1, backend=BACKENDS[-1])
    for length in (600, 2400):
        for _ in evaluate.stream_logits(model, RoPE(6), text(length), chunk=16):
            pass
        assert model.buffers.nbytes < 100_000, length  # 16 rows; 2,400 of them would hold 3 MB


def test_predictions_do_not_depend_on_the_parts(monkeypatch):
    model = Transformer(SMALL, seed=1, backend=BACKENDS[-1])
    inputs, tables = text(13 * 7).reshape(13, 7), RoPE(6).cos_sin(np.arange(7))
    results = []
    for tokens in (1, 14, 30, 1000):
        monkeypatch.setattr(evaluate, "PART_TOKENS", tokens)
        results.append(evaluate.predictions(model, inputs, tables))
    assert all(np.array_equal(r, results[0]) for r in results)


@pytest.mark.parametrize(("count", "length"), [(0, 64), (1, 64), (32, 64), (33, 64), (5, 5000), (2, 0)])
def test_parts_cover_all_sequences_once_in_order(count, length):
    covered = [i for part in evaluate.sequence_parts(count, length) for i in range(part.start, part.stop)]
    assert covered == list(range(count))


def test_a_cache_counts_and_refuses_what_does_not_fit():
    model = Transformer(SMALL, seed=1, backend="numpy")
    cache = KVCache(SMALL, batch=2, capacity=5)
    tables = RoPE(6).cos_sin(np.arange(3))
    model.forward(text(6).reshape(2, 3), tables, cache=cache)
    assert cache.length == 3
    for call, words in [
        (lambda: model.forward(text(6).reshape(2, 3), tables, cache=cache), "3 tokens and 3 more, expected at most 5"),
        (lambda: model.forward(text(3).reshape(1, 3), tables, cache=cache), r"expected float32\(2, 1, 3, 5, 6\) here"),
        (lambda: model.forward(text(2).reshape(2, 1), tables, cache=cache, keep=True), "keep with a cache"),
        (lambda: KVCache(SMALL, batch=1, capacity=0), "capacity is 0"),
        (lambda: list(evaluate.stream_logits(model, RoPE(6), text(0))), "expected one text"),
        (lambda: list(evaluate.stream_logits(model, RoPE(6), text(4), chunk=0)), "chunk is 0"),
        (lambda: list(evaluate.stream_logits(model, ReRoPE(RoPE(6), 2), text(4))), "encoding is the map ReRoPE"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    assert cache.length == 3
