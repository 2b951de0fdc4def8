"""Exact evaluation over a data set, and the statistics of what was measured."""

from jaxdl.evaluation.calibration import (
    Reliability,
    brier_score,
    calibration_error,
    log_loss,
    reliability,
    top_label,
)
from jaxdl.evaluation.comparing import Comparison, compare, holm, weighted_mean
from jaxdl.evaluation.exact import PlacedEvalStep, check_exact, evaluate
from jaxdl.evaluation.folds import Fold, stratified_folds
from jaxdl.evaluation.intervals import Interval, bootstrap
from jaxdl.evaluation.measuring import measure
from jaxdl.evaluation.ranking import auroc, average_precision
from jaxdl.evaluation.significance import (
    Difference,
    McNemar,
    mcnemar,
    paired_bootstrap,
    permutation_test,
)
from jaxdl.evaluation.tables import ClassRow, SliceRow, by_slice, class_table, confusion

__all__ = [
    "ClassRow",
    "Comparison",
    "Difference",
    "Fold",
    "Interval",
    "McNemar",
    "PlacedEvalStep",
    "Reliability",
    "SliceRow",
    "auroc",
    "average_precision",
    "bootstrap",
    "brier_score",
    "by_slice",
    "calibration_error",
    "check_exact",
    "class_table",
    "compare",
    "confusion",
    "evaluate",
    "holm",
    "log_loss",
    "mcnemar",
    "measure",
    "paired_bootstrap",
    "permutation_test",
    "reliability",
    "stratified_folds",
    "top_label",
    "weighted_mean",
]
