from itertools import product

import pytest
import torch

from vea.errors import VeaError
from vea.models.crf import ChainCRF, alternating

SPEAKERS = [[0] * 5, [0, 1, 0, 1, 0], [0, 0, 1, 1, 0], [0, 1, 1, 1, 0], [1, 1, 0, 1, 1], [1, 0, 0, 0, 0], [0], [0, 1]]


def model(classes: int, seed: int = 0) -> ChainCRF:
    torch.manual_seed(seed)
    crf = ChainCRF(classes).double()
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    return crf


def plain_score(crf, emissions, labels, speakers):
    """The formula of the docstring, word by word."""
    total = crf.start[labels[0]] + crf.end[labels[-1]]
    for t in range(len(labels)):
        total = total + emissions[t, labels[t]]
        if t:
            earlier = [u for u in range(t) if speakers[u] == speakers[t]]
            if earlier:
                total = total + crf.own[labels[earlier[-1]], labels[t]]
            if not earlier or earlier[-1] != t - 1:
                total = total + crf.other[labels[t - 1], labels[t]]
    return total


@pytest.mark.parametrize("speakers", SPEAKERS)
@pytest.mark.parametrize("classes", [2, 3])
def test_partition_viterbi_and_marginals_equal_brute_force(speakers, classes):
    crf = model(classes)
    emissions = torch.randn(len(speakers), classes, dtype=torch.float64)
    every = list(product(range(classes), repeat=len(speakers)))
    scores = torch.stack([plain_score(crf, emissions, labels, speakers) for labels in every])
    assert torch.allclose(crf.log_partition(emissions, speakers), scores.logsumexp(0))
    for labels, score in zip(every, scores):
        assert torch.allclose(crf.score(emissions, torch.tensor(labels), speakers), score)
    labels, value = crf.viterbi(emissions, speakers)
    assert tuple(labels.tolist()) == every[int(scores.argmax())]
    assert torch.allclose(value, scores.max())
    shares = scores.softmax(0)
    plain = torch.zeros_like(emissions)
    for labels_, share in zip(every, shares):
        for t, label in enumerate(labels_):
            plain[t, label] += share.detach()
    assert torch.allclose(crf.marginals(emissions, speakers), plain)


@pytest.mark.parametrize("speakers", [None, alternating(30)])
def test_a_known_chain_is_recovered(speakers):
    """Labels drawn by sticky transitions, noisy emissions: learning raises the likelihood and beats frames alone."""
    generator = torch.Generator().manual_seed(0)
    stay = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])

    def series():
        labels = [0]
        for _ in range(29):
            labels.append(int(torch.multinomial(stay[labels[-1]], 1, generator=generator)))
        labels = torch.tensor(labels)
        logits = torch.nn.functional.one_hot(labels, 3).float() + torch.randn(30, 3, generator=generator)
        return logits, labels

    train, test = [series() for _ in range(20)], [series() for _ in range(20)]
    torch.manual_seed(0)
    crf = ChainCRF(3)
    optimizer = torch.optim.Adam(crf.parameters(), lr=0.1)
    for _ in range(15):
        optimizer.zero_grad()
        loss = torch.stack([crf.loss(logits, labels, speakers) for logits, labels in train]).mean()
        loss.backward()
        optimizer.step()
    frames = torch.cat([logits.argmax(1) == labels for logits, labels in test]).float().mean()
    chains = torch.cat([crf.viterbi(logits, speakers)[0] == labels for logits, labels in test]).float().mean()
    assert chains > frames + 0.05


@pytest.mark.parametrize(
    ("shape", "speakers", "says"),
    [((0, 3), None, "T of 1"), ((4, 2), None, "not"), ((4, 3), [0, 1], "one a turn"), ((2, 3), [0, 2], "0 or 1")],
)
def test_what_does_not_fit_is_said(shape, speakers, says):
    with pytest.raises(VeaError, match=says):
        ChainCRF(3).log_partition(torch.zeros(shape), speakers)
