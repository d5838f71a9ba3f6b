"""`refrope inspect`: every encoding by name or configuration, as text, JSON and figure."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

import refrope
from refrope import cli
from refrope.analysis import circle_coverage, feature_gap, lcm_horizon
from refrope.encodings import (
    DynamicNTK,
    FoPE,
    LinearPI,
    Llama3,
    LongRoPE,
    NTKAware,
    NTKByParts,
    ProportionalRoPE,
    Resonance,
    RoPE,
    XPos,
    YaRN,
)
from refrope.encodings.names import CLASSES, NAMES, OPTIONS, Specification, encoding_from, options_of, parse
from refrope.report import parameters

DEFAULTS = {"head_dim": 64, "original_length": 64, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 2048}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}


@pytest.fixture
def config(tmp_path):
    def write(rope, **top):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"head_dim": 32, "max_position_embeddings": 8192, "rope_parameters": rope, **top}))
        return str(path)

    return write


def inspect_json(capsys, *arguments):
    assert cli.main(["inspect", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


# ---- a text means an encoding ----


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("rope", RoPE(64)),
        ("rope:base=500000,rotary-dim=32", RoPE(64, 500_000.0, rotary_dim=32)),
        ("yarn:factor=8,ramp=turns", YaRN(64, factor=8.0, original_length=64, ramp="turns")),
        ("yarn:dialect=resonance-paper", YaRN(64, original_length=64, dialect="resonance-paper")),
        ("yarn:truncate=false, mscale=1, mscale_all_dim=0.5",
         YaRN(64, original_length=64, truncate=False, mscale=1.0, mscale_all_dim=0.5)),
        ("linear", LinearPI(64, factor=4.0)),
        ("ntk:dialect=mixed,mixed-b=0.5", NTKAware(64, factor=4.0, dialect="mixed", mixed_b=0.5)),
        ("dynamic-ntk:length=200", DynamicNTK(64, factor=4.0, original_length=64, length=200)),
        ("ntk-by-parts:kept-turns=12/3",
         NTKByParts(64, factor=4.0, original_length=64, kept_turns=(12.0, 3.0))),
        ("llama3:factor=8,original_length=8192", Llama3(64, factor=8.0, original_length=8192)),
        ("longrope:head_dim=4,short_factor=1/2,long_factor=3",
         LongRoPE(4, short_factor=(1, 2), long_factor=(3, 3), original_length=64, factor=4.0)),
        ("xpos:gamma=0.5,centre=-8", XPos(64, gamma=0.5, centre=-8.0)),
        ("fope", FoPE(64, train_length=64)),
        ("proportional:proportion=0.25", ProportionalRoPE(64, proportion=0.25)),
        ("resonance-yarn:beta_fast=4", Resonance(YaRN(64, original_length=64, beta_fast=4.0))),
        ("resonance-linear:rounding=before", Resonance(LinearPI(64), "before")),
    ],
)  # fmt: skip
def test_a_name_with_options_is_this_encoding(text, encoding):
    assert encoding_from("test", parse("test", text), DEFAULTS) == encoding


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("yarn:truncate=true,target-ramp=TRUE", YaRN(64, original_length=64, target_ramp=True)),
        ("yarn:target_ramp=false", YaRN(64, original_length=64)),
        ("ntk-by-parts:linear_turns=2/1", NTKByParts(64, factor=4.0, original_length=64, linear_turns=(2.0, 1.0))),
        ("longrope:rotary_dim=4,short_factor=3,long_factor=1/2",
         LongRoPE(64, rotary_dim=4, short_factor=(3, 3), long_factor=(1, 2), original_length=64, factor=4.0)),
        ("longrope:short_factor=1,long_factor=2,head_dim=2,length=65",
         LongRoPE(2, short_factor=(1,), long_factor=(2,), original_length=64, factor=4.0, length=65)),
        ("proportional:factor=2", ProportionalRoPE(64, factor=2.0)),
        ("resonance-proportional:rounding=before", Resonance(ProportionalRoPE(64), "before")),
        ("fope:padding=ones", FoPE(64, train_length=64, padding="ones")),
        ("resonance-rope:", Resonance(RoPE(64))),
        ("rope: ,base=7, ", RoPE(64, 7.0)),
    ],
)  # fmt: skip
def test_what_a_text_may_also_say(text, encoding):
    assert encoding_from("test", parse("test", text), DEFAULTS) == encoding


def test_fope_takes_its_own_train_length_where_no_length_is_usual():
    assert encoding_from("test", parse("test", "fope"), {"head_dim": 8}) == FoPE(8)


def test_a_path_may_hold_any_character_and_be_followed_by_two_options():
    assert parse("test", "a:b,c=d.json") == ("", Path("a:b,c=d.json"), {}, None)
    assert parse("test", "x\n.json:layer-type= full ,length=7") == ("", Path("x\n.json"), {"length": 7}, "full")
    assert parse("test", "yarn:factor=4") == ("yarn", None, {"factor": 4.0}, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("yarn:truncate=yes", "test: truncate is 'yes', expected true or false"),
        ("yarn:factor=four", "test: factor is 'four', expected a number"),
        ("yarn:original_length=6.5", "test: original_length is '6.5', expected a whole number"),
        ("ntk-by-parts:kept_turns=16/x", "test: kept_turns is '16/x', expected numbers such as 1/2.5/4"),
        ("yarn:factor", "test: factor of yarn has no value, expected factor=VALUE"),
        ("yarn:factor= ", "test: factor of yarn has no value, expected factor=VALUE"),
        ("yarn:factor=4,factor=4", "test: factor of yarn is given twice"),
        ("rope:rounding=after", "test: unknown option of rope 'rounding'"),
        ("yarn:layer_type=full", "test: unknown option of yarn 'layer_type'"),
        ("a.json:factor=2", "test: unknown option of a configuration 'factor'"),
        ("resonence-rope", "test: unknown encoding 'resonence-rope'; did you mean 'resonance-rope'?"),
        ("longrope:short_factor=1", "test: longrope needs long_factor: one number a pair, as 1/1.5/2, or one for all"),
        ("longrope:long_factor=1", "test: longrope needs short_factor: one number a pair, as 1/1.5/2, or one for all"),
        ("longrope:short_factor=1/2,long_factor=1", "LongRoPE: short_factor has 2 numbers, expected 32"),
    ],
)
def test_a_text_that_means_nothing_says_why(text, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        encoding_from("test", parse("test", text), DEFAULTS)


def test_options_of_another_encoding_are_refused_here_too():
    text = Specification("rope", None, {"factor": 2.0})
    with pytest.raises(
        ValueError, match=r"^test: rope has no option factor; it takes head_dim, base, rotary_dim, length$"
    ):
        encoding_from("test", text, DEFAULTS)


def test_every_option_belongs_to_some_encoding_and_every_field_that_a_line_can_say_has_one():
    assert set().union(*(options_of(name) for name in NAMES)) == set(OPTIONS)
    unsayable = {"cos_coefficients", "sin_coefficients", "train_length"}  # of FoPE; the last is the train length
    unsayable |= {"lenient"}  # for configurations of models
    for name, kind in CLASSES.items():
        said = set(kind.__dataclass_fields__) - {"_"}
        assert said - unsayable <= set(options_of(name)), name


@pytest.mark.parametrize("name", [name for name in NAMES if "longrope" not in name])
def test_every_name_is_inspected_without_options(name, capsys):
    found = inspect_json(capsys, name)
    encoding = encoding_from("test", parse("test", name), DEFAULTS)
    assert found["parameters"] == json.loads(json.dumps(parameters(encoding)))
    assert [pair["inv_freq"] for pair in found["pairs"]] == encoding.inv_freq.tolist()
    assert cli.main(["inspect", name]) == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if " pre " in line or " post " in line]) == 32


# ---- what is printed ----


def test_json_has_the_numbers_of_the_library(capsys):
    found = inspect_json(capsys, "yarn", "--factor", "8", "--train-length", "128", "--test-length", "512")
    encoding = YaRN(64, factor=8.0, original_length=128)
    assert (found["train_length"], found["test_length"]) == (128, 512)
    assert found["parameters"]["class"] == "YaRN"
    assert found["parameters"]["factor"] == 8.0
    for key, values in {
        "inv_freq": encoding.inv_freq,
        "stretch": encoding.stretch,
        "wavelength": encoding.wavelengths,
        "period": Resonance(encoding).periods,
        "feature_gap": feature_gap(encoding, 128, 512),
        "coverage": circle_coverage(encoding, 128),
    }.items():
        assert [pair[key] for pair in found["pairs"]] == values.tolist(), key
    assert [pair["critical"] == "pre" for pair in found["pairs"]] == (encoding.wavelengths < 128).tolist()
    summary = found["summary"]
    assert summary["attention_factor"] == encoding.attention_factor
    assert summary["pre_critical_pairs"] == refrope.critical_pair(encoding, 128)
    assert summary["lcm_horizon"] == lcm_horizon(encoding, 128)
    assert summary["collisions"] == []
    assert summary["table_bytes"]["dense"] == 2 * 4 * 32 * 512
    assert summary["softmax_factor"] == 1.0


def test_collisions_are_listed(capsys):
    collisions = inspect_json(capsys, "rope", "--head-dim", "256")["summary"]["collisions"]
    assert [one["period"] for one in collisions] == [7, 8, 10]
    assert all(len(one["pairs"]) == 2 for one in collisions)


def test_what_is_infinite_is_null_and_what_is_beyond_int64_too(capsys):
    still = inspect_json(capsys, "proportional", "--proportion", "0")["pairs"]
    assert {(pair["inv_freq"], pair["stretch"], pair["wavelength"], pair["period"]) for pair in still} == {
        (0.0, None, None, 0)
    }
    huge = inspect_json(capsys, "rope", "--base", "1e300")
    assert huge["pairs"][0]["period"] is None
    assert huge["summary"]["lcm_horizon"] is None
    assert cli.main(["inspect", "--base", "1e300"]) == 0


def test_length_takes_the_form_in_force(capsys):
    found = inspect_json(capsys, "dynamic-ntk", "--length", "256")
    assert found["parameters"]["length"] == 256
    want = DynamicNTK(64, factor=4.0, original_length=64, length=256)
    assert [pair["inv_freq"] for pair in found["pairs"]] == want.inv_freq.tolist()
    assert cli.main(["inspect", "dynamic-ntk"]) == 0
    assert "The feature gap is that of the encoding in force at 256 tokens" in capsys.readouterr().out
    assert cli.main(["inspect", "dynamic-ntk", "--length", "256"]) == 0
    assert "in force" not in capsys.readouterr().out


def test_deepseeks_softmax_factor_is_printed(capsys):
    assert cli.main(["inspect", "yarn:mscale=1,mscale_all_dim=1"]) == 0
    said = capsys.readouterr().out
    assert "Attention factor 1.\n" in said
    assert f"Softmax factor {(0.1 * math.log(4) + 1) ** 2:.6g}." in said


@pytest.mark.parametrize("name", ["yarn", "resonance-proportional:proportion=0.5", "fope", "rope:head_dim=2"])
def test_the_figure_is_a_png(name, tmp_path, capsys):
    path = tmp_path / "pairs.png"
    assert cli.main(["inspect", name, "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"Written: {path}" in capsys.readouterr().out


def test_without_matplotlib_plot_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert cli.main(["inspect", "--plot", str(tmp_path / "pairs.png")]) == 2
    said = capsys.readouterr()
    assert said.err == "refrope: inspect: --plot needs matplotlib (pip install 'refrope[experiments]')\n"
    assert said.out == ""


# ---- configurations ----


@pytest.mark.parametrize("how", [["--huggingface"], []])
def test_a_configuration_is_inspected_with_its_own_lengths(how, config, capsys):
    found = inspect_json(capsys, *how, config(YARN))
    assert (found["train_length"], found["test_length"]) == (2048, 8192)
    want = YaRN(32, factor=4.0, original_length=2048)
    assert [pair["inv_freq"] for pair in found["pairs"]] == want.inv_freq.tolist()


def test_of_nested_layers_one_is_chosen(config, capsys):
    path = config({"full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 1e3}})
    found = inspect_json(capsys, "--huggingface", path, "--layer-type", "sliding_attention")
    assert (found["parameters"]["class"], found["parameters"]["base"]) == ("RoPE", 1000.0)
    assert inspect_json(capsys, f"{path}:layer_type=full_attention")["parameters"]["class"] == "YaRN"
    assert cli.main(["inspect", path]) == 2
    assert "choose a layer_type of 'full_attention', 'sliding_attention'" in capsys.readouterr().err


def test_warnings_are_one_line_each_on_standard_error(config, capsys):
    path = config({**DYNAMIC, "beta_fast": 3})
    assert cli.main(["inspect", "--huggingface", path, "--length", "16384"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"refrope: {path}: ") for line in lines)
    assert "rope_type 'dynamic'" in lines[0]
    assert "ignored by rope_type 'dynamic': beta_fast" in lines[1]


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["yran:factor=4"], "unknown encoding 'yran'; did you mean 'yarn'?"),
        (["resonance-yran"], "did you mean 'resonance-yarn'?"),
        (["yarn:facter=4"], "unknown option of yarn 'facter'; did you mean 'factor'?"),
        (["yarn:factor=x"], "factor is 'x', expected a number"),
        (["yarn:factor"], "factor of yarn has no value, expected factor=VALUE"),
        (["yarn:factor=2,factor=3"], "factor of yarn is given twice"),
        (["yarn:factor=2", "--factor", "3"], "factor is given twice, in 'yarn:factor=2' and as --factor"),
        (["rope", "--factor", "4"], "rope has no option factor; it takes head_dim, base"),
        (["--betafast", "3"], "unknown option '--betafast'; did you mean '--beta-fast'?"),
        (["rope", "yarn"], "unexpected argument 'yarn'"),
        (["--head-dim", "x"], "head_dim is 'x', expected a whole number"),
        (["--train-length", "1.5"], "argument --train-length: invalid int value: '1.5'"),
        (["--train-length", "0"], "train_length is 0, expected an integer >= 1"),
        (["--plot"], "argument --plot: expected one argument"),
        (["yarn", "--truncate", "maybe"], "truncate is 'maybe', expected true or false"),
        (["yarn", "--dialect", "codes"], "unknown dialect 'codes'; did you mean 'code'?"),
        (["yarn", "--base", "nan"], "base is nan, expected a finite number > 1"),
        (["ntk-by-parts:kept_turns=2/x"], "kept_turns is '2/x', expected numbers such as 1/2.5/4"),
        (["longrope"], "longrope needs short_factor: one number a pair"),
        (["longrope", "--short-factor", "1/2", "--long-factor", "1"], "short_factor has 2 numbers, expected 32"),
        (["resonance-rope", "--rounding", "befor"], "did you mean 'before'?"),
        (["--length", "-1"], "length is -1, expected an integer >= 0"),
        (["rope", "--layer-type", "a"], "--layer-type needs a configuration"),
        (["rope", "--huggingface", "config.json"], "got both NAME 'rope' and --huggingface, expected one of them"),
        (["--huggingface", "config.json", "--base", "3"], "--base does not go with a configuration"),
        (["--huggingface", "missing.json"], "refrope: missing.json: No such file or directory"),
        (["missing.json"], "refrope: missing.json: No such file or directory"),
        (["config.json:layer=2"], "unknown option of a configuration 'layer'; did you mean 'layer_type'?"),
        (["--huggingface", "bad.json"], "bad.json is not JSON: "),
        (["--huggingface", "half.json"], "factor is -0.5, expected a number > 0"),
        (
            ["--plot", "missing/pairs.png"],
            "inspect: --plot missing/pairs.png cannot be written: missing is no directory",
        ),
        (["--plot", "pairs.xyz"], "'xyz' is not supported"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(arguments, words, capsys, tmp_path, monkeypatch, config):
    config({"rope_type": "default", "rope_theta": 1e4})
    (tmp_path / "bad.json").write_text("{'head_dim': 64}")
    (tmp_path / "half.json").write_text(json.dumps({"head_dim": 64, "rope_parameters": {**DYNAMIC, "factor": -0.5}}))
    before = set(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.startswith("refrope: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert set(tmp_path.iterdir()) == before


def test_the_texts_of_numbers_round_trip():
    for value in np.nextafter([4.0, 1e-3, 1e5], np.inf):
        specification = parse("test", f"yarn:beta_slow={float(value)!r},beta_fast=1e9")
        assert specification.options["beta_slow"] == value


def test_a_configuration_may_call_its_longest_text_otherwise(capsys, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"head_dim": 32, "n_positions": 2048}))
    assert cli.main(["inspect", "--huggingface", str(path)]) == 0
    assert "from 2048 to 8192 tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["resonance-rope", "--train-length", str(2**63)], ["rope", "--test-length", "9" * 400]]
)
def test_lengths_beyond_positions_are_refused(capsys, arguments):
    assert cli.main(["inspect", *arguments]) == 2
    assert "_length is beyond 2^63 - 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["rope", "alibi"])
def test_a_figure_has_the_name_that_was_asked_for(capsys, tmp_path, name):
    pytest.importorskip("matplotlib")
    assert cli.main(["inspect", name, "--plot", str(tmp_path / "figure")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["figure"]
    assert (tmp_path / "figure").read_bytes().startswith(b"\x89PNG")
