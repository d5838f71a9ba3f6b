"""What an answer to a closed-ended question is worth."""

import pytest

from refrope.lm.grading import chosen_letters, credit, kind_of, normalised, options_of

OPTIONS = "Which boat came first?\nA. the ferry\nB. the barge\nC. the yacht\nD. none of them"


@pytest.mark.parametrize(
    ("question", "options"),
    [
        (OPTIONS, "ABCD"),
        ("Which?\n(A) one\n(B) two", "AB"),
        ("Which? A) one B) two C) three", "ABC"),
        ("Who is J. Smith?", ""),
        ("Why?", ""),
    ],
)
def test_options_are_the_letters_before_them(question, options):
    assert options_of(question) == options


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("B", "choice"),
        ("ACD", "choice"),
        ("A, C", "choice"),
        ("(C) the yacht", "choice"),
        ("E", "exact"),
        ("Bob", "exact"),
    ],
)
def test_a_question_with_options_whose_answer_is_letters_is_multiple_choice(reference, kind):
    assert kind_of(OPTIONS, reference) == kind
    assert kind_of("Which boat?", reference) == "exact"


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        (" B", "B"),
        (" B.", "B"),
        ("(C)", "C"),
        ("B. the barge", "B"),
        ("C. A tool", "C"),
        ("A boat, so B", "B"),
        ("A is right", "A"),
        ("CA", "AC"),
        ("A, C and D", "ACD"),
        ("A; D", "AD"),
        ("D C", "CD"),
        ("(A) and (C)", "AC"),
        ("The answer is D.\nB", "D"),
        ("Answer: C", "C"),
        ("\n\n B\n\nQuestion: A or C?", "B"),
        ("I do not know", ""),
        ("The answer is A because the text says so.", "A"),
        ("The correct answer is C since it floats", "C"),
        ("B the barge", "B"),
        ("A because of it", "A"),
        ("A barge was first: B", "B"),
        ("A and C", "AC"),
        ("the ferry", ""),
        ("", ""),
    ],
)
def test_letters_are_found_in_an_answer(text, letters):
    assert chosen_letters(text, "ABCD") == letters


@pytest.mark.parametrize(
    ("reference", "text", "worth"),
    [
        ("B", "B", 1),
        ("B", "b", 0),
        ("B", "A", 0),
        ("ACD", "A, C, D", 1),
        ("ACD", "AC", 0.25),
        ("ACD", "AB", 0),
        ("ACD", "", 0),
        ("C", "CD", 0),
    ],
)
def test_multiple_choice_gives_a_quarter_for_an_incomplete_answer(reference, text, worth):
    assert credit(OPTIONS, reference, text) == worth


@pytest.mark.parametrize(
    ("reference", "text", "worth"),
    [
        ("the keeper", " The keeper.\nQuestion", 1),
        ("a keeper", "keeper", 1),
        ("keeper", "the keeper of it", 0),
        ("1,204", "1204", 1),
        ("1204", "There were 1,204 gulls.", 1),
        ("18", "He has 5 + 13. The answer is $18.00 a day.", 1),
        ("18", "18.5", 0),
        ("2.5", "2.50", 1),
        ("0.5", "about .5", 1),
        ("[100, 200]", "[100,200]", 1),
        ("100200", "[100,200]", 0),
        ("1234567", "1,234,567", 1),
        ("-3", "-3", 1),
        ("-3", "3", 0),
        ("18", "", 0),
        ("A", "", 0),
        ("well-known", "Well-known!", 1),
    ],
)
def test_exact_match_after_normalising(reference, text, worth):
    assert credit("How many?", reference, text) == worth


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The  Cat, a DOG!", "cat dog"),
        ("3.0", "3"),
        ("1,234,567.50", "1234567.50"),
        ("v3.0.1", "v3.0.1"),
        ("...", ""),
        ("A", "a"),
        ("The", "the"),
    ],
)
def test_normalised_words(text, wanted):
    assert normalised(text) == wanted
