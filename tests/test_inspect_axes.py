"""``refrope inspect`` of several axes: which id turns which pair, in text and JSON, and what it refuses."""

import json
import math

import pytest

from refrope.cli import main
from refrope.inspect_axes import NAMES_HERE, build


def said(capsys, *arguments):
    assert main(["inspect", *arguments]) == 0
    return capsys.readouterr().out


def axis_of(name, pair, pairs):
    """Which id a pair follows, by the published rules, for 64 pairs or the axial forms."""
    if name == "mrope":
        return 0 if pair < 16 else 1 if pair < 40 else 2
    if name == "mrope-interleaved":
        return pair % 3 if pair % 3 > 0 and pair < 60 else 0
    first = pair < pairs // 2
    return int(first) if name == "axial-offset" else int(not first)


@pytest.mark.parametrize("name", NAMES_HERE)
def test_each_pair_follows_the_axis_of_the_published_rule_at_its_speed(capsys, name):
    found = json.loads(said(capsys, name, "--json"))
    assert found["encoding"] == name
    assert len(found["pairs"]) == 64
    letters = ("t", "h", "w") if name.startswith("mrope") else ("row", "column")
    for pair in found["pairs"]:
        j = pair["pair"]
        assert pair["axis"] == axis_of(name, j, 64)
        assert pair["id"] == letters[pair["axis"]]
        exponent = j if name.startswith("mrope") else 2 * (j % 32)
        if name == "axial-evenodd":
            exponent = 2 * (j % 32) + (j >= 32)
        assert math.isclose(pair["inv_freq"], 10_000.0 ** (-2 * exponent / 128), rel_tol=1e-14)
        assert math.isclose(pair["wavelength"] * pair["inv_freq"], 2 * math.pi, rel_tol=1e-15)


@pytest.mark.parametrize("name", NAMES_HERE)
def test_the_text_has_a_line_for_each_pair(capsys, name):
    lines = said(capsys, name, "--head-dim", "32").splitlines()
    rows = [line.split() for line in lines if line.split()[:1] and line.split()[0].isdigit()]
    assert [int(row[0]) for row in rows] == list(range(16))
    assert [row[1] for row in rows] == [
        (("t", "h", "w") if name.startswith("mrope") else ("row", "column"))[axis] for axis in build(name, 32).axes
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mrope", "--head-dim", "20"], "inspect: head_dim is 20, expected one that has (16, 24, 24) of 64 pairs"),
        (["axial-shared", "--head-dim", "6"], "Axial2D: head_dim is 6, expected a multiple of 4"),
        (["mrope", "--base", "5"], "inspect: --base does not go with mrope, which takes --head-dim"),
        (["mrope", "--heads", "2"], "inspect: --heads does not go with mrope, which takes --head-dim"),
        (["axial-offset", "--plot", "x.png"], "inspect: --plot does not go with axial-offset, which takes --head-dim"),
        (["mrope", "--train-length", "9"], "inspect: --train-length does not go with mrope, which takes"),
        (["axial-evenod"], "axial-evenodd"),
    ],
)
def test_bad_input_is_one_clear_line(capsys, arguments, message):
    assert main(["inspect", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
