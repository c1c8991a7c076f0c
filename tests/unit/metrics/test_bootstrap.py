"""Intervals of few samples, or of samples that are all alike, are exact."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from vea.metrics.bootstrap import bootstrap_interval


@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (3, 3), (0, 5), (2, 5), (29, 30), (500, 500), (0, 500)])
def test_few_or_equal_answers_have_the_exact_interval(right, total):
    known = binomtest(right, total).proportion_ci(method="exact")
    found = bootstrap_interval(np.array([1.0] * right + [0.0] * (total - right)))
    assert found == pytest.approx((known.low, known.high), abs=1e-9) and found[0] < found[1]


def test_many_mixed_answers_and_other_values_are_resampled():
    values = np.array([1.0] * 60 + [0.0] * 40)
    low, high = bootstrap_interval(values)
    assert 0.45 < low < 0.55 and 0.65 < high < 0.75
    low, high = bootstrap_interval(np.array([0.2, 0.4, 0.6]))
    assert 0.2 <= low < high <= 0.6
