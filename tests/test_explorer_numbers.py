"""The explorer's JavaScript in Node: held to the test vectors, and to refrope's own functions in views at random."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import refrope as rr
from refrope import vectors
from refrope.analysis import circle_coverage, critical_pair, feature_gap
from refrope.decay import long_range_decay
from refrope.explorer import CATALOGUE, page
from refrope.precision import pipeline_cos_sin, round_to_bfloat16

NODE = shutil.which("node")
HERE = Path(__file__).parent / "explorer"
SCRIPT = page.FOLDER / "script"
# Both take the same float64 formulas in another order: a turn of 131,072 tokens is off by 131,072 * 2^-53 of a turn.
ANALYSIS_TOLERANCE = 1e-9
# refrope's pipeline stores theta, phase and table in float32, the page only rounds the positions.
FLOAT32_TOLERANCE = 4e-4

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed: the explorer's script cannot be run")


def node(script, *arguments, asked=None):
    done = subprocess.run(
        [NODE, str(HERE / script), str(SCRIPT), *map(str, arguments)],
        input=None if asked is None else json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def random_views(count):
    """Values that a person may choose, of all variants and dialects."""
    rng = np.random.default_rng(20240301)
    views = []
    for i in range(count):
        name = list(CATALOGUE["variants"])[i % len(CATALOGUE["variants"])]
        train = int(2 ** rng.uniform(0, 9))
        views.append(
            {
                "variant": name,
                "dialect": str(rng.choice(list(CATALOGUE["variants"][name].get("dialects", {"none": 0})))),
                "resonance": bool(rng.integers(2)),
                "head_dim": 2 * int(rng.integers(2, 65)),
                "base": float(rng.choice([10_000, 500_000, round(2 ** rng.uniform(1, 30), 3)])),
                "train_length": train,
                "test_length": train + int(2 ** rng.uniform(0, 10)),
                "factor": None if rng.integers(2) else round(float(rng.uniform(1, 32)), 2),
                "positions": "bfloat16" if rng.integers(2) else "exact",
                "pair": 1,
            }
        )
    return views


@pytest.fixture(scope="module")
def described():
    """What the page makes of 84 views, each with refrope's encoding from the page's own line of Python."""
    answers = node("describe.mjs", page.FOLDER / "catalogue.json", asked=random_views(84))
    return [(view, eval(view["python"], {"rr": rr})) for view in answers]


# ---- the vectors ----


def test_numbers_are_those_of_the_vectors_bit_for_bit_and_tables_within_their_bounds():
    results = node("vectors.mjs", vectors.FOLDER)
    assert list(results) == [*CATALOGUE["variants"], "resonance"]
    for name, found in results.items():
        assert found["failures"] == [], name
        assert found["groups"] + found["skipped"] == len(vectors.load(name)["groups"])
        assert found["equal"] > 100
        assert found["entries"] > 1000
        assert 0.1 < found["worst"] < 1  # the bounds are not far from what they bound
    assert [name for name, found in results.items() if found["skipped"]] == ["resonance"]


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("ramps.mjs", "BigInt(2 * pairsOf(p) - 1)", "BigInt(2 * pairsOf(p) - 2)"),
        ("ramps.mjs", "ceiling(high)", "floor(high)"),
        ("variants.mjs", "[j, pairsOf(p) - 1]", "[j, pairsOf(p)]"),
        ("variants.mjs", "p.beta_fast ?? 32", "32"),
        ("variants.mjs", "/ 10n", "/ 11n"),
        ("exact.mjs", "step < 2", "step < 0"),
        ("exact.mjs", "rest > ONE / 2n", "rest > ONE / 3n"),
        ("encodings.mjs", "position % encoding.periods[pair]", "(position + 1) % encoding.periods[pair]"),
        ("encodings.mjs", "2 * Math.PI * turnAt", "6.2831853 * turnAt"),
    ],
)
def test_the_vectors_catch_a_planted_bug(tmp_path, monkeypatch, file, right, wrong):
    for path in SCRIPT.glob("*.mjs"):
        text = path.read_text()
        (tmp_path / path.name).write_text(text.replace(right, wrong) if path.name == file else text)
    assert right in (SCRIPT / file).read_text()
    monkeypatch.setitem(globals(), "SCRIPT", tmp_path)
    assert any(found["failures"] for found in node("vectors.mjs", vectors.FOLDER).values())


# ---- refrope itself ----


def test_the_line_of_python_is_the_encoding_that_is_shown(described):
    kinds = set()
    for view, encoding in described:
        kinds.add((type(encoding.innermost).__name__, isinstance(encoding, rr.Resonance)))
        assert view["inv_freq"] == encoding.inv_freq.tolist(), view["python"]
        assert view["wavelengths"] == encoding.wavelengths.tolist(), view["python"]
        assert view["attention_factor"] == pytest.approx(encoding.attention_factor, rel=2**-51)
    assert len(kinds) == 2 * len(CATALOGUE["variants"])


def test_critical_pair_coverage_and_feature_gap_are_those_of_refrope(described):
    for view, encoding in described:
        train, test = view["state"]["train_length"], view["state"]["test_length"]
        assert view["critical"] == critical_pair(encoding, train)
        gap = feature_gap(encoding, train, test)
        assert np.allclose(view["exact_gap"], gap, rtol=0, atol=ANALYSIS_TOLERANCE), view["python"]
        assert ((np.array(view["exact_gap"]) == 0) == (gap == 0)).all() or not isinstance(encoding, rr.Resonance)
        if view["state"]["positions"] == "exact":
            assert view["gap"] == view["exact_gap"]
            assert np.allclose(view["train_coverage"], circle_coverage(encoding, train), rtol=0, atol=2**-50)
            assert np.allclose(view["test_coverage"], circle_coverage(encoding, test), rtol=0, atol=2**-50)


def test_the_logit_is_that_of_long_range_decay(described):
    for view, encoding in described:
        decay = long_range_decay(encoding, np.array(view["distances"])) / encoding.pairs
        assert np.allclose(view["logits"], decay, rtol=0, atol=ANALYSIS_TOLERANCE), view["python"]
        assert view["distances"][0] == 1
        assert view["distances"][-1] == view["state"]["test_length"] - 1


def test_the_gap_of_rounded_positions_is_that_of_every_position_against_every_other(described):
    seen = 0
    for view, encoding in described:
        if view["state"]["positions"] == "exact":
            continue
        train, test = view["state"]["train_length"], view["state"]["test_length"]
        trained, tested = (
            encoding.turns(round_to_bfloat16(np.arange(*ends)).astype(np.int64)) for ends in ((train,), (train, test))
        )
        chords = 2 * np.abs(np.sin(np.pi * (tested[:, None] - trained)))
        gap = chords.min(axis=1).max(axis=0)
        assert np.allclose(view["gap"], gap, rtol=0, atol=ANALYSIS_TOLERANCE), view["python"]
        seen += test > 512
    assert seen > 5  # where rounding moves positions


def test_coverage_of_rounded_positions_leaves_out_what_no_arc_of_a_token_reaches(described):
    for view, encoding in described:
        if view["state"]["positions"] == "exact":
            continue
        for key in ("train", "test"):
            places = np.unique(round_to_bfloat16(np.arange(view["state"][f"{key}_length"])).astype(np.int64))
            phases = np.sort(encoding.turns(places), axis=0)
            apart = np.diff(np.concatenate([phases, phases[:1] + 1]), axis=0)
            missed = np.maximum(apart - 1 / encoding.wavelengths, 0).sum(axis=0)
            assert np.allclose(view[f"{key}_coverage"], 1 - missed, rtol=0, atol=ANALYSIS_TOLERANCE), view["python"]


def test_the_logit_of_rounded_positions_is_refrope_s_pipeline(described):
    for view, encoding in described:
        if view["rounded_logits"] is None:
            continue
        query = view["state"]["test_length"] - 1
        positions = np.concatenate([[query], query - np.array(view["distances"])])
        cos, sin = (table.astype(float) for table in pipeline_cos_sin(encoding, positions, "bfloat16-position"))
        wanted = (cos[1:] @ cos[0] + sin[1:] @ sin[0]) / encoding.pairs
        assert np.allclose(view["rounded_logits"], wanted, rtol=0, atol=FLOAT32_TOLERANCE), view["python"]


def test_phases_of_whole_wavelengths_are_counted_as_remainders(described):
    for view, encoding in described:
        if not isinstance(encoding, rr.Resonance):
            continue
        pair, state = view["state"]["pair"], view["state"]
        period = int(encoding.periods[pair])
        moved = round_to_bfloat16 if state["positions"] == "bfloat16" else np.asarray
        trained, tested = (
            set((moved(np.arange(*ends)).astype(np.int64) % period).tolist())
            for ends in ((state["train_length"],), (state["train_length"], state["test_length"]))
        )
        counts = {"trained": len(trained), "seen": len(tested & trained), "unseen": len(tested - trained)}
        assert view["phases"] == counts, view["python"]


def test_bfloat16_is_rounded_as_refrope_rounds_it():
    asked = [{"train_length": 65_536, "test_length": 131_072, "head_dim": 4}]
    places = len(np.unique(round_to_bfloat16(np.arange(131_072))))
    assert (
        f"131,072 positions fall on {places:,} different ones"
        in node("describe.mjs", page.FOLDER / "catalogue.json", asked=asked)[0]["rounding"]
    )


# ---- words and addresses ----


def test_the_fragment_of_a_view_means_the_view(described):
    for view, _ in described:
        assert view["again"] == {"state": view["state"], "complaints": []}
    assert len({view["fragment"] for view, _ in described}) == len(described)


def ask(*asked):
    return node("describe.mjs", page.FOLDER / "catalogue.json", asked=list(asked))


def test_the_summary_says_what_a_view_comes_to():
    rope, resonance, rounded, dynamic = ask(
        {},
        {"variant": "yarn", "resonance": True},
        {"train_length": 512, "test_length": 2048, "positions": "bfloat16"},
        {"variant": "dynamic-ntk"},
    )
    assert rope["summary"] == (
        "With RoPE, 9 of 32 pairs are pre-critical: they make a full turn within 64 tokens of training. From 64 to 256 "
        "tokens the largest feature gap is 1.921, at pair 14; that of pre-critical pairs is 0.1276."
    )
    assert "With Resonance YaRN, " in resonance["summary"]
    assert "that of pre-critical pairs is exactly 0. All logits are multiplied by 1.296" in resonance["summary"]
    assert "In bfloat16 the 2,048 positions fall on 641 different ones." in rounded["summary"]
    assert "the form in force at 256 tokens; up to 64 tokens it is plain RoPE." in dynamic["summary"]
    assert rope["pair_words"].startswith("Pair 8 turns once in 62.83 tokens, as in plain RoPE, and is pre-critical.")


@pytest.mark.parametrize(
    ("fragment", "complaint", "kept"),
    [
        ("base=abc", "base is abc, expected a number from 2 to 1,000,000,000,000", {"base": 10_000}),
        ("head-dim=63", "head dim is 63, expected an even integer from 4 to 512", {"head_dim": 64}),
        ("train-length=6.5", "train length is 6.5, expected an integer from 1 to 65,536", {"train_length": 64}),
        ("test-length=", "test length is empty, expected an integer from 2 to 131,072", {"test_length": 256}),
        ("test-length=64", "test length is 64, expected more than the training length 64", {"test_length": 256}),
        ("variant=yarm&base=7", "variant is yarm, expected one of rope, linear, ", {"variant": "rope", "base": 7}),
        ("resonance=maybe", "resonance is maybe, expected one of on, off", {"resonance": False}),
        ("pair=-1", "pair is -1, expected a whole number", {"pair": 8}),
        ("__proto__=1", "the address says __proto__, which is none of variant, ", {}),
        ("constructor=1", "the address says constructor, which is none of variant, ", {}),
    ],
)
def test_a_fragment_that_makes_no_sense_is_told_of_and_leaves_the_usual_value(fragment, complaint, kept):
    (answer,) = ask(fragment)
    assert len(answer["complaints"]) == 1
    assert answer["complaints"][0].startswith(complaint)
    assert answer["state"].items() >= kept.items()


def test_a_longer_training_moves_the_test_and_a_smaller_head_the_pair():
    longer, longest, smaller, refused = ask(
        {"train_length": 300}, {"train_length": 65_536}, {"head_dim": 8, "pair": 20}, {"test_length": 64}
    )
    assert longer["state"]["test_length"] == 1200
    assert longest["state"]["test_length"] == 131_072
    assert smaller["state"]["pair"] == 3
    assert refused == {"error": "test length is 64, expected more than the training length 64"}
