"""SEVLM's losses against loops written from their formulas."""

import numpy as np
import pytest
import torch

from vea.losses.language import answer_costs, explanation_contrast, span_mean, vad_costs

B, L, V, D = 3, 7, 11, 5
RNG = np.random.default_rng(0)
LOGITS, IDS = RNG.normal(size=(B, L, V)), RNG.integers(0, V, (B, L))
SPAN = np.arange(L) < np.array([[7], [5], [4]])
ANSWER = SPAN & (np.arange(L) >= np.array([[3], [2], [4]]))  # the last sentence has no answer


def tensor(x):
    return torch.tensor(x, dtype=torch.float32 if np.asarray(x).dtype == float else None)


def test_answer_costs_are_the_cross_entropy_of_the_answers_tokens_alone():
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    places = [(b, t) for b in range(B) for t in range(1, L) if ANSWER[b, t]]
    expected = -np.mean([log_p[b, t - 1, IDS[b, t]] for b, t in places])
    costs, counts = answer_costs(tensor(LOGITS), tensor(IDS), tensor(ANSWER))
    assert counts.tolist() == [4, 3, 0] and (costs.sum() / counts.sum()).item() == pytest.approx(expected, rel=1e-6)


def test_no_answer_costs_nothing_and_has_a_gradient():
    logits = tensor(LOGITS).requires_grad_()
    costs, counts = answer_costs(logits, tensor(IDS), torch.zeros(B, L, dtype=torch.bool))
    costs.sum().backward()
    assert not costs.any() and not counts.any() and not logits.grad.any()


def test_vad_costs_compare_with_the_next_tokens_rating_where_it_has_one():
    prediction, vad = RNG.normal(size=(B, L, 3)), RNG.normal(size=(B, L, 3))
    vad[0, 5] = 0  # a word without a rating
    places = [(b, t) for b in range(B) for t in range(L - 1) if SPAN[b, t + 1] and vad[b, t + 1].any()]
    expected = np.mean([(prediction[b, t] - vad[b, t + 1]) ** 2 for b, t in places])
    assert len(places) == 12
    costs, counts = vad_costs(tensor(prediction), tensor(vad), tensor(SPAN))
    assert (costs.sum() / counts.sum()).item() == pytest.approx(expected, rel=1e-6) and counts.sum() == 12


def test_span_mean_leaves_pads_out():
    hidden = RNG.normal(size=(B, L, D))
    expected = [hidden[b, SPAN[b]].mean(0) for b in range(B)]
    assert span_mean(tensor(hidden), tensor(SPAN)).numpy() == pytest.approx(np.stack(expected), rel=1e-5)
    assert not span_mean(tensor(hidden), torch.zeros(B, L, dtype=torch.bool)).any()


def test_contrast_is_the_softmax_over_the_negatives_that_there_are():
    positive, negatives = RNG.normal(size=4), RNG.normal(size=(4, 2))
    known = np.array([[True, True], [False, True], [True, False], [False, False]])
    rows = [-np.log(np.exp(p) / (np.exp(p) + np.exp(n[k]).sum())) for p, n, k in zip(positive, negatives, known)]
    loss = explanation_contrast(tensor(positive), tensor(negatives), tensor(known))
    assert loss.item() == pytest.approx(np.mean(rows[:3]), rel=1e-6)
