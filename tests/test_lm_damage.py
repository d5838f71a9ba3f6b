"""Damaged checkpoints: a ValueError that names file and field, or a whole model; never a crash, never a heap of memory.

REFROPE_TEST_EXAMPLES sets the number of examples of each test, which are always the same ones for one number.
"""

import json
import os
import struct
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from lm_files import TEXT, TINY, random_model, write_directory, write_gguf

from refrope.lm.gguf_header import read_header
from refrope.lm.loading import load
from refrope.lm.safetensors_header import INDEX, SINGLE
from refrope.lm.stored import copy_rows

resource = pytest.importorskip("resource")
EXAMPLES = int(os.environ.get("REFROPE_TEST_EXAMPLES", "150"))
ROOM = 2**29  # bytes of address space beyond what the tests have at their start
MODEL = random_model(TINY)


@pytest.fixture(autouse=True)
def _bounded_memory():
    """Whatever takes much memory fails here, whoever allocates it."""
    pages = Path("/proc/self/statm")
    if not pages.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(pages.read_text().split()[0]) * resource.getpagesize()
    limit = taken + ROOM if hard == resource.RLIM_INFINITY else min(taken + ROOM, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "whole.gguf", MODEL).read_bytes()


@pytest.fixture
def directory(tmp_path):
    return write_directory(tmp_path / "model", MODEL)


def refusal(call):
    """What `call` gives, and the words of the ValueError that it raises instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fields of rotation that count for nothing, bytes without a token
        try:
            return call(), None
        except ValueError as error:
            return None, str(error)


def whole_or_refused(source):
    """Whether `source` is loaded, as a model that is whole; otherwise the error has named a file."""
    lm, words = refusal(lambda: load(source, backend="numpy"))
    if words is not None:
        assert words.startswith(f"load: {source}")
        assert len(words) < 1000
        return False
    c = lm.model.config
    assert {name: weight.shape for name, weight in lm.model.params.items()} == c.shapes()
    assert np.isfinite(lm.model.flat_params).all()
    assert lm.encoding.pairs == c.head_dim // 2
    assert lm.tokenizer.vocabulary <= c.vocabulary
    assert all(0 <= token < c.vocabulary for token in (lm.bos or 0, *lm.eos))
    assert lm.context >= 1
    text, words = refusal(lambda: lm.tokenizer.decode(lm.tokenizer.encode(TEXT)))
    assert isinstance(text, str) or str(source) in words
    return True


def flipped(data, numbers):
    """`data` with one to three bits flipped, or eight bytes of all ones, zeros or the largest integer in it."""
    data = bytearray(data)
    if numbers.randint(4) == 0:
        start = numbers.randint(len(data) - 8)
        data[start : start + 8] = [b"\xff" * 8, bytes(8), b"\xff" * 7 + b"\x7f"][numbers.randint(3)]
    else:
        for _ in range(1 + numbers.randint(3)):
            data[numbers.randint(len(data))] ^= 1 << numbers.randint(8)
    return bytes(data)


def lengths(size):
    """Where a file is cut off."""
    return sorted({0, 1, 3, 4, 7, 8, 23, 24, size - 1, *range(11, size, max(1, size // EXAMPLES))})


# ---- whatever happens to a file ----


def test_a_gguf_file_that_is_cut_off_is_refused(tmp_path, gguf_bytes):
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf_bytes)
    end = max(tensor.offset + tensor.nbytes for tensor in read_header(path).tensors.values())
    for length in lengths(end):
        path.write_bytes(gguf_bytes[:length])
        assert not whole_or_refused(path), length
    path.write_bytes(gguf_bytes[:end])
    assert whole_or_refused(path)


@pytest.mark.parametrize("part", ["header", "data"])
def test_a_gguf_file_with_flipped_bits_is_refused_or_whole(tmp_path, gguf_bytes, part):
    path = tmp_path / "flipped.gguf"
    path.write_bytes(gguf_bytes)
    start = min(tensor.offset for tensor in read_header(path).tensors.values())
    numbers, loaded = np.random.RandomState(1), []
    for _ in range(2 * EXAMPLES):
        header, data = gguf_bytes[:start], gguf_bytes[start:]
        path.write_bytes(flipped(header, numbers) + data if part == "header" else header + flipped(data, numbers))
        loaded.append(whole_or_refused(path))
    assert 0 < sum(loaded) < len(loaded)


@pytest.mark.parametrize("name", [SINGLE, "config.json", "tokenizer.json"])
def test_a_directory_with_a_file_that_is_cut_off_is_refused(directory, name):
    data = (directory / name).read_bytes()
    for length in lengths(len(data)):
        (directory / name).write_bytes(data[:length])
        assert not whole_or_refused(directory), length


@pytest.mark.parametrize("name", [SINGLE, "config.json", "tokenizer.json", INDEX])
def test_a_directory_with_flipped_bits_is_refused_or_whole(tmp_path, name):
    directory = write_directory(tmp_path / "model", MODEL, shards=2 if name == INDEX else 1)
    data = (directory / name).read_bytes()
    numbers, loaded = np.random.RandomState(2), []
    for _ in range(EXAMPLES):
        (directory / name).write_bytes(flipped(data, numbers))
        loaded.append(whole_or_refused(directory))
    assert sum(loaded) < len(loaded)
    (directory / name).write_bytes(data)
    assert whole_or_refused(directory)


HOSTILE = [0, -1, 1, 2**31, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"), True, None, "", "4", [], [4], {}]
HOSTILE += [{"rope_type": "yarn"}, {"factor": 2.0, "type": "linear"}, [[[[]]]], {"a": {"b": [1]}}]


def test_any_value_in_a_configuration_is_refused_or_read(directory):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    for name in [*config, "rope_scaling", "rope_parameters", "quantization_config", "sliding_window"]:
        for value in HOSTILE:
            path.write_text(json.dumps({**config, name: value}))
            whole_or_refused(directory)
    path.write_text(json.dumps(config))
    assert whole_or_refused(directory)


def test_a_file_that_shrinks_between_header_and_data_is_refused(tmp_path, gguf_bytes):
    path = tmp_path / "shrinks.gguf"
    path.write_bytes(gguf_bytes)
    tensor = read_header(path).tensors["token_embd.weight"]
    out = np.empty(tensor.shape)
    os.truncate(path, tensor.offset + tensor.nbytes - 1)
    with path.open("rb") as file, pytest.raises(ValueError, match=r"it ends inside tensor token_embd\.weight"):
        copy_rows(tensor, file, out)


# ---- allocation bombs ----


def with_value(data, name, value):
    """A GGUF file in which a field of 32 bits has another value."""
    start = data.index(name.encode()) + len(name) + 4
    return data[:start] + struct.pack("<I", value) + data[start + 4 :]


def with_length(data, name, value):
    """A GGUF file in which an array claims to have another length."""
    start = data.index(name.encode()) + len(name) + 8
    return data[:start] + struct.pack("<Q", value) + data[start + 8 :]


def with_shape(data, name, *sizes):
    """A GGUF file in which a tensor claims to have another shape."""
    start = data.index(name.encode()) + len(name) + 4
    return data[:start] + struct.pack(f"<{len(sizes)}Q", *sizes) + data[start + 8 * len(sizes) :]


LARGE = [2**20, 2**31 - 1, 2**32 - 1]
BOMBS = {
    "tensors": lambda data, n: data[:8] + struct.pack("<Q", n**2) + data[16:],
    "fields": lambda data, n: data[:16] + struct.pack("<Q", n**2) + data[24:],
    "a name": lambda data, n: data[:24] + struct.pack("<Q", n**2) + data[32:],
    "tokens": lambda data, n: with_length(data, "tokenizer.ggml.tokens", n**2),
    "token types": lambda data, n: with_length(data, "tokenizer.ggml.token_type", n**2 // 4),
    "a tensor": lambda data, n: with_shape(data, "token_embd.weight", 4, n**2),
    "both axes of a tensor": lambda data, n: with_shape(data, "token_embd.weight", n * 32, n),
    **{
        name: lambda data, n, name=name: with_value(data, f"llama.{name}", n)
        for name in ("block_count", "embedding_length", "feed_forward_length", "attention.head_count", "vocab_size")
    },
}


def peak(call):
    """What `call` gives, and the most bytes that it has from Python and NumPy meanwhile."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("what", BOMBS)
@pytest.mark.parametrize("size", LARGE)
def test_a_gguf_file_that_claims_much_is_refused_before_anything_is_allocated(tmp_path, gguf_bytes, what, size):
    path = tmp_path / "bomb.gguf"
    path.write_bytes(BOMBS[what](gguf_bytes, size))
    loaded, taken = peak(lambda: whole_or_refused(path))
    assert not loaded
    assert taken < 2**21


def test_a_tensor_that_many_share_is_refused(tmp_path, gguf_bytes):
    """Else a small file could have many large layers."""
    path = tmp_path / "shared.gguf"
    start = gguf_bytes.index(b"blk.0.ffn_up.weight") + len("blk.0.ffn_up.weight") + 4 + 16 + 4
    path.write_bytes(gguf_bytes[:start] + bytes(8) + gguf_bytes[start + 8 :])
    with pytest.raises(ValueError, match=rf"^load: {path}: tensor .* lies at .*, where tensor .* is too"):
        load(path)


def test_a_tensor_that_lies_between_the_places_for_tensors_is_refused(tmp_path, gguf_bytes):
    path = tmp_path / "shifted.gguf"
    start = gguf_bytes.index(b"output_norm.weight") + len("output_norm.weight") + 4 + 8 + 4
    offset = struct.pack("<Q", struct.unpack_from("<Q", gguf_bytes, start)[0] + 4)
    path.write_bytes(gguf_bytes[:start] + offset + gguf_bytes[start + 8 :] + bytes(100))
    with pytest.raises(ValueError, match=rf"^load: {path}: tensor output_norm\.weight lies .*, expected a multiple"):
        load(path)


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size", "head_dim"])
@pytest.mark.parametrize("size", LARGE)
def test_a_directory_that_claims_much_is_refused_before_anything_is_allocated(directory, name, size):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, name: size}))
    loaded, taken = peak(lambda: whole_or_refused(directory))
    assert not loaded
    assert taken < 2**21


def test_a_header_that_only_a_hole_fills_is_not_read(tmp_path, gguf_bytes):
    """A file can have a size and no bytes."""
    path = tmp_path / "hole.gguf"
    path.write_bytes(with_length(gguf_bytes, "tokenizer.ggml.token_type", 2**33))
    os.truncate(path, 2**37)
    loaded, taken = peak(lambda: whole_or_refused(path))
    assert not loaded
    assert taken < 2**21


def test_a_tensor_of_very_many_axes_is_refused_before_their_product(directory):
    path = directory / "model.safetensors"
    entry = {"dtype": "F32", "shape": [2**62] * 40_000, "data_offsets": [0, 4]}
    header = json.dumps({"x": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(ValueError, match=r"tensor 'x' has shape .*, expected at most 8 integers"):
        load(directory)


@pytest.mark.parametrize("value", [7, 2.5, True])
def test_a_vocabulary_that_is_no_list_is_refused(tmp_path, value):
    path = write_gguf(tmp_path / "scalar.gguf", random_model(), {"tokenizer.ggml.tokens": value})
    with pytest.raises(ValueError, match=r"tokenizer\.ggml\.tokens is .*, expected an array of texts"):
        load(path)
