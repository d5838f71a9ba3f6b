"""What is measured: our work, how its result is checked, the least that it could take, and the same work elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from refrope.bench.timing import Spread, Task, interleaved


@dataclass
class Case:
    """One line of the report.

    Parameters
    ----------
    name : str
    ours : callable
    check : callable
        The largest error of our result against an independent one; called before anything is timed.
    bound : float
        What that error may be.
    work : float
        Floating-point operations or bytes of one call.
    unit : {"GFLOP/s", "GB/s", ""}
    floor : (name, callable), optional
        Work that cannot be left out.
    peers : dict
        The same work done by others, by name.
    repeats : int, optional
        Rounds, where a case is too long for as many as asked for.
    """

    name: str
    ours: Task
    check: Callable[[], float]
    bound: float
    work: float = 0.0
    unit: str = ""
    floor: tuple[str, Task] | None = None
    peers: dict[str, Task] = field(default_factory=dict)
    repeats: int | None = None


@dataclass
class Measured:
    """A case with its times."""

    case: Case
    error: float
    ours: Spread
    floor: Spread | None
    peers: dict[str, Spread]

    @property
    def rate(self) -> float:
        """Work in units of 10^9 a second."""
        return self.case.work / self.ours.median / 1e9

    @property
    def to_floor(self) -> float | None:
        """Our time over that of the floor."""
        return None if self.floor is None else self.ours.median / self.floor.median

    def speedup(self, peer: str) -> float:
        """How many times as fast as a peer."""
        return self.peers[peer].median / self.ours.median


class CheckError(Exception):
    """A result that is to be timed is wrong."""


def check(case: Case) -> float:
    """The error of a case's result.

    Raises
    ------
    CheckError
        It is above its bound, or NaN.
    """
    error = case.check()
    if not error <= case.bound:
        raise CheckError(f"bench: {case.name}: error {error:.3g}, expected at most {case.bound:.3g}; nothing was timed")
    return error


def measure(case: Case, repeats: int, error: float) -> Measured:
    """Time a case, its floor and its peers in turns."""
    tasks: dict[str, Task] = {"ours": case.ours}
    if case.floor is not None:
        tasks["floor"] = case.floor[1]
    tasks |= {f"peer {name}": task for name, task in case.peers.items()}
    times = interleaved(tasks, min(repeats, case.repeats or repeats))
    peers = {name: times[f"peer {name}"] for name in case.peers}
    return Measured(case, error, times["ours"], times.get("floor"), peers)
