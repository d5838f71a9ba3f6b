"""Whatever text, file or dict comes from outside, its reader answers, or raises ValueError and nothing else.

REFROPE_TEST_EXAMPLES sets the number of examples of each test (tests/fuzz/README.md); they are always the same ones
for one number.
"""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refrope import from_huggingface, vectors
from refrope.encodings import RotaryEncoding
from refrope.encodings.huggingface import HuggingFaceWarning
from refrope.encodings.names import NAMES, OPTIONS, encoding_from, parse

examples = settings(
    max_examples=int(os.environ.get("REFROPE_TEST_EXAMPLES", "200")),
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

numbers = st.sampled_from([0, 1, -1, 2, 3, 64, 2**31, 2**53, 2**63, 10**400, 0.0, -0.0, 0.5, 1e-320, 1e300])
numbers |= st.integers(-(2**70), 2**70) | st.floats() | st.integers(0, 300)
plain = st.none() | st.booleans() | numbers | st.text(max_size=8)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


def one_of_its_answers(read, *allowed):
    """What `read()` gives, or None after a ValueError with words or one of `allowed`; any other error ends the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HuggingFaceWarning)
        try:
            return read()
        except ValueError as error:
            said = str(error)
        except allowed as error:
            said = repr(error)
    assert said
    return None


def check_encoding(encoding):
    """What was read is an encoding that can say what it is."""
    assert isinstance(encoding, RotaryEncoding)
    assert repr(encoding)
    if encoding.pairs <= 300:
        assert len(encoding.inv_freq) == encoding.pairs


# ---- configurations ----

TOP = [
    *("head_dim", "hidden_size", "num_attention_heads", "max_position_embeddings", "rope_theta", "n_embd", "n_head"),
    *("partial_rotary_factor", "rotary_pct", "rotary_emb_base", "global_rope_theta", "model_type", "layer_types"),
    *("rope_local_base_freq", "local_rope_theta", "qk_rope_head_dim", "global_head_dim", "per_layer_config"),
    *("original_max_position_embeddings", "text_config", "n_positions"),
]
INSIDE = [
    *("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    *("attention_factor", "short_factor", "long_factor", "low_freq_factor", "high_freq_factor", "alpha", "rope_theta"),
    *("partial_rotary_factor", "mrope_section", "attn_factor", "extrapolation_factor", "short_mscale", "long_mscale"),
    *("type", "rope_type", "unknown"),
]
TYPES = ["default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional", "su", "mrope", "axial"]
MODELS = ["llama", "phi3", "phimoe", "gpt_neox", "hunyuan", "deepseek_v3"]
GOOD = {"head_dim": 64, "max_position_embeddings": 4096, "rope_theta": 1e4}
GOOD_INSIDE = {
    **{"factor": 4.0, "original_max_position_embeddings": 1024, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    **{"short_factor": [1.0] * 32, "long_factor": [4.0] * 32},
}
likely = st.sampled_from([1, 2, 4, 64, 128, 4096, 0.25, 0.5, 1.0, 8.0, 1e4, 1e308, 5e-324, True, None, [1.5] * 32])
spoilt_inside = st.dictionaries(st.sampled_from(INSIDE), likely | values, max_size=2)
spoilt_top = st.dictionaries(st.sampled_from(TOP), likely | values, max_size=2)
ropes = st.builds(
    lambda kind, missing, spoilt: {
        **{name: value for name, value in GOOD_INSIDE.items() if name != missing},
        **{"rope_type": kind, **spoilt},
    },
    st.sampled_from(TYPES),
    st.none() | st.sampled_from([*GOOD_INSIDE]),
    spoilt_inside,
)
nested = st.dictionaries(st.sampled_from(["full_attention", "sliding_attention", "truncate"]), ropes | values)
configurations = st.builds(
    lambda model, layers, place, rope, spoilt: {
        **{**GOOD, "model_type": model, "layer_types": layers, place: rope},
        **spoilt,
    },
    st.none() | st.sampled_from(MODELS),
    st.none() | st.lists(st.sampled_from(["full_attention", "sliding_attention"]), max_size=3),
    st.sampled_from(["rope_scaling", "rope_parameters"]),
    ropes | nested,
    spoilt_top,
)


@examples
@given(configurations | st.dictionaries(st.text(max_size=8), values, max_size=4) | values)
def test_a_configuration_is_read_or_refused_in_words(config):
    if isinstance(config, str):
        return  # a path
    for layer_type in (None, "full_attention"):
        encoding = one_of_its_answers(lambda kind=layer_type: from_huggingface(config, kind))
        if encoding is not None:
            check_encoding(encoding)


def test_configurations_that_fit_are_among_the_examples():
    read = []

    @examples
    @given(configurations)
    def collect(config):
        read.append(one_of_its_answers(lambda: from_huggingface(config)) is not None)

    collect()
    assert sum(read) >= len(read) / 4


@pytest.mark.parametrize("spoilt", [{"partial_rotary_factor": 1e308}, {"rotary_pct": -1e308}, {"head_dim": 10**400}])
def test_numbers_that_leave_the_floats_are_refused_in_words(spoilt):
    with pytest.raises(ValueError, match=r"^from_huggingface: "):
        from_huggingface({**GOOD, **spoilt})


def file_with(folder, data):
    path = Path(folder, "config.json")
    path.write_bytes(data)
    return path


@examples
@given(st.binary(max_size=60) | values.map(lambda v: json.dumps(v).encode()), st.binary(max_size=3))
def test_a_configuration_file_of_any_bytes_is_read_or_refused_in_words(data, more):
    with tempfile.TemporaryDirectory() as folder:
        one_of_its_answers(lambda: from_huggingface(file_with(folder, data + more)))


# ---- encodings as text ----

option = st.builds(
    "{}{}{}".format,
    st.sampled_from([*OPTIONS, "layer_type", "unknown"]) | st.text(max_size=5),
    st.sampled_from(["=", "=", "=", "", " = "]),
    st.sampled_from(["1", "64", "4.0", "true", "1/2/4", "index", "nan", "inf", "-1", "1e999", "9" * 30, "१", ""])
    | st.text(max_size=6),
)
texts = st.text(max_size=20) | st.builds(
    "{}{}{}".format,
    st.sampled_from([*NAMES, "config.json"]) | st.text(max_size=5),
    st.sampled_from([":", ":", "", "::"]),
    st.lists(option, max_size=4).map(",".join),
)


@examples
@given(texts, st.booleans())
def test_an_encodings_text_is_read_or_refused_in_words(text, with_defaults):
    specification = one_of_its_answers(lambda: parse("fuzz", text))
    if specification is None:
        return
    defaults = {"head_dim": 64, "factor": 4.0, "original_length": 64} if with_defaults else {"head_dim": 64}
    # A configuration that cannot be read raises OSError.
    encoding = one_of_its_answers(lambda: encoding_from("fuzz", specification, defaults), OSError)
    if encoding is not None:
        check_encoding(encoding)


# ---- vector files ----


def small(name):
    """A vector file with one group, one case and at most one rotation."""
    whole = vectors.load(name)
    group = min(whole["groups"], key=lambda g: len(json.dumps(g)))
    return {**whole, "groups": [{**group, "cases": group["cases"][:1], "rotations": group["rotations"][:1]}]}


WHOLES = {name: small(name) for name in ("linear", "longrope", "resonance", "posgen")}


def places(value, path=()):
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inside:
        yield from places(child, (*path, key))


def changed(whole, path, replacement, how):
    """A copy of `whole` in which something happened to what lies at `path`."""
    if not path:
        return replacement
    whole = deepcopy(whole)
    parent = whole
    for key in path[:-1]:
        parent = parent[key]
    if how == "delete":
        del parent[path[-1]]
    elif how == "double" and isinstance(parent, list):
        parent.append(parent[path[-1]])
    else:
        parent[path[-1]] = replacement
    return whole


def load_from(folder, name, data, manifest=None):
    """Load `data` as the vectors called `name`, with a manifest that agrees unless another one is given."""
    Path(folder, f"{name}.json").write_bytes(data)
    if manifest is None:
        entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest = json.dumps({"format": vectors.FORMAT, "files": {f"{name}.json": entry}}).encode()
    Path(folder, "manifest.json").write_bytes(manifest)
    try:
        return vectors.load(name, folder)
    except vectors.VectorError as error:
        said = str(error)
    assert said.startswith(f"load: {folder}")
    return None


@pytest.mark.parametrize("name", WHOLES)
def test_a_changed_vector_file_is_loaded_or_refused_in_words(name):
    whole = WHOLES[name]
    everywhere = list(places(whole))
    outer = [path for path in everywhere if len(path) <= 4]

    @examples
    @given(
        st.sampled_from(everywhere) | st.sampled_from(outer),
        values | st.sampled_from([[], {}, [[]], [{}], {"head_dim": 2}]),
        st.sampled_from(["replace", "delete", "double"]),
    )
    def load(path, replacement, how):
        loaded = load_from(folder, name, json.dumps(changed(whole, path, replacement, how)).encode())
        assert loaded is None or loaded["variant"] == name

    with tempfile.TemporaryDirectory() as folder:
        assert load_from(folder, name, json.dumps(whole).encode()) == whole
        load()


@examples
@given(st.data())
def test_a_vector_file_with_changed_bytes_is_refused(data):
    name = data.draw(st.sampled_from(["linear", "posgen"]))
    text = (vectors.FOLDER / f"{name}.json").read_bytes()
    start = data.draw(st.integers(0, len(text) - 1))
    spoilt = text[:start] + data.draw(st.binary(max_size=3)) + text[start + data.draw(st.integers(0, 3)) :]
    with tempfile.TemporaryDirectory() as folder:
        manifest = (vectors.FOLDER / "manifest.json").read_bytes()
        assert (load_from(folder, name, spoilt, manifest) is None) == (spoilt != text)


@examples
@given(st.binary(max_size=40) | values.map(lambda v: json.dumps(v).encode()), st.booleans())
def test_files_of_any_bytes_are_refused_in_words(data, as_manifest):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(vectors.FOLDER / "linear.json", folder)
        assert load_from(folder, "linear", data, data if as_manifest else None) is None


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"\xff\xfe{", b"NaN"])
@pytest.mark.parametrize("as_manifest", [False, True])
def test_json_that_its_parser_cannot_take_is_refused_in_words(tmp_path, data, as_manifest):
    assert load_from(tmp_path, "linear", data, data if as_manifest else None) is None
