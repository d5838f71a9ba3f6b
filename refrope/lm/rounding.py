"""What rounding wavelengths does to a model that was trained without: by layer, by pair, and from each pair on.

Resonance (arXiv:2403.00071) rounds each wavelength to the nearest whole number of tokens. The fastest ones change by up
to a few per cent, and what a pair turns too far grows with the distance. Which of them a model minds is measured here;
memory is that of `refrope.lm.side_by_side` and does not grow with the text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from refrope.encodings import Resonance, RotaryEncoding
from refrope.errors import check_integer
from refrope.lm.perplexity import perplexity
from refrope.lm.progress import Silent
from refrope.lm.rounded_pairs import RoundedPairs
from refrope.lm.scoring import FloatArray, IntArray, RotationSource
from refrope.lm.side_by_side import CHUNK, compare
from refrope.lm.swapping import rotation_source, with_softmax_factor
from refrope.nn.attending import ByLayer, LayerRotation
from refrope.nn.memory import KVCache
from refrope.nn.transformer import Transformer

TOGETHER = 8  # rounded encodings beside one reading of the own, which then takes a ninth of the time
BLOCK = 64  # neighbouring tokens are not independent; means of so many nearly are
OWN, ALL, LAYER, PAIR, FROM_PAIR = "own", "all", "layer", "pair", "from_pair"


class Part(NamedTuple):
    """What is rounded: these pairs in these layers. Kind, and number of the layer or pair, name it."""

    kind: str
    number: int | None
    layers: tuple[int, ...]
    pairs: tuple[int, ...]

    @property
    def reading(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What decides the numbers: parts that share it are read once."""
        return self.layers, self.pairs


def parts(layers: int, pairs: int) -> list[Part]:
    """Everything; each layer alone; each pair alone, in all layers; all pairs from each one on to the slowest.

    Parameters
    ----------
    layers, pairs : int
        How many the model has.
    """
    every_layer, every_pair = tuple(range(layers)), tuple(range(pairs))
    return [
        Part(ALL, None, every_layer, every_pair),
        *(Part(LAYER, layer, (layer,), every_pair) for layer in every_layer),
        *(Part(PAIR, pair, every_layer, (pair,)) for pair in every_pair),
        *(Part(FROM_PAIR, pair, every_layer, every_pair[pair:]) for pair in every_pair),
    ]


def closed_form(encoding: RotaryEncoding, context: int) -> list[dict[str, Any]]:
    """What follows from the wavelengths alone, a dict a pair.

    Parameters
    ----------
    encoding : RotaryEncoding
        In the form in force for the context.
    context : int, tokens

    Returns
    -------
    list of dict
        pair; wavelength and rounded, in tokens, None where a pair stands still; relative_change,
        ``rounded / wavelength - 1``; drift, ``context |1 / wavelength - 1 / rounded|`` in turns: how far apart the two
        are at the context's end.
    """
    rows = []
    for pair, (own, rounded) in enumerate(zip(encoding.wavelengths, Resonance(encoding).wavelengths, strict=True)):
        still = not np.isfinite(own)
        rows.append(
            {
                **{"pair": pair, "wavelength": None if still else float(own)},
                **{"rounded": None if still else float(rounded)},
                **{"relative_change": 0.0 if still else float(rounded / own - 1)},
                **{"drift": 0.0 if still else float(context * abs(1 / own - 1 / rounded))},
            }
        )
    return rows


# ---- measuring ----


def rounded_source(
    encoding: RotaryEncoding, part: Part, layers: int, dtype: npt.DTypeLike, pipeline: str = "exact"
) -> RotationSource:
    """Tables with the pairs of `part` rounded in its layers, for a model of so many `layers`.

    `encoding`, `dtype` and `pipeline` as in `refrope.lm.swapping.rotation_source`.
    """
    own = rotation_source(encoding, dtype, pipeline)
    rounded = rotation_source(RoundedPairs(encoding, part.pairs), dtype, pipeline)
    if len(part.layers) == layers:
        return rounded

    def tables(positions: IntArray) -> ByLayer:
        kept, changed = (cast(LayerRotation, source(positions)) for source in (own, rounded))
        return ByLayer(tuple(changed if layer in part.layers else kept for layer in range(layers)))

    return tables


def windows(tokens: int, context: int) -> list[slice]:
    """Where a text of so many tokens is cut into texts of `context`, each of which is read from position 0.

    The last may be shorter, but for a single token, which nothing follows: that is left out.
    """
    cuts = [slice(start, min(start + context, tokens)) for start in range(0, tokens, context)]
    return [cut for cut in cuts if cut.stop - cut.start >= 2]


def fitting(model: Transformer, context: int, most: int = TOGETHER) -> int:
    """How many rounded encodings, at most `most`, memory lets read at once.

    Raises
    ------
    ValueError
        Not even one.
    """
    for together in range(most, 1, -1):
        try:
            KVCache.check_memory(model.config, 1 + together, context, model.dtype)
        except ValueError:
            continue
        return together
    KVCache.check_memory(model.config, 2, context, model.dtype)
    return 1


def measure(
    model: Transformer,
    encoding: RotaryEncoding,
    tokens: npt.NDArray[Any],
    *,
    context: int,
    pipeline: str = "exact",
    chunk: int = CHUNK,
    together: int = TOGETHER,
    progress: Callable[[str, int], Silent] = Silent,
) -> Iterator[list[dict[str, Any]]]:
    """The rows of results, as they are done: the model's own encoding first, then those of `parts` in that order.

    Parameters
    ----------
    model : Transformer
    encoding : RotaryEncoding
        The model's own, in the form in force for the context.
    tokens : (n,) integers, n >= 2
    context : int >= 2
        The text is read in windows of so many tokens.
    pipeline : one of `refrope.lm.swapping.PIPELINES`
    chunk : int
        See `compare`.
    together : int
        How many rounded encodings read at once; results do not depend on it.
    progress : function
        Of a title and a number of tokens: a display.

    Yields
    ------
    list of dict
        For each part: kind (own, all, layer, pair or from_pair), index, and what `summary` says.
    """
    config = model.config
    context = check_integer("measure", "context", context, 2)
    together = check_integer("measure", "together", together, 1)
    scaled = with_softmax_factor(model, encoding.softmax_factor)
    wanted = parts(config.layers, encoding.pairs)
    first_of: dict[Any, Part] = {}
    for part in wanted:
        first_of.setdefault(part.reading, part)
    distinct = list(first_of.values())
    groups = [distinct[start : start + together] for start in range(0, len(distinct), together)]
    cuts = windows(len(tokens), context)
    own = rotation_source(encoding, model.dtype, pipeline)
    reads = sum(cut.stop - cut.start - 1 for cut in cuts) * (len(distinct) + len(groups))
    known: dict[Any, dict[str, Any]] = {}
    with progress(f"{len(distinct)} ways to round, {len(tokens)} tokens", reads) as shown:
        for group in groups:
            others = [rounded_source(encoding, part, config.layers, model.dtype, pipeline) for part in group]
            read = [compare(scaled, tokens[cut], own, others, chunk=chunk, advance=shown.advance) for cut in cuts]
            scores, divergence = (np.concatenate(each, axis=1) for each in zip(*read, strict=True))
            rows = []
            if not known:
                same = np.zeros(scores.shape[1])
                rows.append({"kind": OWN, "index": None, **summary(scores[0], scores[0], same)})
            for part, mine, apart in zip(group, scores[1:], divergence, strict=True):
                known[part.reading] = summary(scores[0], mine, apart)
            while wanted and wanted[0].reading in known:
                part = wanted.pop(0)
                rows.append({"kind": part.kind, "index": part.number, **known[part.reading]})
            yield rows


def summary(own: FloatArray, scores: FloatArray, divergence: FloatArray) -> dict[str, Any]:
    """Means over a text's tokens, and their standard errors.

    Parameters
    ----------
    own, scores : (n,) nats
        Log-likelihoods with the model's own encoding and with another one.
    divergence : (n,) nats

    Returns
    -------
    dict
        nats (mean loss), perplexity, change (of the loss, from own to the other), kl, and an error of both (see
        `block_error`).
    """
    change, nats = own - scores, -float(np.mean(scores))
    return {
        **{"nats": nats, "perplexity": perplexity(nats)},
        **{"change": float(np.mean(change)), "change_error": block_error(change)},
        **{"kl": float(np.mean(divergence)), "kl_error": block_error(divergence)},
    }


def block_error(values: FloatArray, block: int = BLOCK) -> float | None:
    """Standard error of the mean of `values` (n,) out of the spread of means over blocks of at least `block` of them.

    Neighbours that go together would make that of single values too small. None where there are not two blocks.
    """
    count = len(values) // block
    if count < 2:
        return None
    means = [float(part.mean()) for part in np.array_split(values, count)]
    return float(np.std(means, ddof=1)) / math.sqrt(count)


def free(runs: Sequence[dict[str, Any]], tolerance: float) -> dict[str, Any]:
    """What may be rounded for free: parts whose mean KL divergence is below `tolerance` nats.

    Parameters
    ----------
    runs : rows of `measure`
    tolerance : float

    Returns
    -------
    dict
        pairs and layers, those that are free alone; from_pair, the fastest pair from which on all together are, and
        so are those from each slower pair on; None where not even the slowest is.
    """
    alone = {
        kind: [run["index"] for run in runs if run["kind"] == kind and run["kl"] < tolerance]
        for kind in (PAIR, LAYER, FROM_PAIR)
    }
    first = None
    for pair in sorted((run["index"] for run in runs if run["kind"] == FROM_PAIR), reverse=True):
        if pair not in alone[FROM_PAIR]:
            break
        first = pair
    return {"tolerance": tolerance, "pairs": alone[PAIR], "layers": alone[LAYER], "from_pair": first}
