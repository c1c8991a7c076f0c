"""InfoNCE with several texts a picture, against float64 and CLIP's cross-entropy."""

import pytest
import torch
import torch.nn.functional as F

from vea.losses.alignment import multi_text_infonce


@pytest.mark.parametrize("texts", [1, 3])
def test_equals_the_formula_in_float64(texts):
    generator = torch.Generator().manual_seed(texts)
    image, text = torch.randn(5, 7, generator=generator), torch.randn(5, texts, 7, generator=generator)
    found = multi_text_infonce(image, text, scale=torch.tensor(8.0))
    f, t = F.normalize(image.double(), dim=-1), F.normalize(text.double(), dim=-1)
    e = (8 * torch.einsum("id,jkd->ijk", f, t)).exp()
    to_text = [-(e[i, i, k] / (e[i, i, k] + e[i].sum() - e[i, i].sum())).log() for i in range(5) for k in range(texts)]
    to_image = [-(e[j, j, k] / e[:, j, k].sum()).log() for j in range(5) for k in range(texts)]
    assert found.item() == pytest.approx(float(sum(to_text) + sum(to_image)) / (10 * texts), rel=1e-5)
    if texts == 1:
        logits, own = 8 * f @ t[:, 0].T, torch.arange(5)
        clip = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        assert found.item() == pytest.approx(clip.item(), rel=1e-5)


def test_samples_without_a_text_are_neither_rows_nor_columns():
    image, text = torch.randn(6, 4), torch.randn(6, 2, 4)
    paired = torch.tensor([1, 0, 1, 1, 0, 1])
    keep = paired.bool()
    scale = torch.tensor(5.0)
    found = multi_text_infonce(image, text, scale=scale, paired=paired)
    assert found.item() == pytest.approx(multi_text_infonce(image[keep], text[keep], scale=scale).item(), rel=1e-5)
    image.requires_grad_(True)
    for nothing in (multi_text_infonce(image, text, scale=scale, paired=torch.zeros(6)),
                    multi_text_infonce(image[:1], text[:1], scale=scale)):  # fmt: skip
        nothing.backward()
        assert nothing.item() == 0 and image.grad.abs().max() == 0
