"""``refrope verify``: all checks on this machine, in words and as a certificate."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from refrope.environment import environment
from refrope.errors import check_name, comma_list
from refrope.files import check_file_place
from refrope.report import heading, write_json
from refrope.verify.certificate import SECTIONS, verify
from refrope.verify.tally import Result

_EPILOG = """\
The certificate (--json) has every check with its number of comparisons and its largest error, versions, processor,
compiler, instruction set, seed, and SHA-256 of the package, its kernels and its vectors. A paper can cite it.

Status 0: all checks passed; 1: one failed, or raised; 2: bad usage."""


def add_command(commands: Any) -> None:
    """Add ``verify`` to the command line."""
    parser = commands.add_parser(
        "verify",
        help="check this installation: vectors, C against NumPy, gradients, methods, Theorem 1, the paper's numbers",
        description="Check that this installation computes what refrope promises, on this machine, in under two\n"
        "minutes: " + ", ".join(SECTIONS) + ".",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", default="all", metavar="A,B", help=f"{', '.join(SECTIONS)} (default all)")
    add("--seed", type=int, default=0, metavar="N", help="of the random inputs (default 0)")
    add("--json", type=Path, metavar="FILE", help="write the certificate there")
    parser.set_defaults(run=run_verify)


def run_verify(options: argparse.Namespace) -> int:
    """``refrope verify``: 0, or 1 where a check failed."""
    sections = list(SECTIONS) if options.only == "all" else comma_list(options.only)
    for name in sections:
        check_name("verify", "section", name, SECTIONS)
    if options.json is not None:
        check_file_place("verify: --json", options.json)
    print(heading(environment()))
    shown: set[str] = set()

    def show(result: Result) -> None:
        if result.section not in shown:
            shown.add(result.section)
            print(f"\n{result.section}")
        print("\n".join(_lines(result)), flush=True)

    certificate = verify(sections=sections, seed=options.seed, on_result=show)
    if options.json is not None:
        command = shlex.join(["refrope", *sys.argv[1:]])
        write_json(options.json, {"format": certificate["format"], "command": command, **certificate})
    print(f"\n{_summary(certificate)}")
    if options.json is not None:
        print(f"Written: {options.json}")
    return 0 if certificate["passed"] else 1


def _lines(result: Result) -> list[str]:
    if result.skipped is not None:
        return [f"  skipped            {result.claim}: {result.skipped}"]
    words = f"  {'ok  ' if result.passed else 'FAIL'} {result.count:>13,}  {result.claim}"
    if result.passed and result.worst:
        words += f" (worst {result.worst_error:.2g}, {result.worst:.3g} of its bound)"
    return [words, *(f"         {failure}" for failure in result.failures)]


def _summary(certificate: dict[str, Any]) -> str:
    checks = certificate["checks"]
    failed = [check for check in checks if not check["passed"]]
    skipped = sum(check["skipped"] is not None for check in checks)
    words = (
        f"{len(failed)} of {len(checks)} checks FAILED, {certificate['failed']:,} of {certificate['comparisons']:,} "
        "comparisons"
        if failed
        else f"{len(checks) - skipped} checks passed, {certificate['comparisons']:,} comparisons"
    )
    if skipped:
        words += f", {skipped} checks skipped"
    return f"{words} (seed {certificate['seed']}, {certificate['seconds']:.0f} s)."
