"""``refrope rules`` as a person types it, on a sweep of models that have hardly been trained."""

import json
from functools import cache

import pytest

from refrope import RoPE, YaRN, cli
from refrope.rules import command
from refrope.rules.command import _subjects
from refrope.rules.examining import examine_tasks
from refrope.rules.probes import follow
from refrope.sweep import load_models, load_rows

tasks_once = cache(examine_tasks)  # it does not depend on the sweep


@pytest.fixture(autouse=True)
def _tasks_once(monkeypatch):
    monkeypatch.setattr(command, "examine_tasks", tasks_once)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Sum and Latin square, one step each; YaRN swapped in."""
    out = tmp_path_factory.mktemp("sweep")
    common = [
        "--train-sequences",
        "64",
        "--test-sequences",
        "8",
        "--epochs",
        "1",
        "--out",
        str(out),
        "--processes",
        "1",
    ]
    common += ["--recipe", "held-out", "--test-lengths", "96"]
    assert cli.main(["sweep", "--tasks", "cot", "--encodings", "rope,yarn", *common]) == 0
    assert cli.main(["sweep", "--tasks", "semirecursive", "--rule", "latin", "--encodings", "rope", *common]) == 0
    return out


def test_every_model_of_a_sweep_is_examined_with_all_that_it_was_tested_with(swept, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert cli.main(["rules", str(swept), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    found = json.loads((out / "results.json").read_text())
    models = found["models"]
    assert sorted((m["task"], m["settings"]["rule"], m["encoding"], m["trained_with"]) for m in models) == [
        ("cot", "sum", "rope", "rope"),
        ("cot", "sum", "yarn", "rope"),
        ("semirecursive", "latin", "rope", "rope"),
    ]
    for number, model in enumerate(models, start=1):
        assert f"== {model['title']} (within and beyond 64 tokens; {model['run']})" in said
        assert (out / f"attention-{number}.png").read_bytes().startswith(b"\x89PNG")
        assert {row["sequences"] for row in model["following"]} == {"true", "slips", "shifted"}
        assert {row["context"] for row in model["contexts"]} >= {"held out", "unseen"}
        assert {(row["layer"], row["head"]) for row in model["attention"]} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert [row["task"] for row in found["tasks"]["cycles"]] == ["recursive", "cot", "semirecursive"] * 3
    for words in (
        "cot, where the sum has a shortcut: x_l = 2 x_l-1 - 1 x_l-4; x_l = 4 x_l-11",
        "semirecursive, where it has none: no rule of two tokens (mod 17)",
        "20 random table rules, cot, in a cycle before 64:",
        "Whom the answers follow, %",
        "the step after a slip",
        "What the answers add up",
        "Answers after a changed token, %",
        "held out",
        "All models, within the training length but for OOD",
        "Tables of contexts learned by heart, %",
    ):
        assert words in said


def test_what_is_examined_is_the_swept_model_under_the_encoding_of_its_row(swept):
    rows = {(row["run"], row["encoding"]): row for row in load_rows(swept)}
    trained = {run.name: run for run in load_models(swept)}
    for about, subject in _subjects(swept, None):
        assert type(subject.encoding) is {"rope": RoPE, "yarn": YaRN}[about["encoding"]]
        x = subject.dataset.test
        accuracy = (subject.answers(x) == x)[:, 64:].mean()
        assert accuracy == pytest.approx(rows[about["run"], about["encoding"]]["ood_accuracy"], abs=1e-12)
        assert (subject.model.flat_params == trained[about["run"]].model.flat_params).all()
        true = [row for row in follow(subject, 1) if row["sequences"] == "true" and row["where"] == "beyond"]
        assert sum(row["rule"] * row["count"] for row in true) / sum(row["count"] for row in true) == pytest.approx(
            accuracy
        )


def test_one_encoding_and_fewer_sequences_can_be_asked_for(swept, tmp_path):
    assert cli.main(["rules", str(swept), "--encodings", "yarn", "--sequences", "3", "--out", str(tmp_path)]) == 0
    models = json.loads((tmp_path / "results.json").read_text())["models"]
    assert [model["encoding"] for model in models] == ["yarn"]
    first = models[0]["following"][0]
    assert (first["sequences"], first["steps"], first["count"]) == ("true", "first", 3)


def test_without_a_sweep_the_tasks_alone_are_described(tmp_path, capsys):
    assert cli.main(["rules", "--out", str(tmp_path)]) == 0
    assert "latin  recursive" in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text())["models"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "sweep: nowhere has no sweep.json"),
        (["--sequences", "1"], "rules: sequences is 1, expected an integer >= 2"),
        (["--seed", "-1"], "rules: seed is -1, expected an integer >= 0"),
    ],
)
def test_bad_usage_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["rules", *arguments, "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_encodings_that_no_model_has_are_an_error(swept, tmp_path, capsys):
    assert cli.main(["rules", str(swept), "--encodings", "alibi", "--out", str(tmp_path)]) == 2
    assert "rules: no trained model in" in capsys.readouterr().err
