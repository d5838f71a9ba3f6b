"""What a newcomer types stands in README.md, what the metadata promises, and CI and commits have the same checks."""

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


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "tutorials/README.md"])
def test_files_named_in_a_page_exist(page):
    path = ROOT / page
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert (path.parent / link).exists(), link


def test_only_numpy_and_cffi_are_needed_to_run():
    needed = [r for r in metadata.requires("refrope") if "extra ==" not in r]
    assert sorted(re.match(r"\w+", r)[0] for r in needed) == ["cffi", "numpy"]


def test_versions_agree():
    assert metadata.version("refrope") == refrope.__version__
    assert f"version: {refrope.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {refrope.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def requirements(extra=None):
    """Requirements by name, of one extra or of none."""
    found = [r.partition(";") for r in metadata.requires("refrope")]
    wanted = [r for r, _, marker in found if (f'"{extra}"' in marker if extra else "extra" not in marker)]
    return {re.match(r"[\w-]+", r)[0]: r.replace(" ", "") for r in wanted}


def test_what_the_tests_need_is_what_users_are_told_to_install():
    assert {*requirements("experiments"), *requirements("llm"), *requirements("report")} <= set(requirements("test"))
    for extra in ("experiments", "report", "llm"):
        for name, requirement in requirements(extra).items():
            assert requirements("test")[name] == requirement


def test_every_requirement_says_since_which_version():
    for extra in (None, *metadata.metadata("refrope").get_all("Provides-Extra")):
        for requirement in requirements(extra).values():
            assert re.fullmatch(r"[\w-]+>=[\d.]+", requirement), requirement


def test_types_and_vectors_are_installed():
    package = Path(refrope.__file__).parent
    assert (package / "py.typed").exists()
    assert (package / "vectors" / "manifest.json").exists()


# ---- CI and what is run before a commit ----


def test_lint_and_types_before_a_commit_are_those_of_ci():
    before, ci = ((ROOT / name).read_text(encoding="utf-8") for name in (".pre-commit-config.yaml", ".ci/run"))
    pinned = re.compile(r'"((?:ruff|mypy)==[\d.]+)"')
    assert set(pinned.findall(before)) == set(pinned.findall(ci))
    assert len(set(pinned.findall(ci))) == 2
    commands = re.findall(r"entry: (.*)", before)
    assert " && ".join(f".venv/bin/{command}" for command in commands) in ci


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_pins_what_it_uses_and_may_do_nothing_that_it_does_not_say(path):
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"uses: (.*)", text)
    assert used
    for action in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action), action
    assert "\npermissions: {}\n" in text
    assert text.count("runs-on:") == text.count("    permissions:") == text.count("timeout-minutes:")


def test_ci_is_the_script_and_a_tag_is_published_without_a_token():
    ci, wheels = (
        (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8") for name in ("ci.yml", "wheels.yml")
    )
    assert "- run: .ci/run\n" in ci
    assert "abi3audit --strict" in wheels
    assert "id-token: write" in wheels
    assert "secrets." not in ci + wheels


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
