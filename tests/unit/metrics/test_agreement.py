"""Raters: alpha, kappas, ratings against the median, and one answer from many."""

import itertools
import math
import random

import numpy as np
import pytest

from vea.errors import VeaError
from vea.metrics import aggregate_labels, fleiss_kappa, human_scores, krippendorff_alpha, quadratic_kappa, rating_scores
from vea.metrics import norm_reliability as reliability


def slow_alpha(ratings: np.ndarray) -> float:
    units = [column[~np.isnan(column)] for column in ratings.T]
    units = [unit for unit in units if len(unit) >= 2]
    pooled = np.concatenate(units)
    n = len(pooled)
    observed = sum(sum((a - b) ** 2 for a, b in itertools.permutations(u, 2)) / (len(u) - 1) for u in units) / n
    return 1 - observed / (sum((a - b) ** 2 for a, b in itertools.permutations(pooled, 2)) / (n * (n - 1)))


@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_its_definition(seed: int):
    rng = np.random.default_rng(seed)
    ratings = rng.integers(0, 8, (4, 12)).astype(float)
    ratings[rng.random(ratings.shape) < 0.4] = np.nan
    assert krippendorff_alpha(ratings) == pytest.approx(slow_alpha(ratings))


def test_alpha_of_krippendorffs_own_example():
    x = np.nan
    rows = [
        [x, x, x, x, x, 3, 4, 1, 2, 1, 1, 3, 3, x, 3],
        [1, x, 2, 1, 3, 3, 4, 3, x, x, x, x, x, x, x],
        [x, x, 2, 1, 3, 4, 4, x, 2, 1, 1, 3, 3, x, 4],
    ]
    assert krippendorff_alpha(np.array(rows)) == pytest.approx(0.811, abs=1e-3)
    assert krippendorff_alpha(np.array(rows), level="nominal") == pytest.approx(0.691, abs=1e-3)
    assert math.isnan(krippendorff_alpha(np.ones((3, 4))))
    assert math.isnan(krippendorff_alpha(np.full((3, 4), np.nan)))


@pytest.mark.parametrize("seed", range(5))
def test_quadratic_kappa_is_sklearns(seed: int):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, 7.99, 40), rng.integers(0, 8, 40)
    expected = sklearn.cohen_kappa_score(a.astype(int), b, weights="quadratic", labels=range(8))
    assert quadratic_kappa(a, b) == pytest.approx(expected)


def test_fleiss_of_its_own_example():
    counts = [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]]
    counts += [[7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]
    assert fleiss_kappa(np.array(counts)) == pytest.approx(0.210, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_ratings_against_scipy(seed: int):
    from scipy.stats import spearmanr

    rng = np.random.default_rng(seed)
    humans = rng.integers(0, 8, (3, 30, 4)).astype(float)
    humans[rng.random(humans.shape) < 0.2] = np.nan
    scores = rng.uniform(0, 7.5, (30, 4))
    scores[3, 2] = np.nan
    found = rating_scores(scores, humans)
    for e in range(4):
        median = np.nanmedian(humans[:, :, e], 0)
        known = ~np.isnan(median) & ~np.isnan(scores[:, e])
        expected = spearmanr(scores[known, e], median[known]).statistic
        assert found["per_emotion"][e] == pytest.approx(expected)
    assert found["spearman"] == pytest.approx(np.mean(found["per_emotion"]))
    assert len(found["alpha"]) == 4 and set(found) == {"spearman", "per_emotion", "answered", "kappa", "alpha"}


def test_a_constant_predictor_counts_nothing():
    humans = np.random.default_rng(0).integers(0, 8, (3, 20, 2)).astype(float)
    scores = np.stack([np.median(humans, 0)[:, 0], np.full(20, 3.0)], 1)
    found = rating_scores(scores, humans)
    assert found["per_emotion"] == [pytest.approx(1), 0.0]
    assert found["spearman"] == pytest.approx(0.5)
    humans[:, :, 1] = 4  # people who all say the same ask nothing
    assert math.isnan(rating_scores(scores, humans)["per_emotion"][1])
    assert human_scores(humans)["spearman"] < 1
    with pytest.raises(VeaError):
        rating_scores(scores, humans[0])


def random_raters(draw: random.Random) -> list[set[str] | None]:
    labels = "abcdef"
    return [set(draw.sample(labels, draw.randint(0, 4))) if draw.random() < 0.9 else None for _ in range(5)]


@pytest.mark.parametrize("seed", range(30))
def test_aggregation_properties(seed: int):
    draw = random.Random(seed)
    raters, truth = random_raters(draw), set(draw.sample("abcdef", 3))
    known = [r for r in raters if r is not None]
    union, both = aggregate_labels(raters, "union"), aggregate_labels(raters, "intersection")
    majority, soft = aggregate_labels(raters, "majority"), aggregate_labels(raters, "soft")
    assert both <= majority <= union
    steps = [aggregate_labels(raters, "k-of-n", k=k) for k in range(1, len(known) + 1)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(steps))
    if known:
        assert steps[0] == union and steps[-1] == both
        assert set(soft) == union and {k for k, v in soft.items() if v > 0.5} == majority
        for rater in known:  # the union can only raise recall, the intersection only precision
            assert len(union & truth) >= len(rater & truth)
            if both:
                assert both <= rater
    mixed = list(raters)
    draw.shuffle(mixed)
    assert aggregate_labels(mixed, "majority") == majority


def test_no_rater_answers():
    assert aggregate_labels([None, None], "intersection") == set() == aggregate_labels([], "union")
    assert aggregate_labels([], "soft") == {}
    with pytest.raises(VeaError):
        aggregate_labels([{"a"}], "k-of-n", k=0)
    with pytest.raises(VeaError, match="did you mean"):
        aggregate_labels([{"a"}], "majorty")


def test_reliability_of_norms():
    assert reliability(np.array([1.0, 7.0]), np.zeros(2), 100) == 1
    assert reliability(np.array([3.9, 4.1]), np.full(2, 2.0), 10) < 0
