"""``refrope sweep``: a grid of trainings that can be stopped, killed and started again without losing anything."""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refrope import __version__, kernels
from refrope.errors import check_integer, check_number
from refrope.files import write_json
from refrope.kernels.threads import available_cores
from refrope.report import result_table
from refrope.settings_options import ABOUT_PRESETS, OWN, add_options, grid_of
from refrope.sweep.loading import is_sweep, load_rows, load_sweep
from refrope.sweep.runs import Run, runs_of
from refrope.sweep.showing import make_display
from refrope.workers import TERMINATED, Terminated, terminable

_SHOWN = 40  # rows that are printed one by one
NEEDED = "sweep: filelock and threadpoolctl are needed (pip install 'refrope[experiments]')"


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
    add_options(parser, grid=True)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="a new directory, or one of a sweep to go on with")
    add(
        "--processes",
        type=int,
        metavar="N",
        help="trainings at the same time, each with one thread; 1: one at a time in this process (default: all cores)",
    )
    add(
        "--dask",
        metavar="ADDRESS",
        help="train on a Dask cluster instead (a scheduler's tcp://..., or a file that it wrote); its workers must see "
        "DIR under the same path; extra [dask]",
    )
    add("--checkpoint-every", type=float, default=30.0, metavar="S", help="seconds between checkpoints (default 30)")
    add("--plan", action="store_true", help="say what would be trained, and do nothing else")
    parser.set_defaults(run=run_sweep)


def run_sweep(options: argparse.Namespace) -> int:
    """``refrope sweep``."""
    runs = runs_of(grid_of(options))
    cores = available_cores()
    processes = check_integer("sweep", "processes", cores if options.processes is None else options.processes, 1)
    every = check_number("sweep", "checkpoint-every", options.checkpoint_every, "a number of seconds >= 0", 0.0)
    if any(run.settings[0].backend == "c" for run in runs):
        kernels.require()
    steps = sum(run.steps for run in runs)
    tests = sum(len(run.tests()) for run in runs)
    print(f"{len(runs)} trainings, {steps} steps in all, then {tests} tests.")
    if options.plan:
        print("\n".join(run.name for run in runs))
        return 0
    try:
        from refrope.sweep.executing import execute
    except ImportError:
        raise ValueError(NEEDED) from None
    prepare_sweep(options.out, runs)
    display = make_display(options.out, runs)
    interrupted, unfinished = 0, []
    try:
        with terminable(), _dask(options.dask) as executor:
            unfinished = execute(
                *(options.out, runs, display),
                processes=min(processes, len(runs)),
                executor=executor,
                every=every,
            )
    except KeyboardInterrupt as interrupt:
        interrupted = TERMINATED if isinstance(interrupt, Terminated) else 130
    finally:
        display.close()
    rows = load_rows(options.out)
    failed = sorted({row["run"] for row in rows if "failed" in row})
    finished = [row for row in rows if "failed" not in row]
    if finished and len({json.dumps(row["settings"]) for row in finished}) == 1 and len(finished) <= _SHOWN:
        print("\n" + result_table(finished))
    done, every_run = len({row["run"] for row in rows}), len(load_sweep(options.out)["runs"])
    print(f"\n{done} of {every_run} trainings in {options.out} are done.")
    if finished:
        print(f"Means, intervals, tests and figures: refrope report {shlex.quote(str(options.out))}")
    again = "the same command goes on where it was"
    if interrupted:
        print(f"refrope: interrupted; {again}", file=sys.stderr)
        return interrupted
    for each in unfinished:
        print(f"refrope: sweep: {each.run.name} is not finished: {_said(each.error)}; {again}", file=sys.stderr)
    if failed:
        print(f"refrope: sweep: {len(failed)} trainings failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if unfinished or failed else 0


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def prepare_sweep(directory: Path, runs: list[Run]) -> None:
    """Make the directory or find that it is a sweep's, and write down what is asked for.

    Raises
    ------
    ValueError
        The directory holds something else, or cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not is_sweep(directory) and any(directory.iterdir()):
            raise ValueError(f"sweep: --out {directory} holds something else, expected a new directory or a sweep's")
        about = load_sweep(directory) if is_sweep(directory) else {"commands": [], "runs": []}
        command = shlex.join(["refrope", *sys.argv[1:]])
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        about["commands"].append({"command": command, "date": now, "refrope": __version__})
        about["runs"] = list(dict.fromkeys([*about["runs"], *(run.name for run in runs)]))
        write_json(directory / "sweep.json", about)
    except json.JSONDecodeError as error:
        raise ValueError(f"sweep: {directory / 'sweep.json'} is damaged: {error}") from None
    except OSError as error:
        raise ValueError(f"sweep: --out {directory} cannot be written: {error.strerror or error}") from None


@contextmanager
def _dask(address: str | None) -> Iterator[Executor | None]:
    """An executor of the cluster at an address, or None where there is no address."""
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("sweep: --dask needs Dask (pip install 'refrope[dask]')") from None
    try:
        arguments = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
        client: Any = Client(**arguments, timeout="20s")  # type: ignore[no-untyped-call, unused-ignore]
    except (OSError, TimeoutError, ValueError) as error:
        raise ValueError(f"sweep: no Dask scheduler at {address}: {error}") from None
    with client:
        yield client.get_executor(pure=False)
