"""What an answer to a closed-ended question is worth: letters of options, numbers, words after normalising.

References
----------
An et al. 2023, arXiv:2307.11088, whose repository's README gives a quarter for incomplete letters.
"""

from __future__ import annotations

import re
from decimal import Decimal

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
    listed = rf"{item}(?:{between}{item})*(?![A-Za-z'])"
    relevant = _relevant(text)
    if relevant != text and (told := re.match(rf"\W*?{listed}", relevant)):
        return _letters_of(told[0], options)
    # An "A" or "I" before a word in small letters is no option, but for what goes on behind one.
    word = r"(?![AI]\s+(?!(?:is|are|and|because|since)\b)[a-z])"
    for line in relevant.splitlines():
        alone = re.fullmatch(rf"[{options}\s.]*[{options}][{options}\s.]*", line)
        if found := alone or re.search(rf"(?<![A-Za-z]){word}{listed}", line):
            return _letters_of(found[0], options)
    return ""


def _letters_of(text: str, options: str) -> str:
    return "".join(sorted(set(re.findall(f"[{options}]", text))))


def normalised(text: str) -> str:
    """Lower case, without punctuation and repeated spaces; numbers without separators and final zeros.

    Articles go too, where something else remains.
    """
    text = re.sub(r"(?<![\d,.\[])\d{1,3}(?:,\d{3})+(?![\d,])", _without_commas, text.casefold())
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
        first = re.search(_NUMBER, said)
        return float(first is not None and Decimal(first[0]) == Decimal(wanted))
    return float(said == wanted)


_NUMBER = r"-?(?:\d+(?:\.\d+)?|\.\d+)"


def _without_commas(found: re.Match[str]) -> str:
    return found[0].replace(",", "")


def _letters_alone(reference: str) -> str:
    """The letters of a reference such as C, ACD, "A, C" or "(C) the third option"; "" where it is none."""
    first = re.match(r"\(?([A-Z]+)[.:)]\s", reference)
    letters = first[1] if first else re.sub(r"[\s,;.()]|\band\b", "", reference)
    return "".join(sorted(set(letters))) if re.fullmatch("[A-Z]{1,26}", letters) else ""


def _relevant(text: str) -> str:
    """What follows the first "answer is" or "answer:", the whole text without it."""
    found = re.search(r"answers? (?:is|are)\b:?|answers?:", text, re.IGNORECASE)
    return text[found.end() :] if found and text[found.end() :].strip() else text
