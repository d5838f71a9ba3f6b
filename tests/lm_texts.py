"""Small texts for the tests of refrope lm train: sentences of a few words, drawn from our own random numbers."""

from __future__ import annotations

from refrope.lm.training.settings import LMSettings
from refrope.randomness import bit_source, bounded_integers

WORDS = ["the", "a", "cat", "dog", "tree", "sees", "finds", "under", "over", "small", "green", "and", "then"]
WORDS += ["é"]  # one letter of two bytes


def sentences(seed: int, words: int) -> str:
    """So many words."""
    chosen = bounded_integers(bit_source(seed, "words"), len(WORDS), words)
    return " ".join(WORDS[i] for i in chosen) + "\n"


def write_texts(directory, count=9, words=60):
    """A directory of texts, of which names a to i leave b.txt and, by its digest, others held out."""
    directory.mkdir()
    for i in range(count):
        (directory / f"{chr(97 + i)}.txt").write_text(sentences(i, words + i), encoding="utf-8")
    return directory


def small_settings(texts, **changed) -> LMSettings:
    """Trainings of four steps of 3 windows of 16 tokens, tested at up to 48."""
    usual = {
        **{"preset": "nano", "encodings": ("rope", "yarn"), "seeds": (1,), "steps": 4, "batch_size": 3},
        **{"train_length": 16, "test_lengths": (16, 32, 48), "windows": 5, "texts": (str(texts),)},
    }
    return LMSettings(**usual | changed)
