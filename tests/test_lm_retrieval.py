"""Questions about a long context: how they are made, asked and judged."""

import re
from itertools import pairwise

import numpy as np
import pytest
from lm_standins import CONTEXT, Bytes, transformer

from refrope import RoPE
from refrope.lm import retrieval
from refrope.lm.probes import (
    ANSWER,
    FILLER,
    LONGEST_LINE,
    NEEDLE,
    PASSKEY,
    hidden_line_probes,
    pair_probes,
    short_lines,
)
from refrope.lm.progress import Silent
from refrope.lm.reading import shared_prefix
from refrope.lm.retrieval import first_digits, measure
from refrope.lm.swapping import swapped
from refrope.nn.transformer import Transformer

LINES = [f"{line}\n" for line in FILLER]
OWN = RoPE(8, 500.0)
ENCODINGS = {"none": lambda length: OWN}


def passkeys(lengths=(500, 900), depths=(0, 30, 100), trials=2, **options):
    return hidden_line_probes("lm passkey", PASSKEY, LINES, Bytes(), lengths, depths, trials, **options)


def oracle(monkeypatch, found=lambda text: re.search(r"pass key is (\d+)", text)[1]):
    """A model that reads its prompt and answers as `found` says."""

    def answers(reader, prompt, count, *, eos, vocabulary):
        yield from f" {found(Bytes().decode(prompt))}. Not 12345.".encode()

    monkeypatch.setattr(retrieval, "generate", answers)


# ---- prompts ----


def test_a_prompt_fills_its_length_but_for_the_answer_and_less_than_a_line():
    for probe in passkeys():
        room = probe.length - ANSWER - len(probe.tokens)
        assert 0 <= room < max(map(len, LINES))


def test_the_line_stands_at_its_depth_among_lines_that_are_not_changed():
    for probe in passkeys():
        head, *lines = Bytes().decode(probe.tokens).split("\n\n")[0].splitlines()
        assert head == PASSKEY.head.strip()
        (place,) = (i for i, line in enumerate(lines) if probe.expected in line)
        assert place == round(probe.depth / 100 * (len(lines) - 1))
        others = lines[:place] + lines[place + 1 :]
        assert others == [FILLER[i % len(FILLER)] for i in range(len(others))]
        assert lines[place].count(probe.expected) == 2


def test_hidden_numbers_have_five_digits_and_depend_on_the_seed_alone():
    numbers = {seed: [probe.expected for probe in passkeys(trials=20, seed=seed)][::6] for seed in (1, 2)}
    assert [probe.expected for probe in passkeys(trials=20, lengths=(700,), depths=(5,))] == numbers[1]
    assert numbers[1] != numbers[2]
    assert all(re.fullmatch("[1-9][0-9]{4}", number) for number in numbers[1])
    assert len(set(numbers[1])) > 15


def test_a_needle_lies_in_the_text_that_is_given():
    text = [f"line {i} of a long text\n" for i in range(40)]
    (probe,) = hidden_line_probes("lm needle", NEEDLE, text, Bytes(), [600], [50], 1)
    said = Bytes().decode(probe.tokens)
    assert said.startswith("line 0 of a long text\n")
    assert f"counted {probe.expected} gulls" in said
    assert said.endswith("Answer: the lighthouse keeper of Arvensund counted")


def test_pairs_are_different_and_the_one_at_the_depth_is_asked_for():
    for probe in pair_probes("lm kv", Bytes(), [400, 700], [0, 40, 100], 2):
        said = Bytes().decode(probe.tokens)
        pairs = re.findall(r"^(\d{5}): (\d{5})$", said, re.MULTILINE)
        assert len(dict(pairs)) == len(pairs) > 10
        asked = said.split("\n")[-1].removesuffix(":")
        assert pairs[round(probe.depth / 100 * (len(pairs) - 1))] == (asked, probe.expected)
        assert 0 <= probe.length - ANSWER - len(probe.tokens) < len("12345: 67890\n")


def test_every_prompt_begins_with_what_every_text_begins_with():
    assert all(probe.tokens[:2].tolist() == [9, 8] for probe in passkeys(first=(9, 8)))
    assert all(p.tokens[:1].tolist() == [9] for p in pair_probes("lm kv", Bytes(), [400], [0], 1, first=(9,)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: passkeys(lengths=[64]), r"lm passkey: length is 64, expected at least \d{3}, the tokens of a prompt"),
        (lambda: pair_probes("lm kv", Bytes(), [99], [0], 1), r"lm kv: length is 99, expected at least 1\d\d"),
        (lambda: passkeys(depths=[101]), r"depth is 101, expected a number in \[0, 100\]"),
        (lambda: passkeys(trials=0), "trials is 0"),
        (lambda: hidden_line_probes("lm needle", NEEDLE, [], Bytes(), [500], [0], 1), "the text has no lines"),
    ],
)
def test_questions_that_cannot_be_asked_are_an_error(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_the_least_length_that_an_error_names_is_enough():
    for make in (
        lambda length: passkeys(lengths=[length]),
        lambda length: pair_probes("lm kv", Bytes(), [length], [0], 1),
    ):
        with pytest.raises(ValueError, match="expected at least") as failure:
            make(70)
        least = int(re.search(r"at least (\d+)", str(failure.value))[1])
        assert make(least)
        with pytest.raises(ValueError, match=f"at least {least}"):
            make(least - 1)


# ---- answers ----


@pytest.mark.parametrize(
    ("text", "digits"), [(" 12345. 6", "12345"), ("about 12,345", "12"), ("none", ""), ("", ""), ("x0123", "0123")]
)
def test_the_answer_is_the_first_run_of_digits(text, digits):
    assert first_digits(text) == digits


def test_a_model_that_finds_it_is_right_everywhere(monkeypatch):
    oracle(monkeypatch)
    (rows,) = measure(transformer(), Bytes(), passkeys(), ENCODINGS)
    assert [(row["length"], row["depth"], row["trials"], row["correct"]) for row in rows] == [
        (length, depth, 2, 2) for length in (500, 900) for depth in (0, 30, 100)
    ]
    assert {row["accuracy"] for row in rows} == {1.0}
    assert all(each["said"] == f" {each['expected']}." for row in rows for each in row["answers"])  # it stops there


def test_answers_are_counted_in_the_cell_that_they_belong_to(monkeypatch):
    """A model that sees nothing but the first half."""
    oracle(monkeypatch, lambda text: (re.search(r"pass key is (\d+)", text[: len(text) // 2]) or ["", "0"])[1])
    (rows,) = measure(transformer(), Bytes(), passkeys(), ENCODINGS)
    assert {(row["depth"], row["accuracy"]) for row in rows} == {(0, 1.0), (30, 1.0), (100, 0.0)}


def test_digits_must_be_exactly_those(monkeypatch):
    for change in (lambda n: n[:-1], lambda n: n + "0", lambda n: n[::-1]):
        oracle(monkeypatch, lambda text, change=change: change(re.search(r"pass key is (\d+)", text)[1]))
        (rows,) = measure(transformer(), Bytes(), passkeys(depths=[50]), ENCODINGS)
        assert sum(row["correct"] for row in rows) == 0


def test_what_prompts_share_is_read_once(monkeypatch):
    probes = passkeys(lengths=(400,), depths=(0, 50, 100), trials=3)
    read = []
    right = Transformer.forward

    def noted(self, tokens, tables, **options):
        read.append(tokens.shape[1])
        return right(self, tokens, tables, **options)

    monkeypatch.setattr(Transformer, "forward", noted)
    told = []

    class Told(Silent):
        def advance(self, more):
            told.append((more, self.total))

    list(measure(transformer(backend="numpy"), Bytes(), probes, ENCODINGS, eos=range(256), progress=Told))
    nodes = {probe.tokens[:end].tobytes() for probe in probes for end in range(1, len(probe.tokens) + 1)}
    assert sum(read) == len(nodes)  # each prefix once
    assert sum(more for more, _ in told) == told[0][1] == len(nodes)
    assert len(nodes) < sum(len(probe.tokens) for probe in probes) / 1.5


def test_sharing_does_not_change_what_is_said():
    model, probes = transformer(dtype=np.float64), passkeys(lengths=(300,), depths=(0, 100), trials=2)
    (rows,) = measure(model, Bytes(), probes, ENCODINGS)
    alone = [next(measure(model, Bytes(), [probe], ENCODINGS))[0]["answers"][0] for probe in probes]
    said = {(row["depth"], each["expected"]): each["said"] for row in rows for each in row["answers"]}
    assert len(said) == 4
    assert said == {(probe.depth, each["expected"]): each["said"] for probe, each in zip(probes, alone, strict=True)}


def test_each_encoding_is_asked_at_each_length_in_its_form_there(monkeypatch):
    oracle(monkeypatch)
    asked = []

    def source(encoding, dtype, pipeline):
        asked.append(encoding)
        return lambda positions: encoding.cos_sin(positions, dtype)

    monkeypatch.setattr(retrieval, "rotation_source", source)
    encodings = {
        name: lambda length, name=name: swapped(name, OWN, CONTEXT, length, factor=2.0)
        for name in ("none", "dynamic-ntk")
    }
    parts = list(measure(transformer(), Bytes(), passkeys(), encodings))
    assert [[(row["encoding"], row["length"]) for row in part] for part in parts] == [
        [("none", 500)] * 3 + [("none", 900)] * 3,
        [("dynamic-ntk", 500)] * 3,
        [("dynamic-ntk", 900)] * 3,
    ]
    assert asked == [OWN, encodings["dynamic-ntk"](500), encodings["dynamic-ntk"](900)]


def test_neighbours_in_the_order_of_tokens_share_the_most():
    ordered = sorted(passkeys(trials=3), key=lambda probe: probe.tokens.tolist())
    for n, (a, b) in enumerate(pairwise(ordered), start=1):
        best = max(shared_prefix(b.tokens, c.tokens) for c in ordered[:n])
        assert shared_prefix(a.tokens, b.tokens) == best


def test_long_lines_are_several_so_that_a_needle_stands_at_its_depth():
    words = " ".join(f"word{n}" for n in range(3_000))
    text = f"  short  line\n\n{words}\n"
    lines = short_lines(text)
    assert lines[0] == "  short  line"
    assert " ".join(lines[1:]) == words
    assert max(map(len, lines)) <= LONGEST_LINE
    found = hidden_line_probes("lm needle", NEEDLE, [f"{line}\n" for line in lines], Bytes(), [4096], [0, 50, 100], 1)
    places = [Bytes().decode(probe.tokens).index("Arvensund") for probe in found]
    assert places[0] < 50
    assert 1_500 < places[1] < 2_500 < places[2]
    assert all(4096 - ANSWER - LONGEST_LINE - 1 <= len(probe.tokens) <= 4096 - ANSWER for probe in found)
