"""Results that come with the sources: reports read them, and tables of README.md and the results' page are theirs."""

import json
from pathlib import Path

import pytest

from refrope.report.comparing import resonance_comparisons
from refrope.report.contents import gather
from refrope.report.reading import read
from refrope.report.result_tables import interval_text, percent, spread_text

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "tutorials" / "results"
README = "\n".join((folder / "README.md").read_text(encoding="utf-8") for folder in (ROOT, SHIPPED))
RULES, LATIN = (
    json.loads((SHIPPED / "posgen-rules" / f"{name}.json").read_text(encoding="utf-8")) for name in ("results", "latin")
)
TASKS = ("recursive", "cot", "semirecursive")


def cells_of(name):
    return gather(read([SHIPPED / name]))


def spread(found):
    return spread_text(found.mean, found.deviation)


# ---- accuracies


@pytest.mark.parametrize(
    "name", ["posgen-tiny", "posgen-methods", "posgen-reproduction", "posgen-pointers", "posgen-paper"]
)
def test_shipped_results_can_be_read(name):
    cells = cells_of(name)
    assert cells.varying == ()
    assert all(cell.rows and not cell.failed for cell in cells.cells)


def test_shipped_results_give_the_numbers_that_the_readme_has():
    by_name = {(cell.encoding, cell.test_length): cell for cell in cells_of("posgen-methods").cells}
    shown = {
        ("rope", 256): "98.4 ± 0.1, 45.5 ± 10.0",
        ("dape", 256): "61.9 ± 31.6, 63.2 ± 32.1",
        ("resonance-yarn", 1024): "82.6 ± 3.4, 36.8 ± 10.4",  # the README has the ID accuracy of the shorter test only
        ("rerope", 1024): "98.4 ± 0.1, 98.7 ± 0.8",
    }
    for place, numbers in shown.items():
        found = [by_name[place].estimate("id_accuracy"), by_name[place].estimate()]
        assert ", ".join(map(spread, found)) == numbers


def test_the_readmes_reproduction_is_the_shipped_one():
    cells = cells_of("posgen-reproduction")
    assert [len(cell.seeds) for cell in cells.cells] == [5] * 12
    for cell in cells.cells:
        assert f"{spread(cell.estimate())} (" in README
    for each in resonance_comparisons(cells):
        found = each.paired.difference
        interval = interval_text(found.student).replace("[", r"\[").replace("]", r"\]")
        assert f"{percent(found.mean)} {interval} (" in README


def test_what_the_readme_says_of_the_papers_preset_is_shipped():
    found = {cell.encoding: cell for cell in cells_of("posgen-paper").cells}
    plain, rounded, yarn, both = (found[name] for name in ("rope", "resonance-rope", "yarn", "resonance-yarn"))
    within = [percent(cell.estimate("id_accuracy").mean) for cell in (plain, rounded)]
    beyond = [percent(cell.estimate().mean) for cell in (plain, rounded, yarn, both)]
    assert "{} % with RoPE, {} with Resonance RoPE".format(*within) in README
    assert "it comes to {} and {} %".format(*beyond[:2]) in README
    assert "with YaRN to {} and with Resonance YaRN to {} %".format(*beyond[2:]) in README


def test_the_readmes_ablations_are_the_shipped_ones():
    cells = cells_of("posgen-ablations")
    assert {cell.seeds for cell in cells.cells} == {(1, 2, 3)}
    # With the length of the test the two ramps differ by a point at most: README has the one by index.
    shown = [cell for cell in cells.cells if {("yarn_ramp", "turns"), ("yarn_length", "test")} - set(cell.settings)]
    assert len(shown) == 30
    for cell in shown:
        assert f"| {spread(cell.estimate())} |" in README


def test_the_readmes_pointers_are_the_shipped_ones():
    cells = gather(read([SHIPPED / "posgen-pointers", SHIPPED / "posgen-pointers-latin"])).cells
    names = {"pointers": "pointers", "window": "a window of 8 keys", "alibi": "ALiBi"}
    shown = 0
    for cell in cells:
        if cell.test_length != 256:
            continue
        (rule,) = (value for name, value in cell.settings if name == "rule")
        same = (cell.task, cell.encoding, cell.settings)
        lengths = {c.test_length: c for c in cells if (c.task, c.encoding, c.settings) == same}
        numbers = [spread(lengths[length].estimate()) for length in (256, 1024, 4096)]
        task = cell.task + (", Latin square" if rule == "latin" else "")
        assert f"| {names[cell.encoding]} | {task} | {len(cell.seeds)} | {' | '.join(numbers)} |" in README
        shown += 1
    assert shown >= 5


def test_what_the_readme_says_of_the_rules_of_pointers_is_shipped():
    for file, rule in (("rules.json", "rule of four"), ("rules-latin.json", "rule")):
        results = json.loads((SHIPPED / "posgen-pointers" / file).read_text(encoding="utf-8"))
        (found,) = (
            entry
            for entry in results["models"][0]["following"]
            if (entry["sequences"], entry["place"], entry["steps"], entry["where"])
            == ("slips", "after", "two tokens", "beyond")
        )
        said = f"{percent(found['rule'])} %", f"{percent(found['shortcut'])} %"
        section = README[README.index("## Beyond the paper: pointers") :]
        assert f"the {rule} at" in section
        assert all(words in section for words in said)


# ---- which rule a model uses


def entry(task, recipe, kind, *, results=RULES, **wanted):
    """The one entry of a model that fits."""
    (model,) = (m for m in results["models"] if (m["task"], m["settings"]["recipe"]) == (task, recipe))
    (found,) = (
        e for e in model[kind] if all(e[name] == value for name, value in {"where": "within", **wanted}.items())
    )
    return found


def line(about, numbers):
    return f"| {about} | " + " | ".join(map(percent, numbers)) + " |"


def test_the_readmes_latin_square_is_the_shipped_one():
    slips = [
        entry(t, "held-out", "following", results=LATIN, sequences="slips", place="after", steps="two tokens")
        for t in TASKS
    ]
    for words, name in (("the rule of four", "rule"), ("the shortcut", "shortcut")):
        numbers = [each[name] for each in slips]
        assert line(f"after a token that breaks the rule: follow {words}", numbers) in README


def test_the_readmes_table_of_rules_is_the_shipped_one():
    steps, true = {"steps": "two tokens"}, {"sequences": "true", "place": "all"}
    four = {"recursive": "first", "cot": "first", "semirecursive": "far token too"}
    slips = [entry(t, "held-out", "following", sequences="slips", place="after", **steps) for t in TASKS]
    held = {"context": "held out", **steps}
    rows = {
        "right, where two tokens are enough": [
            entry(t, "held-out", "following", **true, **steps)["rule"] for t in TASKS
        ],
        "right, where four are needed (the first step; every second one)": [
            entry(t, "held-out", "following", **true, steps=four[t])["rule"] for t in TASKS
        ],
        "after a token that breaks the rule: follow the rule of four": [each["rule"] for each in slips],
        "after a token that breaks the rule: follow the rule of two": [each["shortcut"] for each in slips],
        "right, where these four tokens never came together in training": [
            entry(t, "held-out", "contexts", of="rule", **held)["accuracy"] for t in TASKS
        ],
        "right, where these two never did (a model trained without 3 of 289 pairs)": [
            entry(t, "held-out-pairs", "contexts", of="pair", **held)["accuracy"] for t in TASKS
        ],
    }
    for about, numbers in rows.items():
        assert line(about, numbers) in README


def test_what_the_page_says_of_random_tables_and_of_cycles_is_shipped():
    shares = {
        (found["rule"], found["task"]): [round(100 * value) for value in (found["mean"], *_ends(found["repeating"]))]
        for found in RULES["tasks"]["random_rules"]
    }
    recursive, cot = shares["table", "recursive"], shares["table", "cot"]
    said = "on average {} % of recursive's ({} to {}) and {} % of cot's sequences ({} to {}) run into a cycle"
    assert said.format(*recursive, *cot) in README
    latin = {
        found["task"]: 100 * found["cycles"]["repeating"]["64"]
        for found in RULES["tasks"]["cycles"]
        if found["rule"] == "latin" and found["task"] != "semirecursive"
    }
    assert f"under which {latin['recursive']:.1f} and {latin['cot']:.1f} % do" in README


def _ends(values):
    return min(values), max(values)


def test_what_the_page_says_of_attention_beyond_the_training_length_is_shipped():
    far, farther = ([round(100 * _attention_from(task, distance)) for task in TASKS] for distance in (65, 130))
    assert min(far) > 50  # "most"
    said = "most of the attention of the second layer ({}, {} and {} %; those at 130 and more {}, {} and {} %)"
    assert said.format(*far, *farther) in " ".join(README.split())


def _attention_from(task, distance):
    """The share that both heads of the second layer give, beyond 64 tokens, to keys at `distance` and more."""
    model = next(each for each in RULES["models"] if each["task"] == task)
    rows = [row["by_distance"] for row in model["attention"] if (row["layer"], row["where"]) == (1, "beyond")]
    queries = range(64, len(rows[0]))
    having = [sum(query >= each for query in queries) for each in range(1, len(rows[0]) + 1)]
    totals = [sum(w * n for w, n in list(zip(row, having, strict=True))[distance - 1 :] if n) for row in rows]
    return sum(totals) / len(totals) / len(queries)


def test_the_errors_of_libraries_on_the_front_page_are_the_shipped_ones():
    errors = json.loads((SHIPPED / "conformance" / "libraries.json").read_text(encoding="utf-8"))["errors"]
    cells = [f"off by up to {max(errors[name]):.4f}" for name in ("transformers", "rotary-embedding-torch")]
    assert f"| within 3e-8 | {' | '.join(cells)} |" in README
