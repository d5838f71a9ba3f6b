"""``refrope lm train | save``: interrupted at any moment it ends with the same bits; what it saves is read again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import same_bits
from killing import kill_at_random
from lm_texts import write_texts

from refrope.cli import main
from refrope.lm.training import runs as lm_runs
from refrope.lm.training.saving import load_run
from refrope.lm.training.windows import WindowTraining
from refrope.sweep import running
from refrope.sweep.loading import load_rows

# Three trainings of six steps and 3 + 3 + 6 tests: a second or two.
OPTIONS = (
    "--preset nano --encodings rope,resonance-yarn,rerope,alibi --seeds 3 --steps 6 --batch-size 3 --train-length 16 "
    "--test-lengths 16,32,48 --windows 4"
)
COMPARED = ("result.json", "weights.npz")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("lm") / "texts")


def arguments(texts, out, *more):
    """Those of ``refrope``."""
    return ["lm", "train", *OPTIONS.split(), "--texts", str(texts), "--out", str(out), *more]


def train(texts, out, *more):
    """The command in this process."""
    return main(arguments(texts, out, "--processes", "1", *more))


def files(directory):
    """What no interruption may change."""
    return {
        f"{p.parent.name}/{p.name}": p.read_bytes() for name in COMPARED for p in sorted(Path(directory).rglob(name))
    }


@pytest.fixture(scope="module")
def undisturbed(texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("lm") / "out"
    assert train(texts, out) == 0
    assert len(files(out)) == 6
    return out


def test_the_command_says_what_it_does_and_what_it_found(texts, undisturbed, capsys):
    assert train(texts, undisturbed) == 0  # everything is there: nothing is trained again
    said = capsys.readouterr().out
    assert "8 texts of 0.0 MB, and 1 of 0.0 MB held out; 257 tokens; models of 0.12 million weights." in said
    assert "3 trainings of 6 steps of 3 x 16 tokens, then 12 tests" in said
    assert "3 of 3 trainings" in said
    assert "refrope lm report" in said
    lines = {line.split("  ")[0]: line for line in said.splitlines()}
    assert {"RoPE", "Resonance YaRN", "ReRoPE", "ALiBi"} <= set(lines)
    assert {len(line.split()) for name, line in lines.items() if name in ("RoPE", "ALiBi")} == {5}


def test_a_plan_touches_nothing(texts, tmp_path, capsys):
    assert train(texts, tmp_path / "out", "--plan") == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("lm-bytes-")]) == 3
    assert not (tmp_path / "out").exists()


def test_processes_give_the_same_bits(texts, undisturbed, tmp_path):
    assert main(arguments(texts, tmp_path / "out", "--processes", "2")) == 0
    assert files(tmp_path) == files(undisturbed)


@pytest.mark.parametrize("after", [1, 4, 8, 14])
def test_whatever_interrupts_a_training_the_same_command_ends_with_the_same_bits(
    texts, undisturbed, tmp_path, monkeypatch, capsys, after
):
    count = iter(range(1000))
    real = WindowTraining._one_step

    def one_step(self, rows):
        if next(count) == after:
            raise KeyboardInterrupt if after % 2 else MemoryError("killed")
        return real(self, rows)

    monkeypatch.setattr(WindowTraining, "_one_step", one_step)
    assert train(texts, tmp_path / "out", "--checkpoint-every", "0") != 0
    monkeypatch.undo()
    assert "goes on where it was" in capsys.readouterr().err
    begun = []
    monkeypatch.setattr(WindowTraining, "_one_step", lambda self, rows: (begun.append(self.step), real(self, rows))[1])
    assert train(texts, tmp_path / "out") == 0
    assert len(begun) < 18
    assert files(tmp_path) == files(undisturbed)


def test_tests_go_on_where_they_were(texts, undisturbed, tmp_path, monkeypatch):
    count, real = iter(range(1000)), lm_runs.PreparedRun.row
    done = []

    def row(self, test):
        if next(count) == 3:
            raise MemoryError("killed")
        done.append((test.encoding, test.length))
        return real(self, test)

    monkeypatch.setattr(lm_runs.PreparedRun, "row", row)
    assert train(texts, tmp_path / "out", "--checkpoint-every", "0") == 1
    # The run that was killed between its tests keeps what these have found.
    assert len(list(tmp_path.rglob("tested.json"))) == 1
    begun, step = [], WindowTraining._one_step
    monkeypatch.setattr(WindowTraining, "_one_step", lambda self, rows: (begun.append(self.step), step(self, rows))[1])
    assert train(texts, tmp_path / "out") == 0
    assert begun == []  # the others were trained the first time
    assert len(done) - len(set(done)) <= 1  # what was found after the last writing
    assert not list(tmp_path.rglob("tested.json"))
    assert files(tmp_path) == files(undisturbed)


def test_a_damaged_checkpoint_is_seen_and_the_one_before_is_used(texts, undisturbed, tmp_path, monkeypatch, capsys):
    real = WindowTraining._one_step

    def one_step(self, rows):
        if self.step == 4:
            raise MemoryError("killed")
        return real(self, rows)

    monkeypatch.setattr(WindowTraining, "_one_step", one_step)
    assert train(texts, tmp_path / "out", "--checkpoint-every", "0") == 1
    monkeypatch.undo()
    newest = max(tmp_path.rglob("checkpoint-*"), key=lambda path: (path.name[:20], str(path)))
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    capsys.readouterr()
    assert train(texts, tmp_path / "out") == 0
    assert capsys.readouterr().out.count("does not have the checksum in its name") == 1
    assert files(tmp_path) == files(undisturbed)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")
def test_kills_at_random_moments_change_no_bit(texts, undisturbed, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "refrope", *arguments(texts, out, "--checkpoint-every", "0", "--processes", "2")]
    kill_at_random(command, out, seed=4, times=3, share=1 / 4)
    assert train(texts, out) == 0
    assert files(out) == files(undisturbed)
    assert not [*out.rglob("*.part"), *out.rglob("checkpoint-*")]


# ---- what is refused ----


def test_directories_of_other_commands_are_left_alone(texts, undisturbed, tmp_path, capsys):
    posgen = ["--tasks", "recursive", "--encodings", "rope", "--plan", "--out"]
    assert main(["sweep", *posgen, str(undisturbed)]) == 0  # a plan looks at no directory
    assert main(["sweep", *posgen[:-2], "--epochs", "1", "--train-sequences", "8", "--out", str(undisturbed)]) == 2
    assert "is of refrope lm train, expected one that refrope sweep has made" in capsys.readouterr().err
    (tmp_path / "sweep.json").write_text(json.dumps({"commands": [], "runs": []}))
    assert train(texts, tmp_path) == 2
    assert "is of refrope sweep, expected one that refrope lm train has made" in capsys.readouterr().err
    assert main(["lm", "report", str(tmp_path)]) == 2
    (tmp_path / "sweep.json").rename(tmp_path / "letter.txt")
    assert train(texts, tmp_path) == 2
    assert "lm train: --out" in capsys.readouterr().err
    assert main(["report", str(undisturbed)]) == 2
    assert "is of refrope lm train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--preset", "tny"], "lm train: unknown preset"),
        (["--seeds", "a"], "lm train: --seeds is 'a'"),
        (["--test-lengths", "16,9999"], "the longest held-out text has"),
        (["--frozen", "layers.9.*"], "train: frozen is 'layers.9.*'"),
        (["--encodings", "math:pi"], "lm train: math:pi is 3.14"),
        (["--processes", "0"], "lm train: processes is 0"),
        (["--texts", "missing"], "missing"),
        (["--token", "bpe"], "tokens are 'bpe'"),
        (["--stepps", "4"], "option '--stepps'"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(texts, tmp_path, capsys, more, said):
    assert train(texts, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert "posgen" not in error
    assert not (tmp_path / "out").exists()


def test_a_training_that_fails_is_told(texts, tmp_path, capsys):
    with np.errstate(all="ignore"):
        assert train(texts, tmp_path / "out", "--learning-rate", "1e30", "--encodings", "rope") == 1
    assert "1 trainings failed: lm-bytes-rope-s3-" in capsys.readouterr().err
    (row,) = load_rows(tmp_path / "out", "lm train")
    assert (row["encoding"], row["seed"]) == ("rope", 3)
    assert "learning rate" in row["failed"]
    assert main(["lm", "report", str(tmp_path / "out")]) == 2
    assert "nothing in" in capsys.readouterr().err


# ---- pairs ----


def test_the_tokenizer_stays_with_the_sweep_and_is_mended(texts, tmp_path, capsys):
    pytest.importorskip("tokenizers")
    more = ("--tokens", "bpe:270", "--encodings", "rope", "--test-lengths", "16,24")
    assert train(texts, tmp_path / "out", *more) == 0
    before = files(tmp_path)
    (tokenizer,) = (tmp_path / "out" / "tokenizers").iterdir()
    text = tokenizer.read_text(encoding="utf-8")
    tokenizer.write_text(text[:-9], encoding="utf-8")
    (run,) = (tmp_path / "out" / "runs").iterdir()
    assert main(["lm", "save", str(run), "--out", str(tmp_path / "saved")]) == 2
    assert "the tokenizer of" in capsys.readouterr().err
    assert train(texts, tmp_path / "out", *more) == 0
    assert tokenizer.read_text(encoding="utf-8") == text
    assert files(tmp_path) == before


# ---- save ----


def _run(directory, trained):
    (found,) = (directory / "runs").glob(f"lm-bytes-{trained}-s3-*")
    return found


def test_a_saved_model_is_read_again_with_the_same_logits(undisturbed, tmp_path, capsys):
    pytest.importorskip("tokenizers")
    pytest.importorskip("safetensors")
    from refrope.lm.loading import load

    run = _run(undisturbed, "rope")
    assert main(["lm", "save", str(run), "--out", str(tmp_path / "saved")]) == 0
    assert "config.json" in capsys.readouterr().out
    again, first = load(tmp_path / "saved", backend="numpy"), load_run(run)
    assert again.context == 16
    assert again.encoding == first.settings.trained_encoding("rope")
    assert (again.bos, again.eos) == (256, (256,))
    assert again.tokenizer.encode("zoë").tolist() == list("zoë".encode())
    assert again.model.config == first.model.config
    assert same_bits(again.model.flat_params, first.model.flat_params)


@pytest.mark.parametrize(
    ("trained", "said"),
    [("alibi", "has its positions from ALiBi"), ("resonance-rope", "more than a config.json can say")],
)
def test_models_that_a_directory_cannot_describe_are_refused(undisturbed, tmp_path, capsys, trained, said):
    pytest.importorskip("safetensors")
    assert main(["lm", "save", str(_run(undisturbed, trained)), "--out", str(tmp_path / "saved")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "saved").exists()


def test_nothing_is_saved_over_something_or_from_nothing(undisturbed, tmp_path, capsys):
    pytest.importorskip("safetensors")
    assert main(["lm", "save", str(tmp_path), "--out", str(tmp_path / "saved")]) == 2
    assert "has no result.json" in capsys.readouterr().err
    (tmp_path / "letter.txt").write_text("dear")
    assert main(["lm", "save", str(_run(undisturbed, "rope")), "--out", str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err


def test_stop_between_tests_saves_what_they_have_found(texts, undisturbed, tmp_path, monkeypatch):
    real = lm_runs.PreparedRun.row

    def row(self, test):
        running.STOP.set()
        return real(self, test)

    monkeypatch.setattr(lm_runs.PreparedRun, "row", row)
    assert train(texts, tmp_path / "out") == 1
    running.STOP.clear()
    assert list(tmp_path.rglob("tested.json"))
    monkeypatch.undo()
    assert train(texts, tmp_path / "out") == 0
    assert files(tmp_path) == files(undisturbed)
