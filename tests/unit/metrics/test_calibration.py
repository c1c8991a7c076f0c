"""How far stated confidence can be trusted."""

import itertools
import math

import numpy as np
import pytest

from vea.errors import VeaError
from vea.metrics import calibration_scores


@pytest.mark.parametrize("seed", range(5))
def test_against_the_long_way(seed: int):
    rng = np.random.default_rng(seed)
    confidence = rng.choice(np.round(np.linspace(0, 1, 21), 2), 200)
    correct = rng.random(200) < confidence
    edges, expected = np.linspace(0, 1, 11), 0.0
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = (confidence >= low) & ((confidence < high) | (number == 9))
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    found = calibration_scores(confidence, correct)
    assert found["ece"] == pytest.approx(expected)
    assert found["brier"] == pytest.approx(((confidence - correct) ** 2).mean())
    sklearn = pytest.importorskip("sklearn.metrics")
    assert found["auroc"] == pytest.approx(sklearn.roc_auc_score(correct, confidence))


def test_the_last_bin_is_closed():
    assert calibration_scores([1.0, 1.0], [False, False]) == {
        "ece": 1.0,
        "brier": 1.0,
        "auroc": pytest.approx(math.nan, nan_ok=True),
    }


def test_bad_input_is_one_sentence():
    assert math.isnan(calibration_scores([], [])["ece"])
    for confidence, correct in ([[0.5], []], [[80], [1]], [[math.nan], [1]]):
        with pytest.raises(VeaError):
            calibration_scores(confidence, correct)
