"""The names that others rely on."""

import ast
import inspect
from pathlib import Path

import pytest

import refrope

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
