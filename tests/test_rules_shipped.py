"""The numbers that README gives of `refrope rules` are those of the shipped results."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODELS = json.loads((ROOT / "tutorials/results/posgen-rules/results.json").read_text(encoding="utf-8"))["models"]
TASKS = ("recursive", "cot", "semirecursive")


def entry(task, recipe, kind, **wanted):
    """The one entry of a model that fits."""
    (model,) = (m for m in MODELS if (m["task"], m["settings"]["recipe"]) == (task, recipe))
    (found,) = (
        e for e in model[kind] if all(e[name] == value for name, value in {"where": "within", **wanted}.items())
    )
    return found


def line(about, numbers):
    return f"| {about} | " + " | ".join(f"{100 * number:.1f}" for number in numbers) + " |"


def test_the_readmes_table_of_rules_is_the_shipped_one():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
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
        assert line(about, numbers) in readme
