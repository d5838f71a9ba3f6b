"""Who is questioned: a trained model, with what it takes to ask it for the next token of any sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from refrope.encodings.base import RotaryEncoding
from refrope.encodings.position_map import PositionMap
from refrope.evaluate import answers_by_position
from refrope.nn.transformer import Transformer
from refrope.posgen import Dataset, Rule, sum_rule
from refrope.randomness import BoolArray, IntArray
from refrope.rules.shortcuts import full_answers, has_shortcut, shortcut_answers, two_term_answers
from refrope.train_positions import TrainPositions


@dataclass(frozen=True)
class Subject:
    """A trained model and its task.

    Parameters
    ----------
    model : Transformer
    encoding : RotaryEncoding, PositionMap or None
        What turns its queries and keys, in its form for the length of `dataset.test`.
    dataset : Dataset
    rule : Rule
        The h that made the dataset.
    front_token : bool
        Whether the model reads one before each sequence.
    places, seed : as in `refrope.evaluate.answers_by_position`
    """

    model: Transformer
    encoding: RotaryEncoding | PositionMap | None
    dataset: Dataset
    rule: Rule = sum_rule
    front_token: bool = True
    places: TrainPositions | None = None
    seed: int = 0

    def answers(self, sequences: IntArray) -> IntArray:
        """The model's x_l given the tokens before, for any tokens: (n, T) int64, -1 within the prefix."""
        return answers_by_position(
            *(self.model, self.encoding, self.dataset, sequences),
            front_token=self.front_token,
            places=self.places,
            seed=self.seed,
        )

    def by_rule(self, sequences: IntArray) -> IntArray:
        """`full_answers` for the task."""
        d = self.dataset
        return full_answers(d.task, sequences, self.rule, d.modulus, d.j, d.k)

    def by_shortcut(self, sequences: IntArray) -> IntArray:
        """`shortcut_answers` for the task."""
        d = self.dataset
        return shortcut_answers(d.task, sequences, self.rule, d.modulus, d.j, d.k)

    def by_two_terms(self, sequences: IntArray) -> IntArray:
        """`two_term_answers` for the task."""
        d = self.dataset
        return two_term_answers(d.task, sequences, d.modulus, d.j, d.k)

    @property
    def prefixes(self) -> IntArray:
        """The prefixes of the test sequences, (n, j + k)."""
        return self.dataset.test[:, : self.dataset.j + self.dataset.k]

    def steps(self) -> list[Steps]:
        """The steps of a test sequence in groups: within the training length and beyond, and of each kind there is."""
        d = self.dataset
        index = np.arange(d.test_length)
        two = has_shortcut(d.task, d.test_length, d.j, d.k)
        first = index == d.j + d.k
        kinds = {"first": first, "two tokens": two, "far token too": (index > d.j + d.k) & ~two}
        ranges = {"within": index < d.train_length, "beyond": index >= d.train_length}
        groups = [Steps(kind, where, k & r) for kind, k in kinds.items() for where, r in ranges.items()]
        return [group for group in groups if group.which.any()]


class Steps(NamedTuple):
    """Steps of a kind.

    Attributes
    ----------
    kind : {"first", "two tokens", "far token too"}
        The first generated token; those for which the sum has a shortcut of two tokens; the others.
    where : {"within", "beyond"}
        The training length.
    which : (T,) bool
    """

    kind: str
    where: str
    which: BoolArray
