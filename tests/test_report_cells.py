"""Rows into cells, cells into comparisons: nothing mixed, nothing dropped, nothing counted twice."""

import json

import pytest
from report_rows import MADE_WITH, SETTINGS, grid, row, write_results

from refrope.report.cells import find_baseline, label, value_text
from refrope.report.comparing import agreements, baseline_comparisons, resonance_comparisons
from refrope.report.contents import gather, made_with, remarks
from refrope.report.grouping import make_cells
from refrope.report.reading import read
from refrope.report.result_tables import cells_table, p_text, percent
from refrope.report.statistics import estimate, holm

LOAD_ROWS = "refrope.report.reading.load_rows"
ROUNDING = 1e-12  # of sums of a few numbers near 1


def with_settings(rows, **settings):
    """Rows as `Source` has them, of trainings that these settings make different."""
    effective = {"epochs": 6, "learning_rate": 0.0012}
    weights = {"weights_sha256": str(sorted(settings.items()))}
    return [weights | row | {"settings": SETTINGS | effective | settings} for row in rows]


def cells_of(*directories):
    return gather(read(directories))


def test_a_cell_is_everything_but_the_seed(tmp_path):
    rows = grid(tasks=("cot", "recursive"), seeds=(5, 3, 1), lengths=(256, 128))
    cells = cells_of(write_results(tmp_path, rows))
    assert len(cells.cells) == 2 * 4 * 2
    assert all(cell.seeds == (1, 3, 5) for cell in cells.cells)
    assert cells.varying == ()
    assert cells.common["epochs"] == 6  # what was in force, where the settings left it to the preset
    for cell in cells.cells:
        wanted = [
            r
            for r in rows
            if (r["task"], r["encoding"], r["test_length"]) == (cell.task, cell.encoding, cell.test_length)
        ]
        assert cell.values() == {r["seed"]: r["ood_accuracy"] for r in wanted}
        assert cell.estimate("ood_accuracy") == estimate(
            [r["ood_accuracy"] for r in sorted(wanted, key=lambda r: r["seed"])]
        )
    order = [(cell.task, cell.test_length, cell.encoding) for cell in cells.cells]
    assert order[:5] == [("recursive", 128, name) for name in ("rope", "resonance-rope", "yarn", "resonance-yarn")] + [
        ("recursive", 256, "rope")
    ]
    assert cells == cells_of(write_results(tmp_path / "reversed", rows[::-1]))


def test_only_settings_that_vary_make_cells():
    rows = with_settings(grid(), yarn="swap") + with_settings(grid(), yarn="train", test_sequences=61)
    cells = make_cells(rows)
    assert cells.varying == ("yarn", "test_sequences")
    assert len(cells.cells) == 8
    assert [dict(cell.settings) for cell in cells.cells[:5:4]] == [
        {"yarn": "swap", "test_sequences": 53},
        {"yarn": "train", "test_sequences": 61},
    ]
    assert "yarn" not in cells.common
    assert cells.common["preset"] == "tiny"


def test_a_batch_size_varies_where_rows_say_so_and_not_where_they_are_from_before_it_was_a_setting():
    old, new = with_settings(grid(), batch_size=None), with_settings(grid(seeds=(4,)), batch_size=128)
    assert make_cells(old + new).varying == ()
    assert make_cells(old + new + with_settings(grid(seeds=(5,)), batch_size=16)).varying == ("batch_size",)


def test_a_learning_rate_varies_only_within_an_encoding():
    by_method = with_settings(grid(encodings=("rope",))) + with_settings(grid(encodings=("t5",)), learning_rate=0.003)
    assert make_cells(by_method).varying == ()
    asked = by_method + with_settings(grid(encodings=("rope",), seeds=(4,)), learning_rate=0.003)
    assert make_cells(asked).varying == ("learning_rate",)


def test_what_follows_from_the_preset_is_no_column_of_its_own():
    small = with_settings(grid(), preset="small", d_model=256, epochs=20)
    assert make_cells(with_settings(grid(), d_model=128) + small).varying == ("preset",)
    assert make_cells(with_settings(grid(), d_model=128) + with_settings(grid(), d_model=256)).varying == ("d_model",)


def test_one_and_true_are_different_values_and_one_and_one_point_nought_are_not():
    assert make_cells(with_settings(grid(), dropout=1) + with_settings(grid(), dropout=True)).varying == ("dropout",)
    again = with_settings(grid(seeds=(9,)), dropout=1.0)
    assert make_cells(with_settings(grid(), dropout=1) + again).varying == ()


def test_a_setting_from_before_it_existed_has_its_default(tmp_path):
    old = write_results(tmp_path / "old", grid(seeds=(1, 2)))
    content = json.loads((old / "results.json").read_text())
    for name in ("maps", "positions", "test_lengths"):
        del content["settings"][name]
    content["settings"]["test_length"] = 256
    for each in content["runs"]:
        for name in ("test_length", "epochs", "learning_rate"):
            del each[name]
    content["settings"]["train"] = {"epochs": 6, "learning_rate": 0.0012}
    (old / "results.json").write_text(json.dumps(content))
    cells = cells_of(old, write_results(tmp_path / "new", grid(seeds=(3,))))
    assert (cells.varying, cells.common["epochs"]) == ((), 6)
    assert cells_of(old).common["learning_rate"] == 0.0012
    assert {cell.seeds for cell in cells.cells} == {(1, 2, 3)}
    assert {cell.test_length for cell in cells.cells} == {256}
    other = cells_of(old, write_results(tmp_path / "other", grid(seeds=(4,)), settings={"maps": "train"}))
    assert {dict(cell.settings)["maps"] for cell in other.cells} == {"swap", "train"}


def test_rows_that_came_twice_count_once_and_other_numbers_are_an_error(tmp_path):
    first = write_results(tmp_path / "a", grid())
    cells = cells_of(first, write_results(tmp_path / "b", grid(seeds=(3, 4))))
    assert "4 rows came twice with the same numbers" in " ".join(remarks(read([first]), cells))
    assert all(cell.seeds == (1, 2, 3, 4) for cell in cells.cells)
    other = grid(seeds=(3,))
    other[1]["ood_accuracy"] += 1e-9
    with pytest.raises(
        ValueError, match=r"two rows of cot, Resonance RoPE, tested at 256, seed 3 have ood_accuracy 0\."
    ):
        cells_of(first, write_results(tmp_path / "c", other))
    failed = [{"task": "cot", "encoding": "rope", "seed": 3, "test_length": 256, "failed": "nan"}]
    with pytest.raises(ValueError, match="seed 3 have failed None and nan"):
        cells_of(first, write_results(tmp_path / "d", failed))
    hashed = [grid(seeds=(3,), weights_sha256=letter) for letter in "ab"]
    with pytest.raises(ValueError, match="weights_sha256 a and b"):
        make_cells(with_settings(hashed[0]) + with_settings(hashed[1]))


def test_failed_rows_stand_in_their_cell_and_in_no_mean(tmp_path):
    failed = {"task": "cot", "encoding": "rope", "seed": 4, "test_length": 256, "failed": "loss is nan in epoch 2"}
    plain = write_results(tmp_path / "a", [failed, *grid()])
    longer = write_results(tmp_path / "b", grid(epochs=7, weights_sha256="longer"))
    cells = cells_of(plain, longer)
    assert cells.varying == ("epochs",)
    assert len(cells.cells) == 8  # the failed row has no epochs of its own, and no cell
    (cell,) = [cell for cell in cells.cells if cell.failed]
    assert (cell.seeds, dict(cell.settings), len(cell.failed)) == ((1, 2, 3), {"epochs": 6}, 1)
    said = " ".join(remarks(read([plain, longer]), cells))
    assert (
        "Failed, and not in any mean: 1 row: cot, RoPE, tested at 256, epochs 6, seed 4 (loss is nan in epoch 2)"
        in said
    )
    (alone,) = cells_of(write_results(tmp_path / "c", [failed])).cells
    assert alone.estimate() is None


def test_what_is_missing_is_named(tmp_path):
    rows = [r for r in grid(seeds=(1, 2)) if (r["encoding"], r["seed"]) != ("yarn", 2)]
    directory = write_results(tmp_path, rows, settings={"seeds": [1, 2, 3]})
    sources = read([directory])
    said = " ".join(remarks(sources, gather(sources)))
    assert "Without seed 2, which others have: 1 cell: cot, YaRN, tested at 256." in said
    assert "5 of 12 rows that were asked for are missing: cot, YaRN, seed 2, at 256; cot, RoPE, seed 3" not in said
    assert "5 of 12 rows that were asked for are missing: cot, RoPE, seed 3, at 256; " in said
    assert sources[0].missing[-1] == ("cot", "resonance-yarn", 3, 256)


def test_other_versions_and_test_sets_are_told(tmp_path):
    newer = MADE_WITH | {"versions": MADE_WITH["versions"] | {"numpy": "2.5.0"}}
    sources = read(
        [
            write_results(tmp_path / "a", grid()),
            write_results(tmp_path / "b", grid(seeds=(4,)), settings={"test_sequences": 59}, **newer),
        ]
    )
    cells = gather(sources)
    said = " ".join(remarks(sources, cells))
    assert "made with 2 different sets of versions" in said
    assert "differ in test sequences" in said
    assert not [each for each in resonance_comparisons(cells) if len(each.paired.seeds) not in (1, 3)]
    made = " ".join(made_with(sources, cells, ("encoding", "rope")))
    for words in ("NumPy 2.4.6", "NumPy 2.5.0", "refrope posgen --seeds 1,2,3", "2026-11-24", "preset tiny"):
        assert words in made
    assert "report" in made
    assert made.endswith("--baseline rope; 9,999 resamples an interval, from refrope's own integers.")


def sweep_directory(path, rows, unfinished=(), **about):
    """A directory as refrope sweep leaves it, and a `load_rows` that gives these rows of it."""
    for name in ("first-1", *unfinished):
        (path / "runs" / name).mkdir(parents=True)
    run = path / "runs" / "first-1"
    asked = {
        "encodings": ["rope", "yarn", "resonance-rope"],
        "test_lengths": [256, 512],
        "seeds": [1],
        "tasks": ["cot"],
    }
    (run / "settings.json").write_text(json.dumps({"training": {}, "settings": SETTINGS | asked}))
    (run / "result.json").write_text("{}")
    (run / "timing.json").write_text(json.dumps(MADE_WITH))
    commands = [
        {"command": "refrope sweep --out x", "date": date, "refrope": "0.1.0"} for date in ("2026-12-01", "2026-12-02")
    ]
    (path / "sweep.json").write_text(json.dumps({"commands": commands, "runs": ["first-1", *unfinished]} | about))
    return lambda directory: rows if directory == path else None


def test_a_sweep_is_read_through_load_rows(tmp_path, monkeypatch):
    rows = with_settings(grid(), epochs=None)
    monkeypatch.setattr(LOAD_ROWS, sweep_directory(tmp_path, rows, ("second-2", "third-3")))
    (source,) = sources = read([tmp_path])
    cells = gather(sources)
    assert (len(cells.cells), cells.varying, cells.common["epochs"]) == (4, (), 6)
    assert (source.finished, source.planned, source.unfinished) == (1, 3, ("second-2", "third-3"))
    assert (source.commands, source.dates) == (("refrope sweep --out x",), ("2026-12-01", "2026-12-02"))
    assert "NumPy 2.4.6" in source.made_with[0]
    said = " ".join(remarks(sources, cells))
    assert "1 of 3 trainings are finished. Not yet: second-2; third-3." in said


def test_a_failed_training_of_a_sweep_fails_in_every_cell_that_it_would_have_had(tmp_path, monkeypatch):
    failed = {"task": "cot", "seed": 7, "trained_with": "rope", "encoding": "rope", "failed": "nan", "run": "first-1"}
    rows = [failed, *with_settings(grid(encodings=("rope", "yarn", "resonance-rope"), lengths=(256, 512)))]
    monkeypatch.setattr(LOAD_ROWS, sweep_directory(tmp_path, rows))
    cells = gather(read([tmp_path]))
    assert [(cell.encoding, cell.test_length) for cell in cells.cells if cell.failed] == [
        (name, length) for length in (256, 512) for name in ("rope", "yarn")
    ]
    assert len(cells.cells) == 6
    whole = failed | {"test_length": 256, "settings": SETTINGS}
    monkeypatch.setattr(LOAD_ROWS, lambda _: [whole, *rows[1:]])
    assert len([cell for cell in gather(read([tmp_path])).cells if cell.failed]) == 1


def test_a_sweep_without_a_finished_run_says_how_many_of_how_many(tmp_path, monkeypatch):
    load_rows = sweep_directory(tmp_path, [], ("second-2", "third-3"))
    (tmp_path / "runs" / "first-1" / "result.json").unlink()
    monkeypatch.setattr(LOAD_ROWS, load_rows)
    with pytest.raises(ValueError, match=r"nothing in .* is finished yet: 0 of 3"):
        read([tmp_path])


def test_resonance_is_held_against_the_same_encoding_without_it():
    rows = with_settings(grid(seeds=(1, 2, 3, 4)), yarn="swap") + with_settings(grid(seeds=(2, 3, 4, 5)), yarn="train")
    rows += with_settings([row(encoding="resonance-alone"), row(encoding="nope")], yarn="swap")
    cells = make_cells(rows)
    found = resonance_comparisons(cells)
    assert [(each.names, dict(each.first.settings)["yarn"]) for each in found] == [
        (("Resonance RoPE", "RoPE"), "swap"),
        (("Resonance YaRN", "YaRN"), "swap"),
        (("Resonance RoPE", "RoPE"), "train"),
        (("Resonance YaRN", "YaRN"), "train"),
    ]
    for each in found:
        assert each.first.settings == each.second.settings
        first, second = each.first.values(), each.second.values()
        wanted = sum(first[seed] - second[seed] for seed in first) / 4
        assert each.paired.difference.mean == pytest.approx(wanted, rel=ROUNDING)
    assert [each.t_holm for each in found] == holm([each.paired.t_p for each in found])
    assert [each.flip_holm for each in found] == holm([each.paired.flip_p for each in found])
    assert found[0].t_holm > found[0].paired.t_p


def test_a_baseline_is_an_encoding_or_a_value_of_a_setting():
    rows = with_settings(grid(), front_token=True) + with_settings(grid(seeds=(1, 2)), front_token=False)
    cells = make_cells(rows)
    found = baseline_comparisons(cells, find_baseline(cells, "yarn"))
    assert len(found) == 6
    assert {each.names[1] for each in found} == {"YaRN"}
    assert all(each.first.settings == each.second.settings for each in found)
    found = baseline_comparisons(cells, find_baseline(cells, "front_token=yes"))
    assert len(found) == 4
    for each in found:
        assert each.names == ("front token no", "front token yes")
        assert each.first.encoding == each.second.encoding
        assert each.paired.seeds == (1, 2)


def test_settings_are_paired_only_where_all_else_is_equal():
    rows = with_settings(grid(), yarn="swap", yarn_ramp="index") + with_settings(
        grid(), yarn="train", yarn_ramp="turns"
    )
    cells = make_cells(rows)
    assert baseline_comparisons(cells, find_baseline(cells, "yarn=swap")) == []


def ablation(seeds=(1, 2, 3), **more):
    """YaRN's ramp in two forms, swapped in: RoPE's rows are the same models tested in the same way."""
    rows = []
    for ramp in ("index", "turns"):
        for each in grid(seeds=seeds):
            if "yarn" in each["encoding"]:
                each = each | {
                    "tested_with": f"{each['encoding']}, {ramp}",
                    "ood_accuracy": 0.9 - 0.1 * (ramp == "turns"),
                }
            rows += with_settings(
                [{"weights_sha256": f"{each['trained_with']} {each['seed']}"} | each], yarn_ramp=ramp, **more
            )
    return rows


def test_a_setting_that_does_nothing_to_a_cell_makes_no_second_one():
    cells = make_cells(ablation())
    assert [(cell.encoding, value_text(cell.settings[0][1])) for cell in cells.cells] == [
        ("rope", "index, turns"),
        ("resonance-rope", "index, turns"),
        ("yarn", "index"),
        ("resonance-yarn", "index"),
        ("yarn", "turns"),
        ("resonance-yarn", "turns"),
    ]
    assert all(cell.seeds == (1, 2, 3) for cell in cells.cells)
    assert len(cells.groups) == 2
    table = cells_table(cells)
    assert (table.records[0]["yarn_ramp"], table.shown[1][2]) == ("index, turns", "index, turns")
    assert "2 cells stand once for several values of a setting" in " ".join(remarks([], cells))
    found = resonance_comparisons(cells)
    assert [each.names[1] for each in found] == ["RoPE", "YaRN", "YaRN"]  # and not RoPE twice in Holm's family
    against = baseline_comparisons(cells, find_baseline(cells, "rope"))
    assert len(against) == 5
    ramps = baseline_comparisons(cells, find_baseline(cells, "yarn_ramp=index"))
    assert [each.first.encoding for each in ramps] == ["yarn", "resonance-yarn"]
    assert [each.paired.difference.mean for each in ramps] == pytest.approx([-0.1, -0.1])


def test_cells_are_one_only_if_all_common_seeds_are():
    assert len(make_cells(ablation() + ablation(seeds=(4,))).cells) == 6
    more = ablation(seeds=(3, 4))
    assert {cell.seeds for cell in make_cells(ablation()[:12] + more[8:]).cells if "yarn" not in cell.encoding} == {
        (1, 2, 3, 4)
    }
    for change in ({"weights_sha256": "other"}, {"tested_with": "other"}):
        rows = ablation()
        rows[-4] = rows[-4] | change
        assert len(make_cells(rows).cells) == 7, change
    apart = ablation(seeds=(1, 2))[:8] + ablation(seeds=(3, 4))[8:]
    assert len(make_cells(apart).cells) == 8  # no seed in common: nobody knows
    unknown = [{k: v for k, v in each.items() if k not in ("weights_sha256", "curves")} for each in ablation()]
    assert len(make_cells(unknown).cells) == 8
    perfect = [each | {"ood_accuracy": 1.0} for each in ablation()]
    other = [each | {"settings": each["settings"] | {"test_sequences": 61}} for each in perfect]
    assert len(make_cells(perfect + other).cells) == 12


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ropes", "unknown baseline 'ropes'; did you mean 'rope'?"),
        ("yarn=swop", "unknown value of yarn 'swop'; did you mean 'swap'?"),
        ("maps=swap", "unknown setting of --baseline 'maps'"),
    ],
)
def test_an_unknown_baseline_is_named_with_the_nearest(text, words):
    cells = make_cells(with_settings(grid(), yarn="swap") + with_settings(grid(), yarn="train"))
    with pytest.raises(ValueError, match=words.replace("?", r"\?")):
        find_baseline(cells, text)


def compared(resonance, plain, **settings):
    """Agreement of Resonance RoPE and RoPE on cot, where the paper has 5.69, with these accuracies."""
    rows = [row(encoding="resonance-rope", seed=s, ood=a) for s, a in enumerate(resonance)]
    rows += [row(encoding="rope", seed=s, ood=a) for s, a in enumerate(plain)]
    cells = make_cells(with_settings(rows, **settings))
    return agreements(resonance_comparisons(cells), cells.common)


def test_agreement_with_the_paper_is_of_sign_and_size():
    plain = (0.4, 0.5, 0.6)
    cases = {
        (0.46, 0.55, 0.66): ("same", "agrees"),
        (0.46, 0.51, 0.75): ("same (0 in interval)", "agrees"),
        (0.6, 0.71, 0.8): ("same", "ours is above"),
        (0.41, 0.512, 0.611): ("same", "ours is below"),
        (0.3, 0.41, 0.5): ("opposite", "ours is below"),
        (0.4, 0.5, 0.6): ("none", "ours is below"),
        (0.45,): ("same (one seed)", "one seed cannot say"),
    }
    for resonance, (sign, size) in cases.items():
        (found,) = compared(resonance, plain)
        assert (found.sign, found.size, found.paper) == (sign, size, 5.69), resonance
    rows = with_settings([row(encoding="resonance-rope", seed=1), row(encoding="rope", seed=2)])
    cells = make_cells(rows)
    (found,) = agreements(resonance_comparisons(cells), cells.common)
    assert (found.sign, found.size) == ("none", "no common seed")


def test_the_paper_is_asked_only_where_it_has_an_answer():
    assert compared((0.5,), (0.4,), rule="latin") == []
    assert compared((0.5,), (0.4,), train_length=32) == []
    assert compared((0.5,), (0.4,), k=2) == []
    longer = [row(encoding=name, length=512) for name in ("rope", "resonance-rope")]
    cells = make_cells(with_settings(longer))
    assert len(resonance_comparisons(cells)) == 1
    assert agreements(resonance_comparisons(cells), cells.common) == []


def test_numbers_are_shown_in_per_cent():
    assert [percent(x) for x in (0.12345, -0.00001, -0.5, 1, None)] == ["12.3", "0.0", "-50.0", "100.0", "-"]
    assert [p_text(p) for p in (0.0625, 0.0009, 1.0, 0.03125, None)] == ["0.0625", "<0.001", "1", "0.0312", "-"]


def test_values_are_written_as_on_the_command_line():
    assert [value_text(v) for v in (True, False, None, 0.0012, 3, "swap")] == [
        "yes",
        "no",
        "default",
        "0.0012",
        "3",
        "swap",
    ]
    assert label("mymodule:MyEncoding") == "mymodule:MyEncoding"
