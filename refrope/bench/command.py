"""The command ``refrope bench``: checks first, then times, as tables and JSON."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

from refrope import kernels
from refrope.bench.cases import Case, CheckError, Measured, check, measure
from refrope.bench.kernel_cases import attention_cases, layer_cases, rotary_cases
from refrope.bench.lm_cases import lm_cases
from refrope.bench.method_cases import method_cases
from refrope.bench.step_cases import evaluation_case, step_cases, step_memory
from refrope.encodings import Resonance, RoPE
from refrope.environment import environment
from refrope.errors import check_integer, check_name, comma_list
from refrope.files import check_file_place
from refrope.report import format_table, heading, write_json
from refrope.settings import PRESETS

GROUPS = ("rotary", "attention", "methods", "layers", "steps", "evaluation", "lm", "memory")


def add_command(commands: Any) -> None:
    """Add ``bench`` to the command line."""
    parser = commands.add_parser(
        "bench",
        help="check and time the kernels and whole steps: beside the least that they could take, and PyTorch",
        description="Check the results of the kernels and of whole training, evaluation and language-model steps, then "
        "time each, beside its floor (a copy of the same bytes, or its matrix products alone) and, with --torch, the "
        "same work in PyTorch, in turns. Medians; on a busy machine ratios within one run say more than times.",
    )
    add = parser.add_argument
    add("--only", default="all", metavar="A,B", help=f"{', '.join(GROUPS)} (default all)")
    add("--presets", default="tiny", metavar="A,B", help=f"{', '.join(PRESETS)}, or all (default tiny)")
    add(
        "--repeats",
        type=int,
        default=20,
        metavar="N",
        help="rounds after one to warm up (default 20; long cases fewer)",
    )
    add("--torch", action="store_true", help="compare with PyTorch, which must be installed")
    add("--long", action="store_true", help="attention at 16,384 and 32,768 tokens too (minutes)")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add("--threads", type=int, metavar="N", help="of the kernels, BLAS and PyTorch (default: all cores)")
    parser.set_defaults(run=run_bench)


def run_bench(options: argparse.Namespace) -> int:
    """``refrope bench``: 0, or 1 where a result is wrong."""
    groups = _names("only", options.only, GROUPS)
    presets = _names("presets", options.presets, tuple(PRESETS))
    repeats = check_integer("bench", "repeats", options.repeats, 1)
    if options.json is not None:
        check_file_place("bench: --json", options.json)
    kernels.require()
    if options.torch:
        try:
            import torch
        except ImportError:
            raise ValueError("bench: --torch needs PyTorch, which is not installed here (pip install torch)") from None
        print(f"PyTorch {torch.__version__}")
    about = environment()
    print(heading(about))
    report: dict[str, Any] = {"command": shlex.join(["refrope", *sys.argv[1:]]), **about, "cases": [], "memory": {}}
    try:
        for group in groups:
            if group == "memory":
                report["memory"] = _memory(presets)
            else:
                report["cases"] += _run_group(group, presets, repeats, options.torch, options.long)
    except CheckError as error:
        print(f"refrope: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        write_json(options.json, report)
        print(f"\nWritten: {options.json}")
    return 0


def _names(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    names = list(known) if text == "all" else comma_list(text)
    for name in names:
        check_name("bench", option, name, known)
    if not names:
        raise ValueError(f"bench: --{option} is {text!r}, expected some of {', '.join(known)}")
    return names


def _cases(group: str, presets: list[str], torch: bool, long: bool) -> list[Case]:
    if group == "rotary":
        return rotary_cases(torch=torch)
    if group == "attention":
        return attention_cases(torch=torch, long=long)
    if group == "methods":
        return method_cases()
    if group == "layers":
        return layer_cases(torch=torch)
    if group == "lm":
        return lm_cases(torch=torch)
    if group == "steps":
        return [case for preset in presets for case in step_cases(preset, torch=torch)]
    return [evaluation_case(preset, torch=torch) for preset in presets if preset != "paper"]


def _run_group(group: str, presets: list[str], repeats: int, torch: bool, long: bool) -> list[dict[str, Any]]:
    """Check all cases of a group, then time each; its table is printed line by line as the figures come."""
    cases = _cases(group, presets, torch, long)
    errors = [check(case) for case in cases]
    if not cases:
        return []
    floors = dict.fromkeys(case.floor[0] for case in cases if case.floor)
    print(f"\n{group}: {len(cases)} results checked. Floor: {', or '.join(floors) or 'none'}.", flush=True)
    measured = [measure(case, repeats, error) for case, error in zip(cases, errors, strict=True)]
    peers = list(dict.fromkeys(name for case in cases for name in case.peers))
    rows: list[tuple[str, ...]] = [
        ("", "median ms", "quartiles", "rate", "floor ms", "to floor", *(f"x {name}" for name in peers))
    ]
    rows += [_row(result, peers) for result in measured]
    print(format_table(rows, left=1))
    if peers:
        print("x: how many times as fast as that.")
    if group == "steps":
        print(_table_bytes())
    return [_as_json(group, result) for result in measured]


def _row(result: Measured, peers: list[str]) -> tuple[str, ...]:
    ours, case = result.ours, result.case
    return (
        *(case.name, _ms(ours.median), f"{_ms(ours.low)} - {_ms(ours.high)}"),
        f"{result.rate:.1f} {case.unit}" if case.unit else "",
        *((_ms(result.floor.median), f"{result.to_floor:.2f}") if result.floor else ("", "")),
        *(f"{result.speedup(name):.2f}" if name in result.peers else "" for name in peers),
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g}" if seconds < 0.1 else f"{1000 * seconds:.0f}"


def _as_json(group: str, result: Measured) -> dict[str, Any]:
    case = result.case
    return {
        **{"group": group, "name": case.name, "error": result.error, "bound": case.bound},
        **{"seconds": dataclasses.asdict(result.ours), "work": case.work, "unit": case.unit, "rate": result.rate},
        "floor": None
        if result.floor is None or case.floor is None
        else {"name": case.floor[0], "seconds": dataclasses.asdict(result.floor), "ratio": result.to_floor},
        "peers": {
            name: {"seconds": dataclasses.asdict(spread), "times_as_fast": result.speedup(name)}
            for name, spread in result.peers.items()
        },
    }


def _table_bytes() -> str:
    sizes = [sum(t.nbytes for t in e.cos_sin(list(range(256)))) for e in (RoPE(64), Resonance(RoPE(64)))]
    return f"Tables for 256 positions, cos and sin: RoPE {sizes[0]} bytes, Resonance RoPE {sizes[1]} bytes."


def _memory(presets: list[str]) -> dict[str, dict[str, int]]:
    """Print and return the memory of a training step of each preset."""
    figures = {preset: step_memory(preset) for preset in presets}
    rows: list[tuple[str, ...]] = [
        ("memory of a step, MB", "weights and optimizer", "saved activations", "peak beside weights", "ratio")
    ]
    for preset, sizes in figures.items():
        values = (f"{sizes[key] / 1e6:.1f}" for key in ("weights", "activations", "peak"))
        rows.append((preset, *values, f"{sizes['peak'] / sizes['activations']:.2f}"))
    print("\n" + format_table(rows, left=1))
    return figures
