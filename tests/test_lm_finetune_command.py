"""``refrope lm finetune``, and report and save of it: interrupted at any moment it ends with the same bits."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import same_bits
from killing import kill_at_random
from lm_files import random_model
from lm_finetuning import CONTEXT, arguments, write_sources

from refrope import DynamicNTK, LinearPI, RoPE, YaRN
from refrope.cli import main
from refrope.lm.finetuning import needs, planning
from refrope.lm.finetuning import runs as finetuning_runs
from refrope.lm.loading import load
from refrope.lm.training.windows import WindowTraining
from refrope.sweep.loading import load_rows
from refrope.sweep.running import saved_weights

COMPARED = ("result.json", "weights.npz")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("finetune") / "sources")


def finetune(sources, out, *more):
    """The command in this process."""
    return main(arguments(sources, out, "--processes", "1", *more))


def files(directory):
    """What no interruption may change."""
    return {
        f"{p.parent.name}/{p.name}": p.read_bytes() for name in COMPARED for p in sorted(Path(directory).rglob(name))
    }


@pytest.fixture(scope="module")
def undisturbed(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("finetune") / "out"
    assert finetune(sources, out) == 0
    return out


def run_in(directory, begins):
    (found,) = (directory / "runs").glob(f"lm-finetune-{begins}-*")
    return found


def test_the_command_says_what_it_takes_and_what_it_found(sources, undisturbed, capsys):
    assert len(files(undisturbed)) == 5 + 2  # weights of what was trained alone
    assert finetune(sources, undisturbed) == 0  # everything is there: nothing is done again
    said = capsys.readouterr().out
    assert "made for 64 tokens" in said
    assert "2 trainings of 4 steps of 3 x 32 tokens, and 15 tests, before and after" in said
    assert "a checkpoint 0.00 GiB, written every 600 s, the last two kept" in said
    assert "5 of 5 runs" in said
    lines = [line.split() for line in said.splitlines() if " before " in line or " after " in line][-5:]
    assert [line[-4] for line in lines] == ["before"] * 3 + ["after"] * 2
    before, after = ([float(line[-1]) for line in part] for part in (lines[:3], lines[3:]))
    assert max(after) < min(before) / 2  # it has learnt something


def test_rows_before_and_after_are_of_the_same_tokens(undisturbed):
    rows = load_rows(undisturbed, "lm finetune")
    assert {(row["encoding"], row["seed"]) for row in rows} == {
        *(("none", None), ("yarn", None), ("resonance-yarn", None), ("yarn", 3), ("resonance-yarn", 3))
    }
    assert {row["steps"] for row in rows} == {0, 4}
    assert len({(row["tested_tokens"], row["tested_bytes"], row["tested_windows"]) for row in rows}) == 1
    untrained = {row["weights_sha256"] for row in rows if row["seed"] is None}
    assert len(untrained) == 1
    assert {row["length"] for row in rows} == {40, 64, 96}
    assert len({row["weights_sha256"] for row in rows} - untrained) == 2


def test_a_plan_touches_nothing(sources, tmp_path, capsys):
    assert finetune(sources, tmp_path / "out", "--plan") == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("lm-finetune-")]) == 5
    assert not (tmp_path / "out").exists()


def test_minutes_say_how_many_steps_fit_and_begin_nothing(sources, tmp_path, capsys, monkeypatch):
    assert finetune(sources, tmp_path / "out", "--minutes", "9") == 0
    said = capsys.readouterr().out
    assert "A step of 3 x 32 tokens takes" in said
    assert "2 trainings and all tests fit into 9 min." in said
    monkeypatch.setattr(planning, "step_seconds", lambda *given: 900.0)
    assert finetune(sources, tmp_path / "out", "--minutes", "9") == 0
    assert "no time for a step beside the tests" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("after", [1, 3, 6])
def test_whatever_interrupts_a_run_the_same_command_ends_with_the_same_bits(
    sources, undisturbed, tmp_path, monkeypatch, capsys, after
):
    count, real = iter(range(1000)), WindowTraining._one_step

    def one_step(self, rows):
        if next(count) == after:
            raise KeyboardInterrupt if after % 2 else MemoryError("killed")
        return real(self, rows)

    monkeypatch.setattr(WindowTraining, "_one_step", one_step)
    assert finetune(sources, tmp_path / "out", "--checkpoint-every", "0") != 0
    monkeypatch.undo()
    assert "goes on where it was" in capsys.readouterr().err
    begun = []
    monkeypatch.setattr(WindowTraining, "_one_step", lambda self, rows: (begun.append(self.step), real(self, rows))[1])
    assert finetune(sources, tmp_path / "out") == 0
    assert len(begun) < 8
    assert files(tmp_path) == files(undisturbed)


def test_untrained_tests_go_on_where_they_were(sources, undisturbed, tmp_path, monkeypatch):
    done, real = [], finetuning_runs.PreparedRun.row

    def row(self, test):
        if len(done) == 2:
            done.append(None)
            raise MemoryError("killed")
        done.append((test.run.name, test.length))
        return real(self, test)

    monkeypatch.setattr(finetuning_runs.PreparedRun, "row", row)
    assert finetune(sources, tmp_path / "out", "--checkpoint-every", "0") == 1
    assert finetune(sources, tmp_path / "out", "--checkpoint-every", "0") == 0
    assert len(done) - len(set(done)) <= 1  # what was found after the last writing
    assert files(tmp_path) == files(undisturbed)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="kills a group of processes")
def test_kills_at_random_moments_change_no_bit(sources, undisturbed, tmp_path):
    out = tmp_path / "out"
    more = ("--checkpoint-every", "0", "--processes", "2")
    command = [sys.executable, "-m", "refrope", *arguments(sources, out, *more)]
    kill_at_random(command, out, seed=7, times=2, share=1 / 8)
    assert finetune(sources, out) == 0
    assert files(out) == files(undisturbed)
    assert not [*out.rglob("*.part"), *out.rglob("checkpoint-*")]


# ---- what is refused ----


def test_another_checkpoint_is_refused_in_a_directory_that_was_begun(sources, undisturbed, tmp_path, capsys):
    shutil.copytree(sources, tmp_path / "sources")
    config = tmp_path / "sources" / "model" / "config.json"
    config.write_text(config.read_text() + "\n")
    before = (undisturbed / "sweep.json").read_bytes()
    assert finetune(tmp_path / "sources", undisturbed) == 2
    assert "expected that which" in capsys.readouterr().err
    assert (undisturbed / "sweep.json").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--encodings", "yran"], "lm finetune: unknown encoding 'yran'; did you mean 'yarn'"),
        (["--encodings", "xpos"], "turns queries and keys differently"),
        (["--encodings", "yarn:head_dim=12"], "has head_dim 12, expected the model's 10"),
        (["--test-lengths", "32,9999"], "the longest held-out text has"),
        (["--length", "9999"], "the training texts have"),
        (["--model", "missing"], "expected a file or directory that is there"),
        (["--texts", "missing"], "missing"),
        (["--trained", "norms"], "unknown trained 'norms'"),
        (["--minutes", "0"], "--minutes is 0"),
        (["--processes", "0"], "lm finetune: processes is 0"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(sources, tmp_path, capsys, more, said):
    assert main(arguments(sources, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_tokenizer_and_no_steps_are_refused(sources, tmp_path, capsys):
    shutil.copytree(sources, tmp_path / "sources")
    (tmp_path / "sources" / "model" / "tokenizer.json").unlink()
    assert finetune(tmp_path / "sources", tmp_path / "out") == 2
    assert "no tokenizer.json" in capsys.readouterr().err
    assert main(["lm", "finetune", "--model", "m", "--out", str(tmp_path / "out")]) == 2
    assert "neither --steps nor --minutes" in capsys.readouterr().err


def test_what_memory_or_disk_cannot_hold_is_refused_first(sources, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(needs, "available_memory", lambda: 2**20)
    assert main(arguments(sources, tmp_path / "out")) == 2
    assert "GiB of memory" in capsys.readouterr().err
    monkeypatch.undo()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=9))
    assert main(arguments(sources, tmp_path / "out")) == 2
    assert "GiB for weights and checkpoints" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- report and save ----


def test_a_report_has_tables_a_figure_and_every_row(undisturbed, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["lm", "report", str(undisturbed), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "Resonance YaRN - YaRN" in said
    assert (tmp_path / "perplexity_by_context.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "report.json").read_text())
    assert len(found["rows"]) == 15
    (row,) = (r for r in found["rows"] if (r["encoding"], r["seed"], r["length"]) == ("yarn", 3, 96))
    assert row["perplexity"] == pytest.approx(np.exp(row["loss"]))
    assert any(remark.startswith("Resonance YaRN against YaRN, after training") for remark in found["remarks"])


def test_a_saved_model_is_read_again_with_its_encoding(sources, undisturbed, tmp_path, capsys):
    run = run_in(undisturbed, "yarn-s3")
    assert main(["lm", "save", str(run), "--out", str(tmp_path / "saved")]) == 0
    again = load(tmp_path / "saved", backend="numpy")
    assert again.encoding == YaRN(10, 50_000.0, factor=2.0, original_length=CONTEXT)
    assert again.context == 2 * CONTEXT
    assert (again.bos, again.eos) == (1, (0,))
    weights = saved_weights(run, json.loads((run / "result.json").read_text()))
    assert same_bits(again.model.flat_params, weights)
    assert not same_bits(again.model.flat_params, random_model().flat_params)
    text = "then 12 é"
    own = load(sources / "model", backend="numpy")
    assert again.tokenizer.encode(text).tolist() == own.tokenizer.encode(text).tolist()


@pytest.mark.parametrize(
    ("begins", "said"),
    [("resonance-yarn-s3", "more than a config.json can say"), ("yarn-before", "has no trained model")],
)
def test_what_cannot_be_saved_is_refused(undisturbed, tmp_path, capsys, begins, said):
    assert main(["lm", "save", str(run_in(undisturbed, begins)), "--out", str(tmp_path / "saved")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "saved").exists()


@pytest.mark.filterwarnings("ignore:rope_type 'dynamic'")
@pytest.mark.parametrize(
    ("name", "own", "context", "encoding"),
    [
        ("none", YaRN(10, factor=4.0, original_length=CONTEXT // 4), CONTEXT, None),
        ("none", DynamicNTK(10, factor=4.0, original_length=CONTEXT), CONTEXT, None),
        ("dynamic-ntk", RoPE(10), CONTEXT, DynamicNTK(10, factor=2.0, original_length=CONTEXT)),
        ("linear", RoPE(10), 2 * CONTEXT, LinearPI(10, factor=2.0)),
    ],
)
def test_a_saved_models_context_is_what_its_encoding_is_for(tmp_path, name, own, context, encoding):
    home = write_sources(tmp_path / "sources", own)
    assert finetune(home, tmp_path / "out", "--encodings", name, "--test-lengths", "16", "--steps", "1") == 0
    saved = tmp_path / "saved"
    assert main(["lm", "save", str(run_in(tmp_path / "out", f"{name}-s3")), "--out", str(saved)]) == 0
    again = load(saved, backend="numpy")
    assert again.context == context
    assert again.encoding == (encoding or own)
