"""``refrope inspect``: an encoding's pairs, one a line."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from refrope.analysis import critical_pair, feature_gap
from refrope.encodings import Resonance, RoPE, RotaryEncoding, YaRN
from refrope.encodings.yarn import BLENDS, RAMPS
from refrope.errors import check_name
from refrope.report import format_table

NAMES = ("rope", "resonance-rope", "yarn", "resonance-yarn")


def add_command(commands: Any) -> None:
    """Add ``inspect`` to the command line."""
    parser = commands.add_parser(
        "inspect",
        help="an encoding's pairs: wavelength, whole-number wavelength, pre- or post-critical, feature gap",
        description="Print the pairs of an encoding: wavelength, whole-number wavelength (Resonance), whether a pair "
        "makes a full turn within the training length (pre-critical), and its feature gap at test.",
    )
    add = parser.add_argument
    add("encoding", nargs="?", default="rope", help=f"{', '.join(NAMES)} (default rope)")
    add("--head-dim", type=int, default=64, metavar="D", help="features of a head (default 64)")
    add("--base", type=float, default=10_000.0, metavar="B", help="default 10000")
    add("--rotary-dim", type=int, metavar="R", help="how many of the features turn (default all)")
    add("--train-length", type=int, default=64, metavar="L", help="in tokens (default 64)")
    add("--test-length", type=int, default=256, metavar="L'", help="in tokens (default 256)")
    add("--factor", type=float, metavar="S", help="YaRN's scale (default test length / train length)")
    add(
        "--beta-fast", type=float, default=32.0, metavar="X", help="YaRN: turns above which a pair is kept (default 32)"
    )
    add(
        "--beta-slow",
        type=float,
        default=1.0,
        metavar="X",
        help="YaRN: turns below which it is interpolated (default 1)",
    )
    add("--ramp", default="index", metavar="NAME", help=f"YaRN: {' or '.join(RAMPS)} (default index)")
    add("--blend", default="frequency", metavar="NAME", help=f"YaRN: {' or '.join(BLENDS)} (default frequency)")
    parser.set_defaults(run=run_inspect)


def run_inspect(options: argparse.Namespace) -> int:
    """``refrope inspect``."""
    encoding = _encoding(options)
    gap = feature_gap(encoding, options.train_length, options.test_length)
    print(pair_table(encoding, options.train_length, gap))
    critical = critical_pair(encoding, options.train_length)
    print(
        f"\n{critical} of {encoding.pairs} pairs make a full turn within {options.train_length} tokens (pre-critical)."
    )
    print(
        f"Feature gap from {options.train_length} to {options.test_length} tokens: "
        f"largest {gap.max():.4f}; of pre-critical pairs {gap[:critical].max(initial=0.0):.4f}."
    )
    print(f"Attention factor {encoding.attention_factor:.6g}.")
    return 0


def _encoding(options: argparse.Namespace) -> RotaryEncoding:
    check_name("inspect", "encoding", options.encoding, NAMES)
    plain: RotaryEncoding
    if options.encoding.endswith("yarn"):
        factor = options.test_length / options.train_length if options.factor is None else options.factor
        plain = YaRN(
            options.head_dim,
            options.base,
            factor,
            options.train_length,
            options.beta_fast,
            options.beta_slow,
            options.ramp,
            options.blend,
            rotary_dim=options.rotary_dim,
        )
    else:
        plain = RoPE(options.head_dim, options.base, rotary_dim=options.rotary_dim)
    return Resonance(plain) if options.encoding.startswith("resonance") else plain


def pair_table(encoding: RotaryEncoding, length: int, gap: np.ndarray[Any, Any]) -> str:
    """One line a pair."""
    whole = (encoding if isinstance(encoding, Resonance) else Resonance(encoding)).periods
    stretch = encoding.stretch
    rows = [("pair", "inv_freq rad/token", "stretch", "wavelength", "whole", "critical", "feature gap")]
    for j, wavelength in enumerate(encoding.wavelengths):
        rows.append(
            (
                *(str(j), f"{encoding.inv_freq[j]:.9g}", "-" if stretch is None else f"{stretch[j]:.4f}"),
                *(f"{wavelength:.3f}", str(whole[j]), "pre" if wavelength < length else "post", f"{gap[j]:.6f}"),
            )
        )
    return format_table(rows, left=0)
