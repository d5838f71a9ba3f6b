"""Closed-ended questions about long documents: the file and the prompts."""

import json
import re

import numpy as np
import pytest
from lm_standins import Bytes, transformer

from refrope import RoPE
from refrope.lm import long_tasks
from refrope.lm.long_tasks import measure, prompt, read_documents
from refrope.lm.reading import Reader
from refrope.lm.swapping import rotation_source

OPTIONS = "Which boat came first?\nA. the ferry\nB. the barge\nC. the yacht\nD. none of them"
DOCUMENT = {
    "instructions": [OPTIONS, "How many gulls were counted?", "Who counted them?"],
    "outputs": ["B", "1,204", "the keeper of the lighthouse"],
    "input": "The barge came first. The keeper of the lighthouse counted 1204 gulls. " * 5,
    "source": "harbour",
    "evaluation": "exam",
}


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


# ---- the file ----


def test_documents_are_read_and_open_ended_ones_left_out(tmp_path):
    plain = {key: DOCUMENT[key] for key in ("instructions", "outputs", "input")}
    path = write(tmp_path / "d.jsonl", DOCUMENT, "", {**DOCUMENT, "evaluation": "rouge"}, plain, "")
    documents, others = read_documents(path)
    assert others == 1
    left_out = (
        {**DOCUMENT, "evaluation": "LLM", "outputs": ["..."]},
        {**DOCUMENT, "evaluation": "rouge", "outputs": None},
    )
    assert read_documents(write(tmp_path / "more.jsonl", DOCUMENT, *left_out))[1] == 2
    assert [document.source for document in documents] == ["harbour", ""]
    assert documents[0] == (DOCUMENT["input"], DOCUMENT["instructions"], DOCUMENT["outputs"], "harbour")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
        ("[]", "line 2 is a list, expected an object"),
        ({**DOCUMENT, "instructions": "one"}, "line 2: instructions is 'one', expected a list of strings"),
        ({**DOCUMENT, "outputs": [1, 2, 3]}, r"line 2: outputs is \[1, 2, 3\], expected a list of strings"),
        ({**DOCUMENT, "input": None}, "line 2: input is None, expected a string"),
        ({**DOCUMENT, "outputs": ["B"]}, "line 2: instructions has 3 entries and outputs 1"),
        ({**DOCUMENT, "input": "a\ud800"}, "line 2: input has a lone surrogate at 1"),
        ({**DOCUMENT, "instructions": ["a", "\udfff", "b"]}, r"line 2: instructions\[1\] has a lone surrogate at 0"),
        ({**DOCUMENT, "outputs": ["B", "", "x"]}, r"line 2: outputs\[1\] is '', expected an answer"),
    ],
)
def test_a_line_that_is_no_document_is_named(tmp_path, line, words):
    path = write(tmp_path / "d.jsonl", DOCUMENT, line)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}, {words}"):
        read_documents(path)


def test_a_file_without_closed_ended_questions_is_an_error(tmp_path):
    for lines in ((), ({**DOCUMENT, "evaluation": "human"},), ({**DOCUMENT, "instructions": [], "outputs": []},)):
        with pytest.raises(ValueError, match="no closed-ended questions"):
            read_documents(write(tmp_path / "d.jsonl", *lines))


def test_a_file_that_is_not_utf8_is_an_error(tmp_path):
    (tmp_path / "d.jsonl").write_bytes(b"{\xff")
    with pytest.raises(ValueError, match="not UTF-8: byte at offset 1"):
        read_documents(tmp_path / "d.jsonl")


# ---- asking ----


def test_a_document_is_cut_at_its_end_to_leave_room_for_question_and_answer():
    document, question = np.arange(100), np.arange(200, 210)
    tokens, cut = prompt(document, question, 50, 8, first=(7,))
    assert cut
    assert tokens.tolist() == [7, *range(31), *range(200, 210)]
    whole, cut = prompt(document, question, 119, 8, first=(7,))
    assert not cut
    assert len(whole) == 111
    with pytest.raises(ValueError, match="tokens is 18, expected at least 19"):
        prompt(document, question, 18, 8, first=(7,))


@pytest.fixture
def documents(tmp_path):
    return read_documents(write(tmp_path / "d.jsonl", DOCUMENT, {**DOCUMENT, "source": "again"}))[0]


def reader(length):
    model = transformer()
    return Reader(model, rotation_source(RoPE(8, 500.0), model.dtype), length)


def test_each_question_is_asked_about_its_document_and_judged(documents, monkeypatch):
    asked = []

    def answers(reader, tokens, count, *, eos, vocabulary):
        text = Bytes().decode(tokens)
        asked.append(text)
        yield from (b" B\nmore" if "ferry" in text else b" 1204 gulls\n" if "gulls were" in text else b"nobody")

    monkeypatch.setattr(long_tasks, "generate", answers)
    rows = list(measure(reader(2000), Bytes(), documents, 2000))
    assert [(r["document"], r["question"], r["kind"], r["credit"]) for r in rows] == [
        *(
            (d, q, kind, worth)
            for d in (0, 1)
            for q, kind, worth in ((0, "choice", 1), (1, "exact", 1), (2, "exact", 0))
        )
    ]
    assert [row["said"] for row in rows[:3]] == [" B\n", " 1204 gulls\n", "nobody"]  # it ends with its first line
    assert not any(row["cut"] for row in rows)
    for text, question in zip(asked[:3], DOCUMENT["instructions"], strict=True):
        assert text.startswith(DOCUMENT["input"])
        assert text.endswith(f"{question}\nAnswer:")


def test_a_document_is_read_once_for_all_of_its_questions(documents, monkeypatch):
    mine, read = reader(2000), []
    right = mine.read
    monkeypatch.setattr(mine, "read", lambda tokens: read.append(len(tokens)) or right(tokens))
    list(measure(mine, Bytes(), documents, 2000, answer_tokens=1))
    assert read[0] > len(DOCUMENT["input"])
    assert max(read[1:]) < 350  # the second document is the same text


def test_a_real_answer_is_what_the_model_says(documents):
    rows = list(measure(reader(400), Bytes(), documents[:1], 400, answer_tokens=5))
    assert len(rows) == 3
    assert all(row["cut"] and isinstance(row["said"], str) for row in rows)


def test_a_question_without_room_is_refused_before_the_first_answer(documents):
    documents = [documents[0], documents[1]._replace(questions=["x" * 900, "b", "c"])]
    with pytest.raises(ValueError, match="tokens is 800, expected at least"):
        next(measure(reader(800), Bytes(), documents, 800))
