"""What an answer to a closed-ended question is worth: letters of options, numbers, words after normalising.

References
----------
An et al. 2023, arXiv:2307.11088, whose repository's README gives a quarter for incomplete letters.
"""

from __future__ import annotations

import re

INCOMPLETE = 0.25  # L-Eval's credit where all chosen options are right, but not all right ones are chosen
CHOICE, EXACT = "choice", "exact"


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
