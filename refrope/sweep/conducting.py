"""What every command does that conducts trainings: its options, its directory, interrupts, and what it says at the end.

runs ──► plan said ──► directory ──► refrope.sweep.executing ──► rows ──► what is done, what is missing
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refrope import __version__
from refrope.errors import check_integer, check_number
from refrope.files import PART, remove_parts, write_json
from refrope.kernels.threads import available_cores
from refrope.sweep.loading import KIND, is_sweep, load_rows, load_sweep
from refrope.sweep.protocol import Run
from refrope.sweep.showing import make_display
from refrope.workers import TERMINATED, Terminated, terminable

Rows = list[dict[str, Any]]


def add_options(parser: argparse.ArgumentParser, *, every: float = 30.0) -> None:
    """Add the options of every such command: --out, --processes, --dask, --checkpoint-every, --plan.

    Parameters
    ----------
    parser : ArgumentParser
    every : float
        Seconds between checkpoints, unless --checkpoint-every says otherwise.
    """
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
    said = f"seconds between checkpoints (default {every:g})"
    add("--checkpoint-every", type=float, default=every, metavar="S", help=said)
    add("--plan", action="store_true", help="say what would be trained, and do nothing else")


def conduct(
    command: str,
    runs: Sequence[Run],
    options: argparse.Namespace,
    *,
    plan: str,
    report: str,
    what: str = "trainings",
    begin: Callable[[Path], None] = lambda directory: None,
    show: Callable[[Rows], None] = lambda rows: None,
) -> int:
    """Do what is left of `runs`, and say so.

    Parameters
    ----------
    command : str
        Without "refrope"; the kind of the directory.
    runs : sequence of Run
    options : Namespace
        With those of `add_options`.
    plan : str
        What will be done, said first.
    report : str
        The command that makes tables and figures of a directory.
    what : str
        What the runs are.
    begin : callable
        Writes what the runs need into the directory.
    show : callable
        Shows the rows of runs that are finished.

    Returns
    -------
    The exit status: 1 where something failed or is unfinished, 130 or 143 after an interrupt.

    Raises
    ------
    ValueError
        Options out of range, a directory of something else, no cluster.
    """
    cores = available_cores()
    processes = check_integer(command, "processes", cores if options.processes is None else options.processes, 1)
    every = check_number(command, "checkpoint-every", options.checkpoint_every, "a number of seconds >= 0", 0.0)
    print(plan)
    if options.plan:
        print("\n".join(run.name for run in runs))
        return 0
    try:
        from refrope.sweep.executing import execute
    except ImportError:
        needed = "filelock and threadpoolctl are needed (pip install 'refrope[experiments]')"
        raise ValueError(f"{command}: {needed}") from None
    prepare_directory(options.out, runs, command)
    begin(options.out)
    display = make_display(options.out, runs)
    interrupted, unfinished = 0, []
    try:
        with terminable(), _dask(command, options.dask) as executor:
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
    rows = load_rows(options.out, command)
    failed = sorted({row["run"] for row in rows if "failed" in row})
    finished = [row for row in rows if "failed" not in row]
    if finished:
        show(finished)
    done, every_run = len({row["run"] for row in rows}), len(load_sweep(options.out, command)["runs"])
    print(f"\n{done} of {every_run} {what} in {options.out} are done.")
    if finished:
        print(f"Means, intervals, tests and figures: {report} {shlex.quote(str(options.out))}")
    again = "the same command goes on where it was"
    if interrupted:
        print(f"refrope: interrupted; {again}", file=sys.stderr)
        return interrupted
    for each in unfinished:
        print(f"refrope: {command}: {each.run.name} is not finished: {_said(each.error)}; {again}", file=sys.stderr)
    if failed:
        print(f"refrope: {command}: {len(failed)} {what} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if unfinished or failed else 0


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def prepare_directory(directory: Path, runs: Sequence[Run], command: str = KIND) -> None:
    """Make the directory or find that it is one of `command`, and write down what is asked for.

    Raises
    ------
    ValueError
        The directory holds something else, or cannot be written; another process is at work there.
    """
    from refrope.sweep.executing import alone_in

    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not is_sweep(directory) and not all(map(_is_begun, directory.iterdir())):
            raise ValueError(
                f"{command}: --out {directory} holds something else, expected a new directory or a sweep's"
            )
        with alone_in(directory):
            remove_parts(directory)
            kind: dict[str, Any] = {} if command == KIND else {"kind": command}
            about = load_sweep(directory, command) if is_sweep(directory) else {**kind, "commands": [], "runs": []}
            typed = shlex.join(["refrope", *sys.argv[1:]])
            now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            about["commands"].append({"command": typed, "date": now, "refrope": __version__})
            about["runs"] = list(dict.fromkeys([*about["runs"], *(run.name for run in runs)]))
            write_json(directory / "sweep.json", about)
    except json.JSONDecodeError as error:
        raise ValueError(f"{command}: {directory / 'sweep.json'} is damaged: {error}") from None
    except OSError as error:
        raise ValueError(f"{command}: --out {directory} cannot be written: {error.strerror or error}") from None


def _is_begun(path: Path) -> bool:
    """True for what a command leaves that is killed before its sweep.json is there."""
    from refrope.sweep.executing import LOCK

    if path.name == LOCK:
        return path.is_file() and not path.stat().st_size
    return path.name.startswith("sweep.json.") and path.name.endswith(PART)


@contextmanager
def _dask(command: str, address: str | None) -> Iterator[Executor | None]:
    """An executor of the cluster at an address, or None where there is no address."""
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError:
        raise ValueError(f"{command}: --dask needs Dask (pip install 'refrope[dask]')") from None
    try:
        arguments = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
        client: Any = Client(**arguments, timeout="20s")  # type: ignore[no-untyped-call, unused-ignore]
    except (OSError, TimeoutError, ValueError) as error:
        raise ValueError(f"{command}: no Dask scheduler at {address}: {error}") from None
    with client:
        yield client.get_executor(pure=False)
