"""Stage two's losses against short float64 references."""

import numpy as np
import pytest
import torch

from vea.losses.captions import caption_infonce, cosines, likeness, max_mean, mixed_negatives

B, D, M = 7, 12, 3


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(x):
    x = np.asarray(x, dtype=np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_softmax(x):
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def reference(scores, scale, like=None, soft=0.07, mixed=None):
    """The formula over samples that all have a text."""
    losses = []
    for z, extra in ((scale * scores, mixed), (scale * scores.T, None)):
        p, wide = log_softmax(z), log_softmax(z if extra is None else np.concatenate([z, scale * extra], 1))
        wide = wide[:, : len(z)]
        if like is None:
            losses.append(-np.diag(wide))
        else:
            q = log_softmax(like / soft)
            losses.append(((np.exp(q) * (q - wide)).sum(1) + (np.exp(p) * (p - q)).sum(1)) / 2)
    return np.mean(losses)


@pytest.fixture
def pair():
    return rows(B, D), rows(B, D, seed=1)


def test_own_positives_are_the_symmetric_infonce_of_clip(pair):
    student, text = pair
    found = caption_infonce(cosines(student, text), scale=torch.tensor(9.0), paired=torch.ones(B))
    assert found.item() == pytest.approx(reference(unit(student) @ unit(text).T, 9.0), rel=1e-5)


def test_soft_positives_are_both_divergences_from_the_likeness_of_captions(pair):
    student, text = pair
    affect = rows(B, 2, seed=2).clamp(-1, 1)
    like = unit(text) @ unit(text).T + 0.5 * (
        1 - np.linalg.norm(affect.double().numpy()[:, None] - affect.double().numpy(), axis=-1) / np.sqrt(8)
    )
    assert np.allclose(likeness(text, affect=affect, weight=0.5), like, atol=1e-6)
    found = caption_infonce(
        cosines(student, text),
        scale=torch.tensor(9.0),
        paired=torch.ones(B),
        like=likeness(text, affect=affect, weight=0.5),
        soft_temperature=0.1,
    )
    expected = reference(unit(student) @ unit(text).T, 9.0, like, soft=0.1)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_soft_positives_forgive_the_same_caption_twice(pair):
    student, text = pair
    text[1] = text[0]
    twins = torch.cat([text[:1], student[1:]])
    plain, soft = (
        caption_infonce(cosines(twins[[0, 0]], text[:2]), scale=torch.tensor(20.0), paired=torch.ones(2), like=like)
        for like in (None, likeness(text[:2]))
    )
    assert soft.item() == pytest.approx(0, abs=1e-6) and plain.item() > 0.6


def test_a_caption_whose_words_are_not_rated_is_like_itself_alone():
    affect = torch.tensor([[0.5, 0.1], [float("nan"), float("nan")], [0.5, 0.1]])
    near = likeness(torch.eye(3), affect=affect, weight=1.0) - torch.eye(3)
    assert torch.allclose(near, torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]]))


def test_phrases_score_the_mean_of_their_best_patches():
    patches, phrases = rows(B, 5, D), rows(B, M, D, seed=1)
    known = torch.tensor([[1.0, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]])
    cosine = np.einsum("ikd,jpd->ijpk", unit(patches), unit(phrases)).max(-1)
    expected = (cosine * known.numpy()).sum(-1) / np.maximum(known.numpy().sum(-1), 1)
    assert np.allclose(max_mean(patches, phrases, known), expected, atol=1e-6)


def test_mixed_pairs_lie_between_two_of_the_hardest_captions(pair):
    student, text = pair
    draws = torch.rand(B, M, 5, generator=torch.Generator().manual_seed(3))
    paired = torch.ones(B)
    paired[2] = 0
    scores = cosines(student, text)
    mixed, usable = mixed_negatives(
        scores, text, form="pair", hard=4, margin=0.0, temperature=0.07, draws=draws, paired=paired
    )
    assert usable.all() and mixed.shape == (B, M, D)
    t, s = unit(text), unit(student) @ unit(text).T
    for i in range(B):
        hardest = sorted((j for j in range(B) if j not in (i, 2)), key=lambda j: -s[i, j])[:4]
        for m in range(M):
            share = float(np.median(draws[i, m, :3]))
            a = int(draws[i, m, 3] * len(hardest))
            b = int(draws[i, m, 4] * (len(hardest) - 1))
            b += b >= a
            wanted = unit(share * t[hardest[a]] + (1 - share) * t[hardest[b]])
            assert np.allclose(mixed[i, m], wanted, atol=1e-5)


def test_the_mixed_list_weighs_the_hardest_captions_by_how_hard_they_are(pair):
    student, text = pair
    scores = cosines(student, text)
    rule = {"form": "list", "hard": 3, "margin": 0.0, "temperature": 0.2, "paired": torch.ones(B)}
    mixed, usable = mixed_negatives(scores, text, draws=torch.empty(B, 1, 5), **rule)
    t, s = unit(text), unit(student) @ unit(text).T
    for i in range(B):
        hardest = sorted((j for j in range(B) if j != i), key=lambda j: -s[i, j])[:3]
        weights = np.exp(log_softmax(s[i, hardest][None] / 0.2))[0]
        assert np.allclose(mixed[i, 0], unit(weights @ t[hardest]), atol=1e-5) and usable[i]


def test_a_caption_as_good_as_the_own_one_is_not_mixed(pair):
    student, text = pair
    text = text[:3].repeat(2, 1)[:4]
    rule = {"form": "list", "hard": 8, "margin": 0.05, "temperature": 0.2, "paired": torch.ones(4)}
    mixed, usable = mixed_negatives(cosines(student[:4], text), text, draws=torch.empty(4, 1, 5), **rule)
    twin = unit(mixed[0, 0]) @ unit(text[0])
    assert usable.all() and abs(twin) < 0.9, "row 0 mixes captions 1 and 2, not its twin 3"
    alone = text[[0, 0]]
    assert not mixed_negatives(
        cosines(student[:2], alone), alone, draws=torch.empty(2, 1, 5), **{**rule, "paired": torch.ones(2)}
    )[1].any()


@pytest.mark.parametrize("soft", [False, True])
def test_mixed_negatives_join_the_pictures_candidates(pair, soft):
    student, text = pair
    scores, extra = unit(student) @ unit(text).T, np.tanh(rows(B, M, seed=5).double().numpy())
    like = unit(text) @ unit(text).T if soft else None
    mixed = torch.from_numpy(extra).float()
    given = {"scale": torch.tensor(7.0), "paired": torch.ones(B), "like": likeness(text) if soft else None}
    found = caption_infonce(cosines(student, text), mixed=mixed, **given)
    assert found.item() == pytest.approx(reference(scores, 7.0, like, mixed=extra), rel=1e-5)
    none = caption_infonce(cosines(student, text), mixed=torch.full((B, M), -torch.inf), **given)
    assert none.item() == pytest.approx(caption_infonce(cosines(student, text), **given).item(), rel=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_samples_without_a_caption_are_as_if_they_were_not_there(pair, soft):
    student, text = pair
    paired = torch.tensor([1.0, 0, 1, 1, 0, 1, 1])
    keep = paired > 0
    text = text.clone().requires_grad_()

    def loss(s, t, p):
        like = likeness(t.detach()) if soft else None
        return caption_infonce(cosines(s, t), scale=torch.tensor(7.0), paired=p, like=like)

    assert loss(student, text, paired).item() == pytest.approx(
        loss(student[keep], text[keep], torch.ones(5)).item(), rel=1e-5
    )
    nothing = loss(student.clone().requires_grad_(), text, torch.zeros(B))
    nothing.backward()
    assert nothing.item() == 0 and text.grad.isfinite().all()
