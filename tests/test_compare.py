"""`refrope compare`: where two encodings part."""

import json

import numpy as np
import pytest

from refrope import cli
from refrope.compare import SAME, comparison, relative_difference
from refrope.encodings import Llama3, ProportionalRoPE, Resonance, RoPE, YaRN

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 2048}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"head_dim": 32, "max_position_embeddings": 16384, "rope_parameters": YARN}))
    return str(path)


def compare_json(capsys, *arguments):
    assert cli.main(["compare", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_two_ramps_part_where_the_ramp_begins(capsys):
    arguments = ["yarn:ramp=index", "yarn:ramp=turns", "--original-length", "4096"]
    found = compare_json(capsys, *arguments)
    a, b = (YaRN(64, factor=4.0, original_length=4096, ramp=ramp).inv_freq for ramp in ("index", "turns"))
    difference = np.abs(a - b) / np.maximum(a, b)
    assert found["first_difference"] == np.flatnonzero(difference > SAME)[0] == 11
    assert found["largest_difference"] == {"pair": difference.argmax(), "relative": difference.max()}
    assert [pair["ratio"] for pair in found["pairs"]] == (b / a).tolist()
    assert [pair["inv_freq_b"] for pair in found["pairs"]] == b.tolist()
    assert cli.main(["compare", *arguments]) == 0
    said = capsys.readouterr().out
    assert f"They part at pair 11; largest relative difference {difference.max():.6g}, at pair 17." in said
    starred = [line for line in said.splitlines() if line.endswith("*")]
    assert len(starred) == (difference > SAME).sum()
    assert starred[0].split()[0] == "11"


def test_llama3_is_yarn_without_its_temperature(capsys):
    arguments = ["llama3:base=10000", "yarn:ramp=turns,beta_fast=4", "--factor", "8", "--original-length", "8192"]
    assert cli.main(["compare", *arguments]) == 0
    said = capsys.readouterr().out
    assert "The frequencies of all 32 pairs are the same (relative difference at most 1e-12)." in said
    assert "Attention factor: 1 and 1.20794." in said
    assert compare_json(capsys, *arguments)["first_difference"] is None


def test_a_difference_counts_above_the_tolerance_only():
    class Nudged(RoPE):
        nudge = 0.0

        def exact_inv_freq(self):
            values = self.plain_inv_freq()
            values[3] *= type(values[3])(1 + self.nudge)
            return values

    class Below(Nudged):
        nudge = SAME / 2

    class Above(Nudged):
        nudge = SAME * 2

    assert comparison(RoPE(64), Below(64))["first_difference"] is None
    assert comparison(RoPE(64), Above(64))["first_difference"] == 3


def test_a_pair_that_stands_still_differs_from_one_that_turns_by_all_of_it():
    still, plain = ProportionalRoPE(16, proportion=0.5), RoPE(16)
    found = comparison(still, plain)
    assert found["first_difference"] == 4
    assert found["largest_difference"] == {"pair": 4, "relative": 1.0}
    assert [pair["ratio"] for pair in found["pairs"][3:6]] == [1.0, None, None]
    assert comparison(plain, still)["pairs"][5]["ratio"] == 0.0
    assert comparison(still, still)["pairs"][5]["ratio"] == 1.0
    assert relative_difference(np.array([0.0, 2.0, 0.0]), np.array([0.0, 1.0, 3.0])).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("flip", [False, True])
def test_a_configuration_lends_its_sizes(config, flip, capsys):
    order = slice(None, None, -1 if flip else 1)
    found = compare_json(capsys, *[config, "yarn"][order])
    assert found["first_difference"] is None
    assert found["parameters"]["a"] == found["parameters"]["b"]
    found = compare_json(capsys, *[config, "resonance-yarn:factor=2"][order])
    mine = Resonance(YaRN(32, factor=2.0, original_length=2048))
    assert [pair[f"inv_freq_{'a' if flip else 'b'}"] for pair in found["pairs"]] == mine.inv_freq.tolist()


def test_length_is_for_both_unless_one_says(capsys):
    lengths = compare_json(capsys, "dynamic-ntk", "dynamic-ntk:length=128", "--length", "256")["parameters"]
    assert (lengths["a"]["length"], lengths["b"]["length"]) == (256, 128)


def test_llama3_keeps_its_own_base(capsys):
    found = compare_json(capsys, "llama3", "rope")["parameters"]
    assert (found["a"]["base"], found["b"]["base"]) == (Llama3(64).base, RoPE(64).base) == (500_000.0, 10_000.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rope"], "the following arguments are required: B"),
        (["rope", "yran"], "unknown encoding 'yran'; did you mean 'yarn'?"),
        (["rope", "yarn:ramb=turns"], "unknown option of yarn 'ramb'; did you mean 'ramp'?"),
        (["rope", "yarn:ramp=turn"], "unknown ramp 'turn'; did you mean 'turns'?"),
        (["rope", "rope:head_dim=32"], "A has 32 pairs and B has 16, expected as many"),
        (["rope", "rope", "--factor", "3"], "neither rope nor rope takes --factor"),
        (["rope", "yarn", "--factor", ""], "factor is '', expected a number"),
        (["rope", "yarn", "--facter", "3"], "unknown option '--facter'; did you mean '--factor'?"),
        (["rope", "yarn", "linear"], "unexpected argument 'linear'"),
        (["rope", "missing.json"], "refrope: missing.json: No such file or directory"),
        (["rope", "bad.json"], "bad.json is not JSON: "),
        (["config.json", "config.json", "--base", "1e6"], "neither config.json nor config.json takes --base"),
        (["rope", "config.json:len=3"], "unknown option of a configuration 'len'; did you mean 'length'?"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(arguments, words, config, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.startswith("refrope: ")
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize("others", [("rope", "xpos"), ("fope", "fope:padding=ones")])
def test_tables_may_differ_where_frequencies_do_not(capsys, others):
    assert cli.main(["compare", *others]) == 0
    said = capsys.readouterr().out
    assert "The frequencies of all 32 pairs are the same" in said
    assert "their tables may differ where these do not" in said
    assert cli.main(["compare", others[1], others[1]]) == 0
    assert "may differ" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["max_position_embeddings", "n_positions"])
def test_a_configuration_that_scales_nothing_lends_the_length_of_its_texts(capsys, tmp_path, name):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"head_dim": 32, name: 2048}))
    found = compare_json(capsys, str(path), "resonance-yarn")
    assert found["parameters"]["b"]["encoding"]["original_length"] == 2048


def test_fopes_training_length_is_an_option(capsys):
    found = compare_json(capsys, "fope:train_length=4096", "fope")
    assert [found["parameters"][side]["train_length"] for side in "ab"] == [4096, 64]
