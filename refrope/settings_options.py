"""Options of the command line that are fields of `ExperimentSettings`: whoever trains models offers the same ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

from refrope import kernels, posgen
from refrope.encodings.yarn import RAMPS
from refrope.errors import comma_list
from refrope.methods import METHODS, PAPER
from refrope.nn.backends import BACKENDS
from refrope.settings import (
    DEFAULT_SEEDS,
    FROZEN,
    MODES,
    POSITIONS,
    PRESETS,
    SCORES,
    YARN_LENGTHS,
    ExperimentSettings,
)

_LISTS = ("--tasks", "--encodings", "--seeds", "--test-lengths")  # of these one setting has several values anyway


OWN = """\
your own encodings:
  MODULE:NAME or path/to/file.py:NAME among --encodings stands for a RotaryEncoding or PositionMap: its class, an
  instance, or a function that returns one. Classes and functions get those of the arguments head_dim, train_length,
  test_length (in tokens that the model reads), original_length (train_length), factor (their quotient) and encoding
  (RoPE) that they name. They are trained with themselves and tested in their form for_length of the test."""


ABOUT_PRESETS = "presets:\n" + "\n".join(f"  {name:7s}{preset.about}" for name, preset in PRESETS.items())


def add_options(parser: argparse.ArgumentParser, *, grid: bool = False) -> None:
    """Add an option for every field but the training length.

    With `grid` each takes several values, and `grid_of` all combinations of them.
    """

    def add(flag: str, **how: Any) -> None:
        if grid and flag not in _LISTS:
            how["type"] = partial(_several, flag, how.get("type", str))
        parser.add_argument(flag, **how)

    add("--preset", default="tiny", metavar="NAME", help=f"{', '.join(PRESETS)} (default tiny; see below)")
    add("--tasks", default="cot", metavar="A,B", help=f"{', '.join(posgen.TASKS)}, or all (default cot)")
    add(
        "--encodings",
        default="paper",
        metavar="A,B",
        help=f"{', '.join(METHODS)}; all; or paper (default), the first four; and your own: see below",
    )
    seeds = ",".join(map(str, DEFAULT_SEEDS))
    add("--seeds", default=seeds, metavar="1,2", help=f"of data, weights, order and dropout (default {seeds})")
    add("--epochs", type=int, metavar="N", help="instead of the preset's")
    add("--batch-size", type=int, metavar="N", help="sequences a step, instead of the preset's")
    add("--learning-rate", type=float, metavar="X", help="peak of the one-cycle schedule, instead of the preset's")
    add(
        "--yarn",
        default="swap",
        metavar="MODE",
        help=f"{' or '.join(MODES)} (default swap): train plain and swap YaRN in for testing, as the paper's code "
        "does, or train with it, as its text says",
    )
    add(
        "--maps",
        default="swap",
        metavar="MODE",
        help=f"{' or '.join(MODES)} (default swap): train with RoPE and swap position maps (rerope, dca, ...) in for "
        "testing, as those who published them do, or train with them",
    )
    add(
        "--yarn-ramp",
        metavar="NAME",
        help=f"{' or '.join(RAMPS)}: of YaRN, whichever way it is used (default: index where it is swapped in, turns "
        "where it is trained with)",
    )
    add(
        "--yarn-length",
        default="train",
        metavar="NAME",
        help=f"{' or '.join(YARN_LENGTHS)} (default train): the length in which YaRN's ramp counts turns; the paper's "
        "code takes that of the test",
    )
    add(
        "--positions",
        default="consecutive",
        metavar="NAME",
        help=f"of training tokens: {', '.join(POSITIONS)} (default consecutive); random (arXiv:2305.16843, in "
        "tests too) and pose (arXiv:2309.10400) reach to the longest test",
    )
    add("--test-lengths", default="256", metavar="A,B", help="in tokens, above 64; a row for each (default 256)")
    add(
        "--recipe",
        default="disjoint",
        metavar="NAME",
        help="splits: disjoint (default) as the paper says, official as its code; held-out and held-out-pairs leave "
        "contexts of four tokens, or pairs of two, out of training, for refrope rules",
    )
    add("--dropout", type=float, metavar="X", help="instead of the preset's")
    add(
        "--frozen",
        default="none",
        metavar="NAME",
        help=f"weights that keep their initial values: {' or '.join(FROZEN)} (default none); the paper's code freezes "
        "feed-forward",
    )
    add(
        "--select",
        default="none",
        metavar="NAME",
        help="weights that a training ends with: none (default), those of its last step, or validation, those of the "
        "epoch that is best on validation sequences within the training length",
    )
    add(
        "--scores",
        default="unscaled",
        metavar="NAME",
        help=f"of attention: {' or '.join(SCORES)} by 1 / sqrt(head_dim) (default unscaled, as in T5)",
    )
    add("--rule", default="sum", metavar="NAME", help=f"{', '.join(posgen.RULES)} (default sum)")
    if grid:
        add(
            "--front-token",
            type=_yes_or_no,
            default=True,
            metavar="A,B",
            help="yes, no (default yes): a token before each sequence",
        )
    else:
        add(
            "--no-front-token",
            dest="front_token",
            action="store_false",
            help="leave out the token before each sequence",
        )
    add("--train-sequences", type=int, default=10_000, metavar="N", help="default 10000")
    add(
        "--test-sequences",
        type=int,
        default=1_000,
        metavar="N",
        help="for test, and as many for validation; default 1000",
    )
    add("--backend", metavar="NAME", help=f"{' or '.join(BACKENDS)} (default c where the kernels are built)")


def _several(flag: str, convert: Callable[[str], Any], text: str) -> tuple[Any, ...]:
    """The values of an option of a grid."""
    try:
        values = tuple(convert(part) for part in comma_list(text))
    except (ValueError, KeyError):
        raise ValueError(f"{flag} is {text!r}, which is none of its values") from None
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{flag} is {text!r}, expected at least one value, each once")
    return values


def _yes_or_no(text: str) -> bool:
    return {"yes": True, "no": False}[text]


def grid_of(options: argparse.Namespace) -> list[ExperimentSettings]:
    """The settings of all combinations of values, checked."""
    several = {name: value for name, value in vars(options).items() if isinstance(value, tuple)}
    return [
        settings_of(argparse.Namespace(**vars(options) | dict(zip(several, values, strict=True))))
        for values in product(*several.values())
    ]


def settings_of(options: argparse.Namespace) -> ExperimentSettings:
    """The settings that the options say, checked."""
    return ExperimentSettings(
        preset=options.preset,
        tasks=tasks_of(options.tasks),
        encodings=_encodings(options.encodings),
        seeds=numbers_of("posgen", "--seeds", options.seeds),
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        yarn=options.yarn,
        maps=options.maps,
        positions=options.positions,
        yarn_ramp=options.yarn_ramp,
        yarn_length=options.yarn_length,
        dropout=options.dropout,
        frozen=options.frozen,
        select=options.select,
        scores=options.scores,
        test_lengths=numbers_of("posgen", "--test-lengths", options.test_lengths),
        recipe=options.recipe,
        rule=options.rule,
        front_token=options.front_token,
        train_sequences=options.train_sequences,
        test_sequences=options.test_sequences,
        backend=options.backend or ("c" if kernels.available() else "numpy"),
    )


def tasks_of(text: str) -> tuple[str, ...]:
    """The tasks in "a,b", or every one for "all"."""
    return posgen.TASKS if text == "all" else tuple(comma_list(text))


def numbers_of(command: str, option: str, text: str) -> tuple[int, ...]:
    """The whole numbers in "1,2,3", or an error of the command that names the option."""
    try:
        return tuple(int(part) for part in comma_list(text))
    except ValueError:
        raise ValueError(f"{command}: {option} is {text!r}, expected whole numbers such as 1,2,3") from None


def _encodings(text: str) -> tuple[str, ...]:
    groups = {"paper": PAPER, "all": tuple(METHODS)}
    return groups.get(text) or tuple(comma_list(text))
