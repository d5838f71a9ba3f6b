"""`refrope explore`: one page that needs nothing else, and options that are checked."""

import json
import os
import re
from html.parser import HTMLParser

import pytest

import refrope
from refrope import cli
from refrope.explorer import CATALOGUE, page, page_text
from refrope.explorer import command as explorer_command

LONGEST = 400  # lines of a module, as for Python
START = {
    **{"variant": "rope", "resonance": False, "head_dim": 64, "base": 10_000},
    **{"train_length": 64, "test_length": 256, "factor": None},
}
MODULE_FILES = sorted((page.FOLDER / "script").glob("*.mjs"))


class Elements(HTMLParser):
    """Names, attributes and texts of all elements."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.found.append((name, dict(attributes)))


def explore(tmp_path, *arguments):
    out = tmp_path / "explorer.html"
    assert cli.main(["explore", "--out", str(out), *arguments]) == 0
    return out.read_text()


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])


# ---- one file ----


def test_the_page_is_one_file_that_names_nothing_outside_of_it(tmp_path):
    text = explore(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["explorer.html"]
    for name, attributes in Elements(text).found:
        for key in ("src", "href", "action", "data", "srcset", "poster"):
            target = attributes.get(key)
            assert target is None or target.startswith("#") or target == "data:,", (name, key, target)
    outside = {match for match in re.findall(r"\w+://[\w./-]+", text) if match != "http://www.w3.org/2000/svg"}
    assert outside == set(), "the SVG namespace is the only address, and nobody fetches it"
    for way in ("@import", "url(", "fetch(", "XMLHttpRequest", "WebSocket", "sendBeacon", "import(", "EventSource"):
        assert way not in text, way


def test_the_browser_is_told_to_fetch_nothing(tmp_path):
    policy = next(
        a["content"] for _, a in Elements(explore(tmp_path)).found if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|\*|connect-src", policy)


def test_every_slot_is_filled_and_no_text_ends_an_element_early():
    text = page_text({**START, "variant": "</script>"})
    assert "{{" not in re.sub(r"`[^`]*`", "", text)
    assert data_of(text)["start"]["variant"] == "</script>"
    assert text.count("</script>") == 2
    assert text.count("</style>") == 1


def test_the_same_start_gives_the_same_bytes():
    assert page_text(START) == page_text(dict(reversed(START.items())))
    assert refrope.__version__ in page_text(START)


# ---- the modules of the script ----


def test_all_modules_are_in_the_page_and_import_only_those_before_them():
    assert sorted(page.MODULES) == [path.stem for path in MODULE_FILES]
    for i, name in enumerate(page.MODULES):
        imported = re.findall(r'from "\./(\w+)\.mjs"', (page.FOLDER / "script" / f"{name}.mjs").read_text())
        assert set(imported) <= set(page.MODULES[:i]), name


def test_no_two_modules_have_a_name_in_common():
    names = []
    for path in MODULE_FILES:
        found = re.findall(
            r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+)", path.read_text(), re.MULTILINE
        )
        names += found
        names += re.findall(r"\w+", " ".join(re.findall(r"^(?:const|let) [{[](.*?)[}\]]", path.read_text(), re.M)))
    assert len(names) > 50
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})


def test_imports_and_the_word_export_are_gone_from_the_page_and_nothing_else_is():
    script = page.script_text()
    assert not re.search(r"^(import|export)\b", script, re.MULTILINE)
    for path in MODULE_FILES:
        for line in path.read_text().splitlines():
            if not line.startswith("import "):
                assert line.removeprefix("export ") in script, (path.name, line)


@pytest.mark.parametrize("path", MODULE_FILES, ids=lambda path: path.stem)
def test_scripts_stay_readable(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST
    assert max(map(len, lines)) <= 120
    assert lines[0].startswith("// ")


# ---- the markup ----


def test_every_control_has_a_label_and_every_reference_a_target():
    elements = Elements(page_text(START)).found
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {attributes["for"] for name, attributes in elements if name == "label" and "for" in attributes}
    for name, attributes in elements:
        for key in ("for", "aria-labelledby", "aria-describedby", "form"):
            assert attributes.get(key) is None or attributes[key] in ids, attributes
        if name in ("input", "select") and attributes.get("type") != "checkbox":  # those stand in their labels
            assert "aria-label" in attributes or attributes["id"] in labelled, attributes


def test_ids_that_the_script_asks_for_are_in_the_page():
    text = page_text(START)
    ids = {attributes["id"] for _, attributes in Elements(text).found if "id" in attributes}
    asked = set(re.findall(r"\$\(\"([\w-]+)\"\)", text))
    assert len(asked) > 8
    assert asked <= ids


# ---- the catalogue ----


@pytest.mark.parametrize("name", CATALOGUE["variants"])
def test_a_variant_is_a_class_of_refrope_that_has_these_fields_and_dialects(name):
    variant = CATALOGUE["variants"][name]
    values = {"factor": 4.0, "original_length": 64, "length": 128}
    kind = getattr(refrope, variant["class"])
    taken = {key: values[key] for key in variant["takes"]}
    assert kind.__name__ == type(refrope.encodings.names.CLASSES[name](64)).__name__
    assert kind(head_dim=64, **taken).pairs == 32
    for dialect, fields in variant.get("dialects", {}).items():
        assert kind(head_dim=64, **taken, dialect=dialect) == kind(head_dim=64, **taken, **fields)


# ---- the command ----


def test_options_are_what_the_page_starts_with(tmp_path):
    arguments = ["--variant=yarn", "--resonance", "--head-dim=128", "--base=5e5", "--train-length=4096", "--factor=2.5"]
    start = data_of(explore(tmp_path, *arguments))["start"]
    assert start == {
        **{"variant": "yarn", "resonance": True, "head_dim": 128, "base": 500_000.0, "train_length": 4096},
        **{"test_length": 16_384, "factor": 2.5, "dialect": None, "positions": "exact", "pair": 8},
    }


def test_without_options_it_is_rope_of_the_paper_s_size(tmp_path):
    start = data_of(explore(tmp_path))["start"]
    assert {key: start[key] for key in START} == START


def test_a_test_length_that_nobody_gave_stays_within_the_page(tmp_path):
    assert data_of(explore(tmp_path, "--train-length", "65536"))["start"]["test_length"] == 131_072


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--variant yarm", "explore: unknown variant 'yarm'; did you mean 'yarn'?"),
        ("--head-dim 63", "explore: head_dim is 63, expected an even number: features turn in pairs"),
        ("--head-dim 2", "explore: head_dim is 2, expected an integer in [4, 512]"),
        ("--head-dim many", "argument --head-dim: invalid int value: 'many'"),
        ("--base 1", "explore: base is 1.0, expected a number in [2, 1000000000000]"),
        ("--base 1e13", "explore: base is 10000000000000.0, expected a number in [2, 1000000000000]"),
        ("--base nan", "explore: base is nan, expected a number in [2, 1000000000000]"),
        ("--train-length 0", "explore: train_length is 0, expected an integer in [1, 65536]"),
        ("--train-length 64 --test-length 64", "explore: test_length is 64, expected an integer in [65, 131072]"),
        ("--test-length 131073", "explore: test_length is 131073, expected an integer in [65, 131072]"),
        ("--variant yarn --factor 0.5", "explore: factor is 0.5, expected a number in [1, 1024]"),
        ("--factor 4", "explore: rope takes no factor"),
        ("--out missing/page.html", "explore: --out missing/page.html cannot be written: missing is no directory"),
        ("--out .", "explore: --out . is a directory, expected a file"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_words_and_nothing_is_written(
    tmp_path, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["explore", *arguments.split()]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
    out = tmp_path / "explorer.html"
    out.write_text("what was there")

    def full(*_):
        raise OSError(28, "No space left on device", str(out))

    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(["explore", "--out", str(out)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert out.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(("opens", "words"), [(True, ""), (False, "No browser was found")])
def test_open_shows_the_written_file(tmp_path, monkeypatch, capsys, opens, words):
    asked = []
    monkeypatch.setattr(explorer_command.webbrowser, "open", lambda address: asked.append(address) or opens)
    explore(tmp_path, "--open")
    assert asked == [(tmp_path / "explorer.html").as_uri()]
    said = capsys.readouterr().out
    assert said.startswith(f"Written: {tmp_path / 'explorer.html'}")
    assert words in said
