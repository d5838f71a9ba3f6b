"""Figures: every row that is there is drawn, at its place, with its name."""

import sys

import matplotlib as mpl
import numpy as np
import pytest
from report_rows import grid, row, write_results

from refrope.plots import STYLES, pyplot, running_mean, styles_of
from refrope.report import cell_figures, line_figures
from refrope.report.contents import gather
from refrope.report.figures import make_figures
from refrope.report.panels import outer_panels
from refrope.report.reading import read

ROUNDING = 1e-12


def cells_of(*directories):
    return gather(read(directories))


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figures themselves, kept open instead of being written."""
    kept = []

    def keep(plt, figure):
        kept.append(figure)
        return b"png"

    monkeypatch.setattr(line_figures, "picture", keep)
    monkeypatch.setattr(cell_figures, "picture", keep)
    yield kept
    for figure in kept:
        pyplot().close(figure)


def test_all_four_figures_are_pngs_with_words(tmp_path):
    figures = make_figures(cells_of(write_results(tmp_path, grid(positions=True))))
    assert [figure.name for figure in figures] == ["dots", "heat_map", "accuracy_by_position", "loss"]
    for figure in figures:
        assert figure.png.startswith(b"\x89PNG")
        assert len(figure.alt) > 20
        assert len(figure.caption) > 20


def test_the_same_rows_give_the_same_pictures_whatever_the_users_matplotlibrc(tmp_path):
    cells = cells_of(write_results(tmp_path, grid(positions=True)))
    first = make_figures(cells)
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 20}):
        assert make_figures(cells) == first


def test_what_is_not_stored_is_not_drawn(tmp_path):
    rows = grid()
    for each in rows:
        del each["curves"]
    failed = {"task": "cot", "encoding": "rope", "seed": 1, "test_length": 256, "failed": "nan"}
    assert [f.name for f in make_figures(cells_of(write_results(tmp_path / "a", rows)))] == ["dots", "heat_map"]
    assert make_figures(cells_of(write_results(tmp_path / "b", [failed]))) == []


def test_loss_curves_are_of_trainings_and_not_of_rows(tmp_path, drawn):
    rows = grid(seeds=(1, 2), lengths=(256, 512))
    line_figures.losses(pyplot(), cells_of(write_results(tmp_path, rows)))
    (axes,) = drawn[0].axes
    means = [line for line in axes.lines if line.get_linewidth() > 1]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["RoPE", "Resonance RoPE"]
    assert len(means) == len(axes.collections) == 2
    wanted = np.mean(
        [r["curves"]["loss"] for r in rows if r["trained_with"] == "rope" and r["encoding"] == "yarn"][::2], axis=0
    )
    np.testing.assert_allclose(means[0].get_ydata(), wanted, rtol=ROUNDING)
    assert means[0].get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    losses = [r["curves"]["loss"] for r in rows if r["encoding"] == "yarn"]
    assert (band.min(), band.max()) == (np.min(losses), np.max(losses))


def test_accuracy_by_position_is_of_the_longest_test_and_not_smoothed_across_the_training_length(tmp_path, drawn):
    rows = grid(encodings=("rope",), seeds=(1, 2), lengths=(128, 256), positions=True)
    rows.append(row(encoding="nope", length=128, positions=True))
    figure = line_figures.positions(pyplot(), cells_of(write_results(tmp_path, rows)))
    line = next(line for line in drawn[0].axes[0].lines if line.get_linewidth() == 1.8)
    values = line.get_ydata()
    assert len(values) == 256
    assert np.isnan(values[:4]).all()
    np.testing.assert_allclose(values[4:64], 0.97, rtol=ROUNDING)
    wanted = np.mean([r["ood_accuracy"] for r in rows if r["test_length"] == 256])
    np.testing.assert_allclose(values[64:], wanted, rtol=ROUNDING)
    assert figure.alt.endswith(f"cot: RoPE {100 * wanted:.3g}.")


def numbers_of(axes):
    return [text.get_text() for text in axes.texts]


def test_the_heat_map_has_test_lengths_or_positions(tmp_path, drawn):
    several = grid(encodings=("rope", "yarn"), seeds=(1, 2), lengths=(512, 256))
    cell_figures.heat_map(pyplot(), cells_of(write_results(tmp_path / "a", several)))
    (axes,) = drawn[0].axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["256", "512"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["RoPE", "YaRN"]
    wanted = [
        np.mean([r["ood_accuracy"] for r in several if (r["encoding"], r["test_length"]) == (name, length)])
        for name in ("rope", "yarn")
        for length in (256, 512)
    ]
    assert numbers_of(axes) == [f"{100 * value:.0f}" for value in wanted]
    falling = [row(positions=True)]
    falling[0]["accuracy_by_position"][64:96] = [0.8] * 32
    falling[0]["accuracy_by_position"][224:] = [0.1] * 32
    cell_figures.heat_map(pyplot(), cells_of(write_results(tmp_path / "b", falling)))
    (axes,) = drawn[1].axes
    heads = ["0-63", "64-95", "96-127", "128-159", "160-191", "192-223", "224-255"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == heads
    assert (numbers_of(axes)[:2], numbers_of(axes)[-1]) == (["97", "80"], "10")
    cell_figures.heat_map(pyplot(), cells_of(write_results(tmp_path / "c", [row(ood=0.25)])))
    assert numbers_of(drawn[2].axes[0]) == ["97", "25"]


def test_dots_show_every_seed_and_the_papers_mean_where_it_has_one(tmp_path, drawn):
    rows = [row(seed=s, ood=a) for s, a in enumerate((0.3, 0.4, 0.7))] + [row(encoding="nope", ood=0.2)]
    figure = cell_figures.dots(pyplot(), cells_of(write_results(tmp_path, rows)))
    (axes,) = drawn[0].axes
    points = {m: [line.get_xdata() for line in axes.lines if line.get_marker() == m] for m in ("o", "|", "D")}
    np.testing.assert_allclose(points["o"][0], [30, 40, 70])
    np.testing.assert_allclose([x[0] for x in points["|"]], [140 / 3, 20])
    assert [list(x) for x in points["D"]] == [[69.56]]
    assert "the paper's mean" in figure.caption
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["RoPE", "NoPE"]
    bars = [line.get_xdata() for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2]
    np.testing.assert_allclose(bars[1], [30, 70])  # three seeds: the bootstrap's interval is their range
    write_results(tmp_path / "latin", [row(seed=1)], settings={"rule": "latin"})
    assert "the paper" not in cell_figures.dots(pyplot(), cells_of(tmp_path / "latin")).caption


def test_a_cell_that_stands_for_several_settings_is_drawn_in_each_panel(tmp_path, drawn):
    first = write_results(tmp_path / "a", grid(encodings=("rope", "yarn")), settings={"yarn_ramp": "index"})
    rows = [each | {"tested_with": f"turns {each['tested_with']}"} for each in grid(encodings=("yarn",))]
    rows += grid(encodings=("rope",))
    second = write_results(tmp_path / "b", rows, settings={"yarn_ramp": "turns"})
    cells = cells_of(first, second)
    assert len(cells.cells) == 3
    cell_figures.heat_map(pyplot(), cells)
    assert [len(axes.texts) for axes in drawn[0].axes] == [4, 4]
    cell_figures.dots(pyplot(), cells)
    names = [tick.get_text() for tick in drawn[1].axes[0].get_yticklabels()]
    assert names == ["RoPE, yarn ramp index, turns", "YaRN, yarn ramp index", "YaRN, yarn ramp turns"]


def test_names_are_shown_as_they_are(tmp_path, drawn):
    rows = [row(encoding=name, seed=1, positions=True) for name in ("$x_1$", "_hidden:Encoding")]
    line_figures.positions(pyplot(), cells_of(write_results(tmp_path, rows)))
    said = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert said == [r"\$x_1\$", " _hidden:Encoding"]
    drawn[0].canvas.draw()  # a formula that is none would raise


def test_unknown_encodings_have_styles_that_no_other_has():
    styles = styles_of([*STYLES, "mine:A", "mine:B", "mine:C"])
    assert len({(style["color"], style["linestyle"]) for style in styles.values()}) == len(STYLES) + 3
    assert styles["rope"] == STYLES["rope"]


def test_labels_stand_at_the_outer_panels():
    left, bottom = outer_panels([(0, 0), (0, 1), (1, 1), (2, 0)])
    assert left == {(0, 0), (1, 1), (2, 0)}
    assert bottom == {(2, 0), (1, 1)}


def test_a_missing_matplotlib_is_named_with_its_extra(tmp_path, monkeypatch):
    cells = cells_of(write_results(tmp_path, grid()))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"matplotlib is not installed here \(pip install 'refrope\[report\]'\)"):
        make_figures(cells)


def test_a_running_mean_weighs_odd_and_even_positions_alike_up_to_both_ends():
    alternating = np.r_[np.full(4, np.nan), np.tile([0.25, 0.75], 9)]
    np.testing.assert_allclose(running_mean(alternating)[4:], 0.5, rtol=ROUNDING)
    assert np.isnan(running_mean(alternating)[:4]).all()
    step = running_mean(np.repeat([0.0, 1.0], 16))
    assert (np.diff(step) >= 0).all()
    assert (step[:12] == 0).all()
    np.testing.assert_allclose(step[20:], 1, rtol=ROUNDING)
    assert [running_mean(np.array(short)).tolist() for short in ([], [0.3])] == [[], [pytest.approx(0.3)]]


def test_names_of_many_settings_have_room_beside_the_dots(tmp_path, drawn):
    other = {"yarn": "train", "maps": "train", "positions": "random", "recipe": "official", "rule": "latin"}
    other |= {"train_sequences": 311, "test_sequences": 59, "front_token": False}
    places = [write_results(tmp_path / "a", grid()), write_results(tmp_path / "b", grid(), settings=other)]
    cell_figures.dots(pyplot(), cells_of(*places))
    (figure,) = drawn
    renderer = figure.canvas.get_renderer()
    assert min(label.get_window_extent(renderer).x0 for label in figure.axes[0].get_yticklabels()) >= 0
