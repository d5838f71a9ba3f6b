"""Results of language models that come with the sources: what tutorials/results/README.md says of them is theirs."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "tutorials" / "results"
PAGE, FRONT = (" ".join((folder / "README.md").read_text(encoding="utf-8").split()) for folder in (SHIPPED, ROOT))


def results(folder, name):
    return json.loads((SHIPPED / folder / f"{name}.json").read_text(encoding="utf-8"))


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
    lines = by_encoding(results("lm-perplexity", "swapped"))
    names = {"none": "its own", "resonance": "Resonance of its own", "linear": "position interpolation"}
    names |= {"resonance:from_pair=5": "Resonance of its own, pairs from 5 on", "ntk": "NTK-aware"}
    names |= {"yarn": "YaRN", "resonance-yarn": "Resonance YaRN"}
    assert lines.keys() == names.keys()
    for name, line in lines.items():
        assert f"| {names[name]} | {' | '.join(f'{value:.3f}' for value in line)} |" in PAGE


def test_what_the_front_page_says_of_swapped_encodings_is_shipped():
    lines = by_encoding(results("lm-perplexity", "swapped"))
    own, ntk, yarn = (lines[name][-1] for name in ("none", "ntk", "yarn"))
    assert f"perplexity is {own:.1f} with its own encoding, {ntk:.2f} with NTK-aware" in FRONT
    assert f"and {yarn:.2f} with YaRN" in FRONT
    within = [rounded / kept - 1 for rounded, kept in zip(lines["resonance"][:-1], lines["none"][:-1], strict=True)]
    assert f"costs up to {100 * max(within):.1f} % within the context" in FRONT
