"""``refrope compare``: two encodings side by side, and where they part."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from refrope.encodings import FoPE, RotaryEncoding, XPos
from refrope.encodings.base import FloatArray
from refrope.encodings.names import CLASSES, OPTIONS, flag, options_of, parse, value_of
from refrope.inspection import load, longest_text
from refrope.report import format_table, parameters

SAME = 1e-12  # relative: thousands of float64 roundings, far below what any difference of definition makes
_SHARED = ("head_dim", "base", "rotary_dim", "original_length", "factor", "length")
_EPILOG = """\
Options of one of them are written behind its name; those above are for both. Where one is a configuration, it also
lends the other its head_dim, base, rotary_dim, factor and original_length (else
its max_position_embeddings), unless they are given. A path may carry
layer_type and length, as in config.json:layer_type=full_attention,length=65536.

examples:
  refrope compare yarn:ramp=index yarn:ramp=turns --original-length 4096
  refrope compare config.json resonance-yarn"""


def add_command(commands: Any) -> None:
    """Add ``compare`` to the command line."""
    parser = commands.add_parser(
        "compare",
        help="two encodings side by side: frequencies, the first pair where they part, the largest difference",
        description="Print the pairs of two encodings side by side, the first pair where they part (relative\n"
        f"difference above {SAME:g}) and the largest relative difference.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = f"{', '.join(CLASSES)}, resonance- before any of them"
    about = f"a name ({names}), with options as in yarn:factor=4,ramp=turns, or the path of a config.json"
    parser.add_argument("first", metavar="A", help=about)
    parser.add_argument("second", metavar="B", help="the same")
    for key in _SHARED:
        parser.add_argument(flag(key), dest=key, metavar="X", help=_about(key))
    parser.add_argument("--json", action="store_true", help="print parameters, pairs and where they part as JSON")
    parser.set_defaults(run=run_compare)


def _about(key: str) -> str:
    return {"original_length": "in tokens (default 64)", "factor": "of scaled encodings (default 4)"}.get(
        key, OPTIONS[key].about
    )


def run_compare(options: argparse.Namespace) -> int:
    """``refrope compare``."""
    first, second = _encodings(options)
    compared = comparison(first, second)
    if options.json:
        names = {"a": options.first, "b": options.second}
        print(json.dumps({"names": names, **compared}, indent=1, allow_nan=False))
        return 0
    print(side_by_side(first, second))
    print(f"\nA: {options.first}\nB: {options.second}")
    parting, largest = compared["first_difference"], compared["largest_difference"]
    if parting is None:
        print(f"The frequencies of all {first.pairs} pairs are the same (relative difference at most {SAME:g}).")
    else:
        print(f"They part at pair {parting}; largest relative difference {largest['relative']:.6g}, at pair", end=" ")
        print(f"{largest['pair']}.")
    for name in ("attention_factor", "softmax_factor"):
        a, b = getattr(first, name), getattr(second, name)
        if a != b:
            print(f"{name.replace('_', ' ').capitalize()}: {a:.6g} and {b:.6g}.")
    if any(isinstance(one.innermost, XPos | FoPE) for one in (first, second)) and first != second:
        print("XPos and FoPE are more than frequencies: their tables may differ where these do not.")
    return 0


def _encodings(options: argparse.Namespace) -> tuple[RotaryEncoding, RotaryEncoding]:
    """Both encodings; a configuration lends its sizes to the other, which has no sizes of its own."""
    shared = {key: value_of("compare", key, text) for key in _SHARED if (text := getattr(options, key)) is not None}
    length = shared.pop("length", None)
    specifications = [parse("compare", text) for text in (options.first, options.second)]
    if length is not None:
        specifications = [one._replace(options={"length": length, **one.options}) for one in specifications]
    takers = {key for one in specifications if one.path is None for key in options_of(one.name)}
    for key in shared:
        if key not in takers:
            raise ValueError(f"compare: neither {options.first} nor {options.second} takes {flag(key)}")
    usual: dict[str, Any] = {"head_dim": 64, "original_length": 64, "factor": 4.0}
    found = [None if one.path is None else load("compare", one, {}) for one in specifications]
    lender = next((encoding for encoding in found if encoding is not None), None)
    if lender is not None:
        lent = {key: getattr(lender, key, None) for key in ("head_dim", "base", "rotary_dim", *usual)}
        if lent["original_length"] is None:  # of a model that scales nothing
            lent["original_length"] = next(longest_text(one.path) for one in specifications if one.path is not None)
        usual |= {key: value for key, value in lent.items() if value is not None}
    first, second = (
        load("compare", one, {**usual, **shared}) if encoding is None else encoding
        for one, encoding in zip(specifications, found, strict=True)
    )
    if first.pairs != second.pairs:
        raise ValueError(f"compare: A has {first.pairs} pairs and B has {second.pairs}, expected as many")
    return first, second


def relative_difference(a: FloatArray, b: FloatArray) -> FloatArray:
    """``|a - b| / max(|a|, |b|)``, 0 where both are 0."""
    size = np.maximum(np.abs(a), np.abs(b))
    result: FloatArray = np.abs(a - b) / np.where(size == 0, 1.0, size)
    return result


def comparison(first: RotaryEncoding, second: RotaryEncoding) -> dict[str, Any]:
    """What ``refrope compare --json`` prints; None for what is infinite or does not exist."""
    a, b = first.inv_freq, second.inv_freq
    difference = relative_difference(a, b)
    parting = np.flatnonzero(difference > SAME)
    pairs = [
        {
            "pair": j,
            **{f"inv_freq_{side}": float(one.inv_freq[j]) for side, one in (("a", first), ("b", second))},
            **{f"stretch_{side}": _stretch(one, j) for side, one in (("a", first), ("b", second))},
            "ratio": _ratio(float(a[j]), float(b[j])),
            "relative_difference": float(difference[j]),
        }
        for j in range(first.pairs)
    ]
    worst = int(difference.argmax())
    sides = (("a", first), ("b", second))
    return {
        "parameters": {side: parameters(one) for side, one in sides},
        "pairs": pairs,
        "tolerance": SAME,
        "first_difference": int(parting[0]) if parting.size else None,
        "largest_difference": {"pair": worst, "relative": float(difference[worst])},
        **{name: {side: getattr(one, name) for side, one in sides} for name in ("attention_factor", "softmax_factor")},
    }


def _stretch(encoding: RotaryEncoding, pair: int) -> float | None:
    if encoding.stretch is None or not np.isfinite(encoding.stretch[pair]):
        return None
    return float(encoding.stretch[pair])


def _ratio(a: float, b: float) -> float | None:
    """``b / a``; 1 for two pairs that stand still, None where only the first does."""
    if a == 0:
        return 1.0 if b == 0 else None
    return b / a


def side_by_side(first: RotaryEncoding, second: RotaryEncoding) -> str:
    """One line a pair; a star where they part."""
    rows: list[tuple[str, ...]] = [("pair", "inv_freq A", "inv_freq B", "stretch A", "stretch B", "ratio B/A", "")]
    difference = relative_difference(first.inv_freq, second.inv_freq)
    for j in range(first.pairs):
        stretches = ("-" if one.stretch is None else f"{one.stretch[j]:.4f}" for one in (first, second))
        ratio = _ratio(float(first.inv_freq[j]), float(second.inv_freq[j]))
        rows.append(
            (
                *(str(j), f"{first.inv_freq[j]:.9g}", f"{second.inv_freq[j]:.9g}", *stretches),
                *("-" if ratio is None else f"{ratio:.9g}", "*" if difference[j] > SAME else ""),
            )
        )
    return format_table(rows, left=0)
