"""What refrope lm finetune takes of memory, disk and time, said before it begins."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from lm_files import SIZES
from lm_finetuning import settings_for, write_sources

from refrope import TransformerConfig
from refrope.checkpoint import KEPT
from refrope.lm.finetuning import needs, planning
from refrope.lm.finetuning.runs import runs_of
from refrope.lm.finetuning.sources import sources_of
from refrope.train_step import gradients_kept


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("finetune") / "sources")


@pytest.fixture(scope="module")
def runs(directory):
    settings = settings_for(directory)
    return runs_of(settings, sources_of(settings)[0])


def test_memory_is_said_before_it_is_taken(directory, monkeypatch):
    config = TransformerConfig(**SIZES | {"d_model": 4096, "layers": 3}, feed_forward="swiglu")
    settings = settings_for(directory, batch_size=5)
    size = 4 * config.size()
    one, two = (needs.needs_of(settings, config, threads) for threads in (1, 2))
    assert (one.weights, one.checkpoint) == (size, 3 * size)
    # Weights, the sum and a gradient for each thread, two moments.
    assert two.memory - needs.PROGRAM > 6 * size
    assert two.memory > one.memory > 5 * size
    frozen = needs.needs_of(replace(settings, trained="attention"), config, 1)
    assert frozen.checkpoint < one.checkpoint
    monkeypatch.setattr(needs, "available_memory", lambda: 5 * one.memory // 2)
    assert needs.processes_for(one, 9, 4, None) == 2
    assert needs.processes_for(one, 1, 4, None) == 1
    assert needs.processes_for(one, 9, 4, 2) == 2
    with pytest.raises(ValueError, match=r"lm finetune: 3 runs at a time take .* GiB of memory, expected at most the"):
        needs.processes_for(one, 9, 4, 3)
    monkeypatch.setattr(needs, "available_memory", lambda: one.memory - 1)
    with pytest.raises(ValueError, match=r"lm finetune: a run takes .*--trained attention"):
        needs.processes_for(one, 9, 4, None)
    monkeypatch.setattr(needs, "available_memory", lambda: None)
    assert needs.processes_for(one, 9, 4, None) == 4


def test_gradients_are_kept_apart_while_they_are_small():
    assert gradients_kept(7, 2**20, 2) == 7
    assert gradients_kept(7, 2**28, 2) == 3
    assert gradients_kept(2, 2**28, 4) == 2


def test_room_on_the_disk_is_looked_for_before_anything_begins(runs, monkeypatch, tmp_path):
    found = needs.Needs(weights=10, checkpoint=100, memory=0)
    # Two trainings: weights of both, and of the one in work three checkpoints.
    needed = 2 * 10 + (KEPT + 1) * 100
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=needed))
    needs.check_disk(found, runs, 1, tmp_path / "a" / "b")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=needed - 1))
    with pytest.raises(ValueError, match="GiB for weights and checkpoints, expected at most"):
        needs.check_disk(found, runs, 1, tmp_path / "a" / "b")
    trained = tmp_path / "runs" / runs[-1].name
    trained.mkdir(parents=True)
    (trained / "checkpoint-1.npz").write_bytes(b"1")  # what is there need not be written
    needs.check_disk(found, runs, 1, tmp_path)


def test_a_plan_for_a_time_counts_up_a_step(runs, monkeypatch):
    settings = runs[0].settings
    monkeypatch.setattr(planning, "step_seconds", lambda *given: 3.0)
    tests = sum(test.steps for run in runs for test in run.tests())
    found = planning.measure(settings, runs, None, (3.0 * tests + 2 * 3.0 * 7 + 1) / 60)
    assert found == planning.Measured(3.0, 7, 3.0 * tests)
    assert planning.measure(settings, runs, None, 0.01).steps == 0
