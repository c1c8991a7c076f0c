import pytest
import torch

from vea.errors import VeaError
from vea.inference.consensus import consensus


def test_a_class_needs_both_readings_and_contempt_is_left_out():
    first = torch.tensor([[0.6, 0.4], [0.5, 0.5]])
    second = torch.tensor([[0.1, 0.5, 0.4], [0.2, 0.2, 0.6]])
    answer = consensus(first, second, classes=("happy", "angry"), others=("Happiness", "anger", "contempt"))
    assert torch.allclose(answer.sum(1), torch.ones(2))
    assert torch.allclose(answer[:, 0] / answer[:, 1], torch.tensor([(0.06 / 0.20) ** 0.5, 1.0]))


def test_equal_readings_stay_as_they_are_and_zero_is_no_nan():
    shares = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    names = ("fear", "sad", "neutral")
    assert torch.allclose(consensus(shares, shares, classes=names, others=names), shares, atol=1e-6)


def test_a_reading_that_lacks_a_class_is_refused():
    with pytest.raises(VeaError, match="no 'sad'"):
        consensus(torch.ones(1, 2), torch.ones(1, 1), classes=("sad", "happy"), others=("happiness",))
