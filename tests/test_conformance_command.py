"""`refrope check` and the pytest plugin, as their users run them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from refrope.cli import main
from refrope.conformance import running

FUNCTIONS = """
import ctypes
import os
import time
import numpy as np
from planted_rotations import frequencies, half, interleaved, rotation

good = rotation(frequencies(64))
bad = rotation(frequencies(64), turn=interleaved)
number = 3

def crashes(x, positions):
    os.abort()

def sleeps(x, positions):
    time.sleep(60)

def holds(x, positions):  # compiled code that does not let other threads run
    ctypes.PyDLL(None).sleep(60)

def beats(x, positions):  # and says that it lives
    while True:
        with open("beats", "a") as file:
            file.write(".")
        time.sleep(0.02)

def writes(x, positions):  # past Python's own standard output
    os.write(1, b"from compiled code\\n")
    return good(x, positions)

def make(parameters):
    if parameters["variant"] != "rope" or parameters["rotary_dim"] not in (None, parameters["head_dim"]):
        raise NotImplementedError
    return rotation(frequencies(parameters["head_dim"], parameters["base"]))

def offers_nothing(parameters):
    raise NotImplementedError

def stumbles(parameters):
    if parameters["variant"] == "yarn":
        raise RuntimeError("bad params")
    return make(parameters)
"""

# A field that its rope_type ignores.
CONFIG = '{"head_dim": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "beta_fast": 32}}'


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with a module of functions in it."""
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    tests = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])]))
    return tmp_path


def run(*arguments):
    return main(["check", *arguments])


def test_a_right_function_gives_status_0_and_a_wrong_one_1(here, capsys):
    assert run("mine:good", "--encoding", "rope") == 0
    said = capsys.readouterr().out
    assert said.startswith("mine:good\nPASS  rotate against RoPE(head_dim=64, base=10000), layout half\n")
    assert run("mine.py:bad", "mine.py:good", "--encoding", "rope", "--json", "report.json") == 1
    said = capsys.readouterr().out
    assert "It looks like: the layout is interleaved where half was declared." in said
    assert "PASS" in said  # the second target, all the same
    written = json.loads((here / "report.json").read_text())
    assert [r["passed"] for r in written["reports"]] == [False, True]
    assert written["reports"][0]["mistakes"][0]["name"] == "layout-interleaved"
    assert run("mine:bad", "--encoding", "rope", "--layout", "any") == 0


def test_a_crash_or_a_hang_is_a_report(here, capsys):
    assert run("mine:crashes", "mine:sleeps", "--encoding", "rope", "--time-limit", "0.2") == 1
    said = capsys.readouterr().out
    assert "Problem (crashes): it ended the process (SIGABRT)." in said
    assert "Problem (hangs): a call took more than 0.2 s" in said


def test_a_call_that_cannot_be_interrupted_is_a_report(here, capsys, monkeypatch):
    monkeypatch.setattr(running, "_GRACE_SECONDS", 1.0)
    assert run("mine:holds", "mine:good", "--encoding", "rope", "--time-limit", "0.2") == 1
    said = capsys.readouterr().out
    assert "Problem (hangs): a call took more than 0.2 s and could not be left behind" in said
    assert "PASS" in said  # the second target, all the same


def test_a_call_ends_with_the_command_that_waits_for_it(here):
    beats = here / "beats"
    beats.write_text("")
    command = [sys.executable, "-m", "refrope", "check", "mine:beats", "--encoding", "rope", "--time-limit", "60"]
    waiting = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        assert within_half_a_minute(lambda: beats.stat().st_size > 0)
    finally:
        waiting.kill()
        waiting.wait()

    def stands_still():
        size = beats.stat().st_size
        time.sleep(0.5)
        return beats.stat().st_size == size

    assert within_half_a_minute(stands_still)


def within_half_a_minute(happens):
    end = time.monotonic() + 30
    while not (happened := happens()) and time.monotonic() < end:
        time.sleep(0.05)
    return happened


def test_what_compiled_code_prints_is_not_in_the_report(here, capfd):
    assert run("mine:writes", "--encoding", "rope") == 0
    said = capfd.readouterr()
    assert said.out.startswith("mine:writes\nPASS")
    assert "from compiled code" not in said.out
    assert "from compiled code" in said.err


def test_all_vectors_of_a_variant_run_through_a_factory(here, capsys):
    assert run("mine:make", "--vectors", "rope,yarn") == 0
    said = capsys.readouterr().out
    assert said.count("PASS") > 5
    assert "mine:make rope-" in said
    assert "mine:make yarn-" not in said


def test_a_factory_that_raises_is_a_report_and_the_other_groups_are_checked(here, capfd):
    assert run("mine:stumbles", "--vectors", "yarn,rope") == 1
    said = capfd.readouterr()
    assert said.err == ""
    yarn, rope = said.out[: said.out.index("rope-")], said.out[said.out.index("rope-") :]
    assert yarn.count("FAIL") == yarn.count("Problem (raises): the factory raises RuntimeError: bad params.") > 5
    assert rope.count("PASS") > 5
    assert "FAIL" not in rope


def test_help_lists_the_vectors_that_can_be_checked(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    said = capsys.readouterr().out
    assert "xpos" in said
    assert "posgen" not in said


def test_a_warning_about_the_configuration_is_one_line_for_all_targets(here, capfd):
    (here / "config.json").write_text(CONFIG)
    assert run("mine:good", "mine:good", "--encoding", "config.json") == 0
    said = capfd.readouterr()
    assert said.out.count("PASS") == 2
    assert said.err == "refrope: config.json: ignored by rope_type 'default': beta_fast\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere:f", "--encoding", "rope"], "nowhere cannot be imported: ModuleNotFoundError"),
        (["mine:g", "--encoding", "rope"], "mine has no g"),
        (["mine:number", "--encoding", "rope"], "mine:number is not a function"),
        (["mine", "--encoding", "rope"], "target is 'mine', expected MODULE:NAME or FILE.py:NAME"),
        (["none.py:f", "--encoding", "rope"], "none.py cannot be imported"),
        (["mine:good"], "expected either --encoding or --vectors"),
        (["mine:good", "--encoding", "rop"], "unknown encoding 'rop'"),
        (["mine:good", "--encoding", "rope", "--layout", "neox"], "unknown layout 'neox'"),
        (["mine:make", "--vectors", "yarm"], "unknown vectors 'yarm'"),
        (["mine:make", "--vectors", "posgen"], "unknown vectors 'posgen'"),
        (["mine:make", "--vectors", ","], "check: --vectors is ',', expected names such as rope,yarn, or all"),
        (["mine:offers_nothing", "--vectors", "rope"], "check: mine:offers_nothing: no group was checked, expected"),
    ],
)
def test_bad_usage_gives_status_2_and_one_line(here, capsys, arguments, said):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def pytest_in(folder, *arguments):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


PLUGIN = ["-p", "refrope.conformance.pytest_plugin"]


def test_the_plugin_s_fixture_fails_a_test_with_the_report(here):
    (here / "test_mine.py").write_text(
        "import mine\n\n"
        "def test_good(check_rope):\n"
        '    assert check_rope(mine.good, "rope").passed\n\n'
        "def test_bad(check_rope):\n"
        '    check_rope(mine.bad, "rope")\n'
    )
    done = pytest_in(here, *PLUGIN)
    assert "1 failed, 1 passed" in done.stdout
    assert "It looks like: the layout is interleaved where half was declared." in done.stdout


def test_configured_lines_are_tests(here):
    (here / "pytest.ini").write_text(
        "[pytest]\nrefrope_check =\n"
        "    mine:good --encoding rope\n"
        "    mine:bad --encoding rope\n"
        "    mine:bad --encoding rope --layout interleaved\n"
        "    mine:good --coding rope\n"
        "    mine:offers_nothing --vectors rope\n"
    )
    (here / "test_other.py").write_text("def test_other():\n    assert True\n")
    done = pytest_in(here, *PLUGIN)
    assert "3 failed, 3 passed" in done.stdout, done.stdout
    assert "It looks like: the layout is interleaved" in done.stdout
    assert "refrope_check: " in done.stdout  # the line with the misspelt option
    assert "check: mine:offers_nothing: no group was checked" in done.stdout
    assert "Traceback" not in done.stdout
    only = pytest_in(here, *PLUGIN, "test_other.py")
    assert "1 passed" in only.stdout
    assert "failed" not in only.stdout
