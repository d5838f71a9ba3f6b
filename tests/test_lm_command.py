"""``refrope lm`` as a person types it, with a small random model in the place of a checkpoint."""

import hashlib
import json
import sys
import warnings

import numpy as np
import pytest
from lm_standins import CONTEXT, language_model

from refrope import RoPE, cli
from refrope.lm.scoring import token_log_likelihoods
from refrope.lm.swapping import swapped
from refrope.nn.memory import KVCache

pytestmark = pytest.mark.usefixtures("loaded")


def lm(*arguments):
    return cli.main(["lm", *map(str, arguments)])


def scores(name, length, text, factor=None):
    """Log-likelihoods of the command's model, by the function that has tests of its own."""
    model = language_model(dtype=np.float64).model
    encoding = swapped(name, RoPE(8, 500.0), CONTEXT, length, factor=factor)
    tokens = np.frombuffer(text.read_bytes(), np.uint8).astype(np.int64)[:length]
    return token_log_likelihoods(model, tokens, lambda positions: encoding.cos_sin(positions, np.float64))


# ---- perplexity ----


def test_one_run_writes_perplexity_and_tokens_at_the_top(text, tmp_path, capsys, loaded):
    out = tmp_path / "out.json"
    assert (
        lm("perplexity", "--model", "m.gguf", "--text", text, "--tokens", 97, "--dtype", "float64", "--json", out) == 0
    )
    found = json.loads(out.read_text())
    assert found["perplexity"] == pytest.approx(np.exp(-scores("none", 97, text).mean()), rel=1e-12)
    assert found["tokens"] == 97
    assert found["complete"] is True
    assert [run["perplexity"] for run in found["runs"]] == [found["perplexity"]]
    data = text.read_bytes()
    assert found["text"] == {
        **{"name": "text.txt", "sha256": hashlib.sha256(data).hexdigest()},
        **{"characters": len(data.decode()), "tokens": len(data)},
    }
    assert found["model"]["source"] == "m.gguf"
    assert found["model"]["sizes"]["vocabulary"] == 256
    assert {"refrope", "python", "numpy"} <= set(found["versions"])
    assert loaded[0][0] == "m.gguf"
    assert loaded[0][2] is np.float64
    said = capsys.readouterr().out
    assert f"{found['perplexity']:.4f}" in said
    assert str(out) in said


def test_several_lengths_and_encodings_make_a_table_and_a_figure(text, tmp_path, capsys):
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    arguments = [
        "--text",
        text,
        "--tokens",
        "40,97,200",
        "--encodings",
        "none,resonance,yarn:ramp=turns,beta_fast=8,ntk",
    ]
    assert lm("perplexity", "--model", "m", *arguments, "--dtype", "float64", "--json", out, "--plot", plot) == 0
    found = json.loads(out.read_text())
    assert "perplexity" not in found
    assert len(found["runs"]) == 12
    for run in found["runs"]:
        wanted = np.exp(-scores(run["encoding"], run["tokens"], text).mean())
        assert run["perplexity"] == pytest.approx(wanted, rel=1e-12)
    assert plot.read_bytes().startswith(b"\x89PNG")
    table = capsys.readouterr().out
    for words in ("own", "Resonance of own", "yarn:ramp=turns,beta_fast=8", "ntk", "200", "seconds"):
        assert words in table


def test_rope_parameters_take_the_place_of_the_models_own(text, tmp_path):
    found = {}
    for encodings in ("none", "resonance"):
        out = tmp_path / f"{encodings}.json"
        rope = '{"rope_type": "linear", "factor": 4.0}'
        arguments = ["--text", text, "--tokens", 97, "--encodings", encodings, "--dtype", "float64", "--json", out]
        assert lm("perplexity", "--model", "m", "--rope", rope, *arguments) == 0
        found[encodings] = json.loads(out.read_text())["perplexity"]
    assert found["none"] == pytest.approx(np.exp(-scores("linear", 97, text, 4.0).mean()), rel=1e-12)
    assert found["resonance"] == pytest.approx(np.exp(-scores("resonance-linear", 97, text, 4.0).mean()), rel=1e-12)


def test_warnings_about_rope_parameters_are_a_line_each(text, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lm("perplexity", "--model", "m", "--text", text, "--rope", '{"rope_type": "dynamic", "factor": 2}') == 2
        said = capsys.readouterr().err  # 512 tokens are more than the text has
        assert "refrope: --rope: rope_type 'dynamic'" not in said
        arguments = ["--text", text, "--tokens", 97, "--rope", '{"rope_type": "dynamic", "factor": 2}']
        assert lm("perplexity", "--model", "m", *arguments) == 0
    assert capsys.readouterr().err.count("refrope: --rope: rope_type 'dynamic'") == 1


def test_pipelines_differ_and_are_written_down(text, tmp_path):
    found = []
    for pipeline in ("exact", "transformers"):
        out = tmp_path / f"{pipeline}.json"
        arguments = ["--text", text, "--tokens", 97, "--dtype", "float64", "--json", out]
        assert lm("perplexity", "--model", "m", "--pipeline", pipeline, *arguments) == 0
        found.append(json.loads(out.read_text()))
        assert found[-1]["pipeline"] == found[-1]["runs"][0]["pipeline"] == pipeline
    assert found[0]["perplexity"] != found[1]["perplexity"]
    assert found[0]["perplexity"] == pytest.approx(found[1]["perplexity"], rel=1e-4)


# ---- generation ----


def test_generation_streams_the_text_and_writes_its_tokens(tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["--prompt", "the", "--tokens", 9, "--temperature", 1.0, "--seed", 5, "--json", out]
    assert lm("generate", "--model", "m", *arguments) == 0
    said = capsys.readouterr()
    found = json.loads(out.read_text())
    assert found["prompt_tokens"] == 3
    assert 1 <= len(found["tokens"]) <= 9
    assert found["text"] == bytes(found["tokens"]).decode(errors="replace")
    assert said.out.startswith(found["text"])
    assert found["sampling"] == {"temperature": 1.0, "top_k": None, "top_p": None, "seed": 5}
    assert "3 tokens read" in said.err
    assert lm("generate", "--model", "m", *arguments) == 0
    assert json.loads(out.read_text())["tokens"] == found["tokens"]


def test_a_prompt_can_be_a_file(text, capsys):
    assert lm("generate", "--model", "m", "--prompt-file", text, "--tokens", 2) == 0
    assert f"{len(text.read_bytes())} tokens read" in capsys.readouterr().err


# ---- retrieval ----


@pytest.mark.parametrize("test", ["passkey", "needle", "kv"])
def test_retrieval_writes_every_cell_and_draws_a_map(test, text, tmp_path, capsys):
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    arguments = ["--lengths", "400,600", "--depths", "0,100", "--trials", 2, "--encodings", "none,ntk", "--json", out]
    arguments += ["--text", text] if test == "needle" else []
    assert lm(test, "--model", "m", *arguments, "--plot", plot) == 0
    found = json.loads(out.read_text())
    assert found["test"] == test
    assert found["complete"] is True
    cells = {(row["encoding"], row["length"], row["depth"]) for row in found["runs"]}
    assert cells == {(name, n, depth) for name in ("none", "ntk") for n in (400, 600) for depth in (0, 100)}
    assert all(len(row["answers"]) == row["trials"] == 2 for row in found["runs"])
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert f"of {2 * len(cells)} answers are right" in capsys.readouterr().out


# ---- tasks ----


def test_tasks_write_scores_of_each_kind(tmp_path, capsys):
    data, out = tmp_path / "small.jsonl", tmp_path / "out.json"
    document = {
        "instructions": ["Which?\nA. this\nB. that", "How many?"],
        "outputs": ["A", "3"],
        "input": "One, two, three. " * 4,
    }
    lines = [document, {**document, "evaluation": "human"}]
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    arguments = ["--data", data, "--tokens", 300, "--answer-tokens", 4, "--encodings", "none,resonance", "--json", out]
    assert lm("tasks", "--model", "m", *arguments) == 0
    found = json.loads(out.read_text())
    assert [run["encoding"] for run in found["runs"]] == ["none", "resonance"]
    for run in found["runs"]:
        assert run["questions"] == run["choice"]["questions"] + run["exact"]["questions"] == 2
        assert run["score"] == sum(row["credit"] for row in run["answers"]) / 2
    assert found["left_out"] == 1
    said = capsys.readouterr().out
    assert "1 documents" in said or "1 document," in said
    assert "left out" in said


# ---- what can go wrong ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["perplexity", "--tokens", "99999"], "tokens is 99999, but the text text.txt has"),
        (["perplexity", "--tokens", "1"], "tokens is 1, expected an integer >= 2"),
        (["perplexity", "--tokens", "8,x"], "lm perplexity: --tokens is '8,x', expected whole numbers"),
        (["perplexity", "--tokens", "8,8"], "expected whole numbers, at least one, each once"),
        (["perplexity", "--encodings", "yarm"], "unknown encoding 'yarm'; did you mean 'yarn'?"),
        (["perplexity", "--encodings", "none,none"], "expected at least one, each once"),
        (["perplexity", "--factor", "0.5"], "factor is 0.5, expected a number >= 1"),
        (["perplexity", "--pipeline", "float32"], "unknown pipeline 'float32'"),
        (["perplexity", "--dtype", "float16"], "unknown dtype 'float16'"),
        (["perplexity", "--tokens", "8", "--rope", "{"], "lm: --rope is not JSON"),
        (["perplexity", "--json", "."], "is a directory, expected a file"),
        (["perplexity", "--plot", "no/where.png"], "lm perplexity: --plot no/where.png cannot be written"),
        (["perplexity", "--tokns", "8"], "lm perplexity: unknown option '--tokns'; did you mean '--tokens'?"),
        (["generate", "--prompt", ""], "--prompt is empty"),
        (["generate", "--prompt", "a", "--tokens", "0"], "tokens is 0, expected an integer >= 1"),
        (["generate", "--prompt", "a", "--top-p", "2"], "top_p is 2.0"),
        (["generate", "--prompt", "a", "--encoding", "none,ntk"], "--encoding is 'none,ntk', expected one"),
        (["passkey", "--depths", "0,101"], "--depths is '0,101', expected numbers in [0, 100]"),
        (["passkey", "--lengths", "64"], "lm passkey: length is 64, expected at least"),
        (["passkey", "--seed", "-1"], "seed is -1, expected an integer >= 0"),
        (["kv", "--trials", "0"], "trials is 0, expected an integer >= 1"),
        (["tasks", "--data", "none.jsonl"], "none.jsonl: No such file"),
        (["sing"], "invalid choice: 'sing'"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(arguments, words, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    more = ["--text", text] if arguments[0] == "perplexity" else []
    assert lm(*arguments, "--model", "m", *more) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert list(tmp_path.iterdir()) == [text]


def test_what_can_be_told_before_is_told_before_a_model_is_loaded(text, loaded):
    for arguments in (["--encodings", "yarm"], ["--factor", "0.5"], ["--json", "."], ["--tokens", "x"]):
        assert lm("perplexity", "--model", "m", "--text", text, *arguments) == 2
    assert lm("perplexity", "--model", "m", "--text", "nothing.txt") == 2
    assert loaded == []


def test_a_context_beyond_memory_is_refused_before_anything_is_read(text, monkeypatch, capsys):
    def refuse(config, batch, capacity, dtype):
        raise ValueError(f"KVCache: {capacity} tokens need more memory than there is")

    monkeypatch.setattr(KVCache, "check_memory", refuse)
    monkeypatch.setattr("refrope.nn.transformer.Transformer.forward", lambda *a, **o: pytest.fail("it reads"))
    assert lm("perplexity", "--model", "m", "--text", text, "--tokens", "8,97") == 2
    assert "97 tokens need more memory" in capsys.readouterr().err
    assert lm("passkey", "--model", "m", "--lengths", "500") == 2
    assert "500 tokens need more memory" in capsys.readouterr().err


def test_without_matplotlib_a_figure_is_refused_before(monkeypatch, text, tmp_path, capsys, loaded):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert lm("perplexity", "--model", "m", "--text", text, "--plot", tmp_path / "out.png") == 2
    assert "matplotlib" in capsys.readouterr().err
    assert loaded == []


@pytest.mark.parametrize("command", ["", "perplexity", "generate", "passkey", "needle", "kv", "tasks"])
def test_help_tells_defaults_and_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["lm", *filter(None, [command]), "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "example" in said
    assert f"refrope lm {command}" in said
    assert not command or "default" in said
