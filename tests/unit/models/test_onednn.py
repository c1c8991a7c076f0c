"""The quick form of the scene network: what the network itself says, at even and odd sizes, and where it steps back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from vea.models.cnn import FaceNano, SceneLite
from vea.models.onednn import QuickScene, as_symmetric, quick


def same(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Stride 2 as TensorFlow pads (tf.nn, "SAME"): ceil(H / 2) outputs, the smaller half of the padding first."""
    pads = []
    for side, kernel in zip(reversed(x.shape[2:]), reversed(weight.shape[2:])):
        total = max((-(-side // 2) - 1) * 2 + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=2)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 11), (7, 10)])
def test_a_leading_zero_replaces_the_uneven_padding(kernel: int, size: tuple[int, int]):
    x, weight = torch.randn(2, 3, *size, dtype=torch.float64), torch.randn(4, 3, kernel, kernel, dtype=torch.float64)
    found = F.conv2d(x, as_symmetric(weight, size=size), stride=2, padding=kernel // 2)
    torch.testing.assert_close(found, same(x, weight))


@pytest.fixture(scope="module")
def network() -> SceneLite:
    torch.manual_seed(0)
    made = SceneLite(size=0)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.7, 1.3)
            torch.nn.init.normal_(module.bias, 0.5)
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return made.eval()


@torch.inference_mode()
def test_the_quick_form_says_what_the_network_says(network: SceneLite):
    pictures = [torch.randn(2, 3, 64, 64), torch.randn(1, 3, 75, 90), torch.randn(1, 3, 64, 64)]
    before = [network(picture) for picture in pictures]
    fast = quick(network)
    assert isinstance(fast, QuickScene) and fast.num_features == before[0].shape[1]
    for picture, features in zip(pictures, before):
        kept = picture.clone()
        torch.testing.assert_close(fast(picture), features, rtol=1e-4, atol=1e-4)
        assert torch.equal(picture, kept), "the sums in place must not reach the picture"
        assert fast._laid is not None and fast._laid[0] == picture.shape[2:], "the quick way was not taken"


@torch.inference_mode()
def test_a_form_that_was_used_can_be_copied(network: SceneLite):
    fast, picture = QuickScene(network), torch.randn(1, 3, 64, 64)
    said = fast(picture)
    torch.testing.assert_close(copy.deepcopy(fast)(picture), said)


def test_where_a_gradient_is_asked_for_the_network_answers(network: SceneLite):
    fast = QuickScene(network)
    picture = torch.randn(1, 3, 64, 64, requires_grad=True)
    fast(picture).sum().backward()
    assert picture.grad is not None and fast._laid is None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        fast(picture)
    assert fast._laid is None


def test_other_networks_stay_what_they_are():
    network = FaceNano()
    assert quick(network) is network
