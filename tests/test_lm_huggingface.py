"""Hugging Face directories: what the package safetensors writes is read back, number for number."""

import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from conftest import same_bits
from lm_files import SIZES, hf_tensors, logits, random_model, write_directory, write_gguf

from refrope import DynamicNTK, LinearPI, Llama3, RoPE, YaRN, from_huggingface
from refrope.encodings.huggingface import HuggingFaceWarning
from refrope.lm.loading import load
from refrope.lm.safetensors_header import read_file


@pytest.fixture(scope="module")
def small():
    return random_model()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_models_logits_come_back_bit_for_bit_and_equal_those_of_gguf(tmp_path, tied, shards):
    model = random_model(tied=tied)
    lm = load(write_directory(tmp_path / "model", model, shards=shards), backend="numpy")
    assert lm.model.config == model.config
    assert same_bits(lm.model.flat_params, model.flat_params)
    assert same_bits(logits(lm.model, lm.encoding), logits(model, RoPE(10, base=50_000.0)))
    other = load(write_gguf(tmp_path / "model.gguf", model), backend="numpy")
    assert same_bits(logits(lm.model, lm.encoding), logits(other.model, other.encoding))
    assert (other.encoding, other.rope_config) == (lm.encoding, lm.rope_config)


def test_what_else_a_directory_says_is_kept(tmp_path, small):
    path = write_directory(tmp_path / "little-llama", small, {"eos_token_id": [3, 5]})
    lm = load(str(path), dtype=np.float64)
    assert (lm.name, lm.source, lm.context, lm.bos, lm.eos) == ("little-llama", path, 512, 1, (3, 5))
    assert (lm.model.backend, lm.model.dtype) == ("c", np.float64)
    assert from_huggingface(lm.rope_config) == lm.encoding
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7], "temperature": 0.5}))
    assert load(path).eos == (7,)


def test_a_configuration_that_says_little_has_the_defaults_of_transformers(tmp_path):
    model = random_model({**SIZES, "d_model": 60, "kv_heads": 6}, tied=False, eps=1e-6)
    left_out = ["head_dim", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "hidden_act", "architectures"]
    left_out += ["rope_theta", "max_position_embeddings", "bos_token_id", "eos_token_id", "attention_bias"]
    with pytest.warns(HuggingFaceWarning, match="rope_theta is missing"):
        lm = load(write_directory(tmp_path / "plain", model, dict.fromkeys(left_out)))
    assert lm.model.config == model.config
    assert (lm.context, lm.bos, lm.eos, lm.encoding) == (2048, None, (), RoPE(10, base=10_000.0))


def bfloat16_file(path, tensors, names):
    """Write a safetensors file in which `names` are BF16: the package has no such numbers for NumPy."""
    halves = {n: (t.view(np.uint32) >> 16).astype(np.uint16) if n in names else t for n, t in tensors.items()}
    data = safetensors.numpy.save(halves)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for name in names:
        header[name]["dtype"] = "BF16"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize("kind", ["BF16", "F16", "F64"])
def test_numbers_of_other_widths_are_widened_exactly(tmp_path, small, kind):
    path = write_directory(tmp_path / "model", small)
    tensors = dict(hf_tensors(small))
    if kind == "BF16":
        bfloat16_file(path / "model.safetensors", tensors, list(tensors)[::2])
        narrow = {name: (t.view(np.uint32) & 0xFFFF0000).view(np.float32) for name, t in tensors.items()}
        expected = {name: narrow[name] if i % 2 == 0 else t for i, (name, t) in enumerate(tensors.items())}
    else:
        narrow = {name: t.astype(kind.replace("F", "float")) for name, t in tensors.items()}
        safetensors.numpy.save_file(narrow, path / "model.safetensors")
        expected = {name: t.astype(np.float32) for name, t in narrow.items()}
    lm = load(path)
    found = dict(hf_tensors(lm.model))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert same_bits(found[name], tensor), name
    assert np.array_equal(lm.model.flat_params, small.flat_params) == (kind == "F64")


def test_what_does_not_matter_is_let_be(tmp_path, small):
    """Tables of old checkpoints, a tied head that is stored too, and fields of training."""
    tables = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(5, np.float32) for i in range(2)}
    head = {"lm_head.weight": np.ones((SIZES["vocabulary"], 44), np.float32)}
    config = {"initializer_range": 0.02, "torch_dtype": "bfloat16", "use_cache": True, "sliding_window": None}
    lm = load(write_directory(tmp_path / "model", small, config, {**tables, **head}))
    assert same_bits(lm.model.flat_params, small.flat_params)


# ---- rotation ----

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
SCALED = [
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, LinearPI(10, base=50_000.0, factor=2.0)),
    ({"rope_scaling": {"rope_type": "llama3", **LLAMA3}}, Llama3(10, 50_000.0, factor=8.0, original_length=64)),
    (
        {"rope_parameters": {"rope_theta": 1e5, "rope_type": "yarn", "factor": 4.0,
                             "original_max_position_embeddings": 128}, "rope_theta": None},
        YaRN(10, base=1e5, factor=4.0, original_length=128),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "encoding"), SCALED)
def test_rope_fields_mean_what_from_huggingface_reads(tmp_path, small, config, encoding):
    lm = load(write_directory(tmp_path / "model", small, config))
    assert lm.encoding == encoding == from_huggingface(lm.rope_config)
    assert lm.rope_config.keys() == {"head_dim", "max_position_embeddings", "rope_parameters"}


def test_what_engines_disagree_about_is_said(tmp_path, small):
    path = write_directory(tmp_path / "model", small, {"rope_scaling": {"type": "dynamic", "factor": 2.0}})
    with pytest.warns(HuggingFaceWarning, match="dynamic"):
        lm = load(path)
    assert lm.encoding == DynamicNTK(10, base=50_000.0, factor=2.0, original_length=512)


# ---- models that are not computed here ----

REFUSED = {
    "model_type": ("mistral", "'llama'"),
    "architectures": (["LlamaForSequenceClassification"], "['LlamaForCausalLM']"),
    "hidden_act": ("gelu", "'silu'"),
    "attention_bias": (True, "other models are not computed here"),
    "mlp_bias": (True, "other models are not computed here"),
    "sliding_window": (64, "other models are not computed here"),
    "quantization_config": ({"bits": 4}, "other models are not computed here"),
    "partial_rotary_factor": (0.4, "4 of 10 features"),
    "num_attention_heads": (7, "config.json: num_key_value_heads is 3, expected a divisor of num_attention_heads = 7"),
    "head_dim": (11, "config.json: head_dim is 11, expected an even number"),
    "hidden_size": (45, "tensor model.embed_tokens.weight is F32(265, 44), expected (265, 45)"),
    "num_hidden_layers": (3, "layers.2.input_layernorm.weight is missing"),
    "num_key_value_heads": (2, "self_attn.k_proj.weight"),
    "intermediate_size": (None, "intermediate_size is missing"),
    "vocab_size": ("275", "an integer >= 1"),
    "rms_norm_eps": (float("nan"), "a number >= 0"),
    "tie_word_embeddings": (1, "true or false"),
    "bos_token_id": (275, "a token in [0, "),
    "eos_token_id": ([0, -1], "a token in [0, "),
    "max_position_embeddings": (0, "an integer >= 1"),
    "rope_theta": (0.5, "rope_theta is 0.5"),
    "rope_scaling": ({"rope_type": "spiral"}, "unknown rope_type"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::refrope.encodings.huggingface.HuggingFaceWarning")
def test_fields_of_other_models_are_refused_by_name(tmp_path, small, name):
    value, wanted = REFUSED[name]
    path = write_directory(tmp_path / "other", small, {name: value})
    with pytest.raises(ValueError, match=r"^load: ") as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert wanted in str(caught.value)


# ---- headers of safetensors files ----


def written(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


HEADERS = {
    "a header that is longer than the file": (b"{}", b"", 10**6),
    "a header of 2^63 bytes": (b"{}", b"", 2**63),
    "no JSON": (b"{", b"", None),
    "no object": (b"[]", b"", None),
    "not UTF-8": (b'{"\xff": 1}', b"", None),
    "nested beyond reason": (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b"", None),
    "a tensor twice": (b'{"a": %s, "a": %s}' % (2 * (json.dumps(entry(0, 8)).encode(),)), bytes(8), None),
    "a gap": ({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20), None),
    "a gap at the beginning": ({"a": entry(4, 12)}, bytes(12), None),
    "an overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12), None),
    "data beyond the tensors": ({"a": entry(0, 8)}, bytes(9), None),
    "data that are missing": ({"a": entry(0, 8)}, bytes(7), None),
    "an end beyond the data": ({"a": entry(0, 9)}, bytes(8), None),
    "an end before the beginning": ({"a": entry(8, 0)}, bytes(8), None),
    "a shape of other size": ({"a": entry(0, 8, (3,))}, bytes(8), None),
    "a shape of 2^64 numbers": ({"a": entry(0, 8, (2**32, 2**32))}, bytes(8), None),
    "a negative shape": ({"a": entry(0, 8, (-1, -2))}, bytes(8), None),
    "a shape of fractions": ({"a": entry(0, 8, (2.0,))}, bytes(8), None),
    "a dtype that nobody knows": ({"a": entry(0, 8, dtype="F33")}, bytes(8), None),
    "an entry that is a number": ({"a": 1}, b"", None),
    "an entry without a dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8), None),
    "a name of a thousand letters": ({"a" * 1000: entry(0, 8)}, bytes(8), None),
    "seven bytes": (b"", b"", None),
}


@pytest.mark.parametrize("what", HEADERS)
def test_what_safetensors_refuses_is_refused(tmp_path, what):
    path = written(tmp_path / "a.safetensors", *HEADERS[what])
    if what == "seven bytes":
        path.write_bytes(bytes(7))
    with pytest.raises(ValueError, match=rf"^load: {path}: ") as caught:
        read_file(path)
    assert len(str(caught.value)) < 1000
    if what not in ("a tensor twice", "a name of a thousand letters"):  # it takes the last one, and any name
        with pytest.raises(safetensors.SafetensorError), safetensors.safe_open(path, "numpy"):
            pass


def test_tensors_lie_where_safetensors_finds_them(tmp_path, small):
    path = write_directory(tmp_path / "model", small) / "model.safetensors"
    ours = read_file(path)
    data = path.read_bytes()
    theirs = safetensors.numpy.load_file(path)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        mine = ours[name]
        assert data[mine.offset : mine.offset + mine.nbytes] == tensor.tobytes()
        assert mine.shape == tensor.shape
