"""Packages that import what they offer when it is asked for: quick to import, and the same to type checkers."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import refrope
from refrope.lazy import on_demand

PACKAGES = ["refrope", "refrope.encodings", "refrope.nn"]


def modules_after(code):
    """The modules that a fresh interpreter has imported after some code."""
    ask = f"import sys\n{code}\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.split())


def offered_to_type_checkers(package):
    """The names that ``if TYPE_CHECKING:`` imports."""
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    return {name.name: node.module for node in block.body for name in node.names}


def test_importing_refrope_takes_no_longer_than_importing_numpy():
    alone = modules_after("import refrope")
    assert "numpy" not in alone
    assert {name for name in alone if name.startswith("refrope.")} == {"refrope.lazy"}
    with_an_encoding = modules_after("import refrope\nrefrope.RoPE")
    assert "numpy" in with_an_encoding
    assert not any(name.startswith(("refrope.nn", "refrope.kernels", "refrope.posgen")) for name in with_an_encoding)


@pytest.mark.parametrize("name", PACKAGES)
def test_type_checkers_see_what_there_is(name):
    package = importlib.import_module(name)
    offered = offered_to_type_checkers(package)
    assert set(offered) | ({"__version__"} if name == "refrope" else set()) == set(package.__all__)
    for each, module in offered.items():
        home = importlib.import_module(module)
        expected = getattr(home, each) if home is not package else importlib.import_module(f"{name}.{each}")
        assert getattr(package, each) is expected, each
    assert set(package.__all__) <= set(dir(package))


def test_a_name_is_looked_up_once_and_a_wrong_one_is_an_attribute_error():
    get, names = on_demand("refrope.encodings", {"rope": "RoPE", "base": ""})
    assert get("RoPE") is refrope.RoPE
    assert vars(refrope.encodings)["RoPE"] is refrope.RoPE
    assert get("base") is sys.modules["refrope.encodings.base"]
    assert {"RoPE", "rope", "base"} <= set(names())
    with pytest.raises(AttributeError, match=r"module 'refrope.encodings' has no attribute 'Rope'"):
        get("Rope")
    assert not hasattr(refrope, "nonsense")
