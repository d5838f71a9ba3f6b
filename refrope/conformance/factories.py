"""Check every setting of the test vectors: a factory makes the function for each group of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from refrope import vectors
from refrope.conformance.calling import CallError
from refrope.conformance.checking import check
from refrope.conformance.report import Report
from refrope.errors import check_name, in_a_line

NAMES = tuple(name for name in vectors.NAMES if name != "posgen")  # which has tasks, not encodings


def check_vectors(
    make: Callable[[dict[str, Any]], Callable[..., Any]], names: Sequence[str] | None = None, **options: Any
) -> Iterator[tuple[str, Report]]:
    """`check` against every group of refrope's test vectors.

    Parameters
    ----------
    make : callable
        Called with the parameters of a group, a dict such as {"variant": "yarn", "head_dim": 64, "factor": 4.0, ...};
        returns the function to check. Raises NotImplementedError for what it does not offer: the group is left out.
        Anything else that it raises is reported, as of a function.
    names : sequence of str, optional
        Of `refrope.vectors.NAMES` without posgen, which has tasks and not encodings; all of these if None.
    options
        Of `check`.

    Yields
    ------
    (group, Report)
        The id of the group, and what came out.

    Raises
    ------
    ValueError
        An unknown name; vector files that are not as they were published (`refrope.vectors.VectorError`).
    """
    for name in NAMES if names is None else names:
        check_name("check_vectors", "name", name, NAMES)
        for group in vectors.load(name)["groups"]:
            try:
                function = make(dict(group["parameters"]))
            except NotImplementedError:
                continue
            except (Exception, SystemExit) as error:  # whatever it raises is the answer
                function = _raises(f"the factory raises {in_a_line(error)}")
            for role in ("q", "k") if name == "xpos" else ("q",):
                shown = group["id"] + (f" ({role})" if name == "xpos" else "")
                yield shown, check(function, vectors.encoding(group["parameters"]), **{"role": role, **options})


def _raises(said: str) -> Callable[..., Any]:
    """What is checked in place of a function that was not made."""

    def raises(*_: Any) -> Any:
        raise CallError("raises", said)

    return raises
