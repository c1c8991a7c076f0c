"""fp32 against bf16 autocast on this machine's CPU: one training step of the networks vea trains there, interleaved.

    python benchmarks/precision.py [--rounds 7] [--json FILE]

Random images: 128 faces of 48 pixels, or 8 scenes of 224. The time of forward, backward and the fused AdamW step on one
thread. Prints the medians and their ratio: above 1, bf16 is faster. Convolutions, large and small matrix products need
not agree.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from vea.config import EncoderConfig
from vea.models.cnn import build_network
from vea.models.vit import build_encoder

CLASSES = 8
FACES, SCENES = (128, 1, 48, 48), (8, 3, 224, 224)
Shape = tuple[int, int, int, int]


def networks() -> dict[str, tuple[nn.Module, Shape]]:
    """Returns {name: (classifier, shape of a batch of images)}."""
    ship = build_network("vea_face_cnn", channels=1, args={"widths": [32, 64, 96, 192, 384]})
    size = {"patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4}
    vit = build_encoder(EncoderConfig(name="vit_tiny_patch16_224", args=size), image_size=48, channels=1)
    vit_s = build_encoder(EncoderConfig(name="vit_small_patch16_224"), image_size=224, channels=3)
    face_cnn = nn.Sequential(ship, nn.Linear(384, CLASSES)).to(memory_format=torch.channels_last)
    return {
        "vea_face_cnn, 32 to 384": (face_cnn, FACES),
        "ViT, patch 8, width 128, depth 4": (nn.Sequential(vit, nn.Linear(128, CLASSES)), FACES),
        "ViT-S/16 at 224 pixels": (nn.Sequential(vit_s, nn.Linear(384, CLASSES)), SCENES),
    }


def step_seconds(model: nn.Module, optimizer: torch.optim.Optimizer, *, shape: Shape, bf16: bool) -> float:
    """Returns the seconds of one training step."""
    images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, shape[:1])
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(images)
    cross_entropy(logits.float(), labels).backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - start


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = {}
    print(f"{'network':36} {'fp32 img/s':>10} {'bf16 img/s':>10} {'ratio':>6}")
    for name, (model, shape) in networks().items():
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for round_ in range(arguments.rounds + 2):  # the first two warm up
            for bf16 in (False, True):
                taken = step_seconds(model, optimizer, shape=shape, bf16=bf16)
                if round_ >= 2:
                    seconds[bf16].append(taken)
        fp32, bf16_ = (shape[0] / statistics.median(seconds[key]) for key in (False, True))
        result[name] = {"fp32": round(fp32, 1), "bf16": round(bf16_, 1), "ratio": round(bf16_ / fp32, 3)}
        print(f"{name:36} {fp32:10.0f} {bf16_:10.0f} {bf16_ / fp32:6.2f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"images_per_s": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
