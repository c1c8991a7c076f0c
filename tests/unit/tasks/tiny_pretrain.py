"""A tiny pretraining task that the tests of pretraining share: a fake teacher, a config, a batch."""

import hashlib

import torch
import torch.nn.functional as F
from torch import nn

from vea.config import PretrainConfig
from vea.tasks.pretrain import PretrainTask

SIDE, N, B = 32, 16, 8


class FakeTeacher(nn.Module):
    """Random but fixed: images by a linear map of their small version, texts by a hash."""

    embed_dim, description = 20, "a fake teacher for tests"

    def __init__(self):
        super().__init__()
        weight = torch.randn(20, 3 * 8 * 8, generator=torch.Generator().manual_seed(7))
        self.weight = nn.Parameter(weight, requires_grad=False)

    def encode_image(self, images):
        assert images.dtype == torch.uint8
        pixels = F.adaptive_avg_pool2d(images.float() / 255 - 0.5, 8)
        return F.normalize(pixels.flatten(1) @ self.weight.T, dim=-1)

    def encode_text(self, texts):
        seeds = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little") for text in texts]
        return F.normalize(
            torch.stack([torch.randn(20, generator=torch.Generator().manual_seed(s)) for s in seeds]), dim=-1
        )


def make_config(*, objective=None, fusion="easy", width=24, **changes):
    return PretrainConfig.model_validate(
        {
            "name": "test",
            "data": {"global_batch_size": B, "virtual_readers": 1},
            "augment": {"image_size": SIDE},
            "train": {"steps": 1},
            "model": {
                "encoder": {"args": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}},
                "decoder": {"width": width, "depth": 1, "heads": 2},
                "fusion": fusion,
            },
            "objective": objective or {},
            **changes,
        }
    )


def make_task(**changes):
    torch.manual_seed(0)
    return PretrainTask(make_config(**changes), teacher=FakeTeacher())


def make_batch(count=B, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scene, person = torch.randint(0, 256, (2, count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    return {
        "scene": scene,
        "person": person,
        "has_person": torch.ones(count, dtype=torch.bool),
        "noise": torch.rand(count, 2, N, generator=generator),
        "text": [f"the picture number {i} of {seed}" for i in range(count)],
        "keys": [f"{seed}-{i}" for i in range(count)],
        "valid": torch.ones(count, dtype=torch.bool),
        "slot": torch.arange(count),
    }


def part(batch, rows):
    return {name: value[rows] for name, value in batch.items()}
