"""``refrope inspect``: an encoding's pairs, one a line, as JSON, or as a figure; other methods: `inspect_methods`."""

from __future__ import annotations

import argparse
import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refrope import inspect_axes, inspect_methods
from refrope.analysis import (
    circle_coverage,
    feature_gap,
    lcm_horizon,
    period_collisions,
    table_bytes,
    whole_periods,
)
from refrope.encodings import Resonance, RotaryEncoding
from refrope.encodings.huggingface import HuggingFaceWarning
from refrope.encodings.huggingface_fields import noted, read_config, top_field
from refrope.encodings.names import CLASSES, NAMES, OPTIONS, Specification, encoding_from, flag, parse, value_of
from refrope.errors import check_length, check_name
from refrope.files import check_file_place
from refrope.methods import Lengths
from refrope.report import format_table, parameters

_TRAIN_LENGTH = 64
_TEST_TO_TRAIN = 4  # how much longer tests are, where nobody says
_FLAGS = [key for key in OPTIONS if key != "train_length"]  # --train-length is that of all methods here
_EPILOG = f"""\
A name may carry options, as in yarn:factor=8,ramp=turns. With a configuration, L is the original length that it names,
else its max_position_embeddings; L' is max_position_embeddings where that is more than L. The feature gap is always
that of the form in force at L' tokens. JSON has null for what is infinite or does not exist.

{inspect_methods.HELP}

{inspect_axes.HELP}

examples:
  refrope inspect resonance-yarn --factor 8 --train-length 4096 --test-length 32768
  refrope inspect --huggingface config.json --length 65536 --json
  refrope inspect rerope --train-length 4096
  refrope inspect all --plot methods.png"""


def add_command(commands: Any) -> None:
    """Add ``inspect`` to the command line."""
    parser = commands.add_parser(
        "inspect",
        help="an encoding's pairs: wavelength, whole-number wavelength, pre- or post-critical, feature gap; of other "
        "methods, effective position and logit by distance",
        description="Print the pairs of an encoding: wavelength, whole-number wavelength (Resonance), whether a pair\n"
        "makes a full turn within the training length (pre-critical), and its feature gap at test. Of position maps,\n"
        "biases and other methods, print effective position and logit by distance.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "encoding",
        nargs="?",
        metavar="NAME",
        help=f"{', '.join(CLASSES)}, resonance- before any of them, or the path of a config.json (default rope); "
        f"or {', '.join((*inspect_methods.NAMES_HERE, *inspect_axes.NAMES_HERE))} (see below)",
    )
    add("--huggingface", type=Path, metavar="CONFIG.json", help="the encoding of a Hugging Face configuration")
    add("--layer-type", metavar="T", help="of a configuration whose layers differ, such as full_attention")
    add("--train-length", type=int, metavar="L", help=f"in tokens (default {_TRAIN_LENGTH}; see below)")
    add("--test-length", type=int, metavar="L'", help=f"in tokens (default {_TEST_TO_TRAIN} L; see below)")
    add("--json", action="store_true", help="print parameters, pairs and a summary as JSON")
    add(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="draw wavelengths, feature gap and coverage of the pairs; of other methods, logit and effective position",
    )
    add("--heads", type=int, metavar="N", help="of biases and absolute positions (default 2)")
    add("--seed", type=int, metavar="N", help="of weights that are learned (default that of posgen)")
    group = parser.add_argument_group("options of the encoding", "with a configuration only --length")
    for key in _FLAGS:
        group.add_argument(flag(key), dest=key, metavar="X", help=OPTIONS[key].about)
    parser.set_defaults(run=run_inspect)


def run_inspect(options: argparse.Namespace) -> int:
    """``refrope inspect``."""
    if options.plot is not None:
        check_file_place("inspect: --plot", options.plot)
    name = _method(options)
    if name is not None:
        return _run_method(name, options)
    specification = _specification(options)
    for key in ("heads", "seed"):
        if getattr(options, key) is not None:
            raise ValueError(f"inspect: {flag(key)} does not go with an encoding, which knows no heads and no weights")
    train, test = _lengths(options, specification)
    defaults = {"head_dim": 64, "original_length": train, "factor": test / train}
    encoding = load("inspect", specification, defaults)
    pairs = pair_rows(encoding, train, test)
    if options.plot is not None:
        _plot(encoding, pairs, train, test, options.plot)
    if options.json:
        print(json.dumps(as_json(encoding, pairs, train, test), indent=1, allow_nan=False))
        return 0
    _print_text(encoding, pairs, train, test)
    if options.plot is not None:
        print(f"Written: {options.plot}")
    return 0


def _method(options: argparse.Namespace) -> str | None:
    """The name of `inspect_methods` that the arguments ask for, None for an encoding."""
    name, _, rest = (options.encoding or "rope").partition(":")
    if options.huggingface is not None or re.search(r"\.json(:|$)", options.encoding or ""):
        return None
    check_name("inspect", "encoding", name, (*NAMES, *inspect_methods.NAMES_HERE, *inspect_axes.NAMES_HERE))
    if name in NAMES:
        return None
    if rest.strip(" ,"):
        raise ValueError(f"inspect: {name} takes no options behind its name, got {rest!r}")
    return name


def _run_method(name: str, options: argparse.Namespace) -> int:
    given = [key for key in (*_FLAGS, "heads", "seed", "layer_type") if getattr(options, key) is not None]
    if name not in inspect_axes.NAMES_HERE and (error := inspect_methods.refused(name, given)) is not None:
        raise error
    values = {key: getattr(options, key) for key in given}
    if "head_dim" in values:
        values["head_dim"] = value_of("inspect", "head_dim", values["head_dim"])
    if name in inspect_axes.NAMES_HERE:
        return inspect_axes.run(name, values, options)
    return inspect_methods.run(name, values, Lengths(*_lengths(options, Specification(name, None, {}))), options)


def load(who: str, specification: Specification, defaults: Mapping[str, Any]) -> RotaryEncoding:
    """The encoding that `specification` describes; warnings about a configuration go to standard error, a line each."""
    with noted(specification.path):
        return encoding_from(who, specification, defaults)


def _specification(options: argparse.Namespace) -> Specification:
    """What the arguments say: a name and options, or a configuration."""
    given = {key: getattr(options, key) for key in _FLAGS if getattr(options, key) is not None}
    values = {key: value_of("inspect", key, text) for key, text in given.items()}
    if options.huggingface is not None:
        if options.encoding is not None:
            raise ValueError(f"inspect: got both NAME {options.encoding!r} and --huggingface, expected one of them")
        base = Specification("", options.huggingface, {})
    else:
        base = parse("inspect", "rope" if options.encoding is None else options.encoding)
    if base.path is None:
        if options.layer_type is not None:
            raise ValueError("inspect: --layer-type needs a configuration (--huggingface)")
    elif unfit := [flag(key) for key in values if key != "length"]:
        raise ValueError(f"inspect: {unfit[0]} does not go with a configuration, which says it itself")
    twice = [key for key in values if key in base.options]
    if twice:
        raise ValueError(f"inspect: {twice[0]} is given twice, in {options.encoding!r} and as {flag(twice[0])}")
    layer_type = base.layer_type if options.layer_type is None else options.layer_type
    return base._replace(options={**base.options, **values}, layer_type=layer_type)


def _lengths(options: argparse.Namespace, specification: Specification) -> tuple[int, int]:
    """The lengths of training and test, from options, else from the configuration, else the usual ones."""
    train, test = options.train_length, options.test_length
    if specification.path is not None and (train is None or test is None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HuggingFaceWarning)
            inner = encoding_from("inspect", specification, {})
        longest = longest_text(specification.path) or _TRAIN_LENGTH
        train = getattr(inner, "original_length", longest) if train is None else train
        if test is None and longest > train:
            test = longest
    train = check_length("inspect", "train_length", _TRAIN_LENGTH if train is None else train)
    test = check_length("inspect", "test_length", _TEST_TO_TRAIN * train if test is None else test, train + 1)
    return train, test


def longest_text(path: Path) -> int | None:
    """What a configuration says of the longest text that its model is made for, in tokens; None where it is silent."""
    found = top_field(read_config(path), "max_position_embeddings")
    return int(found) if isinstance(found, (int, float)) and 1 <= found < 2**53 else None


# ---- what there is to say of an encoding ----


def rounded_periods(encoding: RotaryEncoding) -> list[int | None]:
    """Whole-number wavelengths in tokens, 0 where a pair stands still; None for all where one is beyond 2^63."""
    periods = whole_periods(encoding)
    try:
        rounded: list[int | None] = (Resonance(encoding).periods if periods is None else periods).tolist()
    except ValueError:
        return [None] * encoding.pairs
    return rounded


def pair_rows(encoding: RotaryEncoding, train_length: int, test_length: int) -> list[dict[str, Any]]:
    """What there is to know of each pair; None for what is infinite or does not exist."""
    stretch = encoding.stretch
    gap = feature_gap(encoding, train_length, test_length)
    coverage = circle_coverage(encoding, train_length)
    periods = rounded_periods(encoding)
    return [
        {
            "pair": j,
            "inv_freq": float(encoding.inv_freq[j]),
            "stretch": None if stretch is None else _finite(stretch[j]),
            "wavelength": _finite(encoding.wavelengths[j]),
            "period": periods[j],
            "critical": "pre" if encoding.wavelengths[j] < train_length else "post",
            "feature_gap": float(gap[j]),
            "coverage": float(coverage[j]),
        }
        for j in range(encoding.pairs)
    ]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def summary(
    encoding: RotaryEncoding, pairs: list[dict[str, Any]], train_length: int, test_length: int
) -> dict[str, Any]:
    """What there is to know of all `pairs` together; None for what wavelengths beyond 2^63 leave undefined."""
    critical = [pair["feature_gap"] for pair in pairs if pair["critical"] == "pre"]
    result: dict[str, Any] = {
        "attention_factor": encoding.attention_factor,
        "softmax_factor": encoding.softmax_factor,
        "pre_critical_pairs": len(critical),
        "largest_feature_gap": max(pair["feature_gap"] for pair in pairs),
        "largest_feature_gap_pre_critical": max(critical, default=0.0),
        **dict.fromkeys(("lcm_horizon", "collisions", "table_bytes")),
    }
    if pairs[0]["period"] is not None:
        weight = table_bytes(encoding, test_length)
        result["lcm_horizon"] = lcm_horizon(encoding, train_length)
        result["collisions"] = [{"period": w, "pairs": list(js)} for w, js in period_collisions(encoding).items()]
        result["table_bytes"] = {"length": test_length, "periodic": weight.periodic, "dense": weight.dense}
    return result


def as_json(
    encoding: RotaryEncoding, pairs: list[dict[str, Any]], train_length: int, test_length: int
) -> dict[str, Any]:
    """Everything above, as ``refrope inspect --json`` prints it."""
    return {
        "parameters": parameters(encoding),
        "train_length": train_length,
        "test_length": test_length,
        "pairs": pairs,
        "summary": summary(encoding, pairs, train_length, test_length),
    }


# ---- how it is shown ----


def _print_text(encoding: RotaryEncoding, pairs: list[dict[str, Any]], train: int, test: int) -> None:
    print(pair_table(encoding, pairs))
    said = summary(encoding, pairs, train, test)
    print(
        f"\n{said['pre_critical_pairs']} of {encoding.pairs} pairs make a full turn within {train} tokens "
        f"(pre-critical).\nFeature gap from {train} to {test} tokens: largest {said['largest_feature_gap']:.4f}; "
        f"of pre-critical pairs {said['largest_feature_gap_pre_critical']:.4f}."
    )
    if encoding.for_length(test) != encoding:
        print(f"The feature gap is that of the encoding in force at {test} tokens (--length {test}).")
    print(f"Attention factor {encoding.attention_factor:.6g}.")
    if encoding.softmax_factor != 1:
        print(f"Softmax factor {encoding.softmax_factor:.6g}.")


def pair_table(encoding: RotaryEncoding, pairs: list[dict[str, Any]]) -> str:
    """One line a pair."""
    rows = [("pair", "inv_freq rad/token", "stretch", "wavelength", "whole", "critical", "feature gap")]
    for pair in pairs:
        stretch = "-" if encoding.stretch is None else f"{encoding.stretch[pair['pair']]:.4f}"
        wavelength = encoding.wavelengths[pair["pair"]]
        whole = "-" if pair["period"] is None else str(pair["period"])
        rows.append(
            (
                *(str(pair["pair"]), f"{pair['inv_freq']:.9g}", stretch, f"{wavelength:.3f}", whole),
                *(pair["critical"], f"{pair['feature_gap']:.6f}"),
            )
        )
    return format_table(rows, left=0)


def _plot(encoding: RotaryEncoding, pairs: list[dict[str, Any]], train: int, test: int, path: Path) -> None:
    try:
        from refrope import plots

        plots.pairs(pairs, encoding, train, test, path)
    except ImportError:
        raise RuntimeError("inspect: --plot needs matplotlib (pip install 'refrope[experiments]')") from None
