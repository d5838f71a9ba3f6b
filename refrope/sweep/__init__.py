"""Many trainings: a grid of settings, done by any executor, that goes on where it was whatever interrupted it."""

from refrope.sweep.loading import TrainedRun, is_sweep, load_models, load_rows, load_sweep
from refrope.sweep.runs import Run, runs_of

__all__ = ["Run", "TrainedRun", "is_sweep", "load_models", "load_rows", "load_sweep", "runs_of"]
