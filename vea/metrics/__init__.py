"""Metrics; everything public is importable from here."""

from vea.metrics.agreement import aggregate_labels, fleiss_kappa, krippendorff_alpha, norm_reliability, quadratic_kappa
from vea.metrics.bootstrap import RESAMPLES, bootstrap_confusions, bootstrap_interval
from vea.metrics.calibration import calibration_scores
from vea.metrics.captions import caption_scores
from vea.metrics.choice import choice_scores
from vea.metrics.classification import ClassificationMetrics, accuracy, balanced_accuracy, macro_f1, recall
from vea.metrics.empathy import ccc, empathy_scores, score_folders
from vea.metrics.labelsets import MultilabelMetrics
from vea.metrics.mentions import mention_scores, mentioned_units, shown_units
from vea.metrics.open_vocabulary import hit_rate, wheel_scores
from vea.metrics.ratings import human_scores, rating_scores
from vea.metrics.retrieval import retrieval_recall
from vea.metrics.statements import pair_score, statement_scores
from vea.metrics.values import VALUE_STATISTICS, ValueMetrics, concordance, pearson, rmse

__all__ = [
    "RESAMPLES",
    "VALUE_STATISTICS",
    "ClassificationMetrics",
    "MultilabelMetrics",
    "ValueMetrics",
    "accuracy",
    "aggregate_labels",
    "balanced_accuracy",
    "bootstrap_confusions",
    "bootstrap_interval",
    "calibration_scores",
    "caption_scores",
    "ccc",
    "choice_scores",
    "concordance",
    "empathy_scores",
    "fleiss_kappa",
    "hit_rate",
    "human_scores",
    "krippendorff_alpha",
    "macro_f1",
    "mention_scores",
    "mentioned_units",
    "norm_reliability",
    "pair_score",
    "pearson",
    "quadratic_kappa",
    "rating_scores",
    "recall",
    "retrieval_recall",
    "rmse",
    "score_folders",
    "shown_units",
    "statement_scores",
    "wheel_scores",
]
