"""``refrope sweep``: a grid of trainings that can be stopped, killed and started again without losing anything."""

from __future__ import annotations

import argparse
import json
from typing import Any

from refrope import kernels
from refrope.report import result_table
from refrope.settings_options import ABOUT_PRESETS, OWN, grid_of
from refrope.settings_options import add_options as add_settings
from refrope.sweep.conducting import Rows, add_options, conduct
from refrope.sweep.loading import KIND
from refrope.sweep.runs import runs_of

_SHOWN = 40  # rows that are printed one by one


def add_command(commands: Any) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "sweep",
        help="trainings over a grid of settings: resumable, side by side or on other machines",
        description="Train and test PosGen models for every combination of the values that the options have. Whatever "
        "interrupts it,\nthe same command goes on where it was and ends with the same bits; other commands with the "
        "same --out add to what is there.\nrefrope report DIR makes tables and figures of it.",
        epilog=f"{OWN}\n\n{ABOUT_PRESETS}\n\nexample:\n"
        "  refrope sweep --tasks all --seeds 1,2,3 --dropout 0,0.1 --out DIR",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_settings(parser, grid=True)
    add_options(parser)
    parser.set_defaults(run=run_sweep)


def run_sweep(options: argparse.Namespace) -> int:
    """``refrope sweep``."""
    runs = runs_of(grid_of(options))
    if any(run.settings[0].backend == "c" for run in runs):
        kernels.require()
    steps = sum(run.steps for run in runs)
    tests = sum(len(run.tests()) for run in runs)
    plan = f"{len(runs)} trainings, {steps} steps in all, then {tests} tests."
    return conduct(KIND, runs, options, plan=plan, report="refrope report", show=_show)


def _show(rows: Rows) -> None:
    """The table of all rows, where they are few and of one setting."""
    if len({json.dumps(row["settings"]) for row in rows}) == 1 and len(rows) <= _SHOWN:
        print("\n" + result_table(rows))
