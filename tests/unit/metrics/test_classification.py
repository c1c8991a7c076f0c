from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from vea import metrics
from vea.errors import VeaError
from vea.metrics import ClassificationMetrics, bootstrap_confusions, bootstrap_interval, classification

CLASSES = ("angry", "happy", "neutral", "sad")


@pytest.fixture
def predictions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (200,), generator=generator)  # the last class never occurs
    logits = torch.randn(200, 4, generator=generator)
    logits[torch.arange(200), target] += 1.0
    return logits, target


def filled(logits: torch.Tensor, target: torch.Tensor) -> ClassificationMetrics:
    collector = ClassificationMetrics(CLASSES)
    for start in range(0, len(target), 64):
        collector.update(logits[start : start + 64], target[start : start + 64])
    return collector


def test_agrees_with_torchmetrics(predictions):
    logits, target = predictions
    result = filled(logits, target).compute()
    predicted = logits.argmax(1)
    assert result["accuracy"] == pytest.approx(float((predicted == target).float().mean()))
    assert result["macro_f1"] == pytest.approx(float(multiclass_f1_score(predicted, target, num_classes=4)))
    recalls = multiclass_accuracy(predicted, target, num_classes=4, average=None)
    assert result["balanced_accuracy"] == pytest.approx(float(recalls[:3].mean()))
    assert result["recall/happy"] == pytest.approx(float(recalls[1]))
    assert "recall/sad" not in result  # no samples: no number
    top3 = (logits.topk(3).indices == target[:, None]).any(1).float().mean()
    assert result["accuracy_top3"] == pytest.approx(float(top3))
    ece = multiclass_calibration_error(logits.softmax(1), target, num_classes=4, n_bins=15)
    assert result["ece"] == pytest.approx(float(ece), rel=1e-5)
    assert result["nll"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, target)), rel=1e-5)


def test_probabilities_and_logits_give_the_same(predictions):
    logits, target = predictions
    assert filled(logits, target).compute() == pytest.approx(filled(logits.softmax(1), target).compute())


def test_leaves_out_padding_and_missing_labels(predictions):
    logits, target = predictions
    collector = ClassificationMetrics(CLASSES)
    target = target.clone()
    target[:50] = -1
    collector.update(logits, target, valid=torch.arange(200) < 150)
    assert collector.confusion().sum() == 100
    assert collector.compute() == pytest.approx(filled(logits[50:150], target[50:150]).compute())


def test_without_samples_is_an_error():
    collector = ClassificationMetrics(CLASSES)
    collector.update(torch.zeros(2, 4), torch.tensor([-1, -1]))
    with pytest.raises(VeaError, match="no sample has a label"):
        collector.compute()


def test_gathers_ranks_in_order(predictions, monkeypatch):
    logits, target = predictions
    whole = filled(logits, target).compute()
    other = filled(logits[100:], target[100:]).gather()
    monkeypatch.setattr(classification.collectives, "gather_objects", lambda mine: [mine, other])
    assert filled(logits[:100], target[:100]).compute() == pytest.approx(whole)


def test_bootstrap_interval_of_a_mean_matches_theory():
    values = (np.arange(2000) % 10 < 7).astype(float)  # accuracy .7
    low, high = bootstrap_interval(values, seed=3)
    half = 1.96 * np.sqrt(0.7 * 0.3 / 2000)
    assert low == pytest.approx(0.7 - half, abs=0.004)
    assert high == pytest.approx(0.7 + half, abs=0.004)
    assert bootstrap_interval(values, seed=3) == (low, high)
    assert bootstrap_interval(values, seed=4) != (low, high)


def test_multinomial_and_sample_bootstrap_agree(predictions):
    collector = filled(*predictions)
    low, high = collector.intervals()["accuracy"]
    right = (predictions[0].argmax(1) == predictions[1]).numpy().astype(float)
    assert (low, high) == pytest.approx(bootstrap_interval(right), abs=0.015)
    confusions = bootstrap_confusions(collector.confusion())
    assert confusions.shape == (1000, 4, 4)
    assert (confusions.sum((1, 2)) == 200).all()


def test_formulas_take_many_matrices_at_once():
    confusion = np.array([[3, 1], [0, 4]])
    both = np.stack([confusion, np.eye(2, dtype=int)])
    assert metrics.accuracy(both) == pytest.approx([7 / 8, 1.0])
    assert metrics.balanced_accuracy(both) == pytest.approx([(3 / 4 + 1) / 2, 1.0])
    assert metrics.macro_f1(both) == pytest.approx([(6 / 7 + 8 / 9) / 2, 1.0])


@pytest.mark.parametrize("k", [1, 5])
def test_retrieval_recall_equals_a_plain_count_with_several_texts_a_picture(k):
    image = torch.nn.functional.normalize(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    owner = torch.arange(20) % 12
    text = torch.nn.functional.normalize(image[owner] + 0.8 * torch.randn(20, 4), dim=-1)
    near = (image @ text.T).tolist()
    texts = [sorted(range(20), key=lambda j: -near[i][j])[:k] for i in range(12)]
    pictures = [sorted(range(12), key=lambda i: -near[i][j])[:k] for j in range(20)]
    found = metrics.retrieval_recall(image, text, owner)
    assert found[f"image_to_text_r{k}"] == round(sum(i in {int(owner[j]) for j in texts[i]} for i in range(12)) / 12, 4)
    assert found[f"text_to_image_r{k}"] == round(sum(int(owner[j]) in pictures[j] for j in range(20)) / 20, 4)
