"""Checkpoints whose parts contradict each other: a ValueError that names the file and what does not fit."""

import json
import os
import shutil
import struct

import numpy as np
import pytest
import safetensors.numpy
from lm_files import TINY, TOKENS, gguf_tensors, hf_tensors, random_model, write_directory, write_gguf

from refrope.lm.loading import load
from refrope.lm.safetensors_header import INDEX

MODEL = random_model(TINY)


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "whole.gguf", MODEL).read_bytes()


@pytest.fixture
def directory(tmp_path):
    return write_directory(tmp_path / "model", MODEL)


WEIGHT, HF_WEIGHT = "blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight"


def spoilt(value, number):
    value = value.copy()
    value[1, 2] = number
    return value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: None, "is missing"),
        (lambda value: value.T.repeat(2, 0), "expected (4, 4)"),
        (lambda value: value.ravel(), "expected (4, 4)"),
        (lambda value: spoilt(value, np.nan), "numbers that are not finite"),
        (lambda value: spoilt(value, -np.inf), "numbers that are not finite"),
        (lambda value: spoilt(value.astype(np.float64), 1e300), "numbers that are not finite"),
        (lambda value: value.astype(np.int32), "I32"),
    ],
)
def test_tensors_that_are_not_the_models_are_refused_by_name(tmp_path, change, words):
    tensors, hf = dict(gguf_tensors(MODEL)), dict(hf_tensors(MODEL))
    one = write_gguf(tmp_path / "one.gguf", MODEL, tensors={WEIGHT: change(tensors[WEIGHT])})
    two = write_directory(tmp_path / "two", MODEL, tensors={HF_WEIGHT: change(hf[HF_WEIGHT])})
    for path, name in ((one, WEIGHT), (two, HF_WEIGHT)):
        with pytest.raises(ValueError, match=rf"^load: {path}.*{name}") as caught:
            load(path)
        assert words in str(caught.value)


@pytest.mark.parametrize("name", ["attn_q.bias", "attn_q_norm.weight", "ffn_gate_inp.weight"])
def test_tensors_that_the_model_has_not_are_refused_by_name(tmp_path, name):
    path = write_gguf(tmp_path / "more.gguf", MODEL, tensors={f"blk.0.{name}": np.zeros(4, np.float32)})
    with pytest.raises(ValueError, match=f"tensor 'blk.0.{name}' is (a bias|no weight of a Llama of 1 layers)"):
        load(path)


def test_names_that_are_there_twice_are_refused(tmp_path, gguf_bytes):
    path = tmp_path / "twice.gguf"
    for name, other, what in (
        (b"blk.0.attn_k.weight", b"blk.0.attn_v.weight", "tensor 'blk.0.attn_v.weight'"),
        (b"tokenizer.ggml.bos_token_id", b"tokenizer.ggml.eos_token_id", "field 'tokenizer.ggml.eos_token_id'"),
    ):
        path.write_bytes(gguf_bytes.replace(name, other))
        with pytest.raises(ValueError, match=f"{what} is there twice"):
            load(path)


def test_text_that_is_not_utf_8_is_refused_by_name(tmp_path, gguf_bytes, directory):
    path = tmp_path / "latin.gguf"
    for old, new, what in (
        (b"small", b"sm\xe4ll", "field general.name"),
        (b"<|begin|>", b"<|b\xe9gin|>", r"tokenizer.ggml.tokens\[1\]"),
        (b"general.name", b"general.n\xffme", "name of field"),
        (b"token_embd", b"token\xffembd", "name of tensor"),
    ):
        path.write_bytes(gguf_bytes.replace(old, new))
        with pytest.raises(ValueError, match=f"{what}.*expected UTF-8"):
            load(path)
    for name in ("config.json", "tokenizer.json"):
        data = (directory / name).read_bytes()
        (directory / name).write_bytes(data.replace(b"a", b"\xe4", 1))
        with pytest.raises(ValueError, match=rf"^load: {directory / name}: it is not UTF-8"):
            load(directory)
        (directory / name).write_bytes(data)


def patched(data, name, skip, new):
    """`data` with bytes that lie `skip` bytes behind a name replaced."""
    start = data.index(name) + len(name) + skip
    return data[:start] + new + data[start + len(new) :]


def test_entries_of_a_header_that_make_no_sense_are_refused_by_name(tmp_path, gguf_bytes):
    path = tmp_path / "odd.gguf"
    end = gguf_bytes.index(b"output_norm.weight") + len("output_norm.weight") + 4 + 8 + 4
    for data, words in (
        (
            patched(gguf_bytes, b"add_bos_token", 4, b"\x05"),
            r"field tokenizer\.ggml\.add_bos_token is .*, expected 0 or 1",
        ),
        (patched(gguf_bytes, b"general.name", 0, b"\x0d"), r"field general\.name is of type 13, expected one of"),
        (
            patched(gguf_bytes, b"token_embd.weight", 0, b"\x05"),
            r"tensor token_embd\.weight has 5 axes, expected 1 to 4",
        ),
        (patched(gguf_bytes, b"token_embd.weight", 20, b"\x08"), r"Q8_0\(265, 4\), expected rows of a multiple of 32"),
        (
            patched(gguf_bytes, b"token_embd.weight", 20, b"\xff"),
            "of type 255, expected one that the package gguf knows",
        ),
        (
            patched(gguf_bytes, b"token_embd.weight", -25, b"\xe8\x03"),
            r"the name of tensor .* has 1000 bytes, expected",
        ),
        (gguf_bytes[:end] + struct.pack("<Q", 2**30) + gguf_bytes[end + 8 :], "beyond the end of the file"),
        (gguf_bytes[:-64], r"beyond the end of the file at \d+: it is cut off"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"^load: {path}: .*{words}"):
            load(path)


def test_json_that_is_too_large_or_too_deep_is_refused(directory):
    path = directory / "config.json"
    config = path.read_text()
    path.write_text(config[:-1] + ', "deep": ' + "[" * 100 + "]" * 100 + "}")
    with pytest.raises(ValueError, match=rf"^load: {path}: it is nested more than 64 levels deep"):
        load(directory)
    path.write_text(config)
    os.truncate(path, 10_000_001)
    with pytest.raises(ValueError, match=rf"^load: {path}: it has 10000001 bytes, expected at most 10000000"):
        load(directory)


def test_a_tokenizer_of_another_model_is_refused(tmp_path, directory):
    fewer = {"tokenizer.ggml.tokens": TOKENS[:-1], "tokenizer.ggml.merges": ["Ġ t"], "tokenizer.ggml.token_type": None}
    more = {**fewer, "tokenizer.ggml.tokens": [*TOKENS, "more"]}
    assert load(write_gguf(tmp_path / "fewer.gguf", MODEL, fewer)).tokenizer.vocabulary == len(TOKENS) - 1
    path = write_gguf(tmp_path / "more.gguf", MODEL, more)
    with pytest.raises(ValueError, match=rf"^load: {path}: the tokenizer has {len(TOKENS) + 1} tokens, expected"):
        load(path)
    large = random_model({**TINY, "vocabulary": 5000})
    lonely = write_directory(tmp_path / "large", large)
    with pytest.raises(
        ValueError, match=rf"tokenizer.json: the tokenizer has {len(TOKENS)} tokens, .* 5000 embeddings"
    ):
        load(lonely)
    shutil.copy(lonely / "config.json", directory)
    with pytest.raises(ValueError, match=r"embed_tokens.weight is F32\(265, 4\), expected \(5000, 4\)"):
        load(directory)


def test_shards_that_do_not_fit_their_index_are_refused(tmp_path):
    directory = write_directory(tmp_path / "model", MODEL, shards=2)
    index = json.loads((directory / INDEX).read_text())
    first, second = sorted(set(index["weight_map"].values()))
    outside = safetensors.numpy.save({"model.norm.weight": np.ones(4, np.float32)})
    (tmp_path / "outside.safetensors").write_bytes(outside)
    for weight_map, words in (
        (None, "weight_map is None"),
        ({"model.norm.weight": 3}, "weight_map is "),
        ({**index["weight_map"], "model.norm.weight": "../outside.safetensors"}, "expected one .* beside it"),
        ({**index["weight_map"], "model.norm.weight": str(tmp_path / "outside.safetensors")}, "beside it"),
        ({**index["weight_map"], "model.norm.weight": "model.bin"}, "beside it"),
        ({**index["weight_map"], "model.norm.weight": "model-3.safetensors"}, "which is not there"),
        (dict.fromkeys(index["weight_map"], first), f"{first}: tensor .* is missing"),
        ({k: v for k, v in index["weight_map"].items() if v == first}, "tensor .* is missing"),
        ({k: v for k, v in index["weight_map"].items() if "norm" not in k}, r"is not in model.safetensors.index"),
    ):
        (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ValueError, match=rf"^load: {directory}.*{words}"):
            load(directory)
    assert second
