"""What a model predicts: teacher-forced accuracy in and out of the training length, and long texts in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from refrope.encodings.base import RotaryEncoding
from refrope.encodings.position_map import PositionMap
from refrope.errors import check_integer, describe
from refrope.kernels import parts_at_once, run_parts, single_blas_thread
from refrope.nn.attending import Rotation, check_one_rotation, rotation_of
from refrope.nn.memory import KVCache
from refrope.nn.transformer import Transformer
from refrope.posgen import Dataset, ModelArrays, inputs_and_targets
from refrope.train_positions import TrainPositions

Result = TypeVar("Result")
# Tokens that go through a model together, on one thread: few enough for its caches, enough to make a call worth it.
# A constant, so that results do not depend on the number of threads.
PART_TOKENS = 2048


def sequence_parts(count: int, length: int, tokens: int | None = None) -> list[slice]:
    """`count` sequences of `length` tokens in parts of whole sequences, about `tokens` (`PART_TOKENS`) tokens each."""
    each = max(1, (PART_TOKENS if tokens is None else tokens) // max(1, length))
    return [slice(first, min(first + each, count)) for first in range(0, count, each)]


def on_replicas(
    model: Transformer, parts: list[slice], work: Callable[[Transformer, int, slice], Result]
) -> list[Result]:
    """``work(replica, number, rows)`` for every part, spread over threads, each with a replica of `model`."""
    replicas = model.replicas(min(parts_at_once(), len(parts)))
    return run_parts(lambda worker, part: work(replicas[worker], part, parts[part]), len(parts))


def predictions(
    model: Transformer, inputs: npt.NDArray[Any], tables: Rotation, positions: npt.NDArray[Any] | None = None
) -> npt.NDArray[np.int64]:
    """The token with the highest logit after every token of `inputs` (n, T) -> (n, T).

    `tables` and `positions` are those of `Transformer.forward`.

    Raises
    ------
    FloatingPointError
        A logit is NaN: the weights are.
    """
    best = np.empty(inputs.shape, np.int64)

    def work(replica: Transformer, part: int, rows: slice) -> None:
        logits = replica.forward(inputs[rows], tables, positions=positions)
        if np.isnan(logits).any():
            raise FloatingPointError("predictions: logits are NaN, expected finite weights")
        np.argmax(logits, axis=2, out=best[rows])

    on_replicas(model, sequence_parts(*inputs.shape), work)
    return best


class Reading(NamedTuple):
    """What a model is given with sequences of tokens; made by `reading`."""

    batch: ModelArrays
    tables: Rotation
    positions: npt.NDArray[np.int64] | None


def reading(
    model: Transformer,
    encoding: RotaryEncoding | PositionMap | None,
    dataset: Dataset,
    sequences: npt.NDArray[Any],
    *,
    front_token: bool = True,
    places: TrainPositions | None = None,
    seed: int = 0,
) -> Reading:
    """The arrays, and the tables and positions of `Transformer.forward`, with which `model` reads `sequences`.

    Parameters
    ----------
    model : Transformer
    encoding : RotaryEncoding, PositionMap or None
        The one to test with, in its form for the sequences' length.
    dataset : Dataset
        Says which tokens are generated.
    sequences : (n, T) ints
    places : TrainPositions, optional
        The positions that the model was trained with, where a test must have such too (randomised ones).
    seed : int
        Of these.
    """
    batch = inputs_and_targets(sequences, front_token=front_token, modulus=dataset.modulus, j=dataset.j, k=dataset.k)
    length = batch.inputs.shape[1]
    positions = None if places is None else places.tested(seed, length)
    return Reading(batch, rotation_of(encoding, length, model.dtype, positions), positions)


def answers_by_position(
    model: Transformer,
    encoding: RotaryEncoding | PositionMap | None,
    dataset: Dataset,
    sequences: npt.NDArray[Any],
    *,
    front_token: bool = True,
    places: TrainPositions | None = None,
    seed: int = 0,
) -> npt.NDArray[np.int64]:
    """The token with the highest logit for each x_l of each sequence, given the tokens before it.

    Parameters are those of `reading`.

    Returns
    -------
    (n, T) int64, -1 where x_l is part of the random prefix

    Raises
    ------
    FloatingPointError
        A logit is NaN: the weights are.
    """
    batch, tables, positions = reading(
        *(model, encoding, dataset, sequences), front_token=front_token, places=places, seed=seed
    )
    best = predictions(model, batch.inputs, tables, positions)
    answers = np.full(sequences.shape, -1, np.int64)
    answers[:, batch.target_index[batch.loss_mask]] = best[:, batch.loss_mask]
    return answers


def accuracy_by_position(
    model: Transformer,
    encoding: RotaryEncoding | PositionMap | None,
    dataset: Dataset,
    sequences: npt.NDArray[Any],
    *,
    front_token: bool = True,
    places: TrainPositions | None = None,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """Share of the sequences whose token x_l has the highest logit, for each l.

    Parameters are those of `reading`, errors those of `answers_by_position`.

    Returns
    -------
    (T,) float64, NaN where x_l is part of the random prefix
    """
    options: dict[str, Any] = {"front_token": front_token, "places": places, "seed": seed}
    answers = answers_by_position(model, encoding, dataset, sequences, **options)
    right = (answers == sequences).mean(axis=0)
    return np.where((answers >= 0).all(axis=0), right, np.nan)


def split_accuracy(accuracy: npt.NDArray[np.float64], train_length: int) -> tuple[float, float]:
    """(in distribution, out of distribution): means over generated tokens before and from `train_length` on.

    NaN where there is no such token.
    """
    generated = ~np.isnan(accuracy)
    beyond = np.arange(len(accuracy)) >= train_length
    means = [accuracy[part].mean() if part.any() else np.nan for part in (generated & ~beyond, generated & beyond)]
    return float(means[0]), float(means[1])


def stream_logits(
    model: Transformer, encoding: RotaryEncoding | None, tokens: npt.NDArray[Any], *, chunk: int = 512
) -> Iterator[npt.NDArray[Any]]:
    """Logits of one long text, a chunk of tokens at a time: all that is held for its length are keys and values.

    Parameters
    ----------
    model : Transformer
    encoding : RotaryEncoding, or None where queries and keys do not turn
        In its form for the length of the whole text. No position map: cached keys are turned once and for all.
    tokens : (T,) ints
    chunk : int
        Tokens that are worked on together; the results depend on it by rounding alone.

    Yields
    ------
    (n, vocabulary) for the next n tokens, in a buffer that the next chunk overwrites

    Raises
    ------
    ValueError
        Tokens of another shape or outside the vocabulary, a chunk below 1, a position map, xPos.
    """
    if not isinstance(tokens, np.ndarray) or tokens.ndim != 1 or not tokens.size:
        raise ValueError(f"stream_logits: tokens are {describe(tokens)}, expected one text (T,) of at least one token")
    check_integer("stream_logits", "chunk", chunk, 1)
    if isinstance(encoding, PositionMap):
        raise ValueError(f"stream_logits: encoding is the map {encoding.name}, expected a RotaryEncoding or None")
    if encoding is not None:
        check_one_rotation("stream_logits", encoding)
        encoding = encoding.for_length(len(tokens))
    cache = KVCache(model.config, batch=1, capacity=len(tokens), dtype=model.dtype)
    for start in range(0, len(tokens), chunk):
        piece = tokens[None, start : start + chunk]
        places = np.arange(start, start + piece.shape[1])
        tables = None if encoding is None else encoding.cos_sin(places, model.dtype)
        with single_blas_thread():
            logits = model.forward(piece, tables, cache=cache)
        yield logits[0]
