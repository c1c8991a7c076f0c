"""Every metric under the predictions and samples that flatter: constant, missing, not a number, none, one.

Each row of ``ANSWERS`` is a metric, a case and what it must answer: a number, or a part of the sentence that refuses.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vea import metrics
from vea.errors import VeaError
from vea.metrics import codes, probes
from vea.metrics.bootstrap import exact_interval, exact_mean_interval
from vea.metrics.calibration import fit_temperature, reliability
from vea.taxonomy.fields import LabelField

NAN, NUMBER = float("nan"), "not a number"
CLASSES = ("angry", "happy", "sad")
TRUTH = [0, 1, 2, 1]
NAN_ROWS = np.full((4, 3), NAN)
BROKEN = torch.tensor(NAN_ROWS)
ONES = np.ones(4)
RISING = np.arange(4.0)
PEOPLE = np.stack([RISING, RISING])[..., None]  # two raters, four pictures, one emotion


def classes(name: str, scores, truth=TRUTH):
    collector = metrics.ClassificationMetrics(CLASSES)
    collector.update(torch.tensor(np.asarray(scores, np.float32).reshape(-1, 3)), torch.tensor(truth, dtype=torch.long))
    return collector.compute()[name]


def answer_of(number: int, count: int = 4) -> np.ndarray:
    return np.eye(3)[[number] * count]


def sets(name: str, scores, truth):
    collector = metrics.MultilabelMetrics(CLASSES)
    collector.update(
        torch.tensor(scores, dtype=torch.float32).reshape(-1, 3), torch.tensor(truth).float().reshape(-1, 3)
    )
    return collector.compute()[name]


def values(name: str, prediction, truth):
    collector = metrics.ValueMetrics()
    collector.update(torch.tensor(prediction), torch.tensor(truth))
    return collector.compute()[name]


def pairs(formula, prediction, truth):
    return float(formula(np.stack([prediction, truth], -1)[None])[0])


def statement(*replies, label="correct"):
    return metrics.statement_scores([{"label": label, "predict": reply} for reply in replies])["overall"]["accuracy"]


def couple(*replies):
    rows = [{"pair": 1, "label": label, "predict": reply} for label, reply in zip(("correct", "incorrect"), replies)]
    return metrics.pair_score(rows)["accuracy"]


def choice(*replies):
    rows = [{"task": "x", "candidates": ["happy", "sad"], "label": "sad", "predict": reply} for reply in replies]
    return metrics.choice_scores(rows, "strict").get("x_acc", NAN)


def captions(**hypotheses):
    return metrics.caption_scores({key: ["a dog runs over the grass"] for key in hypotheses}, hypotheses)["bleu_4"]


def rated(model, people=PEOPLE, what="spearman"):
    return metrics.rating_scores(np.asarray(model, float).reshape(-1, 1), people)[what]


def retrieved(image, text, k=1):
    owner = torch.arange(len(text))
    return metrics.retrieval_recall(image, text, owner, ranks=(k,))[f"image_to_text_r{k}"]


def sentiment(kind: str) -> LabelField:
    return LabelField(kind="value", low=0.0, high=4.0) if kind == "value" else LabelField(kind="class", classes=CLASSES)


def series(prediction, truth):
    return metrics.empathy_scores({(1, 1): np.asarray(prediction)}, {(1, 1): np.asarray(truth)})["personalized"]


UNIT = torch.eye(4)
EMPTY = np.zeros(0)

ANSWERS = [
    # class probabilities
    ("ClassificationMetrics", "constant", lambda: classes("balanced_accuracy", answer_of(1)), 1 / 3),
    ("ClassificationMetrics", "constant", lambda: classes("macro_f1", answer_of(1)), 2 / 9),
    ("ClassificationMetrics", "constant", lambda: classes("accuracy", answer_of(1)), 0.5),
    ("ClassificationMetrics", "nan", lambda: classes("accuracy", NAN_ROWS, [0, 0, 0, 0]), NUMBER),
    ("ClassificationMetrics", "nan", lambda: classes("accuracy", [*answer_of(1, 3), NAN_ROWS[0]]), NUMBER),
    ("ClassificationMetrics", "infinite", lambda: classes("accuracy", np.full((4, 3), np.inf)), NUMBER),
    ("ClassificationMetrics", "empty", lambda: classes("accuracy", EMPTY, []), "no sample has a label"),
    ("ClassificationMetrics", "no labels", lambda: classes("accuracy", answer_of(1, 1), [-1]), "no sample has a label"),
    ("ClassificationMetrics", "one class", lambda: classes("balanced_accuracy", answer_of(1), [1] * 4), 1.0),
    ("ClassificationMetrics", "one class", lambda: classes("macro_f1", answer_of(0), [1] * 4), 0.0),
    ("ClassificationMetrics", "one sample", lambda: classes("macro_f1", answer_of(2, 1), [2]), 1.0),
    ("accuracy", "empty", lambda: metrics.accuracy(np.zeros((3, 3))), NAN),
    ("balanced_accuracy", "empty", lambda: metrics.balanced_accuracy(np.zeros((3, 3))), NAN),
    ("macro_f1", "empty", lambda: metrics.macro_f1(np.zeros((3, 3))), NAN),
    ("recall", "empty", lambda: metrics.recall(np.zeros((3, 3)))[0], NAN),
    # label sets
    ("MultilabelMetrics", "constant", lambda: sets("mAP", np.full((4, 3), 0.9), np.eye(4)[:, :3]), 0.25),
    ("MultilabelMetrics", "constant", lambda: sets("macro_f1", np.zeros((4, 3)), np.eye(4)[:, :3]), 0.0),
    ("MultilabelMetrics", "nan", lambda: sets("mAP", NAN_ROWS, np.eye(4)[:, :3]), NUMBER),
    ("MultilabelMetrics", "empty", lambda: sets("mAP", EMPTY, EMPTY), "no sample has a label"),
    ("MultilabelMetrics", "no label set", lambda: sets("mAP", np.ones((4, 3)), np.zeros((4, 3))), "nothing to find"),
    ("MultilabelMetrics", "one sample", lambda: sets("mAP", [0.9, 0.1, 0.2], [1, 0, 0]), 1.0),
    # values
    ("ValueMetrics", "constant", lambda: values("ccc", ONES, RISING), 0.0),
    ("ValueMetrics", "constant", lambda: values("pearson", ONES, RISING), 0.0),
    ("ValueMetrics", "both constant", lambda: values("ccc", ONES, ONES), 0.0),
    ("ValueMetrics", "nan", lambda: values("ccc", ONES * NAN, RISING), NUMBER),
    ("ValueMetrics", "infinite", lambda: values("rmse", [np.inf, 1.0], [1.0, 2.0]), NUMBER),
    ("ValueMetrics", "no ratings", lambda: values("rmse", RISING, ONES * NAN), "no sample has a rating"),
    ("ValueMetrics", "one sample", lambda: values("ccc", [1.0], [1.0]), 0.0),
    ("concordance", "nan", lambda: pairs(metrics.concordance, ONES * NAN, RISING), NAN),
    ("pearson", "nan", lambda: pairs(metrics.pearson, ONES * NAN, RISING), NAN),
    ("rmse", "nan", lambda: pairs(metrics.rmse, ONES * NAN, RISING), NAN),
    ("ccc", "constant", lambda: metrics.ccc(ONES, RISING), 0.0),
    ("ccc", "nan", lambda: metrics.ccc(ONES * NAN, RISING), NUMBER),
    ("ccc", "empty", lambda: metrics.ccc(EMPTY, EMPTY), "not 0 and 0"),
    ("empathy_scores", "constant", lambda: series(ONES, RISING), 0.0),
    ("empathy_scores", "nan", lambda: series(ONES * NAN, RISING), NUMBER),
    ("empathy_scores", "missing", lambda: metrics.empathy_scores({}, {(1, 1): RISING}), "no prediction"),
    ("empathy_scores", "empty", lambda: metrics.empathy_scores({}, {}), "no series"),
    # confidence
    ("calibration_scores", "constant", lambda: metrics.calibration_scores(ONES, [1, 0, 1, 0])["auroc"], 0.5),
    ("calibration_scores", "constant", lambda: metrics.calibration_scores(ONES, [1, 0, 1, 0])["ece"], 0.5),
    ("calibration_scores", "nan", lambda: metrics.calibration_scores(ONES * NAN, ONES), "outside 0 to 1"),
    ("calibration_scores", "nan", lambda: metrics.calibration_scores(ONES, ONES * NAN), NUMBER),
    ("calibration_scores", "empty", lambda: metrics.calibration_scores([], [])["ece"], NAN),
    ("calibration_scores", "one class", lambda: metrics.calibration_scores(ONES, ONES)["auroc"], NAN),
    ("fit_temperature", "constant", lambda: fit_temperature(torch.ones(4, 3) / 3, torch.tensor(TRUTH)) or 1.0, 1.0),
    ("reliability", "empty", lambda: len(reliability(UNIT[:0], torch.zeros(0))), 0),
    # ratings and agreement
    ("rating_scores", "constant", lambda: rated(ONES), 0.0),
    ("rating_scores", "missing", lambda: rated(ONES * NAN), 0.0),
    ("rating_scores", "missing", lambda: rated(ONES * NAN, what="answered"), 0.0),
    ("rating_scores", "missing", lambda: rated([0, 1, NAN, NAN], what="answered"), 0.5),
    ("rating_scores", "constant people", lambda: rated(RISING, PEOPLE * 0), NAN),
    ("rating_scores", "one sample", lambda: rated([1], PEOPLE[:, :1]), NAN),
    ("human_scores", "one rater", lambda: metrics.human_scores(PEOPLE[:1])["spearman"], NAN),
    ("quadratic_kappa", "constant", lambda: metrics.quadratic_kappa(ONES, RISING), 0.0),
    ("quadratic_kappa", "both constant", lambda: metrics.quadratic_kappa(ONES, ONES), NAN),
    ("quadratic_kappa", "nan", lambda: metrics.quadratic_kappa(ONES * NAN, RISING), NAN),
    ("krippendorff_alpha", "constant", lambda: metrics.krippendorff_alpha(np.ones((2, 4))), NAN),
    ("krippendorff_alpha", "missing", lambda: metrics.krippendorff_alpha(np.full((2, 4), NAN)), NAN),
    ("fleiss_kappa", "constant", lambda: metrics.fleiss_kappa(np.array([[3, 0]] * 4)), NAN),
    ("fleiss_kappa", "empty", lambda: metrics.fleiss_kappa(np.zeros((0, 3))), NAN),
    ("norm_reliability", "constant", lambda: metrics.norm_reliability(ONES, ONES, 10), NAN),
    ("norm_reliability", "one sample", lambda: metrics.norm_reliability(ONES[:1], ONES[:1], 10), NAN),
    ("aggregate_labels", "missing", lambda: len(metrics.aggregate_labels([None, None])), 0),
    # retrieval and prototypes
    ("retrieval_recall", "constant", lambda: retrieved(torch.ones(4, 4) / 2, UNIT), 0.25),
    ("retrieval_recall", "nan", lambda: retrieved(UNIT * NAN, UNIT), NUMBER),
    ("retrieval_recall", "nan", lambda: retrieved(UNIT, UNIT * NAN), NUMBER),
    ("retrieval_recall", "empty", lambda: retrieved(UNIT[:0], UNIT[:0]), "no picture"),
    ("perplexity", "constant", lambda: float(codes.perplexity(torch.ones(9), count=4)), 1.0),
    ("information", "constant", lambda: codes.information(torch.ones(4), torch.tensor(TRUTH)), 0.0),
    ("information", "empty", lambda: codes.information(torch.zeros(0), torch.zeros(0)), NAN),
    # frozen features
    ("metric", "constant", lambda: probes.metric(torch.ones(4), torch.arange(4.0), field=sentiment("value")), 0.0),
    ("metric", "nan", lambda: probes.metric(BROKEN, torch.zeros(4), field=sentiment("class")), -math.inf),
    ("report", "nan", lambda: probes.report(BROKEN, torch.zeros(4), field=sentiment("class")), NUMBER),
    # texts
    ("caption_scores", "constant", lambda: captions(a="dog dog dog dog dog dog"), pytest.approx(0, abs=1e-3)),
    ("caption_scores", "missing", lambda: captions(a=""), pytest.approx(0, abs=1e-9)),
    ("caption_scores", "empty", lambda: captions(), "nothing to score"),
    ("statement_scores", "constant", lambda: couple("correct", "correct"), 0.0),
    ("statement_scores", "missing", lambda: statement(None, "", "correct"), 1 / 3),
    ("statement_scores", "empty", lambda: statement(), 0.0),
    ("pair_score", "constant", lambda: couple("correct", "correct"), 0.0),
    ("pair_score", "missing", lambda: couple("correct", None), 0.0),
    ("pair_score", "one version", lambda: couple("correct"), 0.0),
    ("choice_scores", "constant", lambda: choice("happy", "happy"), 0.0),
    ("choice_scores", "missing", lambda: choice("sad", None, ""), 1 / 3),
    ("choice_scores", "all names", lambda: choice("happy, sad"), 0.0),
    ("wheel_scores", "missing", lambda: metrics.wheel_scores(["[happy]"], [None])["f"], 0.0),
    ("wheel_scores", "nan", lambda: metrics.wheel_scores(["[happy]"], [NAN])["f"], 0.0),
    ("wheel_scores", "empty", lambda: metrics.wheel_scores([], [])["f"], 0.0),
    ("hit_rate", "missing", lambda: metrics.hit_rate(["happy"], [None]), 0.0),
    ("hit_rate", "empty", lambda: metrics.hit_rate([], [], rules="mer2025"), NAN),
    ("mention_scores", "missing", lambda: metrics.mention_scores([], [12])["f1"], 0.0),
    ("mention_scores", "constant", lambda: metrics.mention_scores(range(1, 11), [12])["f1"], 0.0),
]  # fmt: skip
# Not scores: readers, intervals (below), names.
OTHERS = {"RESAMPLES", "VALUE_STATISTICS", "bootstrap_confusions", "bootstrap_interval", "mentioned_units",
          "score_folders", "shown_units"}  # fmt: skip


@pytest.mark.filterwarnings("error:.*(invalid value|divide|mean of empty|[Dd]egrees of freedom)")
@pytest.mark.parametrize(("name", "case", "ask", "right"), ANSWERS, ids=[f"{row[0]}-{row[1]}" for row in ANSWERS])
def test_flattering_predictions_escape_no_metric(name, case, ask, right):
    if isinstance(right, str):
        with pytest.raises(VeaError, match=right):
            ask()
    elif isinstance(right, float) and math.isnan(right):
        assert math.isnan(ask())
    else:
        assert ask() == pytest.approx(right)


def test_no_metric_is_left_out():
    assert {row[0] for row in ANSWERS} >= set(metrics.__all__) - OTHERS


@pytest.mark.parametrize("count", [1, 2, 3, 10])
@pytest.mark.parametrize("right", [True, False])
def test_intervals_of_few_samples_that_are_all_alike_have_a_width(count, right):
    collector = metrics.ClassificationMetrics(CLASSES)
    truth = torch.arange(count) % 3
    collector.update(torch.eye(3)[truth if right else (truth + 1) % 3], truth)
    found, spans = collector.compute(), collector.intervals()
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        low, high = spans[name]
        assert low <= found[name] <= high and high - low > 0.3, name
    assert spans["balanced_accuracy"][1] - spans["balanced_accuracy"][0] >= spans["accuracy"][1] - spans["accuracy"][0]


def test_the_cautious_interval_covers():
    rng, shares, inside = np.random.default_rng(0), np.array([0.9, 0.6]), 0
    for _ in range(400):
        right = rng.binomial(6, shares)
        low, high = exact_mean_interval(right, np.array([6, 6]))
        inside += low <= shares.mean() <= high
    assert inside >= 0.95 * 400
    assert exact_mean_interval(np.array([3, 0]), np.array([4, 0])) == exact_interval(3, 4)
    assert all(math.isnan(bound) for bound in exact_mean_interval(np.zeros(2), np.zeros(2)))


@pytest.mark.parametrize("given", [[], [0.3], [0.1, NAN, 0.2], [np.inf, 0.0]])
def test_no_interval_is_made_up(given):
    assert all(math.isnan(bound) for bound in metrics.bootstrap_interval(np.array(given)))
