"""Commands: posgen, sweep, report, rules, lm, export, inspect, compare, explore, bench, check, verify.

Status 0 done, 1 a check failed, 2 bad usage or input, 130 interrupted, 141 nobody reads the output any more, 143
terminated.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from refrope import __version__, bench, compare, export, inspection, kernels, verify
from refrope.conformance import command as check_command
from refrope.errors import check_integer, unknown_name
from refrope.experiment import results, run, run_side_by_side
from refrope.explorer import command as explorer_command
from refrope.lm import command as lm_command
from refrope.methods import MAPS, listing
from refrope.progress import Lines, make_progress
from refrope.report import command as report_command
from refrope.report import prepare_directory, result_table, write_json
from refrope.rules import command as rules_command
from refrope.settings import ExperimentSettings
from refrope.settings_options import ABOUT_PRESETS, OWN, add_options, settings_of
from refrope.sweep import command as sweep_command
from refrope.workers import TERMINATED, Terminated, terminable

COMMANDS = (
    *("posgen", "sweep", "report", "rules", "lm", "export"),
    *("inspect", "compare", "explore", "bench", "check", "verify"),
)


class _Parser(argparse.ArgumentParser):
    """Bad usage becomes an exception, so that it is one line like any other error."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise ValueError(f"{message} (usage: {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
            raise unknown_name("refrope", "command", arguments[0], COMMANDS)
        options, unknown = build_parser().parse_known_args(arguments)
        if unknown:
            raise _unknown(unknown[0], options)
        if not kernels.available():
            print(f"refrope: running as slow pure NumPy, the C kernels are missing: {kernels.REMEDY}", file=sys.stderr)
        if hasattr(options, "threads"):  # one setting for the kernels and BLAS, REFROPE_NUM_THREADS included
            kernels.set_num_threads(kernels.get_num_threads() if options.threads is None else options.threads)
        status: int = options.run(options)
        sys.stdout.flush()  # here, where a reader that is gone is no traceback
        return status
    except BrokenPipeError:  # refrope inspect yarn | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed at the end
        return 141
    except (ValueError, FloatingPointError, RuntimeError, OSError, MemoryError) as error:
        said = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            said = f"{error.filename}: {error.strerror}"
        print(f"refrope: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("refrope: interrupted", file=sys.stderr)
        return 130


def _unknown(argument: str, options: argparse.Namespace) -> ValueError:
    command = options.command
    if not argument.startswith("-"):
        return ValueError(f"{command}: unexpected argument {argument!r} (usage: refrope {command} --help)")
    known = re.findall(r"--[a-z][a-z-]*", options.usage())
    return unknown_name(command, "option", argument.partition("=")[0], dict.fromkeys(known))


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="refrope",
        description="Rotary position embedding and Resonance RoPE: train tiny models, look inside encodings.",
    )
    parser.add_argument("--version", action="version", version=f"refrope {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_posgen(commands)
    sweep_command.add_command(commands)
    report_command.add_command(commands)
    rules_command.add_command(commands)
    lm_command.add_command(commands)
    export.add_command(commands)
    inspection.add_command(commands)
    compare.add_command(commands)
    explorer_command.add_command(commands)
    bench.add_command(commands)
    check_command.add_command(commands)
    verify.add_command(commands)
    for name, command in commands.choices.items():
        command.set_defaults(command=name, usage=command.format_usage)
    return parser


def _add_posgen(commands: Any) -> None:
    parser = commands.add_parser(
        "posgen",
        help="train tiny models on 64-token sequences, test them at 256 (the main job)",
        description="Train tiny transformers on PosGen sequences of 64 tokens and test them at 256, with several\n"
        "position encodings, as in Table 1 of the Resonance RoPE paper (arXiv:2403.00071).",
        epilog=f"{ABOUT_PRESETS}\n\n{OWN}\n\nexamples:\n"
        "  refrope posgen --tasks all --seeds 1,2,3 --out three-seeds\n"
        "  refrope posgen --encodings rope,my_rope.py:MyEncoding",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    add = parser.add_argument
    add("--list", action="store_true", help="say what each encoding is, with its source, and do nothing else")
    add("--out", type=Path, default=Path("posgen-results"), metavar="DIR", help="default posgen-results")
    add("--threads", type=int, metavar="N", help="of the kernels and of BLAS (default: all cores)")
    add(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="trainings at the same time, each with one thread if N > 1: for many trainings a little faster than "
        "threads, with the same results (default 1)",
    )
    parser.set_defaults(run=run_posgen)


def run_posgen(options: argparse.Namespace) -> int:
    """``refrope posgen``."""
    if options.list:
        print(listing())
        return 0
    settings = settings_of(options)
    if settings.backend == "c":
        kernels.require()
    trainings = len(settings.trainings())
    processes = min(trainings, check_integer("posgen", "processes", options.processes, 1))
    earlier = prepare_directory(options.out)
    if earlier is not None:
        print(f"The results that were in {options.out} are now {earlier.name} there.")
    command = shlex.join(["refrope", *sys.argv[1:]])
    runs: list[dict[str, Any]] = []
    stopped: KeyboardInterrupt | None = None
    rows_in_all = math.prod(map(len, (settings.tasks, settings.seeds, settings.encodings, settings.test_lengths)))

    def save() -> None:
        complete = len(runs) == rows_in_all
        write_json(options.out / "results.json", results(settings, runs, command, complete=complete))

    lengths = " and ".join(map(str, settings.test_lengths))
    print(
        f"Preset {settings.preset}: {trainings} training{'s' if trainings > 1 else ''} of "
        f"{settings.train_settings().epochs} epochs, then tests at {lengths} tokens. "
        f"ID: within {settings.train_length} tokens; OOD: beyond."
    )
    finished = (
        run(settings, make_progress(trainings))
        if processes == 1
        else run_side_by_side(settings, [Lines(trainings, i) for i in range(trainings)], processes)
    )
    try:
        with terminable(), closing(finished):
            for rows in finished:
                runs += rows
                save()
    except KeyboardInterrupt as interrupt:
        stopped = interrupt
        if runs:  # the last of them may not be on disk
            save()
    if runs:
        print("\n" + result_table(runs))
        swapped = {row["encoding"] for row in runs if row["encoding"] != row["trained_with"]}
        if any(name.endswith("yarn") for name in swapped):
            print("YaRN rows: the model of the row without YaRN, with YaRN swapped in for the test (--yarn swap).")
        if swapped & {*MAPS}:
            print("Rows of position maps: RoPE's model, with the map swapped in for the test (--maps swap).")
        print(f"\nWritten: {options.out / 'results.json'}{_figures(runs, settings, options.out)}")
    if stopped is None:
        return 0
    how, status = ("terminated", TERMINATED) if isinstance(stopped, Terminated) else ("interrupted", 130)
    print(f"refrope: {how}{f'; {len(runs)} finished rows are kept' if runs else ''}", file=sys.stderr)
    return status


def _figures(runs: list[dict[str, Any]], settings: ExperimentSettings, out: Path) -> str:
    try:
        from refrope import plots

        plots.accuracy_by_position(runs, settings.train_length, out / "accuracy_by_position.png")
        plots.training_curves(runs, out / "training_curves.png")
    except ImportError:
        return "\nNo figures: matplotlib is missing (pip install 'refrope[experiments]')."
    return ", accuracy_by_position.png, training_curves.png"
