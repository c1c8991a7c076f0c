"""Fusions against their formulas in float64 NumPy."""

import numpy as np
import pytest
import torch

from vea.errors import VeaError
from vea.models.fusion import FUSIONS, build_fusion

B, C, H = 5, 8, 3


@pytest.fixture
def embeddings():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(B, C, generator=generator), torch.randn(B, C, generator=generator)


def numbers(module):
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def norm(x, w, b):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def logistic(x):
    return 1 / (1 + np.exp(-x))


def linear(x, w, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def easy(a, b, w):
    x = linear(norm(a, w["norm.weight"], w["norm.bias"]) + norm(b, w["norm.weight"], w["norm.bias"]), w, "linear")
    return np.where(x > 0, x, np.exp(x) - 1)


def weighted(a, b, w):
    total = sum(w["scene_heads"][h] * a + w["person_heads"][h] * b for h in range(H))
    return norm(total, w["norm.weight"], w["norm.bias"]) + w["eps"]


def dual(a, b, w):
    scores = np.stack([linear(a, w, "scene_score"), linear(b, w, "person_score")])  # (2, B, H)
    weights = softmax(scores, axis=0)
    x = sum(weights[0, :, h : h + 1] * a + weights[1, :, h : h + 1] * b for h in range(H))
    return x * logistic(x)


def glu(a, b, w):
    scene, person = linear(a, w, "scene_attention"), linear(b, w, "person_attention")
    heads = [slice(h * C, (h + 1) * C) for h in range(H)]
    u = np.concatenate([softmax(scene[:, h]) * a + softmax(person[:, h]) * b for h in heads], axis=1)
    m = linear(np.maximum(linear(u, w, "mlp.0"), 0), w, "mlp.2")
    return np.maximum(m * logistic(linear(m, w, "gate")), 0)


REFERENCES = {
    "none": lambda a, b, w: a,
    "easy": easy,
    "weighted": weighted,
    "dual": dual,
    "glu": glu,
    "lambda": lambda a, b, w: linear(w["scale"] * a + b, w, "linear"),
}


@pytest.mark.parametrize("name", FUSIONS)
def test_fusion_computes_its_formula(name, embeddings):
    torch.manual_seed(1)
    fusion = build_fusion(name, width=C)
    with torch.no_grad():  # away from the values at which parts of a formula vanish
        for parameter in fusion.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    a, b = embeddings
    expected = REFERENCES[name](a.double().numpy(), b.double().numpy(), numbers(fusion))
    assert fusion(a, b).detach().numpy() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("name", [name for name in FUSIONS if name != "none"])
def test_every_parameter_and_both_views_matter(name, embeddings):
    torch.manual_seed(1)
    fusion = build_fusion(name, width=C)
    a, b = (x.requires_grad_() for x in embeddings)
    fusion(a, b).square().sum().backward()
    for tensor in (a, b, *fusion.parameters()):
        assert tensor.grad is not None and tensor.grad.abs().max() > 0


def test_an_unknown_fusion_names_its_neighbour():
    with pytest.raises(VeaError, match="did you mean 'dual'"):
        build_fusion("duall", width=C)
