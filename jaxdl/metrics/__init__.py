"""Measurements as additive sums, reported once on the host."""

from jaxdl.metrics.calibration import auroc, expected_calibration_error
from jaxdl.metrics.classification import (
    accuracy,
    class_scores,
    classification_report,
    confusion_matrix,
    f1,
    precision,
    recall,
    top_k_accuracy,
)
from jaxdl.metrics.edits import edit_distance, token_error_rate, word_error_rate
from jaxdl.metrics.regression import (
    explained_variance,
    mean_absolute_error,
    mean_squared_error,
    r2,
)
from jaxdl.metrics.sums import add, measure_all, report, total
from jaxdl.metrics.text import loss, perplexity
from jaxdl.metrics.transcripts import cer, error_rate_of, error_sums, wer
from jaxdl.metrics.translation import bleu, bleu_of, bleu_sums, chrf

__all__ = [
    "accuracy",
    "add",
    "auroc",
    "bleu",
    "bleu_of",
    "bleu_sums",
    "cer",
    "chrf",
    "class_scores",
    "classification_report",
    "confusion_matrix",
    "edit_distance",
    "error_rate_of",
    "error_sums",
    "expected_calibration_error",
    "explained_variance",
    "f1",
    "loss",
    "mean_absolute_error",
    "mean_squared_error",
    "measure_all",
    "perplexity",
    "precision",
    "r2",
    "recall",
    "report",
    "token_error_rate",
    "top_k_accuracy",
    "total",
    "wer",
    "word_error_rate",
]
