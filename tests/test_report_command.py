"""``refrope report`` as a person types it."""

import json
import subprocess
import sys

import pytest
from report_rows import grid, write_results

from refrope import cli

TASKS = ("recursive", "cot", "semirecursive")


def test_a_report_has_the_papers_twelve_cells_and_six_comparisons(tmp_path, capsys):
    results = write_results(tmp_path / "results", grid(TASKS, seeds=(1, 2, 3, 4, 5), positions=True))
    assert cli.main(["report", str(results)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    for words in ("Accuracy of 12 cells", "6 comparisons", "65.29 ± 0.66", "65.29 ± 6.56", "98.30 ± <0.07", "Holm"):
        assert words in said.out
    out = results / "report"
    text = (out / "report.md").read_text()
    for words in (
        "sign-flip test cannot reach 0.05: its smallest p is 0.0625 with 5.",
        "does not say its unit",
        "2026-11-24",
    ):
        assert words in text
    assert "cannot be written" not in text
    assert (out / "agreement.csv").read_text().count("\n") == 7
    assert {path.suffix for path in out.iterdir()} == {".md", ".tex", ".csv", ".html", ".png"}


def test_the_same_rows_give_the_same_report_byte_for_byte(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "results", grid(positions=True))
    for out in ("a", "b"):
        assert cli.main(["report", "results", "--out", out, "--baseline", "rope"]) == 0
        rows = json.loads((tmp_path / "results" / "results.json").read_text())
        rows["runs"].reverse()
        (tmp_path / "results" / "results.json").write_text(json.dumps(rows))
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        if name != "rows.csv":  # in the order of the results
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert capsys.readouterr().err == ""


def test_one_seed_is_said_to_be_one_seed(tmp_path, capsys):
    results = write_results(tmp_path / "results", grid(seeds=(2,)))
    assert cli.main(["report", str(results), "--format", "markdown"]) == 0
    text = (results / "report" / "report.md").read_text()
    assert "A cell of one seed has no standard deviation and no interval" in text
    assert "One common seed has no interval and no test." in text
    assert "(one seed)" in text
    assert "±" not in text.split("## The paper")[0].split("Mean ±")[0]
    assert not (results / "report" / "report.html").exists()


def test_several_directories_are_one_report(tmp_path, capsys):
    first = write_results(tmp_path / "a", grid(seeds=(1, 2)))
    second = write_results(tmp_path / "b", grid(seeds=(3, 9)), settings={"seeds": [3, 9, 10]})
    assert cli.main(["report", str(first), str(second), "--format", "csv"]) == 0
    said = capsys.readouterr()
    assert "refrope: note:" in said.err
    assert "4 of 12 rows that were asked for are missing" in said.err
    assert ",1 2 3 9," in (first / "report" / "cells.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report"], "the following arguments are required: DIR"),
        (["report", "nowhere"], "nowhere does not exist"),
        (["report", "file"], "file is no directory"),
        (["report", "bare"], "bare has no results.json and no sweep"),
        (["report", "good", "good/../good"], "a directory is named twice"),
        (["report", "good", "--format", "markdwon"], "unknown format 'markdwon'; did you mean 'markdown'?"),
        (["report", "good", "--format", ","], "--format is ',', expected some of markdown"),
        (["report", "good", "--baseline", "ropes"], "unknown baseline 'ropes'; did you mean 'rope'?"),
        (["report", "good", "--baseline", "yarn=swap"], "unknown setting of --baseline 'yarn'"),
        (["report", "good", "--out", "file"], "--out file cannot be written"),
        (["report", "empty"], "nothing in empty is finished yet: 0 of 4"),
        (["report", "broken"], "results.json is no JSON"),
        (["report", "list"], "holds a list, expected an object"),
        (["report", "other"], "has no settings or no runs"),
        (["report", "seedless"], "a row of seedless has seed None, expected int"),
        (["report", "wild"], "the row cot, rope, 1, 256 of wild has ood_accuracy 1.5, expected a number in [0, 1]"),
        (
            ["report", "apart", "--baseline", "yarn=swap"],
            "no cell differs from one with --baseline yarn swap in that alone",
        ),
        (["report", "good", "conflicting"], "two rows of cot, RoPE, tested at 256, seed 1 have ood_accuracy"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "bare").mkdir()
    write_results(tmp_path / "good", grid(seeds=(1, 2)))
    write_results(tmp_path / "conflicting", grid(seeds=(1,), ood=0.123))
    asked = {"tasks": ["cot"], "encodings": ["rope", "yarn"], "seeds": [1, 2], "test_lengths": [256]}
    write_results(tmp_path / "empty", [], settings=asked)
    write_results(tmp_path / "seedless", [row | {"seed": None} for row in grid()])
    write_results(tmp_path / "wild", grid(seeds=(1,), ood=1.5))
    write_results(tmp_path / "apart", grid(seeds=(1,)))
    for name, content in {"broken": "{", "list": "[]", "other": '{"runs": []}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(content)
    before = sorted(path for path in tmp_path.rglob("*"))
    if "apart" in arguments:  # with a second directory that differs in two settings
        write_results(tmp_path / "again", grid(seeds=(1,)), settings={"yarn": "train", "recipe": "official"})
        arguments = [*arguments[:2], "again", *arguments[2:]]
        before = sorted(path for path in tmp_path.rglob("*"))
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("module", ["scipy", "matplotlib"])
def test_a_missing_extra_is_named(module, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    results = write_results(tmp_path / "results", grid())
    assert cli.main(["report", str(results)]) == 2
    assert "pip install 'refrope[report]'" in capsys.readouterr().err
    assert not (results / "report").exists()


def test_the_command_starts_without_the_extra():
    without = "import sys; sys.modules['scipy'] = sys.modules['matplotlib'] = None; "
    code = without + "from refrope import cli; cli.main(['inspect'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "pairs" in done.stdout


def test_help_is_there():
    done = subprocess.run(
        [sys.executable, "-m", "refrope", "report", "--help"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0
    for words in ("usage: refrope report", "--baseline", "--format", "--out"):
        assert words in done.stdout
