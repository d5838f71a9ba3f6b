"""What the documentation shows, runs: Python blocks, examples in docstrings, and commands as far as their options go.

Elsewhere: the blocks of tutorials/errata.md (test_errata.py) and of refrope/vectors/README.md (test_vector_files.py).
"""

import argparse
import doctest
import importlib
import re
import shlex
import textwrap
from pathlib import Path

import pytest
from lm_standins import Bytes, language_model

import refrope
from refrope.cli import build_parser

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "tutorials/README.md", "tutorials/results/README.md"]
PAGES += ["tests/fuzz/README.md", "tests/peers/README.md"]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)  # those in lists are indented
ELLIPSIS = {"...", "…"}  # a command that is shown in part
# What examples that read a checkpoint of some hundred megabytes run with.
STAND_INS = {
    "refrope.lm.tokenizing": {"tokenizer": Bytes()},
    "refrope.lm.loading": {"load": lambda source: language_model()},
}


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, *languages):
    """The fenced blocks of a page in these languages; "" for blocks without one."""
    return [textwrap.dedent(code) for _, language, code in FENCE.findall(text_of(page)) if language in languages]


# ---- Python ----

PYTHON = [
    pytest.param(code, id=f"{page}, block {i + 1}") for page in PAGES for i, code in enumerate(blocks(page, "python"))
]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "refrope").rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("code", PYTHON)
def test_a_python_block_runs_and_prints_what_it_says(code, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "block", "exec"), {})
    promised = re.findall(r"print\(.*\)\s+# (.*)", code)
    assert capsys.readouterr().out.splitlines() == promised


def test_there_are_python_blocks_and_examples():
    assert PYTHON
    assert MODULES


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_give_what_they_say(name):
    module = importlib.import_module(name)
    ran = doctest.testmod(module, extraglobs=STAND_INS.get(name), raise_on_error=False)
    assert ran.attempted > 0
    assert ran.failed == 0
    assert ran.skipped == 0 if hasattr(ran, "skipped") else "+SKIP" not in Path(module.__file__).read_text("utf-8")


# ---- the command line ----


def lines(block):
    """The logical lines of a shell block, without prompts."""
    return [line.strip().removeprefix("$ ") for line in block.replace("\\\n", " ").splitlines()]


def commands(line):
    """The arguments of each call of refrope in a line of shell."""
    words = shlex.split(line, comments=True)
    found = []
    for i, word in enumerate(words):
        if (word == "refrope" or word.endswith("/refrope")) and (i == 0 or words[i - 1] in ("&&", "|", "then", "do")):
            end = next((j for j in range(i, len(words)) if words[j] in ("&&", "|", ">", ";")), len(words))
            found.append(words[i + 1 : end])
    return found


def shown(page):
    """The calls of refrope in the shell blocks of a page."""
    logical = [line for block in blocks(page, "sh", "") for line in lines(block)]
    return [call for line in logical for call in commands_or_none(line)]


def commands_or_none(line):
    """Those of `commands`; none in a line of output, which need not be shell."""
    try:
        return commands(line)
    except ValueError:
        return []


def named(page):
    """The calls of refrope in the running text of a page, between backquotes."""
    prose = FENCE.sub("", text_of(page))
    return [shlex.split(" ".join(span.split()))[1:] for span in re.findall(r"`(refrope [^`]*)`", prose)]


def examples(parser):
    """The calls of refrope in the help of a parser and of its commands."""
    found = [call for line in lines(parser.epilog or "") for call in commands_or_none(line)]
    for each in choices(parser).values():
        found += examples(each)
    return found


def choices(parser):
    """The commands of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


def unknown_words(parser, call):
    """What no parser knows in a call that is named and need not be complete."""
    words = list(call)
    while choices(parser) and words:
        command = words.pop(0)
        if command not in choices(parser):
            return [command]
        parser = choices(parser)[command]
    known = {option for action in parser._actions for option in action.option_strings}
    return [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]


PARSER = build_parser()
SHOWN = [pytest.param(call, id=f"{page}: {' '.join(call)}") for page in PAGES for call in shown(page)]
SHOWN += [pytest.param(call, id=f"--help: {' '.join(call)}") for call in examples(PARSER)]
NAMED = [pytest.param(call, id=f"{page}: {' '.join(call)}") for page in PAGES for call in named(page)]


@pytest.mark.parametrize("call", SHOWN)
def test_a_command_that_is_shown_can_be_given(call):
    if ELLIPSIS & set(call):
        assert unknown_words(PARSER, [word for word in call if word not in ELLIPSIS]) == []
    else:
        options, unknown = PARSER.parse_known_args(call)
        assert unknown == []
        assert callable(options.run)


@pytest.mark.parametrize("call", NAMED)
def test_a_command_that_is_named_has_these_options(call):
    assert unknown_words(PARSER, call) == []


def test_commands_are_found_and_wrong_ones_are_noticed():
    assert SHOWN
    assert NAMED
    line = (
        'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/refrope posgen --seeds 1 > said.txt'
    )
    assert commands(line) == [["posgen", "--seeds", "1"]]
    assert lines("$ refrope sweep --tasks all \\\n    --seeds 1\n")[0].split() == shlex.split(
        "refrope sweep --tasks all --seeds 1"
    )
    assert unknown_words(PARSER, ["posgen", "--seed", "1"]) == ["--seed"]
    assert unknown_words(PARSER, ["lm", "perplexit"]) == ["perplexit"]
    assert unknown_words(PARSER, ["inspect", "yarn", "--ramp=turns"]) == []
    with pytest.raises(ValueError, match="invalid choice"):
        PARSER.parse_known_args(["inspekt", "yarn"])


def test_every_command_of_the_readme_is_one_that_there_is():
    assert {call.values[0][0] for call in [*SHOWN, *NAMED] if call.values[0]} <= set(choices(PARSER))
    assert refrope.__version__ in text_of("CITATION.cff")
