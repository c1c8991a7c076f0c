"""The map of saliency: the attention of the last block's class token, and what the loader makes of it."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from vea.commands.main import main
from vea.config import DatasetRef
from vea.data.loading.sets import ShardSet
from vea.data.shards.plan import write_dataset
from vea.data.synthetic import FIELDS, samples
from vea.enrich.saliency import Saliency
from vea.errors import VeaError

SIDE, GRID = 32, 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    form = {"img_size": SIDE, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 0}
    model = timm.create_model("vit_tiny_patch16_224", **form)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    path = tmp_path_factory.mktemp("saliency") / "vit.safetensors"
    save_file(model.state_dict(), path)
    return path, model.eval()


def test_it_is_the_attention_that_the_last_block_computes(weights):
    path, model = weights
    made = Saliency(path)
    images = torch.randn(3, 3, SIDE, SIDE)
    seen = {}
    model.blocks[1].attn.qkv.register_forward_hook(lambda module, given, out: seen.update(qkv=out))
    model(images)
    q, k, _ = seen["qkv"].detach().double().numpy().reshape(3, 1 + GRID**2, 3, 64).transpose(2, 0, 1, 3)
    logits = (q[:, :1] @ k.transpose(0, 2, 1))[:, 0] / np.sqrt(64)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(made.attention(images), expected[:, 1:], atol=1e-5)


def test_the_pass_writes_a_map_for_every_picture_that_the_loader_reads(weights, tmp_path):
    folder = tmp_path / "set"
    write_dataset(
        {"train": samples(5, size=40)}, folder, name="set", title="", fields=FIELDS, card=None, synthetic=True
    )
    main(["enrich", "saliency", str(folder), "--weights", str(weights[0])])
    shards = ShardSet(DatasetRef(path=str(folder), saliency="saliency"))
    maps = np.stack([shards.saliency(i) for i in range(5)])
    assert maps.shape == (5, GRID, GRID) and (maps > 0).all() and (maps.sum((1, 2)) < 1).all()
    assert ShardSet(DatasetRef(path=str(folder))).saliency(0) is None
    with pytest.raises(VeaError, match=r"no sidecar faces: run `vea enrich faces"):
        ShardSet(DatasetRef(path=str(folder), faces="faces"))
