"""``refrope check``: hold a function against an encoding, from the command line."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from refrope.conformance.calling import ARRAYS, DTYPES
from refrope.conformance.checking import AXES, KINDS, MAX_POSITION, TIME_LIMIT, as_encoding
from refrope.conformance.factories import NAMES
from refrope.conformance.running import check_apart
from refrope.encodings import RotaryEncoding
from refrope.encodings.huggingface_fields import noted
from refrope.encodings.names import parse
from refrope.errors import check_name, comma_list
from refrope.files import check_file_place
from refrope.report import write_json
from refrope.rotary import LAYOUTS

_EPILOG = """\
A function is one of: (x, positions) -> rotated x; (positions) -> (cos, sin), or one complex array; () -> inv_freq, or
(inv_freq, attention factor). It may take and return arrays of NumPy, PyTorch, JAX or MLX, and runs in a process of its
own. With --vectors the function is called with the parameters of every group of refrope's test vectors (a dict) and
returns the function to check; where it raises NotImplementedError the group is left out, though not every group may be.

examples:
  refrope check mypackage.rope:apply --encoding rope:head_dim=128,base=500000 --axes BHTD
  refrope check my_rope.py:tables --encoding yarn:head_dim=128,factor=16,original_length=4096 --layout interleaved
  refrope check my_rope.py:inv_freq --encoding path/to/config.json
  refrope check my_rope.py:make --vectors yarn,llama3

Status 0: all pass; 1: something is wrong; 2: bad usage."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``refrope check``, which the pytest plugin has too."""
    add = parser.add_argument
    add("targets", nargs="+", metavar="MODULE:FUNCTION", help="what to check; also path/to/file.py:function")
    add("--encoding", metavar="NAME", help="what it is declared to be: a name with options, or a config.json")
    add("--vectors", metavar="A,B", help=f"groups of {', '.join(NAMES)}; or all")
    add("--kind", default="auto", metavar="K", help=f"auto (default: by its arguments), {', '.join(KINDS)}")
    add("--layout", default="half", metavar="L", help=f"{', '.join(LAYOUTS)} or any (default half)")
    add("--suffix", action="store_true", help="the last features turn, where not all do")
    add("--axes", default="TD", metavar="A", help=f"of x: {', '.join(AXES)} (default TD); positions are always (T,)")
    add("--arrays", default="auto", metavar="A", help=f"that it takes: auto (default), {', '.join(ARRAYS)}")
    add("--dtype", default="float32", metavar="T", help=f"of x: {', '.join(DTYPES)} (default float32)")
    add("--role", default="q", metavar="R", help="xPos: q (default) or k")
    add("--max-position", type=int, default=MAX_POSITION, metavar="N", help=f"in tokens (default {MAX_POSITION})")
    add("--time-limit", type=float, default=TIME_LIMIT, metavar="S", help=f"seconds a call (default {TIME_LIMIT:g})")


def add_command(commands: Any) -> None:
    """Add ``check`` to the command line."""
    parser = commands.add_parser(
        "check",
        help="hold your own rotary function against an encoding, and name the mistake where there is one",
        description="Hold a rotary function against what it is declared to be. The answer is a measured error and the\n"
        "precision it behaves like, or the mistake that it looks like.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the reports there, too")
    parser.set_defaults(run=run_check)


def run_check(options: argparse.Namespace) -> int:
    """``refrope check``."""
    if options.json is not None:
        check_file_place("check: --json", options.json)
    passed = True
    reports: list[dict[str, Any]] = []
    for outcome in outcomes(options):
        print(f"{outcome.target}\n{outcome.text}")
        passed &= outcome.passed
        reports.append({"target": outcome.target, **outcome.report})
    if options.json is not None:
        command = shlex.join(["refrope", *sys.argv[1:]])
        write_json(options.json, {"format": "refrope-check-1", "command": command, "reports": reports})
        print(f"Written: {options.json}")
    return 0 if passed else 1


def outcomes(options: argparse.Namespace) -> Any:
    """Every target's outcomes, as they come."""
    if (options.encoding is None) == (options.vectors is None):
        raise ValueError("check: expected either --encoding or --vectors")
    declared: RotaryEncoding | None = None
    layout = None if options.layout == "any" else options.layout
    what = {
        "layout": layout,
        "axes": options.axes,
        "arrays": options.arrays,
        "dtype": options.dtype,
        "max_position": options.max_position,
        "time_limit": options.time_limit,
    }
    if options.vectors is not None:
        names = list(NAMES) if options.vectors == "all" else comma_list(options.vectors)
        if not names:
            raise ValueError(f"check: --vectors is {options.vectors!r}, expected names such as rope,yarn, or all")
        for name in names:
            check_name("check", "vectors", name, NAMES)
        what["vectors"] = names
    else:
        declared = _declared(options.encoding)  # an error here is one of usage, before anything is started
        what |= {"kind": options.kind, "suffix": options.suffix, "role": options.role}
    for target in options.targets:
        found = check_apart(target, declared, what)
        if not found:
            raise ValueError(
                f"check: {target}: no group was checked, expected a function for at least one group of "
                f"{', '.join(what['vectors'])} (it raises NotImplementedError for each)"
            )
        yield from found


def _declared(text: str) -> RotaryEncoding:
    """The encoding that --encoding names; warnings about a configuration go to standard error, a line each."""
    with noted(parse("check", text).path):
        return as_encoding(text)
