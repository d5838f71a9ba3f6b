"""From results to tables, figures and files on disk: ``refrope report``, and what other commands print.

    reading ──► grouping, cells ──► statistics, comparing ──► result_tables, figures ──► contents ──► formats

paper.py         Table 1, and the two readings of its variances
reading.py       rows of sweeps and of posgen's results.json
grouping.py      rows into cells; cells.py: what a cell is
statistics.py    intervals, paired tests, Holm's correction
comparing.py     which cells are held against which, and whether the paper found the same
result_tables.py tables as records; structure.py: what tables, figures and documents are
figures.py       with line_figures.py, cell_figures.py, panels.py
contents.py      what stands in a report, in which order
formats.py       Markdown, LaTeX, CSV, HTML
tables.py        plain tables for the terminal, JSON
"""

from refrope.files import write_json
from refrope.report.paper import PAPER_LENGTH, PAPER_OOD
from refrope.report.tables import (
    LABELS,
    format_table,
    heading,
    parameters,
    prepare_directory,
    result_table,
)

__all__ = [
    "LABELS",
    "PAPER_LENGTH",
    "PAPER_OOD",
    "format_table",
    "heading",
    "parameters",
    "prepare_directory",
    "result_table",
    "write_json",
]
