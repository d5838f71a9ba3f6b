"""`refrope inspect` of every method: numbers by distance against the papers' formulas, text, JSON, figure, errors."""

import json
import math
import re

import numpy as np
import pytest

from refrope import RoPE, Transformer, TransformerConfig, YaRN, cli, rotate
from refrope.by_distance import ByDistance, shown_distances
from refrope.encodings import Resonance
from refrope.encodings.names import NAMES
from refrope.encodings.remap import DualChunk, SelfExtend
from refrope.inspect_methods import ALL, NAMES_HERE, buckets
from refrope.methods import MAPS, METHODS, Lengths, configuration_of

# Angles of up to 255 rad in float64 and a sum of some 64 cosines, by another route.
ROUNDING = 1e-12
# A logarithm of up to 5 divided and multiplied back, then an exponential: some 1e-15 times 10 / c.
INVERSE = 1e-10
USUAL, PRIME = Lengths(64, 256), Lengths(61, 251)
HEADS, HEAD_DIM = 3, 10
every = pytest.mark.parametrize("name", METHODS)
both_lengths = pytest.mark.parametrize("lengths", [USUAL, PRIME], ids=str)


def built(name, lengths=USUAL, **values):
    return ByDistance(name, lengths, **{"head_dim": HEAD_DIM, "heads": HEADS, "seed": 5, **values})


def model(name, lengths):
    sizes = TransformerConfig(vocabulary=7, d_model=HEADS * HEAD_DIM, heads=HEADS, head_dim=HEAD_DIM, d_ff=11, layers=2)
    return Transformer(configuration_of(name, sizes, *lengths), seed=5, backend="numpy", dtype=np.float64)


def inspected(capsys, *arguments):
    assert cli.main(["inspect", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


# ---- effective positions ----


def published(name, m, n, train, test):
    """The position map of a paper, in its own words, for integers."""
    d, half = m - n, train // 2
    times = math.ceil((test - 1 - half) / (train - 1 - half))
    if name == "rerope":
        return d if d < half else half
    if name == "leaky-rerope":
        return d if d < half else half + (d - half) / times
    if name == "self-extend":
        return d if d < half else m // times + (half - half // times) - n // times
    if name == "string":
        return d if d < train // 3 else m - train // 3 + train // 8 - n
    assert name == "dca"
    c = 3 * train // 4 - train // 8
    if m // c == n // c:
        return m % c - n % c
    if m // c == n // c + 1:
        return min(m % c + c, 3 * train // 4) - n % c
    return min(2 * c - 1, 3 * train // 4) - n % c


@both_lengths
@pytest.mark.parametrize("name", MAPS)
def test_maps_have_the_effective_positions_of_their_papers(name, lengths):
    got = built(name, lengths).last_effective
    last = lengths.test - 1
    assert got.tolist() == [published(name, last, last - d, *lengths) for d in range(lengths.test)]


@both_lengths
def test_t5_has_the_least_distance_of_each_bucket_by_t5s_own_formula(lengths):
    def bucket(n):
        return n if n < 16 else min(16 + int(math.log(n / 16) / math.log(128 / 16) * 16), 31)

    of = [bucket(n) for n in range(lengths.test)]
    shown = built("t5", lengths)
    assert shown.last_effective.tolist() == [of.index(one) for one in of]
    of = [bucket(n) for n in range(1000)]
    table = buckets(shown)
    assert [row["bucket"] for row in table] == list(range(32))
    for row in table:
        inside = [n for n in range(1000) if of[n] == row["bucket"]]
        assert row["first"] == inside[0]
        assert row["last"] == (None if row["bucket"] == 31 else inside[-1])
    assert buckets(built("kerple", lengths)) is None


@both_lengths
def test_fire_has_the_distance_that_gives_the_last_query_of_training_the_same_input(lengths):
    shown = built("fire", lengths)

    def given(distance, query):
        return math.log(0.1 * distance + 1) / (math.log(0.1 * max(query, lengths.train / 2) + 1) + 1e-6)

    for query in (1, lengths.train // 2 + 1, lengths.train - 1, lengths.test - 1):
        far = shown.effective(query, np.arange(query + 1))
        for key in range(query + 1):
            assert abs(given(far[key], lengths.train - 1) - given(query - key, query)) < INVERSE
    assert np.abs(
        shown.effective(lengths.train - 1, np.arange(lengths.train)) - np.arange(lengths.train)[::-1]
    ).max() < (INVERSE)
    assert lengths.train - 1 < shown.last_effective[-1] < lengths.train


@every
def test_the_others_have_the_distance_or_none(name):
    got, distances = built(name).last_effective, np.arange(256.0)
    if name in ("nope", "learned"):
        assert np.isnan(got).all()
    elif name == "window":
        assert got[:8].tolist() == list(range(8))
        assert np.isnan(got[8:]).all()
    elif name not in (*MAPS, "t5", "fire", "pointers"):
        assert np.array_equal(got, distances)


@pytest.mark.parametrize("name", ["yarn", "resonance-yarn"])
def test_the_slowest_pair_of_yarn_lags_by_its_stretch(name):
    shown = built(name)
    yarn = YaRN(HEAD_DIM, factor=4.0, original_length=64, beta_fast=2.0)
    inv_freq = (Resonance(yarn) if name != "yarn" else yarn).inv_freq[-1]
    expected = np.arange(256) * inv_freq / RoPE(HEAD_DIM).inv_freq[-1]
    assert np.abs(shown.slowest - expected).max() < INVERSE
    assert built("rope").slowest is None


@both_lengths
@every
def test_pairs_beyond_training_are_counted_one_by_one(name, lengths):
    shown = built(name, lengths)
    train, test = lengths
    far = [shown.effective(m, np.arange(m + 1)) for m in range(test)]
    if name in ("nope", "learned"):
        beyond = 0 if name == "nope" else sum(m + 1 for m in range(train, test))
        assert shown.pairs == (test * (test + 1) // 2, beyond, None)
        return
    seen, beyond = (sum(int(np.count_nonzero(one(row))) for row in far) for one in (np.isfinite, lambda r: r >= train))
    assert shown.pairs == (seen, beyond, max(np.nanmax(row) for row in far))


@pytest.mark.parametrize(
    "position_map",
    [SelfExtend(RoPE(6), 7, 2), SelfExtend(RoPE(6), 5, 3), DualChunk(RoPE(6), 41, 3), DualChunk(RoPE(6), 29, 11)],
    ids=str,
)
def test_pairs_of_maps_that_reach_too_far_are_counted_too(position_map):
    shown = built("self-extend", Lengths(23, 97))
    shown.__dict__["encoding"] = position_map
    far = [position_map.effective(m, np.arange(m + 1)) for m in range(97)]
    beyond = sum(int((row >= 23).sum()) for row in far)
    assert beyond > 0
    assert shown.pairs == (97 * 98 // 2, beyond, max(row.max() for row in far))


# ---- logits ----


@both_lengths
@pytest.mark.parametrize("name", ["rope", "resonance-rope", "yarn", "resonance-yarn", "window", *MAPS])
def test_logits_of_what_turns_are_those_of_turned_ones(name, lengths):
    yarn = YaRN(HEAD_DIM, factor=lengths.test / lengths.train, original_length=lengths.train, beta_fast=2.0)
    encoding = yarn if "yarn" in name else RoPE(HEAD_DIM)
    encoding = Resonance(encoding) if name.startswith("resonance") else encoding
    last = lengths.test - 1
    [got] = built(name, lengths).logits
    for d in range(lengths.test):
        far = published(name, last, last - d, *lengths) if name in MAPS else d
        if name == "window" and d >= 8:
            assert math.isnan(got[d])
            continue
        turned = rotate(np.ones((2, HEAD_DIM)), *encoding.cos_sin(np.array([far, 0]), np.float64))
        assert abs(turned[0] @ turned[1] / HEAD_DIM - got[d]) < ROUNDING


def test_logits_of_pointers_count_little_of_what_tokens_say():
    [got] = built("pointers").logits
    seen = {0: 0, 2: 2, 4: 3, 255 - (255 - 2) // 2: 4 + 1, 254: 6, 255: 7}  # the query at 255
    for d, place in seen.items():
        expected = 0.03 * np.cos(place * RoPE(HEAD_DIM, base=100.0).inv_freq).mean()
        assert abs(got[d] - expected) < ROUNDING
    assert np.isnan(got).sum() == 256 - 7


def test_pointers_have_no_position_that_training_has_not_seen():
    pairs = built("pointers").pairs
    assert (pairs.beyond, pairs.largest) == (0, 7)
    short = built("pointers", USUAL._replace(train=6)).pairs  # the key apart is first seen by the query at 6
    assert short.beyond == 256 - 6


def test_nope_is_flat_and_sinusoids_are_half_of_rope_with_a_head_as_wide_as_the_model():
    assert np.array_equal(built("nope").logits, np.ones((1, 256)))
    wide = built("rope", head_dim=HEADS * HEAD_DIM).logits
    assert np.abs(built("sinusoidal").logits - wide / 2).max() < ROUNDING


def test_learned_rows_are_those_of_the_model():
    rows = model("learned", USUAL).params["absolute.positions"]
    assert rows.shape == (256, HEADS * HEAD_DIM)
    expected = [rows[255] @ rows[255 - d] / (HEADS * HEAD_DIM) for d in range(256)]
    assert np.abs(built("learned").logits[0] - expected).max() < ROUNDING


@pytest.mark.parametrize("name", ["t5", "kerple", "fire", "dape", "dape-v2"])
def test_weights_are_those_that_the_model_starts_from(name):
    start = model(name, USUAL)
    prefix = start.config.bias_prefix(0)
    shown = built(name)
    assert set(shown.weights) == set(start.config.bias.shapes(HEADS))
    for key, weight in shown.weights.items():
        assert np.array_equal(start.params[f"{prefix}.{key}"], weight), key
    other = built(name, seed=6).weights
    assert any(not np.array_equal(other[key], weight) for key, weight in shown.weights.items())


def test_biases_are_those_of_their_formulas():
    distances = np.arange(256)
    alibi = built("alibi", heads=2)
    assert np.array_equal(alibi.bias, -np.outer([1 / 16, 1 / 256], distances))
    kerple = built("kerple")
    expected = [
        [-p * math.log(1 + a * d) for d in range(256)]
        for p, a in zip(kerple.weights["p"], kerple.weights["a"], strict=True)
    ]
    assert np.abs(kerple.bias - expected).max() < ROUNDING
    for shown in (alibi, kerple):
        assert np.array_equal(shown.logits, 1 + shown.bias)
    t5 = built("t5")
    assert t5.bias[:, 255].tolist() == t5.weights["table"][31].tolist()
    assert np.array_equal(t5.bias[:, :16], t5.weights["table"][:16].T)
    assert built("rope").bias is None


def test_fires_bias_is_that_of_the_last_query():
    shown = built("fire", PRIME)
    weights = shown.weights
    for d in (0, 1, 30, 61, 250):
        x = math.log(0.1 * d + 1) / (math.log(0.1 * 250 + 1) + 1e-6)
        hidden = np.maximum(weights["in.weight"] * x + weights["in.bias"], 0)
        expected = weights["out.weight"] @ hidden + weights["out.bias"]
        assert np.abs(shown.bias[:, d] - expected).max() < ROUNDING


def test_dape_adds_what_its_network_makes_of_scores_of_one():
    shown = built("dape")
    weights = shown.weights
    assert np.array_equal(shown.bias, built("kerple").bias)
    for d in (0, 1, 100, 255):
        hidden = weights["mix.in.weight"][:, :, 0] @ [1, 1, 1, *shown.bias[:, d]] + weights["mix.in.bias"]
        hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
        mixed = weights["mix.out.weight"][:, :, 0] @ hidden + weights["mix.out.bias"]
        assert np.abs(shown.logits[:, d] - (1 + shown.bias[:, d] + mixed)).max() < ROUNDING


def test_dape_v2_is_the_last_row_of_the_whole_square():
    shown = built("dape-v2", Lengths(13, 37))
    away = np.maximum(np.arange(37)[:, None] - np.arange(37), 0)
    values = shown.inner.forward({key: shown.weights[key] for key in "pa"}, HEADS, away)
    mixed, _ = shown.config.bias.mix_forward(shown.weights, np.ones((1, HEADS, 37, 37)), values)
    expected = 1 + values[:, -1, ::-1] + mixed[0, :, -1, ::-1]
    assert np.abs(shown.logits - expected).max() < ROUNDING


# ---- the command ----


def test_names_are_all_methods_that_are_no_encoding_and_all():
    assert set(NAMES_HERE) == set(METHODS) - set(NAMES) | {ALL}
    assert ALL not in METHODS


@pytest.mark.parametrize("name", NAMES_HERE[:-1])
def test_json_has_the_numbers_of_the_library(name, capsys):
    found = inspected(capsys, name, "--train-length", "61", "--test-length", "251")
    shown = ByDistance(name, PRIME)
    assert [found[key] for key in ("method", "train_length", "test_length", "heads", "seed")] == [name, 61, 251, 2, 2]
    assert (found["label"], found["about"], found["source"], found["rate"]) == METHODS[name]
    assert [row["distance"] for row in found["distances"]] == shown_distances(PRIME, [7] if name == "window" else [])
    for row in found["distances"]:
        d = row["distance"]
        place = shown.last_effective[d]
        assert row["effective_position"] == (None if math.isnan(place) else place)
        assert row["logit"] == [None if math.isnan(one) else one for one in shown.logits[:, d]]
        assert row.get("bias") == (None if shown.bias is None else shown.bias[:, d].tolist())
        assert "effective_position_of_the_slowest_pair" not in row
    assert tuple(found["summary"].values()) == shown.pairs
    assert list(found["summary"]) == ["pairs", "pairs_beyond_training", "largest_effective_position"]
    assert found["weights"] == {key: weight.tolist() for key, weight in shown.weights.items()}
    assert (found["buckets"] is None) == (name != "t5")
    assert found["slopes"] == ([1 / 16, 1 / 256] if name == "alibi" else None)
    assert set(found["parameters"]) == {"encoding", "bias", "absolute", "window"}
    assert ("data" in found["remark"]) == name.startswith("dape")


def test_json_names_the_parameters_in_force(capsys):
    plain = {"class": "RoPE", "head_dim": 64, "base": 1e4, "rotary_dim": None, "lenient": False}
    expected = {
        "rerope": {"class": "ReRoPE", "encoding": plain, "window": 32, "log_length": None},
        "dca": {"class": "DualChunk", "encoding": plain, "chunk": 48, "local": 8},
        "string": {"class": "STRING", "encoding": plain, "shift": 21, "window": 8, "overlap": False},
    }
    for name, wanted in expected.items():
        assert inspected(capsys, name)["parameters"]["encoding"] == wanted
    window = inspected(capsys, "window", "--head-dim", "8")["parameters"]
    assert (window["encoding"], window["window"]) == ({**plain, "head_dim": 8}, 8)
    assert inspected(capsys, "fire")["parameters"]["bias"]["threshold"] == 32
    assert inspected(capsys, "dape-v2")["parameters"]["bias"]["bias"] == {"class": "Kerple", "form": "log"}
    assert inspected(capsys, "learned")["parameters"]["absolute"]["length"] == 256


def test_json_of_all_has_every_method_in_order(capsys):
    found = inspected(capsys, "all")["methods"]
    assert [one["method"] for one in found] == list(METHODS)
    slowest = "effective_position_of_the_slowest_pair"
    assert {one["method"] for one in found if slowest in one["distances"][0]} == {"yarn", "resonance-yarn"}


@pytest.mark.parametrize("name", NAMES_HERE[:-1])
def test_text_has_a_line_for_each_distance_and_says_how_far_it_reaches(name, capsys):
    assert cli.main(["inspect", name]) == 0
    said = capsys.readouterr().out
    shown = ByDistance(name, USUAL)
    assert said.startswith(f"{METHODS[name].label}: {METHODS[name].about} ({METHODS[name].source}).\n")
    table = said[said.index("distance  effective position") :].split("\n\n")[0].splitlines()[2:]
    assert [int(line.split()[0]) for line in table] == shown_distances(USUAL, [7] if name == "window" else [])
    for line in table:
        d, place, *numbers = (math.nan if cell == "-" else float(cell) for cell in line.split())
        expected = [shown.last_effective[int(d)], *([] if shown.bias is None else shown.bias[:, int(d)])]
        if shown.bias is None or name.startswith("dape"):
            expected += list(shown.logits[:, int(d)])
        assert np.allclose([place, *numbers], expected, rtol=0, atol=0.005001, equal_nan=True)
    share = f"{shown.pairs.beyond:,} of {shown.pairs.seen:,} pairs of 256 tokens"
    assert share in said or (name == "nope" and "32,896 pairs of 256 tokens: none has an effective position" in said)
    assert max(map(len, said.splitlines())) <= 120
    if name not in (*MAPS, "nope", "sinusoidal", "alibi", "window", "pointers"):
        assert "(seed 2)" in said


def test_text_of_all_has_a_line_for_each_method(capsys):
    assert cli.main(["inspect", "all", "--train-length", "61"]) == 0
    said = capsys.readouterr().out
    lines = said.split("\n\n")[0].splitlines()[2:]
    assert [line.split()[0] for line in lines] == list(METHODS)
    string = next(line for line in lines if line.startswith("string")).split()
    assert string[2] == str(243 - 20 + 7)


def test_heads_seed_and_head_dim_are_taken(capsys):
    slopes = inspected(capsys, "alibi", "--heads", "8")["slopes"]
    assert slopes == [2.0**-h for h in range(1, 9)]
    first, second = (inspected(capsys, "kerple", *seed)["weights"] for seed in ([], ["--seed", "3"]))
    assert first != second
    narrow, wide = (inspected(capsys, "rerope", *size)["distances"] for size in (["--head-dim", "2"], []))
    assert narrow[1]["logit"] == [pytest.approx(math.cos(1), abs=ROUNDING)]
    assert wide[1]["logit"] != narrow[1]["logit"]


def test_help_names_every_method(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["inspect", "--help"])
    assert done.value.code == 0
    said = capsys.readouterr().out
    for name in NAMES_HERE:
        assert re.search(rf"\b{name}\b", said), name
    assert "effective position" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reropes"], "unknown encoding 'reropes'; did you mean 'rerope'?"),
        (["alibbi"], "unknown encoding 'alibbi'; did you mean 'alibi'?"),
        (["resonance-rop"], "did you mean 'resonance-rope'?"),
        (["resonance-rerope"], "unknown encoding 'resonance-rerope'; did you mean 'resonance-rope'?"),
        (["rerope:window=3"], "inspect: rerope takes no options behind its name, got 'window=3'"),
        (["nope", "--heads", "3"], "--heads does not go with nope, which takes --train-length and --test-length\n"),
        (["alibi", "--seed", "3"], "--seed does not go with alibi, which takes --train-length and --test-length, also"),
        (["alibi", "--head-dim", "4"], "--head-dim does not go with alibi"),
        (["rerope", "--base", "500"], "--base does not go with rerope, which takes --train-length and --test-length, "),
        (["all", "--factor", "2"], "--factor does not go with all, which takes "),
        (["dca", "--layer-type", "x"], "--layer-type does not go with dca"),
        (["yarn", "--heads", "2"], "--heads does not go with an encoding"),
        (["--seed", "2"], "--seed does not go with an encoding"),
        (["t5", "--huggingface", "config.json"], "got both NAME 't5' and --huggingface, expected one of them"),
        (["t5", "--heads", "0"], "heads is 0, expected an integer >= 1"),
        (["t5", "--seed", "-1"], "seed is -1, expected an integer >= 0"),
        (["dca", "--head-dim", "7"], "head_dim is 7, expected an even number"),
        (["dca", "--head-dim", "x"], "head_dim is 'x', expected a whole number"),
        (["dca", "--head-dim", "0"], "head_dim is 0, expected an integer >= 2"),
        (["rerope", "--train-length", "2"], "train_length is 2, expected an integer >= 3"),
        (
            ["dca", "--test-length", "65", "--train-length", "64", "--json", "--seed", "1"],
            "--seed does not go with dca",
        ),
        (["string", "--train-length", "3"], "STRING: window is 1, expected less than shift = 1"),
        (["rerope", "--test-length", "64"], "test_length is 64, expected an integer >= 65"),
        (
            ["all", "--plot", "missing/methods.png"],
            "inspect: --plot missing/methods.png cannot be written: missing is no directory",
        ),
        (["rerope", "--plot", "methods.xyz"], "'xyz' is not supported"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.startswith("refrope: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


@every
def test_short_lengths_work_or_say_why_not(name):
    for train in range(1, 9):
        for test in (train + 1, 2 * train + 1, 31):
            try:
                shown = ByDistance(name, Lengths(train, test), head_dim=2, heads=1)
            except ValueError:
                if name in (*MAPS, "yarn", "resonance-yarn"):
                    continue
                raise
            assert shown.logits.shape == (1, test)
            assert shown.pairs.beyond <= shown.pairs.seen <= test * (test + 1) // 2
            assert shown_distances(shown.lengths)[-1] == test - 1


# ---- the figure ----


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, still whole."""
    from matplotlib.figure import Figure

    save, saved = Figure.savefig, []

    def keep(figure, *arguments, **options):
        saved.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def panels_of(figure):
    """Title -> the panels of logit and effective position."""
    titled = [i for i, axes in enumerate(figure.axes) if axes.get_title()]
    return {figure.axes[i].get_title(): figure.axes[i : i + 2] for i in titled}


def test_the_figure_has_one_panel_a_method_with_its_lines(figures, tmp_path, capsys):
    path = tmp_path / "methods.png"
    assert cli.main(["inspect", "all", "--train-length", "61", "--test-length", "251", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"Written: {path}" in capsys.readouterr().out
    [figure] = figures
    panels = panels_of(figure)
    assert list(panels) == [method.label for method in METHODS.values()]
    assert len(figure.axes) == 2 * len(METHODS) + 1
    for name, method in METHODS.items():
        shown = ByDistance(name, PRIME)
        top, bottom = panels[method.label]
        lines = [line.get_ydata() for line in top.lines if len(line.get_xdata()) == 251]
        assert np.array_equal(lines, shown.logits, equal_nan=True)
        low, high = top.get_ylim()
        assert low <= np.nanmin(shown.logits) <= np.nanmax(shown.logits) <= high
        places = [line.get_ydata() for line in bottom.lines if len(line.get_xdata()) == 251]
        expected = [shown.last_effective, *([] if shown.slowest is None else [shown.slowest])]
        assert np.array_equal(places, expected, equal_nan=True)
        dots = [list(line.get_xdata()) for axes in (top, bottom) for line in axes.lines if line.get_marker() == "."]
        last = [4, 250 - 248 // 2, 249, 250]  # keys that stand alone: apart, at the pointer, the two first
        assert all(found == (last if name == "pointers" else []) for found in dots)
        assert len(dots) == 1 + len(shown.logits)
        assert top.get_xlim() == bottom.get_xlim() == (0, 250)
        [column], [band] = ([patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
                            for axes in (top, bottom))  # fmt: skip
        assert (column.x0, column.x1) == pytest.approx((0, 61))
        assert (band.y0, band.y1) == pytest.approx((0, 61))


def test_one_method_has_a_figure_of_its_own(figures, tmp_path, capsys):
    path = tmp_path / "rerope.png"
    assert cli.main(["inspect", "rerope", "--json", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert json.loads(capsys.readouterr().out)["method"] == "rerope"
    assert list(panels_of(figures[0])) == ["ReRoPE"]


def test_without_matplotlib_plot_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert cli.main(["inspect", "all", "--plot", str(tmp_path / "methods.png")]) == 2
    said = capsys.readouterr()
    assert said.err == "refrope: inspect: --plot needs matplotlib (pip install 'refrope[experiments]')\n"
    assert said.out == ""
