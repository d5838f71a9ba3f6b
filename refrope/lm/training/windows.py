"""Train any model on random windows of a line of tokens: small models from scratch, or one that is already trained.

    texts ──► one line of tokens ──► random windows ──► WindowTraining ──► losses, held-out ones too

Whoever continues a model that is large freezes what need not train and lets fewer tokens through it at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.encodings.base import RotaryEncoding
from refrope.encodings.position_map import PositionMap
from refrope.errors import check_integer, describe
from refrope.lm.training.losses import token_losses
from refrope.nn.attending import rotation_of
from refrope.nn.transformer import Transformer
from refrope.randomness import BitSource, bit_source, bounded_integers, permutation
from refrope.train_positions import TrainPositions
from refrope.train_step import Batch
from refrope.training import Course, Plan, ResumableTraining

Tokens = npt.NDArray[Any]


def one_line(texts: Iterable[Tokens], end: int) -> Tokens:
    """All texts one after another, with the token `end` before each and after the last."""
    stop = np.array([end], np.int32)
    return np.concatenate([stop, *(part for text in texts for part in (text, stop))])


def random_windows(source: BitSource, tokens: Tokens, length: int, count: int) -> npt.NDArray[np.int64]:
    """Where `count` windows of `length` tokens, and the token after each, begin in a line of tokens."""
    return bounded_integers(source, len(tokens) - length, count)


def held_out_windows(texts: Iterable[Tokens], length: int, count: int, *, scored: int | None = None) -> Tokens:
    """Windows of `length` tokens and the one after, each within one text, none over another's targets.

    Always the same ones of the same texts: `count` of all that there are, at random, or all if there are fewer.

    Parameters
    ----------
    texts : arrays of ints
    length, count : int
    scored : int, optional
        Only so many tokens at the end of a window are targets, and windows may share those before them; all if None.

    Returns
    -------
    (n, length + 1) int64, n from 0 to `count`
    """
    texts = list(texts)
    stride = length if scored is None else scored
    places = [(i, start) for i, text in enumerate(texts) for start in range(0, len(text) - length, stride)]
    order = permutation(bit_source(0, f"held-out windows of {length} tokens"), len(places))[:count]
    chosen = [texts[i][start : start + length + 1] for i, start in (places[each] for each in sorted(order.tolist()))]
    return np.array(chosen, np.int64).reshape(-1, length + 1)


@dataclass
class WindowCourse(Course):
    """What happened in training, one entry an epoch: the loss, and that of the watched windows, in nats a token."""

    held_out_loss: list[float] = field(default_factory=list)


class WindowTraining(ResumableTraining[WindowCourse]):
    """A training on random windows of a line of tokens, of which every token is predicted from those before it.

    Parameters
    ----------
    model : Transformer
        Trained in place, from the weights that it has.
    encoding : RotaryEncoding, PositionMap, or None where queries and keys do not turn
        Taken in its form for `length`.
    tokens : (n,) ints
    plan : Plan
        Its `frozen` and `part_tokens` are what a large model needs: no moments for weights that do not train, and
        fewer tokens that go through the model at the same time.
    length : int
        Tokens of a window.
    batch_size : int
        Windows a step.
    seed : int
        Of the places of the windows and of dropout.
    watched : (n, T + 1) ints, optional
        Windows whose loss is found after each epoch; nothing is chosen by it.
    places : TrainPositions, optional
        Positions of a window's tokens, such as `PoSE`; 0, 1, 2, ... if None. Watched windows have those.

    Raises
    ------
    ValueError
        Fewer tokens than a window has and one more; tokens outside the vocabulary; patterns of frozen weights that do
        not fit the model; positions that do not fit the encoding.
    """

    def __init__(
        self,
        model: Transformer,
        encoding: RotaryEncoding | PositionMap | None,
        tokens: Tokens,
        plan: Plan,
        *,
        length: int,
        batch_size: int,
        seed: int,
        watched: Tokens | None = None,
        places: TrainPositions | None = None,
    ) -> None:
        check_integer("WindowTraining", "length", length, 1)
        check_integer("WindowTraining", "batch_size", batch_size, 1)
        fits = isinstance(tokens, np.ndarray) and tokens.ndim == 1 and tokens.dtype.kind in "iu"
        if not fits or len(tokens) <= length:
            wanted = f"at least {length + 1} integers (n,): a window and the token after it"
            raise ValueError(f"WindowTraining: tokens are {describe(tokens)}, expected {wanted}")
        vocabulary = model.config.vocabulary
        if tokens.min() < 0 or tokens.max() >= vocabulary:
            worst = tokens.min() if tokens.min() < 0 else tokens.max()
            raise ValueError(f"WindowTraining: tokens hold {worst}, expected values in [0, {vocabulary})")
        self.encoding, self.tokens, self.length, self.batch_size = encoding, tokens, length, batch_size
        self.watched, self.places = watched, places
        if places is not None:
            places.check(model.config, encoding, length)
        self._rotation = rotation_of(encoding, length, model.dtype)
        super().__init__(model, WindowCourse(), plan, seed=seed)

    @property
    def together(self) -> int | None:
        """Windows that are tested together: as few as the plan has them trained together, where it says so."""
        return None if self.plan.part_tokens is None else max(1, self.plan.part_tokens // self.length)

    def epoch_batches(self) -> list[npt.NDArray[np.int64]]:
        """Where the windows of each step begin, (batch_size,) a step."""
        count = self.plan.steps_per_epoch * self.batch_size
        return list(random_windows(self.order, self.tokens, self.length, count).reshape(-1, self.batch_size))

    def batch_of(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Those windows, at their positions."""
        windows = self.tokens[rows[:, None] + np.arange(self.length + 1)].astype(np.int64)
        rotation, positions = self._rotation, None
        if self.places is not None:
            positions = self.places.drawn(self.draws, len(rows), self.length)
            reach = getattr(self.places, "limit", None)
            rotation = rotation_of(self.encoding, self.length, self.model.dtype, positions, reach=reach)
            positions = positions if positions.ndim == 1 else None  # a window's own are in the tables alone
        return Batch(windows[:, :-1], windows[:, 1:], np.ones(self.length, np.bool_), rotation, positions)

    def test_epoch(self) -> None:
        """Find the loss of the watched windows."""
        if self.watched is not None and len(self.watched):
            losses = token_losses(self.model, self.encoding, self.watched, together=self.together)
            self.history.held_out_loss.append(float(losses.mean()))
