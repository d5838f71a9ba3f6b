"""One token at a time through calls made ready: what the general way gives, and no other thing."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from conftest import BACKENDS, same_bits

from refrope import RoPE, Transformer, TransformerConfig, get_num_threads, kernels, set_num_threads
from refrope.nn import ALiBi, KVCache, decoding
from refrope.nn.attending import ByLayer

pytestmark = pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")
# Two layers, sums in another order; logits of size one.
BOUNDS = {np.float64: 1e-12, np.float32: 1e-5}
LENGTH = 70  # more keys than the kernels take at a time
LLAMA = TransformerConfig(
    vocabulary=19,
    d_model=14,
    heads=6,
    head_dim=10,
    d_ff=22,
    layers=2,
    softmax_scale=None,
    kv_heads=2,
    feed_forward="swiglu",
    head_scale=1.0,
)
SIZES = {
    "llama": LLAMA,
    "window": replace(LLAMA, window=5),
    "wide window": replace(LLAMA, window=67),
    "ungrouped": replace(LLAMA, kv_heads=None),
    "score scale": replace(LLAMA, softmax_scale=1.0),
    "untied": replace(LLAMA, tied=False),
}


def tokens():
    return np.random.default_rng(4).integers(0, 19, (1, LENGTH))


def tables(start, stop, dtype, encoding=None):
    return (encoding or RoPE(10)).cos_sin(np.arange(start, stop), dtype)


def of_each_text(start, stop, dtype):
    return tuple(table[None] for table in tables(start, stop, dtype))


def partial(start, stop, dtype):
    return tables(start, stop, dtype, RoPE(10, rotary_dim=4))


def read_backwards(start, stop, dtype):
    return tuple(np.asfortranarray(np.repeat(table, 2, axis=1))[:, ::2] for table in tables(start, stop, dtype))


def by_layer(start, stop, dtype):
    return ByLayer((partial(start, stop, dtype), None))


def nothing(start, stop, dtype):
    return None


def decoded(model, turning, dtype, first=3):
    """Logits of all tokens from `first` on, one at a time."""
    cache = KVCache(model.config, 1, LENGTH, dtype)
    model.forward(tokens()[:, :first], turning(0, first, dtype), cache=cache)
    rows = range(first, LENGTH)
    return np.concatenate(
        [model.forward(tokens()[:, t : t + 1], turning(t, t + 1, dtype), cache=cache).copy() for t in rows], axis=1
    )


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("config", SIZES.values(), ids=SIZES)
def test_one_token_at_a_time_gives_the_logits_of_the_whole(config, dtype):
    model = Transformer(config, seed=1, dtype=dtype)
    whole = Transformer(config, seed=1, backend="numpy", dtype=dtype)
    for turning in (tables, of_each_text, partial, read_backwards, by_layer, nothing):
        found = decoded(model, turning, dtype)
        expected = whole.forward(tokens(), turning(0, LENGTH, dtype))
        np.testing.assert_allclose(found, expected[:, 3:], rtol=0, atol=BOUNDS[dtype], err_msg=turning.__name__)
    assert isinstance(model._decoding, decoding.Decoding)


def test_the_bits_depend_neither_on_the_threads_nor_on_who_shares_the_reading(monkeypatch):
    model, before = Transformer(LLAMA, seed=1), get_num_threads()
    alone, together = decoded(model, tables, np.float32), []
    monkeypatch.setattr(decoding, "_SHARED", 1)
    right = decoding.run_in_step
    monkeypatch.setattr(decoding, "run_in_step", lambda *a: together.append(right(*a)) or together[-1])
    try:
        for threads in (1, 2, 5, 11):
            set_num_threads(threads)
            assert same_bits(decoded(model, tables, np.float32), alone)
            assert len(together[-1]) == min(threads, 8)
    finally:
        set_num_threads(before)
    found = kernels.run_parts(lambda worker, part: decoded(model, tables, np.float32), 1)  # all of it on one thread
    assert same_bits(found[0], alone)
    assert len(together[-1]) == 1


def test_an_interrupted_step_ends_and_the_next_one_is_right(monkeypatch):
    model, before = Transformer(LLAMA, seed=1), get_num_threads()
    alone = decoded(model, tables, np.float32)
    monkeypatch.setattr(decoding, "_SHARED", 1)
    right = decoding.run_in_step
    absent = iter([0, 1, 2, 0, 1, 2])

    def interrupted(task, threads, call_off):
        missing = next(absent, None)

        def one(thread):
            if thread == missing:
                raise KeyboardInterrupt
            return task(thread)

        return right(one, threads, call_off)

    monkeypatch.setattr(decoding, "run_in_step", interrupted)
    try:
        set_num_threads(3)
        for _ in range(6):
            with pytest.raises(KeyboardInterrupt):
                decoded(model, tables, np.float32)
        assert same_bits(decoded(model, tables, np.float32), alone)
    finally:
        set_num_threads(before)


def test_texts_that_are_continued_at_the_same_time_do_not_wait_for_each_other_forever(monkeypatch):
    monkeypatch.setattr(decoding, "_SHARED", 1)
    before = get_num_threads()
    alone = decoded(Transformer(LLAMA, seed=1), tables, np.float32)
    try:
        set_num_threads(3)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: decoded(Transformer(LLAMA, seed=1), tables, np.float32), range(8)))
    finally:
        set_num_threads(before)
    assert all(same_bits(each, alone) for each in found)


def test_weights_that_change_or_are_replaced_are_those_that_count():
    model = Transformer(LLAMA, seed=1, dtype=np.float64)
    decoded(model, tables, np.float64)
    for seed, replaced in ((2, False), (3, True)):
        for name, weight in Transformer(LLAMA, seed=seed, dtype=np.float64).params.items():
            if replaced:
                model.params[name] = weight
            else:
                model.params[name][...] = weight
        found = decoded(model, tables, np.float64)
        whole = model.forward(tokens(), tables(0, LENGTH, np.float64))
        np.testing.assert_allclose(found, whole[:, 3:], rtol=0, atol=BOUNDS[np.float64])


def test_weights_that_lie_otherwise_in_memory_go_the_general_way():
    model = Transformer(LLAMA, seed=1)
    expected = decoded(model, tables, np.float32)
    name = "layers.1.attention.qkv"
    model.params[name] = np.asfortranarray(model.params[name])
    np.testing.assert_allclose(decoded(model, tables, np.float32), expected, rtol=0, atol=BOUNDS[np.float32])
    model.params[name] = np.ascontiguousarray(model.params[name].T)
    with pytest.raises(ValueError, match="expected"):
        decoded(model, tables, np.float32, first=1)


def test_replicas_decode_side_by_side():
    one, other = Transformer(LLAMA, seed=1).replicas(2)
    caches = [KVCache(LLAMA, 1, LENGTH) for _ in range(2)]
    texts = tokens(), tokens()[:, ::-1]
    for t in range(9):
        found = [
            model.forward(text[:, t : t + 1], tables(t, t + 1, np.float32), cache=cache)
            for model, text, cache in zip((one, other), texts, caches, strict=True)
        ]
    for text, logits in zip(texts, found, strict=True):
        whole = Transformer(LLAMA, seed=1).forward(text[:, :9], tables(0, 9, np.float32))
        np.testing.assert_allclose(logits[0, 0], whole[0, 8], rtol=0, atol=BOUNDS[np.float32])
    assert one._decoding is not other._decoding


@pytest.mark.parametrize(
    ("config", "backend", "batch"),
    [
        (LLAMA, "numpy", 1),
        (LLAMA, "c", 2),
        (replace(LLAMA, bias=ALiBi()), "c", 1),
        (replace(LLAMA, feed_forward="relu"), "c", 1),
    ],
    ids=["numpy", "two texts", "bias", "relu"],
)
def test_everything_else_goes_the_general_way(config, backend, batch):
    model, cache = Transformer(config, seed=1, backend=backend), KVCache(config, batch, LENGTH)
    text = np.repeat(tokens()[:, :9], batch, axis=0)
    whole = model.forward(text, tables(0, 9, np.float32)).copy()
    for t in range(9):
        found = model.forward(text[:, t : t + 1], tables(t, t + 1, np.float32), cache=cache)
        np.testing.assert_allclose(found[:, 0], whole[:, t], rtol=0, atol=BOUNDS[np.float32])
    assert model._decoding is None


@pytest.mark.parametrize(
    ("turning", "message"),
    [
        (tables(0, 2, np.float32), r"rotate: cos is float32\(2, 5\), expected float32\(1, r/2\)"),
        (tables(0, 1, np.float64), r"rotate: cos is float64\(1, 5\), expected float32\(1, r/2\)"),
        (tables(0, 1, np.float32, RoPE(12)), r"rotate: cos is float32\(1, 6\), expected .* with r <= 10"),
        (ByLayer((None,)), "ByLayer of 1, expected one for each of 2 layers"),
    ],
)
def test_tables_that_do_not_fit_are_refused_in_words(turning, message):
    model, cache = Transformer(LLAMA, seed=1), KVCache(LLAMA, 1, LENGTH)
    model.forward(tokens()[:, :1], tables(0, 1, np.float32), cache=cache)
    with pytest.raises(ValueError, match=message):
        model.forward(tokens()[:, 1:2], turning, cache=cache)
    assert cache.length == 1
