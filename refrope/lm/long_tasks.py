"""Closed-ended tasks on long documents, in the JSONL form of L-Eval: exact match and multiple choice.

A line is an object with `input`, a document; `instructions`, questions about it; `outputs`, their answers. Where it has
`evaluation`, only "exam" is closed-ended; lines with another value are left out.

    document ──► cut to the context ──► + question ──► greedy answer ──► normalised ──► equal to the reference or not

References
----------
An et al. 2023, arXiv:2307.11088; the format and the credit for incomplete answers as its repository's README says them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refrope.errors import check_integer
from refrope.lm.generating import generate
from refrope.lm.probes import IntArray, Tokens
from refrope.lm.reading import Reader

CLOSED_ENDED = "exam"
INCOMPLETE = 0.25  # L-Eval's credit where all chosen options are right, but not all right ones are chosen
CHOICE, EXACT = "choice", "exact"
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
        found = _document(f"long_tasks: {path}, line {number}", fields)
        if fields.get("evaluation", CLOSED_ENDED) == CLOSED_ENDED:
            documents.append(found)
        else:
            others += 1
    if not any(document.questions for document in documents):
        raise ValueError(f"long_tasks: {path} has no closed-ended questions, expected lines of evaluation 'exam'")
    return documents, others


def _document(where: str, fields: Any) -> Document:
    if not isinstance(fields, dict):
        raise ValueError(f"{where} is a {type(fields).__name__}, expected an object")
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
    return Document(fields["input"], questions, references, str(fields.get("source", "")))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- answers ----


def kind_of(question: str, reference: str) -> str:
    """`CHOICE` where the question has lettered options and the reference is nothing but letters of them."""
    letters = _letters_alone(reference)
    return CHOICE if letters and set(letters) <= set(options_of(question)) else EXACT


def options_of(question: str) -> str:
    """The letters of the options of a question: capitals that stand before one of . ) : or in brackets."""
    found = re.findall(r"(?:^|[\n\s])\(?([A-Z])[.):](?=\s)", question)
    return "".join(sorted(set(found))) if len(set(found)) > 1 else ""


def chosen_letters(text: str, options: str) -> str:
    """The options that an answer chooses, in order, "" if none: the first letters that stand alone, or in a list.

    After "answer is", what follows counts.
    """
    item = rf"\(?[{options}]+\)?"
    between = r"\s*(?:(?:,|;|/|&|and\b)\s*)+"
    # Behind an article "A" comes a word; behind a letter "is" or "are" at most.
    listed = rf"(?<![A-Za-z]){item}(?:{between}{item})*(?![A-Za-z'])(?!\s+(?!is\b|are\b)[a-z])"
    for line in _relevant(text).splitlines():
        found = re.fullmatch(rf"[{options}\s.]*[{options}][{options}\s.]*", line) or re.search(listed, line)
        if found:
            return "".join(sorted(set(re.findall(f"[{options}]", found[0]))))
    return ""


def normalised(text: str) -> str:
    """Lower case, without punctuation and repeated spaces; numbers without separators and final zeros.

    Articles go too, where something else remains.
    """
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.casefold())
    text = re.sub(r"(\d)\.0+\b(?!\.\d)", r"\1", text)
    text = re.sub(r"[^\w\s.\-]|\.(?!\d)|(?<!\w)-(?!\d)|_", " ", text)
    words = text.split()
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)


def credit(question: str, reference: str, text: str) -> float:
    """What an answer is worth, 0 to 1.

    Multiple choice: 1 for exactly the right letters, `INCOMPLETE` for some of them and no wrong one. Otherwise 1 where
    the first line of the answer, or what follows "answer is" in it, is the reference after `normalised`; a reference
    that is a number may stand among words.
    """
    if kind_of(question, reference) == CHOICE:
        right, chosen = set(_letters_alone(reference)), set(chosen_letters(text, options_of(question)))
        return 1.0 if chosen == right else INCOMPLETE if chosen and chosen < right else 0.0
    wanted = normalised(reference)
    lines = _relevant(text).strip().splitlines()
    said = normalised(lines[0]) if lines else ""
    if re.fullmatch(_NUMBER, wanted):
        return float(re.findall(_NUMBER, said)[:1] == [wanted])
    return float(said == wanted)


_NUMBER = r"-?\d+(?:\.\d+)?"


def _letters_alone(reference: str) -> str:
    """The letters of a reference such as C, ACD, "A, C" or "(C) the third option"; "" where it is none."""
    first = re.match(r"\(?([A-Z]+)[.:)]\s", reference)
    letters = first[1] if first else re.sub(r"[\s,;.()]|\band\b", "", reference)
    return "".join(sorted(set(letters))) if re.fullmatch("[A-Z]{1,26}", letters) else ""


def _relevant(text: str) -> str:
    """What follows the first "answer is" or "answer:", the whole text without it."""
    found = re.search(r"answers? (?:is|are)\b:?|answers?:", text, re.IGNORECASE)
    return text[found.end() :] if found and text[found.end() :].strip() else text


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
    """
    check_integer("lm tasks", "answer_tokens", answer_tokens, 1)
    for number, document in enumerate(documents):
        text = tokenizer.encode(document.text, special=False)
        for place, (question, reference) in enumerate(zip(document.questions, document.references, strict=True)):
            kind = kind_of(question, reference)
            asked = tokenizer.encode(f"{_ASK[kind]}{question}{_ANSWER}", special=False)
            tokens, cut = prompt(text, asked, length, answer_tokens, first)
            said: list[int] = []
            for token in generate(reader, tokens, answer_tokens, eos=eos):
                said.append(token)
                if _is_whole(tokenizer.decode(np.array(said))):
                    break
            answer = tokenizer.decode(np.array(said, np.int64)) if said else ""
            yield {
                **{"document": number, "question": place, "source": document.source, "kind": kind, "cut": cut},
                **{"expected": reference, "said": answer, "credit": credit(question, reference, answer)},
            }


def _is_whole(text: str) -> bool:
    """An answer ends with the first line that says something."""
    return "\n" in text.lstrip()
