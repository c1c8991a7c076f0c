"""Metrics; everything public is importable from here."""

from vea.metrics.bootstrap import RESAMPLES, bootstrap_confusions, bootstrap_interval
from vea.metrics.captions import caption_scores
from vea.metrics.classification import ClassificationMetrics, accuracy, balanced_accuracy, macro_f1, recall
from vea.metrics.labelsets import MultilabelMetrics
from vea.metrics.retrieval import retrieval_recall
from vea.metrics.values import VALUE_STATISTICS, ValueMetrics, concordance, pearson, rmse

__all__ = [
    "RESAMPLES",
    "VALUE_STATISTICS",
    "ClassificationMetrics",
    "MultilabelMetrics",
    "ValueMetrics",
    "accuracy",
    "balanced_accuracy",
    "bootstrap_confusions",
    "bootstrap_interval",
    "caption_scores",
    "concordance",
    "macro_f1",
    "pearson",
    "recall",
    "retrieval_recall",
    "rmse",
]
