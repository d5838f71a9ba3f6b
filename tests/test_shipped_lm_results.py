"""Results of language models that come with the sources: what tutorials/results/README.md says of them is theirs."""

import json
import math
import statistics
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "tutorials" / "results"
PAGE, FRONT = (" ".join((folder / "README.md").read_text(encoding="utf-8").split()) for folder in (SHIPPED, ROOT))


def results(folder, name):
    return json.loads((SHIPPED / folder / f"{name}.json").read_text(encoding="utf-8"))


def rows_of(name):
    """The rows of all runs of a sweep."""
    paths = sorted((SHIPPED / name / "runs").glob("*/result.json"))
    return [row for path in paths for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def by_encoding(found):
    """Perplexities of each encoding, shortest context first."""
    lines = {}
    for run in sorted(found["runs"], key=lambda run: run["tokens"]):
        lines.setdefault(run["encoding"], []).append(run["perplexity"])
    return lines


def test_the_perplexities_of_the_models_own_encoding_are_the_shipped_ones():
    (line,) = by_encoding(results("lm-perplexity", "own")).values()
    assert len(line) == 5
    assert "{:.4f}, {:.4f}, {:.4f}, {:.4f} and, beyond its context, {:.4f}".format(*line) in PAGE


def test_the_table_of_swapped_encodings_is_the_shipped_one():
    lines = by_encoding(results("lm-perplexity", "swapped")) | by_encoding(results("lm-perplexity", "swapped-more"))
    names = {"none": "its own", "resonance": "Resonance of its own", "linear": "position interpolation"}
    names |= {"resonance:from_pair=5": "Resonance of its own, pairs from 5 on", "ntk": "NTK-aware"}
    names |= {"yarn": "YaRN", "resonance-yarn": "Resonance YaRN", "resonance-ntk": "Resonance NTK-aware"}
    names |= {"resonance-linear": "Resonance of position interpolation", "dynamic-ntk": "dynamic NTK"}
    names |= {"resonance-dynamic-ntk": "Resonance dynamic NTK"}
    assert lines.keys() == names.keys()
    for name, line in lines.items():
        assert f"| {names[name]} | {' | '.join(f'{value:.3f}' for value in line)} |" in PAGE


def test_what_the_front_page_says_of_swapped_encodings_is_shipped():
    lines = by_encoding(results("lm-perplexity", "swapped"))
    own, ntk, yarn = (lines[name][-1] for name in ("none", "ntk", "yarn"))
    assert f"perplexity (lower is better) is {own:.1f} with its own encoding, {ntk:.2f} with NTK-aware" in FRONT
    assert f"and {yarn:.2f} with YaRN" in FRONT
    within = [rounded / kept - 1 for rounded, kept in zip(lines["resonance"][:-1], lines["none"][:-1], strict=True)]
    assert f"costs up to {100 * max(within):.1f} % within the context" in FRONT


def test_the_table_of_models_trained_short_is_the_shipped_one():
    losses = {}
    for row in rows_of("lm-train"):
        losses.setdefault((row["encoding"], row["length"]), []).append(row["loss"])
    names = {"rope": "RoPE", "resonance-rope": "Resonance RoPE", "yarn": "YaRN", "resonance-yarn": "Resonance YaRN"}
    names |= {"nope": "NoPE", "alibi": "ALiBi"}
    assert {name for name, _ in losses} == set(names)
    for name, label in names.items():
        by_length = [losses[name, length] for length in (256, 512, 1024, 2048, 4096, 8192)]
        cells = [f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}" for values in by_length]
        assert f"| {label} | 3 | {' | '.join(cells)} |" in PAGE


def test_what_the_page_says_of_eight_heads_is_shipped():
    alibi, rope = rows_of("lm-train-heads")
    assert (alibi["encoding"], rope["encoding"]) == ("alibi", "rope")
    losses = {row["encoding"]: row["loss"] for row in (alibi, rope)}
    below = 100 * (1 - losses["alibi"] / losses["rope"])
    said = (
        f"gives ALiBi {losses['alibi']:.3f} and RoPE {losses['rope']:.3f} nats at 256 bytes, ALiBi {below:.1f} % below"
    )
    assert said in PAGE


def test_the_table_of_rounded_wavelengths_is_the_shipped_one():
    runs = {(run["kind"], run["index"]): run for run in results("lm-rounding", "rounding")["runs"]}
    rows = {"all pairs": ("all", None), "pair 0 alone": ("pair", 0), "pairs from 1 on": ("from_pair", 1)}
    rows |= {"pairs from 5 on": ("from_pair", 5), "all pairs of layer 1 alone": ("layer", 1)}
    rows |= {"all pairs of layer 16 alone": ("layer", 16)}
    for label, place in rows.items():
        run = runs[place]
        assert f"| {label} | {run['kl']:.1e} | {run['change']:+.4f} ± {run['change_error']:.4f} |" in PAGE
    others = [run["kl"] for (kind, index), run in runs.items() if kind == "layer" and index != 1]
    assert max(others) == runs["layer", 16]["kl"] < runs["layer", 1]["kl"]


def test_the_table_of_continued_models_is_the_shipped_one():
    lines = {}
    for row in sorted(rows_of("lm-finetune"), key=lambda row: row["length"]):
        when = "after" if row["steps"] else "before"
        lines.setdefault((row["encoding"], when), []).append(f"{math.exp(row['loss']):.3f}")
    names = {"none": "its own", "yarn": "YaRN", "resonance-yarn": "Resonance YaRN"}
    assert len(lines) == 5
    for (name, when), cells in lines.items():
        assert f"| {names[name]} | {when} | {' | '.join(cells)} |" in PAGE
    report = (SHIPPED / "lm-finetune" / "report" / "report.md").read_text(encoding="utf-8")
    before, after = (
        report.split(f"| Resonance YaRN - YaRN | {when} |")[1].splitlines()[0].strip(" |").split(" | ")
        for when in ("before", "after")
    )
    assert "above YaRN's by {}, {}, {} and {} nats a token".format(*after) in PAGE
    assert "Before training it was {}, {}, {} and {}:".format(*(cell.split(" ")[0] for cell in before)) in PAGE


def right_answers(name):
    """Right answers of each encoding, by length and all depths together, and the first encoding's at depth 0."""
    found = results("lm-retrieval", name)
    assert found["complete"]
    lengths = sorted({run["length"] for run in found["runs"]})
    totals = {run["encoding"]: dict.fromkeys(lengths, 0) for run in found["runs"]}
    for run in found["runs"]:
        totals[run["encoding"]][run["length"]] += run["correct"]
    at_start = [run["correct"] for run in found["runs"] if run["depth"] == 0][: len(lengths)]
    return {encoding: list(by_length.values()) for encoding, by_length in totals.items()}, at_start


def test_what_the_page_says_of_retrieval_is_shipped():
    found, _ = right_answers("passkey")
    names = {"none": "its own", "resonance": "Resonance of its own", "yarn": "YaRN", "resonance-yarn": "Resonance YaRN"}
    assert found.keys() == names.keys()
    for encoding, line in found.items():
        assert f"| {names[encoding]} | {' | '.join(map(str, line))} |" in PAGE
    needle = right_answers("needle")[0]["none"]
    assert "is found {}, {}, {} and {} times of 10 at 1,024 to 8,192 tokens".format(*needle) in PAGE
    kv, at_start = right_answers("kv")
    said = "{}, {}, {} and {} right of 50 at 256 to 2,048 tokens, of which {}, {}, {} and {} are at depth 0"
    assert said.format(*kv["none"], *at_start) in PAGE
    for name in ("passkey", "needle", "kv"):
        assert results("lm-retrieval", name)["command"] in PAGE
