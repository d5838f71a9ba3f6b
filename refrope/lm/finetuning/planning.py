"""How many steps fit into a time: two steps are done on this machine as it is now, and counted up.

Only --steps decides what a run does, so that it can be done again anywhere; this says what to ask for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from refrope.encodings import RotaryEncoding
from refrope.lm.finetuning.runs import Run
from refrope.lm.finetuning.settings import FinetuneSettings
from refrope.lm.finetuning.sources import Encoded
from refrope.lm.loading import load
from refrope.lm.swapping import with_softmax_factor
from refrope.lm.training.windows import WindowTraining


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes
    ----------
    step_seconds : float
        Of a training step with all threads.
    steps : int
        Of every training, so that all of them and all tests fit; 0 where not even the tests do.
    test_seconds : float
        Of all tests, by their number of products.
    """

    step_seconds: float
    steps: int
    test_seconds: float


def measure(settings: FinetuneSettings, runs: Sequence[Run], encoded: Encoded, minutes: float) -> Measured:
    """Do two steps, of which the second counts, and see how many fit.

    Parameters
    ----------
    settings : FinetuneSettings
    runs : those that will be done
    encoded : Encoded
    minutes : float > 0
        For all of them.
    """
    run = next(each for each in runs if each.seed is not None)
    seconds = step_seconds(settings, run.trained_encoding, encoded, run.sources.context)
    trainings = sum(each.seed is not None for each in runs)
    tests = seconds * sum(test.steps for each in runs for test in each.tests())
    return Measured(seconds, max(0, int((60 * minutes - tests) / (trainings * seconds))), tests)


def step_seconds(settings: FinetuneSettings, encoding: RotaryEncoding, encoded: Encoded, context: int) -> float:
    """Seconds of the second of two steps of training."""
    model = load(settings.model, backend=settings.backend, pre=settings.pre).model
    plan = replace(settings.plan(model.config), epochs=2, steps_per_epoch=1)
    training = WindowTraining(
        *(with_softmax_factor(model, encoding.softmax_factor), encoding, encoded.line, plan),
        length=settings.length,
        batch_size=settings.batch_size,
        seed=0,
        places=settings.places(context),
    )
    told: list[float] = []
    training.run(lambda loss: told.append(time.perf_counter()))
    return told[1] - told[0]
