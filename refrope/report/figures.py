"""The figures of a report, as PNG: dots with intervals, a heat map, accuracy by position and loss curves.

Rows of panels are settings, columns are tasks. Lines differ in colour and dash, heat maps have their numbers written
in, dots their names beside them: nothing is told by colour alone.
"""

from __future__ import annotations

from refrope.plots import pyplot
from refrope.report.cell_figures import dots, heat_map
from refrope.report.cells import Cells
from refrope.report.line_figures import losses, positions
from refrope.report.structure import Figure


def make_figures(cells: Cells) -> list[Figure]:
    """All figures that the rows have data for.

    Raises
    ------
    ValueError
        matplotlib is missing.
    """
    try:
        plt = pyplot()
    except ImportError:
        raise ValueError("report: matplotlib is not installed here (pip install 'refrope[report]')") from None
    with plt.style.context("default"):  # whatever a matplotlibrc says: the same rows give the same picture
        made = [draw(plt, cells) for draw in (dots, heat_map, positions, losses)]
    return [figure for figure in made if figure is not None]
