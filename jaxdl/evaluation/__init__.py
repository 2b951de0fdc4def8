"""Exact evaluation over a data set."""

from jaxdl.evaluation.exact import PlacedEvalStep, check_exact, evaluate

__all__ = ["PlacedEvalStep", "check_exact", "evaluate"]
