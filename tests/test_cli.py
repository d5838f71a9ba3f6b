"""The command line, as a person types it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from refrope import cli, progress

QUICK = ["--train-sequences", "128", "--test-sequences", "32", "--epochs", "1"]


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "refrope", *arguments], capture_output=True, text=True, timeout=300, **options
    )


def test_posgen_writes_table_results_and_figures(tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert cli.main(["posgen", *QUICK, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for words in ("RoPE", "Resonance YaRN", "99.58", "paper's OOD %", "swapped in", str(out / "results.json")):
        assert words in said
    results = json.loads((out / "results.json").read_text())
    assert results["complete"] is True
    rows = results["runs"]
    assert [row["encoding"] for row in rows] == ["rope", "yarn", "resonance-rope", "resonance-yarn"]
    assert [row["trained_with"] for row in rows] == ["rope", "rope", "resonance-rope", "resonance-rope"]
    for row in rows:
        assert {"task", "encoding", "seed", "preset", "id_accuracy", "ood_accuracy", "step_seconds", "seconds"} <= set(
            row
        )
        assert (row["task"], row["seed"], row["preset"]) == ("cot", 2, "tiny")
        assert 0 <= row["id_accuracy"] <= 1
        assert 0 <= row["ood_accuracy"] <= 1
        positions = row["accuracy_by_position"]
        assert len(positions) == 256
        assert positions[:4] == [None] * 4
        assert row["ood_accuracy"] == pytest.approx(sum(positions[64:]) / 192)
        assert row["id_accuracy"] == pytest.approx(sum(positions[4:64]) / 60)
    assert results["settings"]["train"]["epochs"] == 1
    assert results["settings"]["model"]["d_model"] == 128
    assert results["versions"]["refrope"]
    for figure in ("accuracy_by_position.png", "training_curves.png"):
        assert (out / figure).read_bytes().startswith(b"\x89PNG")


def test_trainings_side_by_side_give_the_same_numbers(tmp_path):
    rows = []
    for processes in ("1", "2"):
        out = tmp_path / processes
        done = run("posgen", *QUICK, "--encodings", "rope,resonance-rope", "--processes", processes, "--out", str(out))
        assert done.returncode == 0, done.stderr
        rows.append(json.loads((out / "results.json").read_text())["runs"])
    assert "[2/2] cot, resonance-rope, seed 2: epoch 1" in done.stdout
    for one, other in zip(*rows, strict=True):
        for key in ("encoding", "seed", "accuracy_by_position", "curves"):
            assert one[key] == other[key]


def test_the_same_command_again_gives_the_same_numbers_and_loses_nothing(tmp_path, capsys):
    arguments = ["posgen", *QUICK, "--encodings", "rope", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    assert cli.main(arguments) == 0
    assert "are now results-1.json" in capsys.readouterr().out
    first, second = (
        json.loads((tmp_path / name).read_text())["runs"][0] for name in ("results-1.json", "results.json")
    )
    timing = {"seconds", "step_seconds"}
    assert {k: v for k, v in first.items() if k not in timing} == {k: v for k, v in second.items() if k not in timing}


def test_trained_yarn_takes_a_training_for_every_row(tmp_path):
    assert cli.main(["posgen", *QUICK, "--yarn", "train", "--encodings", "yarn,rope", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert [row["trained_with"] for row in rows] == ["yarn", "rope"]
    assert "ramp='turns'" in rows[0]["tested_with"]


def test_swapped_yarn_has_the_original_length_65(tmp_path):
    assert cli.main(["posgen", *QUICK, "--encodings", "resonance-yarn", "--out", str(tmp_path)]) == 0
    tested = json.loads((tmp_path / "results.json").read_text())["runs"][0]["tested_with"]
    assert tested.startswith("Resonance(encoding=YaRN(")
    for words in ("original_length=65", "beta_fast=2.0", "beta_slow=1.0", "ramp='index'", f"factor={257 / 65!r}"):
        assert words in tested


def test_without_tqdm_there_is_a_line_an_epoch(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert isinstance(progress.make_progress(1), progress.Lines)
    assert cli.main(["posgen", *QUICK, "--encodings", "rope", "--out", str(tmp_path)]) == 0
    assert "[1/1] cot, rope, seed 2: epoch 1, loss " in capsys.readouterr().out


def test_without_matplotlib_the_results_are_still_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["posgen", *QUICK, "--encodings", "rope", "--out", str(tmp_path)]) == 0
    assert "No figures: matplotlib is missing (pip install 'refrope[experiments]')" in capsys.readouterr().out
    assert (tmp_path / "results.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_keeps_what_was_finished(tmp_path):
    arguments = [
        "posgen",
        *QUICK,
        "--encodings",
        "rope",
        "--seeds",
        ",".join(map(str, range(200))),
        "--out",
        str(tmp_path),
    ]
    # A shell's background job ignores SIGINT and hands that down to its children; a handler of ours it does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "refrope", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    for _ in range(600):
        if (tmp_path / "results.json").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "refrope: interrupted" in err
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["complete"] is False
    assert results["runs"]
    assert "ID %" in out  # the table of what was finished
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["posgne"], "unknown command 'posgne'; did you mean 'posgen'?"),
        (["posgen", "--preset", "tyny"], "unknown preset 'tyny'; did you mean 'tiny'?"),
        (["posgen", "--tasks", "recursve"], "unknown task 'recursve'; did you mean 'recursive'?"),
        (
            ["posgen", "--encodings", "rope,resonence-rope"],
            "unknown encoding 'resonence-rope'; did you mean 'resonance-rope'?",
        ),
        (["posgen", "--encodings", "rope,rope"], "expected at least one, each once"),
        (["posgen", "--encodings", ","], "expected at least one"),
        (["posgen", "--seeds", "1,x"], "--seeds is '1,x', expected whole numbers"),
        (["posgen", "--seeds", "-1"], "seed is -1, expected an integer >= 0"),
        (["posgen", "--processes", "0"], "processes is 0, expected an integer >= 1"),
        (["posgen", "--epochs", "0"], "epochs is 0, expected an integer >= 1"),
        (["posgen", "--learning-rate", "nan"], "learning_rate is nan"),
        (["posgen", "--yarn", "swop"], "unknown yarn 'swop'; did you mean 'swap'?"),
        (["posgen", "--backend", "cuda"], "unknown backend 'cuda'"),
        (["posgen", "--rule", "latn"], "unknown rule 'latn'; did you mean 'latin'?"),
        (["posgen", "--threads", "0"], "n is 0, expected a whole number of at least 1"),
        (["posgen", "--train-sequences", "90000"], "expected at most 17**4 = 83521, the number of different prefixes"),
        (["inspect", "ropes"], "unknown encoding 'ropes'; did you mean 'rope'?"),
        (["inspect", "--head-dim", "63"], "head_dim is 63, expected an even number"),
        (["inspect", "--base", "1"], "base is 1.0, expected a finite number > 1"),
        (["inspect", "yarn", "--factor", "0.5"], "factor is 0.5, expected a finite number >= 1"),
        (["inspect", "--test-length", "64"], "test_length is 64, expected an integer >= 65"),
        (["bench", "--presets", "huge"], "unknown presets 'huge'"),
        (["bench", "--repeats", "0"], "repeats is 0, expected an integer >= 1"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_an_out_that_cannot_be_written_is_refused_before_any_training(tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    assert cli.main(["posgen", "--out", str(tmp_path / "file")]) == 2
    assert cli.main(["posgen", "--out", str(tmp_path / "file" / "below")]) == 2
    said = capsys.readouterr()
    assert said.err.count("cannot be written") == 2
    assert "epochs" not in said.out
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert cli.main(["posgen", "--out", str(tmp_path)]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_diverging_training_ends_with_status_2_and_one_line(tmp_path):
    done = run(
        "posgen", *QUICK, "--epochs", "3", "--learning-rate", "1e30", "--encodings", "rope", "--out", str(tmp_path)
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "try a smaller learning rate" in done.stderr
    assert not (tmp_path / "results.json").exists()


def test_inspect_shows_the_nine_pre_critical_pairs(capsys):
    assert cli.main(["inspect", "resonance-rope"]) == 0
    said = capsys.readouterr().out
    assert "9 of 32 pairs make a full turn within 64 tokens" in said
    assert "of pre-critical pairs 0.0000" in said
    assert len([line for line in said.splitlines() if line.rstrip().split()[-1:] and " pre " in line]) == 9
    assert cli.main(["inspect", "yarn", "--ramp", "turns", "--blend", "wavelength"]) == 0
    assert "Attention factor 1.13863" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="pipes close in another way there")
def test_a_reader_that_goes_away_is_no_error():
    command = [sys.executable, "-m", "refrope", "inspect", "yarn"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asked:
        asked.stdout.close()
        said = asked.stderr.read()
    assert (asked.returncode, said) == (141, "")


def test_ctrl_c_in_any_command_is_one_line_and_status_130(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("refrope.export.export", interrupt)
    assert cli.main(["export", "nowhere"]) == 130
    assert capsys.readouterr().err == "refrope: interrupted\n"


@pytest.mark.parametrize("command", [[], ["posgen"], ["export"], ["inspect"], ["compare"], ["bench"]])
def test_help_is_there(command):
    done = run(*command, "--help")
    assert done.returncode == 0
    assert "usage: refrope" in done.stdout


def test_no_command_is_bad_usage():
    done = run()
    assert done.returncode == 2
    assert "usage" in done.stderr
