"""Losses against references written straight from their formulas, in float64 NumPy."""

import numpy as np
import pytest
import torch

from vea.losses.contrastive import contrastive_similarity, distillation, infonce, nt_xent, sigmoid, similarity_matrices
from vea.losses.reconstruction import reconstruction
from vea.losses.similarity import collapse_signs, similarity

B, D = 7, 12


def rows(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape or (B, D))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def tensor(x):
    return torch.tensor(x, dtype=torch.float32)


def test_reconstruction_is_the_mean_over_removed_patches_of_the_per_patch_error():
    prediction, target = rows(0, 3, 5, 12), rows(1, 3, 5, 12)
    expected = ((prediction - target) ** 2).mean(-1).mean(-1)
    assert reconstruction(tensor(prediction), tensor(target)).numpy() == pytest.approx(expected, rel=1e-5)


def test_norm_pix_compares_with_patches_normalised_by_their_own_statistics():
    prediction, target = rows(0, 3, 5, 12), 4 * rows(1, 3, 5, 12) + 2
    normed = (target - target.mean(-1, keepdims=True)) / np.sqrt(target.var(-1, ddof=1, keepdims=True) + 1e-6)
    expected = ((prediction - normed) ** 2).mean(-1).mean(-1)
    loss = reconstruction(tensor(prediction), tensor(target), norm_pix=True)
    assert loss.numpy() == pytest.approx(expected, rel=1e-5)


def test_similarity_is_one_minus_the_cosine():
    f, v = rows(0), rows(1)
    assert similarity(tensor(f), tensor(v)).numpy() == pytest.approx(1 - (unit(f) * unit(v)).sum(1), abs=1e-6)


def reference_contrastive(f, v, t):
    a, c = unit(f) @ unit(t).T, unit(v) @ unit(t).T
    return 1 - np.mean([np.dot(a[i], c[i]) / np.linalg.norm(a[i]) / np.linalg.norm(c[i]) for i in range(len(f))])


def test_contrastive_similarity_compares_the_rows_of_a_and_c():
    f, v, t = rows(0), rows(1), rows(2)
    loss = contrastive_similarity(tensor(f), tensor(v), tensor(t))
    assert loss.item() == pytest.approx(reference_contrastive(f, v, t), abs=1e-6)
    a, c = similarity_matrices(tensor(f), tensor(v), tensor(t))
    assert a.numpy() == pytest.approx(unit(f) @ unit(t).T, abs=1e-6)
    assert c.numpy() == pytest.approx(unit(v) @ unit(t).T, abs=1e-6)


def test_contrastive_similarity_of_the_teacher_itself_is_zero():
    v = tensor(rows(1))
    assert contrastive_similarity(3 * v, v, tensor(rows(2))).item() == pytest.approx(0, abs=1e-6)


def reference_infonce(f, t, temperature):
    logits = unit(f) @ unit(t).T / temperature
    rows_, columns = (np.log(np.exp(m).sum(1)) - np.diag(m) for m in (logits, logits.T))
    return (rows_.mean() + columns.mean()) / 2


def test_infonce_is_symmetric_cross_entropy_of_matching_pairs():
    f, t = rows(0), rows(1)
    loss = infonce(tensor(f), tensor(t), temperature=0.1)
    assert loss.item() == pytest.approx(reference_infonce(f, t, 0.1), rel=1e-5)
    assert infonce(tensor(t), tensor(f), temperature=0.1).item() == pytest.approx(loss.item(), rel=1e-5)


def reference_sigmoid(f, t, scale, bias):
    z = 2 * np.eye(len(f)) - 1
    return -np.log(1 / (1 + np.exp(-z * (scale * unit(f) @ unit(t).T + bias)))).sum() / len(f)


def test_sigmoid_loss_is_a_yes_or_no_for_each_pair():
    f, t = rows(0), rows(1)
    loss = sigmoid(tensor(f), tensor(t), log_scale=torch.tensor(10.0).log(), bias=torch.tensor(-2.0))
    assert loss.item() == pytest.approx(reference_sigmoid(f, t, 10.0, -2.0), rel=1e-5)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(1, keepdims=True))


@pytest.mark.parametrize("focal", [0.5, 2.0])
def test_focal_infonce_weighs_a_pair_by_how_far_it_is_from_being_found(focal):
    f, t = rows(0), rows(1)
    logits = unit(f) @ unit(t).T / 0.3
    logs = [np.diag(log_softmax(m)) for m in (logits, logits.T)]
    expected = np.mean([-((1 - np.exp(log)) ** focal) * log for log in logs])
    loss = infonce(tensor(f), tensor(t), temperature=0.3, focal=focal)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("hard", [None, 2])
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_distillation_is_the_symmetric_divergence_over_true_negatives(hard, margin):
    f, v, t = unit(rows(0)), unit(rows(1)), unit(rows(2))
    expected = []
    for i in range(B):
        a, c = f[i] @ t.T, v[i] @ t.T
        others = [j for j in np.argsort(-a) if j != i and c[j] <= c[i] - margin][:hard]
        p, q = (np.exp(log_softmax(m[None, [i, *others]] / 0.2))[0] for m in (a, c))
        expected.append((np.sum(p * np.log(p / q)) + np.sum(q * np.log(q / p))) / 2)
    loss = distillation(tensor(f), tensor(v), tensor(t), temperature=0.2, margin=margin, hard=hard)
    assert np.ptp(expected) > 0.01  # samples have different candidates
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("block", [1, 3, 16])
@pytest.mark.parametrize("focal", [0.0, 0.5])
def test_blocked_infonce_has_the_loss_and_the_gradients_of_the_full_one(block, focal):
    paired = torch.tensor([True, False, True, True, True, False, True])
    results = []
    for size in (None, block):
        f, t = tensor(rows(0)).requires_grad_(), tensor(rows(1)).requires_grad_()
        loss = infonce(f, t, temperature=0.05, paired=paired, focal=focal, block=size)
        results.append((loss, *torch.autograd.grad(3 * loss, (f, t))))
    for full, blocked in zip(*results):
        assert torch.allclose(full, blocked, rtol=1e-5, atol=1e-6)


LOSSES = {
    "distillation": lambda f, v, t, paired: distillation(f, v, t, temperature=0.1, hard=3, paired=paired),
    "focal": lambda f, v, t, paired: infonce(f, t, temperature=0.1, paired=paired, focal=0.5),
    "blocked": lambda f, v, t, paired: infonce(f, t, temperature=0.1, paired=paired, block=2),
    "contrastive": lambda f, v, t, paired: contrastive_similarity(f, v, t, paired=paired),
    "infonce": lambda f, v, t, paired: infonce(f, t, temperature=0.1, paired=paired),
    "sigmoid": lambda f, v, t, paired: sigmoid(
        f, t, log_scale=torch.tensor(2.0), bias=torch.tensor(-2.0), paired=paired
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_samples_without_a_text_are_as_if_they_were_not_there(name):
    f, v, t = (tensor(rows(seed)) for seed in range(3))
    f.requires_grad_()
    paired = torch.tensor([True, False, True, True, False, True, True])
    loss = LOSSES[name](f, v, t, paired)
    (gradient,) = torch.autograd.grad(loss, f)
    small = f.detach()[paired].requires_grad_()
    expected = LOSSES[name](small, v[paired], t[paired], None)
    (expected_gradient,) = torch.autograd.grad(expected, small)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(gradient[paired], expected_gradient, atol=1e-6)
    assert gradient[~paired].abs().max() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_any_text_has_loss_zero_and_a_finite_gradient(name):
    f = tensor(rows(0)).requires_grad_()
    loss = LOSSES[name](f, tensor(rows(1)), tensor(rows(2)), torch.zeros(B, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss, f)
    assert loss.item() == 0
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_losses_stay_in_fp32_under_autocast(name):
    f, v, t = (tensor(rows(seed)) for seed in range(3))
    plain = LOSSES[name](f, v, t, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert LOSSES[name](f, v, t, None).item() == plain.item()


def test_collapse_signs_tell_one_direction_from_many():
    spread = collapse_signs(torch.randn(4096, 16, generator=torch.Generator().manual_seed(0)))
    assert spread["gamma_std"].item() == pytest.approx(1, abs=0.02)
    assert spread["gamma_rank"].item() == pytest.approx(16, abs=0.3)
    one = torch.ones(64, 16) + 1e-3 * torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    assert collapse_signs(one)["gamma_std"] < 0.01
    line = torch.randn(64, 1, generator=torch.Generator().manual_seed(0)).sign() * torch.ones(64, 16)
    assert collapse_signs(line)["gamma_rank"].item() == pytest.approx(1, abs=1e-4)


def test_nt_xent_is_khoslas_formula():
    """Equation 2 of Khosla et al. in float64; a row without a positive counts among the others only, one without a
    label nowhere."""
    generator = torch.Generator().manual_seed(0)
    vectors, labels = torch.randn(7, 5, generator=generator), torch.tensor([0, 1, 0, 2, -1, 1, 0])
    z = vectors.double().numpy()[labels >= 0]
    z, y = z / np.linalg.norm(z, axis=1, keepdims=True), labels[labels >= 0].tolist()
    e = np.exp(z @ z.T / 0.2)
    costs = []
    for i in range(6):
        others = [a for a in range(6) if a != i]
        same = [p for p in others if y[p] == y[i]]
        costs += [-np.mean([np.log(e[i, p] / e[i, others].sum()) for p in same])] if same else []
    assert len(costs) == 5
    found = nt_xent(vectors.requires_grad_(), labels, temperature=0.2)
    assert found.item() == pytest.approx(np.mean(costs), rel=1e-5)
    found.backward()
    assert vectors.grad.isfinite().all() and not vectors.grad[4].any()
    for unknown in (torch.full((7,), -1), torch.arange(7)):
        nothing = nt_xent(vectors, unknown)
        assert nothing == 0 and torch.autograd.grad(nothing, vectors)[0].abs().sum() == 0
