"""Where the heads of a model look: attention weights by distance, and how much the tokens of each rule get.

    test sequences ──► forward ──► weights of each layer and head ──► by distance l - i, by what the token is for x_l

The query that answers x_l stands at x_{l-1}, so that l - i = 1 is the query's own token. Weights are those of the
model's own attention, whatever tells it positions (`refrope.Transformer.attention_weights`). They show where a head
looks; in all layers but the first what it finds there is no longer one token alone, so what the model makes of it is
for `refrope.rules.responses` to say.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from refrope.evaluate import PART_TOKENS, reading
from refrope.posgen import far_start, pair_lag
from refrope.randomness import IntArray
from refrope.rules.subject import Subject

FloatArray = npt.NDArray[np.float64]
FRONT, ELSEWHERE = "front token", "elsewhere"


class HeadAttention(NamedTuple):
    """What one head does on average.

    Attributes
    ----------
    layer, head : int
    where : {"within", "beyond"}
        Queries that answer tokens within the training length, or beyond.
    by_distance : (T,) float64
        The mean weight of the token at l - i = 1, 2, ... , over the queries that have one; NaN where none has. Without
        the front token.
    shares : dict of float
        Mean weight of the tokens "x_{l-1}" .. "x_{l-k}", "far" (all j), "x_{l-lag}" (the shortcut's second), the
        "front token" if there is one, "elsewhere"; together 1.
    """

    layer: int
    head: int
    where: str
    by_distance: FloatArray
    shares: dict[str, float]


def roles(task: str, step: int, j: int = 1, k: int = 3) -> dict[str, list[int]]:
    """The places of the tokens before x_l, l = `step`, that a rule reads, by name; each place once."""
    lag, start = pair_lag(task, j, k), far_start(task, step, j, k)
    named = {f"x_{{l-{distance}}}": [step - distance] for distance in range(1, k + 1)}
    return named | {"far": list(range(start, start + j)), f"x_{{l-{lag}}}": [step - lag]}


def attention(subject: Subject, sequences: IntArray) -> list[HeadAttention]:
    """Average attention of all layers and heads on `sequences` (n, T), true ones or not.

    Counted are queries for generated tokens whose far and near tokens and the shortcut's are different ones.
    """
    heads = subject.model.config.layers, subject.model.config.heads
    length = sequences.shape[1]
    ranges = _counted_steps(subject, length)
    by_distance = {where: np.zeros((*heads, length)) for where in ranges}
    shares = {where: {name: np.zeros(heads) for name in _names(subject)} for where in ranges}
    each = max(1, PART_TOKENS // length)
    for first in range(0, len(sequences), each):
        for layer, weights in enumerate(_weights(subject, sequences[first : first + each])):
            total = weights.sum(axis=0, dtype=np.float64)  # (H, T, T)
            for where, steps in ranges.items():
                by_distance[where][layer] += _by_distance(total, steps, length, subject.front_token)
                for name, value in _shares(subject, total, steps).items():
                    shares[where][name][layer] += value
    found = []
    for where, steps in ranges.items():
        having = np.array([(steps >= distance).sum() for distance in range(1, length + 1)], np.float64)
        means = by_distance[where] / (len(sequences) * np.where(having > 0, having, np.nan))
        number = len(sequences) * len(steps)
        found += [
            HeadAttention(
                layer,
                head,
                where,
                means[layer, head],
                {name: float(sums[layer, head] / number) for name, sums in shares[where].items()},
            )
            for layer, head in np.ndindex(heads)
        ]
    return found


def _counted_steps(subject: Subject, length: int) -> dict[str, IntArray]:
    """The steps l whose tokens `roles` names are different ones, within the training length and beyond."""
    d = subject.dataset
    steps = []
    for step in range(pair_lag(d.task, d.j, d.k), length):
        places = [place for named in roles(d.task, step, d.j, d.k).values() for place in named]
        if len(set(places)) == len(places):
            steps.append(step)
    counted = np.array(steps, np.int64)
    ranges = {"within": counted[counted < d.train_length], "beyond": counted[counted >= d.train_length]}
    return {where: chosen for where, chosen in ranges.items() if chosen.size}


def _names(subject: Subject) -> list[str]:
    d = subject.dataset
    front = [FRONT] if subject.front_token else []
    return [*roles(d.task, pair_lag(d.task, d.j, d.k), d.j, d.k), *front, ELSEWHERE]


def _weights(subject: Subject, sequences: IntArray) -> list[npt.NDArray[Any]]:
    """(B, H, T, T) for each layer; T counts what the model reads."""
    read = reading(
        *(subject.model, subject.encoding, subject.dataset, sequences),
        front_token=subject.front_token,
        places=subject.places,
        seed=subject.seed,
    )
    subject.model.forward(read.batch.inputs, read.tables, positions=read.positions, keep=True)
    return [subject.model.attention_weights(layer) for layer in range(subject.model.config.layers)]


def _by_distance(total: FloatArray, steps: IntArray, length: int, front_token: bool) -> FloatArray:
    """Sums over the steps of the weight at l - i = 1 .. T, (H, T)."""
    front = int(front_token)
    sums = np.zeros((len(total), length))
    for distance in range(1, length):
        having = steps[steps >= distance]  # x_{l-distance} exists
        sums[:, distance - 1] = total[:, having - 1 + front, having - distance + front].sum(axis=1)
    return sums


def _shares(subject: Subject, total: FloatArray, steps: IntArray) -> dict[str, FloatArray]:
    """Sums over the steps of the weight that each role has, (H,)."""
    d, front = subject.dataset, int(subject.front_token)
    sums = {name: np.zeros(len(total)) for name in _names(subject)}
    for step in steps.tolist():
        row = total[:, step - 1 + front]
        for name, places in roles(d.task, step, d.j, d.k).items():
            sums[name] += row[:, np.array(places) + front].sum(axis=1)
    rows = total[:, steps - 1 + front]
    if front:
        sums[FRONT] += rows[:, :, 0].sum(axis=1)
    sums[ELSEWHERE] += rows.sum(axis=(1, 2)) - sum(value for name, value in sums.items() if name != ELSEWHERE)
    return sums
