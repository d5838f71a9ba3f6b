"""Find a function by its name and check it in a process of its own, where it may crash or hang."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from refrope.encodings import RotaryEncoding
from refrope.importing import find
from refrope.workers import end_with_parent

# What may pass between two calls: starting Python, importing torch, working out what the numbers mean.
_BETWEEN_SECONDS = 120.0
# What a call may take beyond its limit: the check inside notices most that hang, and says so itself.
_GRACE_SECONDS = 10.0


class Outcome(NamedTuple):
    """What came out of one target: a report as text and as JSON has it."""

    target: str
    passed: bool
    text: str
    report: dict[str, Any]


def find_function(target: str) -> Callable[..., Any]:
    """The function that ``package.module:name`` or ``path/to/file.py:name`` names.

    Raises
    ------
    ValueError
        No such module or name, a module that raises when it is imported, or something that cannot be called.
    """
    found = find("check", target)
    if not callable(found):
        raise ValueError(f"check: {target} is not a function")
    result: Callable[..., Any] = found
    return result


def check_apart(target: str, encoding: RotaryEncoding | None, options: Mapping[str, Any]) -> list[Outcome]:
    """`refrope.conformance.check` of a target, in a new process.

    Parameters
    ----------
    target : str
    encoding : RotaryEncoding, or None with "vectors"
    options : mapping
        Of `check`. With "vectors", a list of names of vector files, the target is called with the parameters of each
        group and returns the function to check.

    Raises
    ------
    ValueError
        What `find_function` and `check` raise.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, target, encoding, dict(options)), daemon=True)
    process.start()
    theirs.close()
    outcomes: list[Outcome] = []
    limit = float(options["time_limit"])
    patience = _BETWEEN_SECONDS
    try:
        while ours.poll(patience):
            kind, value = ours.recv()
            patience = limit + _GRACE_SECONDS if kind == "calls" else _BETWEEN_SECONDS
            if kind == "end":
                return outcomes
            if kind == "error":
                raise ValueError(value)
            if kind == "outcome":
                outcomes.append(value)
        said = f"a call took more than {limit:g} s and could not be left behind: the process was ended"
        return [*outcomes, _lost(target, "hangs", said)]
    except EOFError:
        process.join()
        return [*outcomes, _lost(target, "crashes", f"it ended the process ({_ending(process.exitcode)})")]
    finally:
        process.kill()
        process.join()


def _lost(target: str, kind: str, said: str) -> Outcome:
    report = {"passed": False, "mistakes": [], "problems": {kind: said}}
    return Outcome(target, False, f"FAIL  {target}\n  Problem ({kind}): {said}.", report)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"status {code}"


def _work(results: Connection, target: str, encoding: RotaryEncoding | None, options: dict[str, Any]) -> None:
    """What the new process does: send an ("outcome", Outcome) for each report, then ("end", None).

    Around each call of the function go ("calls", None) and ("called", None).
    """
    from refrope.conformance.checking import check
    from refrope.conformance.factories import check_vectors

    lock = threading.Lock()  # a call that was left behind may end while a report is being sent

    def send(message: Any) -> None:
        with lock:
            results.send(message)

    end_with_parent()
    os.dup2(2, 1)  # what compiled code writes to standard output is not to be taken for the report
    try:
        found = find_function(target)
        names = options.pop("vectors", None)
        if names is not None:
            made = functools.wraps(found)(lambda parameters: _watched(found(parameters), send))
            for group, report in check_vectors(made, names, **options):
                send(("outcome", Outcome(f"{target} {group}", report.passed, str(report), report.as_dict())))
        else:
            assert encoding is not None
            report = check(_watched(found, send), encoding, **options)
            send(("outcome", Outcome(target, report.passed, str(report), report.as_dict())))
        send(("end", None))
    except ValueError as error:
        send(("error", str(error)))


def _watched(function: Callable[..., Any], send: Callable[[Any], None]) -> Callable[..., Any]:
    """`function`, which tells the other process when a call begins and when it is over."""

    @functools.wraps(function)
    def watched(*arguments: Any) -> Any:
        send(("calls", None))
        try:
            return function(*arguments)
        finally:
            send(("called", None))

    return watched
