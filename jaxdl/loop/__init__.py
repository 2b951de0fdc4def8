"""The loop: batches in, steps run, reports out, and an end that loses nothing."""

from jaxdl.loop.fit import BatchSource, FitResult, PlacedTrainStep, fit
from jaxdl.loop.signals import PREEMPTED, Signals

__all__ = ["PREEMPTED", "BatchSource", "FitResult", "PlacedTrainStep", "Signals", "fit"]
