"""Teacher-forced accuracy, position by position, in and out of the training length."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.encodings import RotaryEncoding
from refrope.nn.transformer import Transformer
from refrope.posgen import Dataset, inputs_and_targets

# Sequences in one forward pass; the result of a sequence does not depend on the others beside it but for rounding.
_BATCH = 64


def accuracy_by_position(
    model: Transformer,
    encoding: RotaryEncoding,
    dataset: Dataset,
    sequences: npt.NDArray[Any],
    *,
    front_token: bool = True,
) -> npt.NDArray[np.float64]:
    """Share of the sequences whose token x_l has the highest logit, for each l.

    Parameters
    ----------
    model : Transformer
    encoding : RotaryEncoding
        The one to test with, in its form for the sequences' length.
    dataset : Dataset
        Says which tokens are generated.
    sequences : (n, T) ints

    Returns
    -------
    (T,) float64, NaN where x_l is part of the random prefix

    Raises
    ------
    FloatingPointError
        A logit is NaN: the weights are.
    """
    batch = inputs_and_targets(sequences, front_token=front_token, modulus=dataset.modulus, j=dataset.j, k=dataset.k)
    length = batch.inputs.shape[1]
    tables = encoding.for_length(length).cos_sin(np.arange(length), model.dtype)
    right = np.zeros(length)
    for start in range(0, len(sequences), _BATCH):
        with model.ops.single_blas_thread():
            logits = model.forward(batch.inputs[start : start + _BATCH], tables)
        if np.isnan(logits).any():
            raise FloatingPointError("accuracy_by_position: logits are NaN, expected finite weights")
        right += (logits.argmax(axis=2) == batch.targets[start : start + _BATCH]).sum(axis=0)
    accuracy = np.full(sequences.shape[1], np.nan)
    generated = batch.target_index[batch.loss_mask]
    accuracy[generated] = right[batch.loss_mask] / len(sequences)
    return accuracy


def split_accuracy(accuracy: npt.NDArray[np.float64], train_length: int) -> tuple[float, float]:
    """(in distribution, out of distribution): means over generated tokens before and from `train_length` on.

    NaN where there is no such token.
    """
    generated = ~np.isnan(accuracy)
    beyond = np.arange(len(accuracy)) >= train_length
    means = [accuracy[part].mean() if part.any() else np.nan for part in (generated & ~beyond, generated & beyond)]
    return float(means[0]), float(means[1])
