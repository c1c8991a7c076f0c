"""Products by oneDNN: the numbers of the layers themselves, only inside of the context, only where they fit."""

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from transformers.pytorch_utils import Conv1D

from vea.models.language.onednn import quick_products


def layers():
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(48, 80), nn.Linear(48, 30, bias=False), Conv1D(96, 48)]).eval()
    nn.init.normal_(model[2].bias)
    return model


@pytest.fixture
def asked(monkeypatch):
    """The shapes that oneDNN was asked for."""
    quick, shapes = torch.ops.mkldnn._linear_pointwise, []

    def counted(x, *rest):
        shapes.append(tuple(x.shape))
        return quick(x, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    return shapes


@torch.no_grad()
def test_products_are_those_of_the_layers(asked):
    model = layers()
    rows = [torch.randn(7, 1, 48), torch.randn(7, 5, 48)[:, -1:], torch.randn(48, 7).t(), torch.randn(3, 4, 48)]
    for layer in model:
        for x in rows:
            plain = layer(x)
            with quick_products(model):
                quick = layer(x)
            assert quick.shape == plain.shape and torch.allclose(quick, plain, atol=1e-5)
    assert len(asked) == len(model) * len(rows)


@torch.no_grad()
def test_one_row_and_other_types_take_the_layers_own_way(asked):
    for model, x in ((layers(), torch.randn(1, 1, 48)), (layers().double(), torch.randn(7, 48, dtype=torch.double))):
        for layer in model:
            plain = layer(x)
            with quick_products(model):
                assert torch.equal(layer(x), plain)
    with torch.autocast("cpu", torch.bfloat16), quick_products(model := layers()):
        assert model[0](torch.randn(7, 48)).dtype == torch.bfloat16
    assert not asked


def test_the_layers_are_as_before_afterwards_and_learn(asked):
    model = layers()
    names = set(model.state_dict())
    with pytest.raises(ValueError, match="amiss"), quick_products(model):
        assert set(model.state_dict()) == names
        raise ValueError("amiss")
    assert not any("forward" in vars(layer) for layer in model)
    model[0](torch.randn(7, 48)).sum().backward()
    assert model[0].weight.grad is not None and not asked
