"""Probes against closed forms, and the choice on validation."""

import pytest
import torch

from vea.metrics import probes
from vea.taxonomy.fields import LabelField


def rows(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ridge_is_the_minimum_of_its_objective():
    x, y, ridge = rows(0, 40, 6), rows(1, 40), 0.3
    weights = probes.fit_ridge(x, y, ridge=ridge).requires_grad_()
    error = x.double() @ weights[:-1] + weights[-1] - y.double()
    (error.square().mean() + ridge * weights[:-1].square().sum()).backward()
    assert weights.grad.abs().max() < 1e-9


def test_the_linear_probe_is_at_the_minimum_of_its_objective():
    x, y = rows(0, 90, 5), torch.arange(90) % 3
    weights = probes.fit_linear(x, y, classes=3, decay=0.1).requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weights[:-1] + weights[-1], y)
    (loss + 0.05 * weights[:-1].square().sum()).backward()
    assert weights.grad.abs().max() < 1e-4


def test_ccc_is_lins():
    a, b = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.0, 2.0, 4.0, 6.0])
    # covariance 1.75, variances 1.25 and 2.75, difference of the means 1
    assert probes.ccc(a, b) == pytest.approx(2 * 1.75 / (1.25 + 2.75 + 1))
    assert probes.ccc(a, a) == pytest.approx(1)


def test_the_nearest_rows_vote():
    train = (torch.eye(3), torch.tensor([0, 1, 2]))
    votes = probes.neighbours(train, torch.tensor([[0.1, 0.9, 0.0]]), k=2, classes=3)
    assert votes.argmax().item() == 1 and votes[0, 2] == 0 and votes.sum().item() == pytest.approx(1)
    values = (train[0], torch.tensor([5.0, 7.0, 9.0]))
    value = probes.neighbours(values, torch.tensor([[0.0, 1.0, 0.0]]), k=1, classes=None)
    assert value.item() == 7


def test_the_penalty_is_chosen_on_validation():
    field = LabelField("class", ("a", "b"))
    x, noise = rows(0, 60, 40), rows(2, 60)
    train = (x, ((x[:, 0] + noise) > 0).long())
    x_val = rows(1, 400, 40)
    val = (x_val, (x_val[:, 0] > 0).long())
    chosen = probes.linear_probe(train, val, field=field)
    assert chosen.validation == pytest.approx(probes.metric(chosen.answer(x_val), val[1], field=field))
    mean, deviation = x.mean(0), x.std(0)
    for decay in probes.DECAYS:
        weights = probes.fit_linear((x - mean) / deviation, train[1], classes=2, decay=decay)
        other = probes.metric((x_val - mean) / deviation @ weights[:-1] + weights[-1], val[1], field=field)
        assert chosen.validation >= other - 0.01


def test_a_share_of_the_labels_has_every_class():
    labels = torch.cat([torch.zeros(200), torch.ones(20), torch.full((1,), 2)]).long()
    chosen = labels[probes.subset(labels, share=0.05, seed=0, field=LabelField("class", ("a", "b", "c")))]
    assert torch.bincount(chosen).tolist() == [10, 1, 1]


def test_a_constant_answer_is_what_the_training_labels_say():
    value, classes = LabelField("value", low=1, high=7), LabelField("class", ("a", "b", "c"))
    found = probes.constant(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0, 0.0]), field=value)
    assert found["test"] == 0 and found["rmse"] == pytest.approx((8 / 3) ** 0.5)
    assert probes.constant(torch.tensor([0, 1, 1]), torch.tensor([1, 1, 2, 0]), field=classes)["test"] == 0.5


def test_grouped_ridge_is_ridge_on_standardised_features_with_the_penalty_that_suits_groups_left_out():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator) * torch.tensor([1.0, 10, 0.1, 1, 1])
    y = (x[:, 1] / 10 + 0.3 * torch.randn(60, generator=generator)).double()
    groups = torch.arange(60) // 4
    weights, penalty = probes.grouped_ridge(x, y, groups)
    z = (x.double() - x.double().mean(0)) / x.double().std(0)
    slope = torch.linalg.solve(z.T @ z + penalty * 60 * torch.eye(5, dtype=torch.float64), z.T @ (y - y.mean()))
    assert torch.allclose(x.double() @ weights[:-1] + weights[-1], z @ slope + y.mean(), atol=1e-8)
    assert penalty in probes.RIDGES
    noise = torch.randn(60, generator=generator).double()
    assert probes.grouped_ridge(x, noise, groups)[1] >= penalty
