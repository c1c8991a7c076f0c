"""Use of a bank's prototypes."""

import math

import numpy as np
import pytest
import torch

from vea.metrics.codes import information, neighbours, perplexity


def test_perplexity_is_the_number_of_codes_in_use():
    assert perplexity(torch.tensor([2, 2, 2]), count=4).item() == pytest.approx(1)
    assert perplexity(torch.arange(4).repeat(3), count=4).item() == pytest.approx(4)
    shares = np.array([0.5, 0.25, 0.25])
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert perplexity(torch.tensor([0, 0, 1, 3]), count=5).item() == pytest.approx(expected, rel=1e-6)


def test_information_is_that_of_the_joint_shares_in_bits():
    codes, labels = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 1, 1, 0, 1])
    p = np.array([[2, 0], [0, 2], [1, 1]]) / 6
    q = p.sum(1, keepdims=True) * p.sum(0)
    expected = sum(p[i, j] * np.log2(p[i, j] / q[i, j]) for i in range(3) for j in range(2) if p[i, j])
    assert information(codes, labels) == pytest.approx(expected)
    assert information(torch.arange(8) % 2, torch.arange(8) // 4) == pytest.approx(0, abs=1e-12)


def test_neighbours_are_the_rank_correlation_of_two_correlations():
    rng = np.random.default_rng(0)
    affinities, shares = rng.normal(size=(9, 5)), rng.dirichlet(np.ones(5), size=40)
    pairs = [(c, d) for c in range(5) for d in range(c)]
    ranks = [
        np.argsort(np.argsort([np.corrcoef(rows[:, c], rows[:, d])[0, 1] for c, d in pairs]))
        for rows in (affinities, shares)
    ]
    wanted = np.corrcoef(*ranks)[0, 1]
    assert neighbours(torch.from_numpy(affinities), torch.from_numpy(shares)) == pytest.approx(wanted, abs=1e-9)
    assert neighbours(torch.from_numpy(shares), torch.from_numpy(shares)) == pytest.approx(1)
