import pytest
import torch

from vea.errors import VeaError
from vea.models.units import UnitHead


def test_a_head_comes_back_from_its_file(tmp_path):
    torch.manual_seed(0)
    head = UnitHead(8, ("AU1 inner brow raiser", "AU12 lip corner puller"), hidden=16)
    head.mean.copy_(torch.randn(8))
    head.described = {"val": {"AU12 lip corner puller": [0.9, 0.8]}}
    head.write(tmp_path / "units.safetensors")
    again = UnitHead.read(tmp_path / "units.safetensors")
    assert again.units == head.units and again.described == head.described and not again.training
    found = torch.randn(5, 8)
    assert torch.allclose(again(found), head(found), atol=1e-2)
    a = torch.relu((found - again.mean) / again.std @ again.hidden.weight.T + again.hidden.bias)
    assert torch.allclose(again(found), torch.sigmoid(a @ again.out.weight.T + again.out.bias), atol=1e-6)
    assert again(found).min() >= 0 and again(found).max() <= 1


def test_another_file_is_refused(tmp_path):
    (tmp_path / "units.safetensors").write_bytes(b"nothing")
    with pytest.raises(VeaError, match=r"finetune/units\.py"):
        UnitHead.read(tmp_path / "units.safetensors")
