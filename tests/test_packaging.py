"""What a newcomer types stands in README.md, and what the package promises in its metadata."""

import re
from importlib import metadata
from pathlib import Path

import pytest

import refrope

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_two_commands_are_in_the_readme():
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert commands == [
        'python3 -m venv .venv && .venv/bin/pip install -e ".[experiments]" && .venv/bin/refrope posgen',
        'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/pytest',
    ]


def test_python_in_the_readme_runs_and_says_what_it_says(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
        said = capsys.readouterr().out.splitlines()
        promised = re.findall(r"print\(.*\)\s+# (.*)", block)
        assert said == promised


def test_files_named_in_the_readme_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_only_numpy_and_cffi_are_needed_to_run():
    needed = [r for r in metadata.requires("refrope") if "extra ==" not in r]
    assert sorted(re.match(r"\w+", r)[0] for r in needed) == ["cffi", "numpy"]


def test_versions_agree():
    assert metadata.version("refrope") == refrope.__version__
    assert f"version: {refrope.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {refrope.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(
    "path",
    [
        p
        for d in ("refrope", "csrc", "tests", "tutorials")
        for p in (ROOT / d).rglob("*.[pch]*")
        if p.suffix in (".py", ".c", ".h") and "_native" not in p.name
    ],
    ids=lambda p: p.name,
)
def test_no_source_names_a_machine(path):
    assert not re.search(
        r"(?<![\w.])/(home|root|work|opt|Users)/", path.read_text().replace("(home|root|work|opt|Users)", "")
    )
