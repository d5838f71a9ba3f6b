"""The command ``refrope report``: from results on disk to tables, tests and figures on disk."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from refrope.errors import check_name, comma_list
from refrope.report.cells import find_baseline
from refrope.report.contents import gather, make_document, remarks
from refrope.report.formats import FORMATS, write_files
from refrope.report.reading import read
from refrope.report.tables import format_table


def add_command(commands: Any) -> None:
    """Add ``report`` to the command line."""
    parser = commands.add_parser(
        "report",
        help="means, intervals, tests, the paper's table beside ours and figures, out of what posgen or sweep wrote",
        description="Read the results of refrope sweep or refrope posgen and write what a paper needs: mean and\n"
        "standard deviation over seeds, bootstrap and t intervals, paired tests of Resonance against the same\n"
        "encoding without it with Holm's correction, the paper's Table 1 beside ours, loss curves, accuracy by\n"
        "position, a heat map, and all rows as CSV. Several directories are taken together. The same rows give the\n"
        "same report.",
        epilog="examples:\n  refrope report my-sweep\n"
        "  refrope report my-sweep --baseline rope --format latex --out tables\n"
        "  refrope report plain ablation --baseline yarn=swap",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("directories", nargs="+", type=Path, metavar="DIR", help="of a sweep, or with a results.json of posgen")
    add("--out", type=Path, metavar="DIR", help="default DIR/report, of the first DIR")
    add("--format", default="all", metavar="A,B", help=f"{', '.join(FORMATS)}, or all (default all)")
    add(
        "--baseline",
        metavar="NAME",
        help="compare every encoding with this one too; or, as SETTING=VALUE, every cell with the one that differs "
        "from it in that setting alone",
    )
    parser.set_defaults(run=run_report)


def run_report(options: argparse.Namespace) -> int:
    """``refrope report``."""
    formats = list(FORMATS) if options.format == "all" else comma_list(options.format)
    for name in formats:
        check_name("report", "format", name, FORMATS)
    if not formats:
        raise ValueError(f"report: --format is {options.format!r}, expected some of {', '.join(FORMATS)}")
    sources = read(options.directories)
    cells = gather(sources)
    baseline = None if options.baseline is None else find_baseline(cells, options.baseline)
    document = make_document(sources, cells, baseline)
    out = options.out if options.out is not None else options.directories[0] / "report"
    names = write_files(out, document, formats)
    for table in document.tables:
        print(f"{table.caption}\n{format_table(table.shown, left=table.naming)}\n")
    for remark in remarks(sources, cells)[1:]:
        print(f"refrope: note: {remark}", file=sys.stderr)
    print(f"Written: {out}: {', '.join(names)}")
    return 0
