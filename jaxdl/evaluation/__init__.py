"""Exact evaluation over a data set."""

from jaxdl.evaluation.exact import PlacedEvalStep, evaluate

__all__ = ["PlacedEvalStep", "evaluate"]
