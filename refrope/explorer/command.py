"""``refrope explore``: write the explorer's page."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path
from typing import Any

from refrope.errors import check_integer, check_name, check_number
from refrope.explorer.page import CATALOGUE, page_text
from refrope.files import check_file_place, write_bytes

_TEST_TO_TRAIN = 4  # how much longer tests are, where nobody says
_NUMBERS = CATALOGUE["numbers"]
_EPILOG = """\
The page is one file that needs no network and no server. What is chosen in it stands in its address, so that a view can
be shared; the options above say what it starts with.

examples:
  refrope explore --open
  refrope explore --variant yarn --resonance --head-dim 128 --train-length 4096 --test-length 32768 --out llama2.html"""


def add_command(commands: Any) -> None:
    """Add ``explore`` to the command line."""
    parser = commands.add_parser(
        "explore",
        help="write an HTML page in which head_dim, base, lengths, factor and variant can be moved",
        description="Write an HTML page in which head_dim, base, lengths, factor, variant and Resonance can be moved;\n"
        "it shows wavelengths, coverage of the circle, feature gap and logit by distance, with exact positions and\n"
        "with positions in bfloat16.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("explorer.html"), metavar="FILE.html", help="default explorer.html")
    add("--open", action="store_true", help="open it in the browser")
    group = parser.add_argument_group("what the page starts with")
    add = group.add_argument
    add("--variant", default="rope", metavar="NAME", help=f"{', '.join(CATALOGUE['variants'])} (default rope)")
    add("--resonance", action="store_true", help="whole wavelengths")
    add("--head-dim", type=int, metavar="N", help=_about("head_dim", "features of a head"))
    add("--base", type=float, metavar="X", help=_about("base", "b in b^(-2j/d)"))
    add("--train-length", type=int, metavar="L", help=_about("train_length", "in tokens"))
    add("--test-length", type=int, metavar="L'", help=f"in tokens (default {_TEST_TO_TRAIN} L)")
    add("--factor", type=float, metavar="X", help="of scaled encodings (default test length / train length)")
    parser.set_defaults(run=run_explore)


def _about(name: str, words: str) -> str:
    return f"{words} (default {_NUMBERS[name]['start']})"


def run_explore(options: argparse.Namespace) -> int:
    """``refrope explore``."""
    start = starting_values(options)
    check_file_place("explore: --out", options.out)
    write_bytes(options.out, page_text(start).encode())
    print(f"Written: {options.out}")
    if options.open and not webbrowser.open(options.out.resolve().as_uri()):
        print("No browser was found: open the file in one.")
    return 0


def starting_values(options: argparse.Namespace) -> dict[str, Any]:
    """What the page starts with, by the names of `page_text`.

    Raises
    ------
    ValueError
        An unknown variant, or a number that the page cannot show.
    """
    check_name("explore", "variant", options.variant, CATALOGUE["variants"])
    head_dim = _integer("head_dim", options.head_dim)
    if head_dim % 2:
        raise ValueError(f"explore: head_dim is {head_dim}, expected an even number: features turn in pairs")
    train = _integer("train_length", options.train_length)
    longest = _NUMBERS["test_length"]["most"]
    test = min(_TEST_TO_TRAIN * train, longest) if options.test_length is None else options.test_length
    factor = None if options.factor is None else _number("factor", options.factor)
    if factor is not None and "factor" not in CATALOGUE["variants"][options.variant]["takes"]:
        raise ValueError(f"explore: {options.variant} takes no factor")
    return {
        "variant": options.variant,
        "resonance": options.resonance,
        "head_dim": head_dim,
        "base": _number("base", options.base),
        "train_length": train,
        "test_length": check_integer("explore", "test_length", test, train + 1, longest),
        "factor": factor,
    }


def _integer(name: str, value: int | None) -> int:
    limits = _NUMBERS[name]
    return check_integer("explore", name, limits["start"] if value is None else value, limits["least"], limits["most"])


def _number(name: str, value: float | None) -> float:
    limits = _NUMBERS[name]
    wanted = f"a number in [{limits['least']}, {limits['most']}]"
    number = check_number("explore", name, limits["start"] if value is None else value, wanted, limits["least"])
    if number > limits["most"]:
        raise ValueError(f"explore: {name} is {number!r}, expected {wanted}")
    return number
