"""``refrope lm rounding`` as a person types it, with a small random model in the place of a checkpoint."""

import json

import numpy as np
import pytest
from lm_standins import CONTEXT, language_model

from refrope import RoPE, cli
from refrope.lm.rounded_pairs import RoundedPairs
from refrope.lm.rounding import closed_form, measure
from refrope.lm.rounding_command import _some, sentence
from refrope.nn.memory import KVCache

pytestmark = pytest.mark.usefixtures("loaded")


def lm(command, *arguments):
    return cli.main(["lm", command, "--model", "m", *map(str, arguments)])


def test_it_writes_what_is_measured_and_what_follows_from_wavelengths(text, tmp_path, capsys):
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    arguments = ["--text", text, "--tokens", 137, "--dtype", "float64", "--json", out, "--plot", plot]
    assert lm("rounding", *arguments, "--tolerance", "0.004") == 0
    found = json.loads(out.read_text())
    tokens = np.frombuffer(text.read_bytes(), np.uint8).astype(np.int64)[:137]
    model = language_model(dtype=np.float64).model
    wanted = [row for rows in measure(model, RoPE(8, 500.0), tokens, context=CONTEXT) for row in rows]
    assert len(found["runs"]) == len(wanted) == 2 + 2 + 4 + 4
    for run, row in zip(found["runs"], wanted, strict=True):
        assert run == {**row, **{key: pytest.approx(row[key], abs=1e-12) for key in row if isinstance(row[key], float)}}
    assert found["pairs"] == closed_form(RoPE(8, 500.0), CONTEXT)
    assert (found["tokens"], found["context"], found["block"], found["complete"]) == (137, CONTEXT, 64, True)
    assert found["free"]["tolerance"] == 0.004
    assert found["free"]["pairs"] == [r["index"] for r in wanted if r["kind"] == "pair" and r["kl"] < 0.004]
    assert found["text"]["name"] == "text.txt"
    assert found["model"]["source"] == "m"
    assert plot.read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    own = wanted[0]
    assert f"{own['nats']:.4f} nats a token, perplexity {own['perplexity']:.4f}" in said
    for words in ("wavelength", "29.71", "drift", "loss from here on", "layer", f"{wanted[1]['kl']:.1e}", str(plot)):
        assert words in said
    assert said.count("Free to round, with a KL divergence below 0.004 nats") == 1


def test_the_pairs_that_it_names_can_be_used(text, tmp_path, capsys):
    out, used = tmp_path / "out.json", tmp_path / "used.json"
    arguments = ["--text", text, "--tokens", 61, "--dtype", "float64"]
    assert lm("rounding", *arguments, "--tolerance", "1e-4", "--json", out) == 0
    first = json.loads(out.read_text())["free"]["from_pair"]
    assert 0 < first < 4
    encodings = capsys.readouterr().out.partition("--encodings ")[2].split()[0].rstrip(".")
    assert encodings == f"resonance:from_pair={first}"
    assert lm("perplexity", *arguments, "--encodings", f"none,{encodings},resonance", "--json", used) == 0
    nats = [run["nats"] for run in json.loads(used.read_text())["runs"]]
    runs = {(run["kind"], run["index"]): run["nats"] for run in json.loads(out.read_text())["runs"]}
    assert nats == pytest.approx([runs["own", None], runs["from_pair", first], runs["all", None]], abs=1e-12)
    assert f"Resonance of own, pairs >= {first}" in capsys.readouterr().out


def test_rope_parameters_take_the_place_of_the_models_own(text, tmp_path):
    out, rope = tmp_path / "out.json", '{"rope_type": "linear", "factor": 4.0}'
    assert lm("rounding", "--text", text, "--tokens", 40, "--rope", rope, "--json", out) == 0
    wavelengths = [pair["wavelength"] for pair in json.loads(out.read_text())["pairs"]]
    assert wavelengths == pytest.approx(4 * RoPE(8, 500.0).wavelengths)
    assert all(run["change_error"] is None for run in json.loads(out.read_text())["runs"])  # there is but one block


def test_the_pipeline_of_transformers_rounds_its_own_tables(text, tmp_path):
    found = []
    for pipeline in ("exact", "transformers"):
        out = tmp_path / f"{pipeline}.json"
        arguments = ["--text", text, "--tokens", 61, "--dtype", "float64", "--pipeline", pipeline, "--json", out]
        assert lm("rounding", *arguments) == 0
        found.append(json.loads(out.read_text())["runs"])
    for one, other in zip(*found, strict=True):
        assert one["nats"] == pytest.approx(other["nats"], abs=1e-4)
        assert one["nats"] != other["nats"]


def test_the_sentence_says_what_is_free():
    runs = [{"kind": "layer", "index": i} for i in range(3)]
    runs += [{"kind": "from_pair", "index": i, "kl": 0.002, "change": -0.001, "change_error": 0.0005} for i in range(4)]
    found = {"pairs": closed_form(RoPE(8, 500.0), 64), "runs": runs}

    def say(first, pairs, layers):
        return sentence({**found, "free": {"tolerance": 0.01, "pairs": pairs, "layers": layers, "from_pair": first}})

    assert say(1, [1, 2, 3], []) == (
        "Free to round, with a KL divergence below 0.01 nats: together, pairs 1 to 3 (wavelengths of 29.7 tokens and "
        "more; KL 2.0e-03, loss -0.0010 ± 0.0005); alone, 1-3 of the 4 pairs and, with all pairs, none of the 3 layers."
        " Use it with --encodings resonance:from_pair=1."
    )
    assert "together, not even the slowest pair; alone, 1 of the 4 pairs and" in say(None, [1], [0, 2])
    assert "0, 2 of the 3 layers" in say(None, [1], [0, 2])
    assert "all pairs together; alone, all of the 4 pairs" in say(0, [0, 1, 2, 3], [0])
    assert say(0, [], []).endswith("Use it with --encodings resonance.")


def test_numbers_in_a_row_are_said_as_a_span():
    assert _some([0, 1, 2, 5, 7, 8], 9) == "0-2, 5, 7-8"
    assert (_some([], 3), _some([0, 1, 2], 3), _some([2], 3)) == ("none", "all", "2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tokens", "1"], "lm rounding: tokens is 1, expected an integer >= 2"),
        (["--tokens", "99999"], "lm rounding: tokens is 99999, but the text text.txt has"),
        (["--tokens", "90", "--context", "91"], "lm rounding: context is 91, expected an integer in [2, 90]"),
        (["--context", "1"], "lm rounding: context is 1, expected an integer in [2, 512]"),
        (["--tolerance", "0"], "lm rounding: tolerance is 0.0, expected a number > 0"),
        (["--tolerance", "nan"], "lm rounding: tolerance is nan"),
        (["--factor", "2"], "lm rounding: unknown option '--factor'"),
        (["--plot", "no/where.png"], "lm rounding: --plot no/where.png cannot be written"),
        (["--tokens", "90", "--rope", "{"], "lm: --rope is not JSON"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(arguments, words, text, capsys):
    assert lm("rounding", "--text", text, *arguments) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_what_can_be_told_before_is_told_before_a_model_is_loaded(text, loaded):
    for arguments in (["--tokens", "1"], ["--context", "1"], ["--tolerance", "-1"], ["--json", "."]):
        assert lm("rounding", "--text", text, *arguments) == 2
    assert lm("perplexity", "--text", text, "--encodings", "resonance:from=3") == 2
    assert loaded == []


def test_a_context_beyond_memory_is_refused_before_anything_is_read(text, monkeypatch, capsys):
    def refuse(config, batch, capacity, dtype):
        raise ValueError(f"KVCache: {batch} times {capacity} tokens need more memory than there is")

    monkeypatch.setattr(KVCache, "check_memory", refuse)
    monkeypatch.setattr("refrope.nn.transformer.Transformer.forward", lambda *a, **o: pytest.fail("it reads"))
    assert lm("rounding", "--text", text, "--tokens", 97, "--context", 47) == 2
    assert "2 times 47 tokens need more memory" in capsys.readouterr().err


def test_an_encoding_whose_wavelengths_are_whole_makes_a_figure_without_logarithms(text, tmp_path, monkeypatch):
    model = language_model()
    model.encoding = RoundedPairs(model.encoding, range(4))
    monkeypatch.setattr("refrope.lm.loading.load", lambda *a, **o: model)
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    assert lm("rounding", "--text", text, "--tokens", 40, "--json", out, "--plot", plot) == 0
    assert {run["kl"] for run in json.loads(out.read_text())["runs"]} == {0.0}
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_help_tells_defaults_and_an_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["lm", "rounding", "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "refrope lm rounding --model" in said
    assert "default 0.001 nats" in said
    assert "--factor" not in said
