"""The names that others rely on."""

import ast
import inspect
from pathlib import Path

import pytest

import refrope
from refrope import tables
from refrope.encodings import ramps
from refrope.encodings.huggingface import huggingface_config
from refrope.nn import layers
from refrope.nn.dropout import dropout
from refrope.nn.gradcheck import gradient_error

PUBLIC = {
    "DynamicNTK", "FoPE", "LinearPI", "Llama3", "LongRoPE", "NTKAware", "NTKByParts", "ProportionalRoPE", "Resonance",
    "RoPE", "RotaryEncoding", "Transformer", "TransformerConfig", "XPos", "YaRN", "__version__", "analysis",
    "critical_pair", "feature_gap", "from_huggingface", "get_num_threads", "kernels", "nn", "permute_rows", "posgen",
    "precision", "rotate", "rotate_periodic", "rotation_matrix", "set_num_threads", "to_huggingface",
}  # fmt: skip
SOURCES = sorted(Path(refrope.__file__).parent.rglob("*.py"))


def test_the_public_names_are_these():
    assert set(refrope.__all__) == PUBLIC
    assert all(hasattr(refrope, name) for name in PUBLIC)


@pytest.mark.parametrize(
    "twin",
    [
        "matmul",
        "linear_forward",
        "linear_backward",
        "rotate",
        "rotate_periodic",
        "attention_forward",
        "attention_backward",
        "rmsnorm_forward",
        "rmsnorm_backward",
        "relu_forward",
        "relu_backward",
        "swiglu_forward",
        "swiglu_backward",
        "cross_entropy_forward",
        "cross_entropy_backward",
        "embedding_forward",
        "embedding_backward",
        "dropout",
        "adamw_update",
    ],
)
def test_twins_have_the_same_signature(twin):
    slow = getattr(refrope.nn.backends.NumpyOps, twin)
    assert inspect.signature(getattr(refrope.kernels, twin)) == inspect.signature(slow)


@pytest.mark.parametrize(
    ("function", "by_place"),
    [
        (refrope.rotate, "x cos sin"),
        (refrope.rotate_periodic, "x positions tables"),
        (refrope.rotation_matrix, "cos sin"),
        (refrope.Transformer, "config"),
        (refrope.Transformer.forward, "self tokens tables"),
        (refrope.Transformer.backward, "self dlogits"),
        (refrope.XPos.cos_sin, "self positions dtype"),
        (refrope.Resonance.period_tables, "self dtype"),
        (huggingface_config, "encoding"),
        (ramps.index_ramp, "encoding length beta_fast beta_slow"),
        (tables.as_positions, "positions"),
        (tables.cos_sin, "inv_freq positions"),
        (tables.periodic_cos_sin, "periods positions"),
        (tables.period_tables, "periods"),
        (gradient_error, "loss inputs gradients"),
        (refrope.posgen.make_splits, "task"),
        (refrope.posgen.inputs_and_targets, "sequences"),
        (refrope.nn.attention_forward, "q k v"),
        (refrope.nn.attention_backward, "dout q k v out lse"),
        (layers.matmul, "a b"),
        (layers.linear_forward, "x weight"),
        (layers.linear_backward, "dy x weight"),
        (layers.rmsnorm_forward, "x gain"),
        (layers.rmsnorm_backward, "dy x gain inv_rms"),
        (layers.relu_forward, "x"),
        (layers.relu_backward, "dy y"),
        (layers.swiglu_forward, "gate up"),
        (layers.swiglu_backward, "dy gate up"),
        (layers.cross_entropy_forward, "logits targets weights"),
        (layers.cross_entropy_backward, "probabilities targets weights"),
        (layers.embedding_forward, "tokens table"),
        (layers.embedding_backward, "dy tokens dtable"),
        (dropout, "x probability seed"),
        (refrope.RoPE, "head_dim base"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_all_but_these_arguments_are_given_by_name(function, by_place):
    places = inspect.signature(function).parameters.values()
    assert [each.name for each in places if each.kind is each.POSITIONAL_OR_KEYWORD] == by_place.split()
    assert {each.kind for each in places} <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_public_function_and_class_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            inside = any(
                node in ast.walk(f) and node is not f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)
            )
            assert inside or ast.get_docstring(node), f"{path.name}: {node.name}"


def test_modules_stay_readable():
    lengths = {path.name: len(path.read_text().splitlines()) for path in SOURCES}
    assert max(lengths.values()) <= 400, lengths


def test_the_library_takes_random_numbers_from_raw_words_only():
    for path in SOURCES:
        text = path.read_text()
        assert "default_rng" not in text, path.name
        assert "np.random.rand" not in text, path.name
