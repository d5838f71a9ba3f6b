"""Check every setting of the test vectors: a factory makes the function for each group of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from refrope import vectors
from refrope.conformance.checking import check
from refrope.conformance.report import Report
from refrope.errors import check_name


def check_vectors(
    make: Callable[[dict[str, Any]], Callable[..., Any]], names: Sequence[str] | None = None, **options: Any
) -> Iterator[tuple[str, Report]]:
    """`check` against every group of refrope's test vectors.

    Parameters
    ----------
    make : callable
        Called with the parameters of a group, a dict such as {"variant": "yarn", "head_dim": 64, "factor": 4.0, ...};
        returns the function to check. Raises NotImplementedError for what it does not offer: the group is left out.
    names : sequence of str, optional
        Of `refrope.vectors.NAMES`; all that are encodings if None.
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
    for name in [n for n in vectors.NAMES if n != "posgen"] if names is None else names:
        check_name("check_vectors", "name", name, vectors.NAMES)
        for group in vectors.load(name)["groups"]:
            try:
                function = make(dict(group["parameters"]))
            except NotImplementedError:
                continue
            for role in ("q", "k") if name == "xpos" else ("q",):
                shown = group["id"] + (f" ({role})" if name == "xpos" else "")
                yield shown, check(function, vectors.encoding(group["parameters"]), **{"role": role, **options})
