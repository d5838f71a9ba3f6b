"""Closed-ended tasks on long documents, in the JSONL form of L-Eval: exact match and multiple choice.

A line is an object with `input`, a document; `instructions`, questions about it; `outputs`, their answers. Where it has
`evaluation`, only "exam" is closed-ended; lines with another value are left out.

    document ──► cut to the context ──► + question ──► greedy answer ──► normalised ──► equal to the reference or not

References
----------
An et al. 2023, arXiv:2307.11088; the format as its repository's README says it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refrope.errors import check_integer
from refrope.lm.generating import generate
from refrope.lm.grading import CHOICE, EXACT, credit, kind_of, normalised
from refrope.lm.probes import IntArray, Tokens
from refrope.lm.reading import Reader

CLOSED_ENDED = "exam"
_ANSWER = "\nAnswer:"
_ASK = {
    CHOICE: "\n\nQuestion about the text above. Answer with the letter of each right option and nothing else.\n",
    EXACT: "\n\nQuestion about the text above. Answer in as few words as possible.\n",
}


class Document(NamedTuple):
    """A document and the questions about it.

    Attributes
    ----------
    text : str
    questions, references : list of str
    source : str
        Where it is from, "" where the file does not say.
    """

    text: str
    questions: list[str]
    references: list[str]
    source: str


# ---- the file ----


def read_documents(path: str | Path) -> tuple[list[Document], int]:
    """The documents of a file with closed-ended questions, and how many lines have others.

    Raises
    ------
    ValueError
        Not UTF-8, a line that is not such an object, or no closed-ended question; the message names file, line, field.
    OSError
        The file cannot be read.
    """
    try:
        text = Path(path).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"long_tasks: {path} is not UTF-8: byte at offset {error.start}") from None
    documents, others = [], 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"long_tasks: {path}, line {number} is not JSON: {error}") from None
        where = f"long_tasks: {path}, line {number}"
        if not isinstance(fields, dict):
            raise ValueError(f"{where} is a {type(fields).__name__}, expected an object")
        if fields.get("evaluation", CLOSED_ENDED) == CLOSED_ENDED:
            documents.append(_document(where, fields))
        else:
            others += 1
    if not any(document.questions for document in documents):
        raise ValueError(f"long_tasks: {path} has no closed-ended questions, expected lines of evaluation 'exam'")
    return documents, others


def _document(where: str, fields: dict[str, Any]) -> Document:
    for name in ("instructions", "outputs"):
        value = fields.get(name)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ValueError(f"{where}: {name} is {_short(value)}, expected a list of strings")
    if not isinstance(fields.get("input"), str):
        raise ValueError(f"{where}: input is {_short(fields.get('input'))}, expected a string")
    questions, references = fields["instructions"], fields["outputs"]
    if len(questions) != len(references):
        raise ValueError(f"{where}: instructions has {len(questions)} entries and outputs {len(references)}")
    for i, reference in enumerate(references):
        if not normalised(reference).strip(".-"):
            raise ValueError(f"{where}: outputs[{i}] is {_short(reference)}, expected an answer")
    for name, text in (("input", fields["input"]), *((f"instructions[{i}]", each) for i, each in enumerate(questions))):
        if half := re.search("[\ud800-\udfff]", text):
            raise ValueError(f"{where}: {name} has a lone surrogate at {half.start()}, expected Unicode characters")
    return Document(fields["input"], questions, references, str(fields.get("source", "")))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- running ----


def prompt(
    document: IntArray, question: IntArray, length: int, answer_tokens: int, first: Sequence[int] = ()
) -> tuple[IntArray, bool]:
    """The document, cut at its end to what the context has room for, and the question; whether it was cut.

    Raises
    ------
    ValueError
        A question that has no room by itself.
    """
    room = length - answer_tokens - len(question) - len(first)
    if room < 0:
        raise ValueError(f"lm tasks: tokens is {length}, expected at least {length - room}, which a question takes")
    parts = [np.asarray(first, np.int64), document[:room], question]
    return np.concatenate(parts), len(document) > room


def measure(
    reader: Reader,
    tokenizer: Tokens,
    documents: Sequence[Document],
    length: int,
    *,
    answer_tokens: int = 32,
    eos: Collection[int] = (),
    first: Sequence[int] = (),
) -> Iterator[dict[str, Any]]:
    """Ask the questions of all documents, greedy; a document is read once for all of its questions.

    Parameters
    ----------
    reader : Reader
    tokenizer : Tokenizer
    documents : list of Document
    length : int, tokens
        The context: document, question and answer.
    answer_tokens : int
        The most that an answer may have.
    eos, first : tokens
        That end an answer; that every prompt begins with.

    Yields
    ------
    dict
        For each question: document, question (their numbers), source, kind, expected, said, credit, cut.

    Raises
    ------
    ValueError
        A question that has no room by itself: before the first answer.
    """
    check_integer("lm tasks", "answer_tokens", answer_tokens, 1)
    questions = [list(_questions(tokenizer, document)) for document in documents]
    for _, _, asked in chain.from_iterable(questions):
        prompt(np.empty(0, np.int64), asked, length, answer_tokens, first)
    for number, document in enumerate(documents):
        text = tokenizer.encode(document.text, special=False)
        for place, (question, kind, asked) in enumerate(questions[number]):
            reference = document.references[place]
            tokens, cut = prompt(text, asked, length, answer_tokens, first)
            said: list[int] = []
            for token in generate(reader, tokens, answer_tokens, eos=eos, vocabulary=tokenizer.vocabulary):
                said.append(token)
                if _is_whole(tokenizer.decode(np.array(said))):
                    break
            answer = tokenizer.decode(np.array(said, np.int64)) if said else ""
            yield {
                **{"document": number, "question": place, "source": document.source, "kind": kind, "cut": cut},
                **{"expected": reference, "said": answer, "credit": credit(question, reference, answer)},
            }


def _questions(tokenizer: Tokens, document: Document) -> Iterator[tuple[str, str, IntArray]]:
    """Each question, its kind, and its tokens as they follow the document."""
    for question, reference in zip(document.questions, document.references, strict=True):
        kind = kind_of(question, reference)
        yield question, kind, tokenizer.encode_inside(f"{_ASK[kind]}{question}{_ANSWER}")


def _is_whole(text: str) -> bool:
    """An answer ends with the first line that says something."""
    return "\n" in text.lstrip()
