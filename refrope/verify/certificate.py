"""Run all checks, and write down what ran where: versions, compiler, instruction set, seed, hashes, results."""

from __future__ import annotations

import datetime
import hashlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import refrope
from refrope import kernels
from refrope.environment import environment
from refrope.errors import check_integer, check_name
from refrope.verify import (
    claim_checks,
    gradient_checks,
    method_checks,
    posgen_checks,
    theorem_checks,
    twin_checks,
    vector_checks,
)
from refrope.verify.tally import Check, Result, perform

FORMAT = "refrope-certificate-1"
CHECKS: tuple[Check, ...] = (
    *vector_checks.CHECKS,
    *twin_checks.CHECKS,
    *gradient_checks.CHECKS,
    *method_checks.CHECKS,
    *theorem_checks.CHECKS,
    *claim_checks.CHECKS,
    *posgen_checks.CHECKS,
)
SECTIONS = tuple(dict.fromkeys(check.section for check in CHECKS))
_NO_KERNELS = "the C kernels are not built here"


def verify(
    *, sections: Iterable[str] = SECTIONS, seed: int = 0, on_result: Callable[[Result], None] = lambda result: None
) -> dict[str, Any]:
    """Check this installation of refrope, and return a certificate.

    Parameters
    ----------
    sections : names out of `SECTIONS`, the parts to run
    seed : int >= 0
        Of the random inputs.
    on_result : callable
        Told each result as it comes.

    Returns
    -------
    dict, which JSON holds as it is
        ``passed`` and ``complete`` (all sections, nothing skipped) say how it went; ``checks`` has for each the number
        of comparisons, how many failed, and the largest error, also as a share of what it may be; ``hashes`` are
        SHA-256 of the package's files, of the compiled kernels and of the vectors' manifest.

    Raises
    ------
    ValueError
        An unknown section, a negative seed. A check that fails, or that raises, is a result and not an error.
    """
    wanted = list(sections)
    for name in wanted:
        check_name("verify", "section", name, SECTIONS)
    check_integer("verify", "seed", seed, 0)
    if not wanted:
        raise ValueError(f"verify: sections are empty, expected some of {', '.join(SECTIONS)}")
    results = []
    for check in CHECKS:
        if check.section not in wanted:
            continue
        if check.needs_kernels and not kernels.available():
            result = Result(check.section, check.claim, skipped=_NO_KERNELS)
        else:
            result = perform(check, seed)
        results.append(result)
        on_result(result)
    skipped = any(result.skipped for result in results)
    return {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **environment(),
        "seed": seed,
        "hashes": hashes(),
        "passed": all(result.passed for result in results),
        "complete": set(wanted) == set(SECTIONS) and not skipped,
        "comparisons": sum(result.count for result in results),
        "failed": sum(result.failed for result in results),
        "seconds": sum(result.seconds for result in results),
        "checks": [{**asdict(result), "passed": result.passed} for result in results],
    }


def hashes() -> dict[str, str | None]:
    """SHA-256 of what was verified.

    ``package``: of the lines "path, two spaces, SHA-256" of all Python and JSON files of the package, in the order of
    their paths; ``kernels``: of the compiled module, None where there is none; ``vectors``: of vectors/manifest.json,
    which in turn has the hash of every vector file.
    """
    folder = Path(refrope.__file__).parent
    files = sorted(
        (path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.suffix in (".py", ".json")
    )
    lines = [f"{name}  {_sha256(path)}\n" for name, path in files]
    compiled = getattr(sys.modules.get("refrope.kernels._native"), "__file__", None)
    return {
        "package": hashlib.sha256("".join(lines).encode()).hexdigest(),
        "kernels": None if compiled is None else _sha256(Path(compiled)),
        "vectors": _sha256(folder / "vectors" / "manifest.json"),
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
