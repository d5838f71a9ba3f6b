"""Encodings that users bring to `refrope posgen`, out of real small files."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refrope import RoPE, cli, plots
from refrope.encodings.remap import ReRoPE
from refrope.methods import METHODS, Lengths, configuration_of, encoding_of, label_of, method_of, order_of
from refrope.nn import PlaceBias
from refrope.own_encodings import own_encoding
from refrope.settings import ExperimentSettings

QUICK = ["--train-sequences", "16", "--test-sequences", "2", "--epochs", "3", "--backend", "numpy"]
FILE = """
from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np

import refrope as rr
from refrope.encodings import LinearPI
from refrope.encodings.pointers import Pointers
from refrope.encodings.remap import ReRoPE

@dataclass(frozen=True)
class Plain(rr.RotaryEncoding):
    pass

@dataclass(frozen=True)
class Stretched(rr.RotaryEncoding):  # takes all that an encoding may be given
    factor: float = 1.0
    original_length: int = 0
    train_length: int = 0
    test_length: int = 0

    def exact_stretch(self):
        return np.array([Decimal(self.factor)] * self.pairs)

@dataclass(frozen=True)
class Dynamic(rr.RotaryEncoding):  # plain up to the training length, interpolated beyond
    factor: float = 1.0
    original_length: int = 0

    def for_length(self, length):
        if length <= self.original_length:
            return rr.RoPE(self.head_dim)
        return LinearPI(self.head_dim, factor=self.factor)

@dataclass(frozen=True)
class Near(ReRoPE):
    window: int = 20

instance = rr.Resonance(rr.RoPE(64))
a_map = ReRoPE(rr.RoPE(64), 32)

def yarn(head_dim, train_length, test_length):
    return rr.YaRN(head_dim, factor=test_length / train_length, original_length=train_length, beta_fast=2.0)

def pointers(head_dim):
    return Pointers(rr.RoPE(head_dim), near=4)

def by_map(encoding, train_length):
    return ReRoPE(encoding, train_length // 2)

class Class:
    @staticmethod
    def method(head_dim, *rest, **others):
        return rr.RoPE(head_dim, base=100.0)
"""
BROKEN = """
from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

import refrope as rr
from refrope.encodings.remap import ReRoPE

number = 7
small = rr.RoPE(32)

class Other:
    pass

def none(head_dim):
    return None

def raises(head_dim):
    raise KeyError("deep\\ninside")

def needs(head_dim, width):
    return rr.RoPE(head_dim)

@dataclass(frozen=True)
class Undefined(rr.RotaryEncoding):
    def exact_stretch(self):
        return None

@dataclass(frozen=True)
class Late(rr.RotaryEncoding):  # well up to the training length
    def for_length(self, length):
        if length > 64:
            raise IndexError(f"nothing for {length}")
        return self

@dataclass(frozen=True)
class Nan(rr.RotaryEncoding):
    def cos_sin(self, positions, dtype=np.float32):
        cos, sin = super().cos_sin(positions, dtype)
        return cos, sin * np.float32("nan")

@dataclass(frozen=True)
class Double(rr.RotaryEncoding):
    def cos_sin(self, positions, dtype=np.float32):
        return super().cos_sin(positions, np.float64)

@dataclass(frozen=True)
class Wide(rr.RotaryEncoding):
    def cos_sin(self, positions, dtype=np.float32):
        return rr.RoPE(128).cos_sin(positions, dtype)

@dataclass(frozen=True)
class Flat(rr.RotaryEncoding):  # for one row of positions only
    def cos_sin(self, positions, dtype=np.float32):
        return rr.RoPE(64).cos_sin(np.ravel(positions), dtype)

@dataclass(frozen=True)
class Lost(ReRoPE):
    window: int = 20

    def passes(self, n):
        return [][n]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with a file of encodings, to work in."""
    (tmp_path / "below").mkdir()
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "below" / "broken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("mine", None)


def rows(here, *arguments):
    assert cli.main(["posgen", *QUICK, *arguments, "--out", str(here / "out")]) == 0
    return {row["encoding"]: row for row in json.loads((here / "out" / "results.json").read_text())["runs"]}


def numbers(row):
    return row["id_accuracy"], row["ood_accuracy"], row["accuracy_by_position"], row["curves"]


def test_what_is_ours_in_other_words_has_our_numbers(here):
    found = rows(here, "--encodings", "rope,mine.py:Plain,resonance-rope,mine:instance")
    assert [row["trained_with"] for row in found.values()] == list(found)
    assert numbers(found["mine.py:Plain"]) == numbers(found["rope"])
    assert numbers(found["mine:instance"]) == numbers(found["resonance-rope"])
    assert numbers(found["mine:instance"]) != numbers(found["rope"])


def test_maps_and_functions_have_the_numbers_of_ours_that_are_trained_with(here):
    names = "rerope,mine.py:a_map,mine.py:by_map,mine.py:yarn"
    found = rows(here, "--encodings", names, "--maps", "train", "--no-front-token", "--yarn", "train")
    assert found["mine.py:yarn"]["tested_with"].startswith("YaRN(head_dim=64")
    # Without the front token a model reads 63 and 255 tokens, and ReRoPE's window is half the former.
    assert found["rerope"]["tested_with"] == found["mine.py:by_map"]["tested_with"]
    assert numbers(found["rerope"]) == numbers(found["mine.py:by_map"])
    assert "window=32" in found["mine.py:a_map"]["tested_with"]
    assert numbers(found["mine.py:a_map"])[3] != numbers(found["rerope"])[3]


def test_an_encoding_is_in_its_form_for_the_training_and_for_each_test(here):
    found = rows(here, "--encodings", "rope,mine:Dynamic", "--test-lengths", "65,250")
    settings = ExperimentSettings(encodings=("mine:Dynamic",), test_lengths=(65, 250))
    assert settings.trained_encoding("mine:Dynamic").factor == 250 / 64
    assert settings.tested_encoding("mine:Dynamic", 65).factor == 65 / 64
    # Trained as RoPE, tested as position interpolation.
    assert found["mine:Dynamic"]["curves"]["loss"] == found["rope"]["curves"]["loss"]
    assert numbers(found["mine:Dynamic"])[:3] != numbers(found["rope"])[:3]


def test_classes_and_functions_are_given_what_they_name(here):
    made = own_encoding("mine:Stretched", 64, 65, 257)
    assert (made.factor, made.original_length, made.train_length, made.test_length) == (257 / 65, 65, 65, 257)
    assert made.base == 10_000.0
    assert own_encoding("mine:Near", 6, 65, 257) == own_encoding("mine:Near", 6, 9, 13)
    assert own_encoding("mine:Near", 6, 65, 257).encoding == RoPE(6)
    assert own_encoding("mine:by_map", 6, 65, 257) == ReRoPE(RoPE(6), 32)
    assert own_encoding("mine:Class.method", 10, 65, 257) == RoPE(10, base=100.0)
    assert own_encoding("refrope.encodings:Resonance", 10, 65, 257).encoding == RoPE(10)


def test_a_name_out_of_yarn_or_swapped_maps_is_trained_with_itself(here):
    settings = ExperimentSettings(encodings=("mine:yarn", "mine.py:a_map", "rerope"))
    assert [settings.trained_name(name) for name in settings.encodings] == ["mine:yarn", "mine.py:a_map", "rope"]


def test_workers_find_what_is_in_the_current_directory(here):
    # As the installed command has it, without the current directory on the path.
    start = "import sys; sys.path.remove(''); from refrope.cli import main; sys.exit(main())"
    command = ["posgen", *QUICK, "--encodings", "mine:Plain,mine.py:Dynamic"]
    found = []
    for processes in ("1", "2"):
        arguments = [*command, "--processes", processes, "--out", processes]
        done = subprocess.run([sys.executable, "-c", start, *arguments], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(Path(processes, "results.json").read_text())["runs"])
    assert [numbers(row) for row in found[0]] == [numbers(row) for row in found[1]]


def test_tables_figures_and_results_name_them(here, capsys):
    (here / "other.py").write_text(FILE)
    rows(here, "--encodings", "other.py:Plain,yarn,mine:yarn,mine:Plain,rope")
    said = capsys.readouterr().out
    labels = [line.split("  ")[1].strip() for line in said.splitlines() if line.startswith("cot  ")]
    assert labels == ["RoPE", "YaRN", "mine:Plain", "mine:yarn", "other.py:Plain"]
    assert said.count("YaRN rows: the model of the row without YaRN") == 1
    assert (here / "out" / "accuracy_by_position.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((here / "out" / "results.json").read_text())
    sources = results["settings"]["sources"]
    assert set(sources) == {"other.py:Plain", "mine:yarn", "mine:Plain"}
    assert len(set(sources.values())) == 1
    assert set(sources.values()) == {hashlib.sha256(FILE.encode()).hexdigest()}


def test_no_row_is_called_swapped_for_its_name(here, capsys):
    rows(here, "--encodings", "mine:yarn")
    assert "swapped in" not in capsys.readouterr().out


def test_labels_methods_and_order_have_a_place_for_them():
    assert label_of("deep/in/my.py:Turn") == "my.py:Turn"
    assert label_of("my.module:Turn") == "my.module:Turn"
    assert label_of("yarn") == "YaRN"
    assert label_of("of a later version") == "of a later version"
    method = method_of("deep/in/my.py:Turn")
    assert (method.label, method.source, method.rate) == ("my.py:Turn", "deep/in/my.py", 1.0)
    assert method_of("t5") == METHODS["t5"]
    with pytest.raises(ValueError, match="method_of: unknown encoding 'yarm'; did you mean 'yarn'"):
        method_of("yarm")
    assert sorted(["b:x", "string", "a:x", "rope"], key=order_of) == ["rope", "string", "b:x", "a:x"]


def test_they_add_nothing_to_the_model_but_numbers_for_the_places_of_a_map(here):
    config = ExperimentSettings().plain_model
    for name in ("Plain", "Near", "by_map"):
        assert configuration_of(f"mine.py:{name}", config, 65, 257) == config
    assert configuration_of("mine.py:pointers", config, 65, 257) == replace(config, bias=PlaceBias(9))


def test_a_map_with_places_trains_their_numbers(here):
    row = rows(here, "--encodings", "mine.py:pointers")["mine.py:pointers"]
    assert "near=4" in row["tested_with"]


def test_each_has_a_line_of_its_own_in_figures():
    names = ["rope", "a:x", "b:x", "yarn"]
    styles = list(plots.styles_of(names).values())
    assert len({tuple(style.items()) for style in styles}) == 4
    assert styles[0] == plots.STYLES["rope"]
    assert all(styles[i] not in plots.STYLES.values() for i in (1, 2))


def test_a_file_does_not_take_the_place_of_a_module_and_is_run_once(here, capsys):
    (here / "decimal.py").write_text("import refrope\nprint('run')\nvalue = refrope.RoPE(64)\n")
    before = sys.modules["decimal"]
    assert encoding_of("decimal.py:value", 64, Lengths(5, 9)) is encoding_of("./decimal.py:value", 64, Lengths(5, 9))
    assert sys.modules["decimal"] is before
    assert capsys.readouterr().out == "run\n"
    assert np.array_equal(encoding_of("decimal.py:value", 64, Lengths(5, 9)).inv_freq, RoPE(64).inv_freq)


def test_a_file_that_failed_is_run_again(here):
    (here / "late.py").write_text("raise RuntimeError('not yet')")
    with pytest.raises(ValueError, match=r"late\.py cannot be imported: RuntimeError: not yet"):
        own_encoding("late.py:value", 64, 5, 9)
    (here / "late.py").write_text("import refrope\nvalue = refrope.RoPE(64)\n")
    assert own_encoding("late.py:value", 64, 5, 9) == RoPE(64)


B = "below/broken.py"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:Mine", "nowhere cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("none.py:Mine", "none.py cannot be imported: FileNotFoundError"),
        ("mine.py:Plian", "mine.py has no Plian"),
        ("mine:Class.nothing", "mine has no Class.nothing"),
        ("mine:", "target is 'mine:', expected MODULE:NAME or FILE.py:NAME"),
        (f"{B}:number", f"{B}:number is 7, expected a RotaryEncoding or PositionMap, or a function that returns one"),
        (f"{B}:Other", "expected a RotaryEncoding or PositionMap, or a function that returns one"),
        (f"{B}:none", f"{B}:none returns None, expected a RotaryEncoding or PositionMap"),
        (f"{B}:raises", f"{B}:raises(head_dim=64) raises KeyError: 'deep\\ninside'"),
        (f"{B}:needs", f"{B}:needs needs width, expected arguments among head_dim, train_length, test_length, orig"),
        (f"{B}:small", f"{B}:small has head_dim 32, expected 64, the model's"),
        (f"{B}:Undefined", "tables of 64 tokens: NotImplementedError: Undefined defines neither exact_stretch nor"),
        (f"{B}:Late", f"{B}:Late: tables of 256 tokens: IndexError: nothing for 256"),
        (f"{B}:Nan", f"{B}:Nan has a table with NaN or infinity, expected finite numbers"),
        (f"{B}:Double", "has a table float64(64, 32), expected float32(64, r/2) with r <= 64"),
        (f"{B}:Wide", "has a table float32(64, 64), expected float32(64, r/2) with r <= 64"),
        (f"{B}:Lost", f"{B}:Lost: tables of 64 tokens: IndexError: list index out of range"),
        ("refrope.encodings:LongRoPE", "refrope.encodings:LongRoPE"),
    ],
)
def test_what_cannot_be_trained_is_one_line_before_any_training(here, name, message, capsys):
    assert cli.main(["posgen", "--encodings", f"rope,{name}", "--out", str(here / "out")]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("refrope: posgen: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not (here / "out").exists()


def test_tables_are_made_for_the_positions_of_the_training(here, capsys):
    name = f"{B}:Flat"
    ExperimentSettings(encodings=(name,))
    with pytest.raises(ValueError, match=r"has a table float32\(128, 32\), expected float32\(2, 64, r/2\)"):
        ExperimentSettings(encodings=(name,), positions="pose")


def test_a_module_that_ends_python_is_an_error_and_not_the_end(here, capsys):
    (here / "ends.py").write_text("import sys\nsys.exit(0)\n")
    assert cli.main(["posgen", "--encodings", "ends.py:x", "--out", "out"]) == 2
    assert "ends.py cannot be imported: SystemExit: 0" in capsys.readouterr().err


def test_an_encoding_with_two_rotations_is_refused(capsys, tmp_path):
    arguments = ["--tasks", "cot", "--encodings", "refrope:XPos", "--out", str(tmp_path / "out"), *QUICK]
    assert cli.main(["posgen", *arguments]) == 2
    assert "XPos turns queries and keys differently" in capsys.readouterr().err
