"""One UniEmoX training step against the structure of the authors' released step: interleaved rounds, medians.

    python benchmarks/pretrain_step.py --json pretrain_step.json          # ViT-B/16 and a CLIP ViT-B/16 (about 6 min)
    python benchmarks/pretrain_step.py --student small --batch 4 --rounds 2
    python benchmarks/pretrain_step.py --compile                          # the same beside vea under torch.compile
    python benchmarks/pretrain_step.py --infonce                          # blocked InfoNCE at 16,384 x 512
    python benchmarks/pretrain_step.py --mae --batch 16                   # plain MAE, ViT-S/16, against other libraries
    python benchmarks/pretrain_step.py --growth docs/growth.png           # plain MAE by batch and by image size

Same data, student, teacher and batch in every arm; weights are random, which changes no time. What is compared:

- ``released``: a YOLOv3 at 416 and the text tower in every step, two full MAE passes (all patches embedded, order
  restored, every patch predicted, decoder on both views), two float views, torch's default AdamW, in fp32;
- ``released_224``: the same with the detector at 224, which is what the released code feeds it;
- ``vea``: the same objective with a live teacher: both views in one encoder call, decoder for the scene only, removed
  patches only, uint8 until the step, text features kept per distinct text (person boxes come from the shards);
- ``vea_cached``: a variant, the teacher's embedding of the clean image read instead of computed;
- ``vea_lean``, ``vea_lean_cached``: a variant, a third of the removed patches predicted (model.predicted=0.34) and the
  person view half as large a side (model.person_size=112); its cost in probes is a row of stage_two.py;
- ``vea_bf16``, ``vea_bf16_cached``: the same with train.precision=bf16, where the CPU multiplies bf16 itself;
- ``vea_compiled``, ``vea_bf16_compiled`` (``--compile``): the live teacher with train.compile=true.

Ratios above 1 mean that vea is faster. ``vs_released`` and ``vs_released_cached`` take the faster precision of vea's on
this machine, ``..._fp32`` fp32 on both sides. ``mfu`` is the counted FLOPs of ``vea`` in fp32 (torch's FlopCounterMode,
which leaves fused attention out: a lower bound) over its time, as a share of the matrix product of 2048 x 2048 measured
beside it.

``--mae``: the masked autoencoder alone, with the same fused AdamW, against facebookresearch/mae's structure and,
where it is installed (pip install --no-deps lightly), lightly's.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vea.config import DecoderConfig, EncoderConfig, PretrainConfig
from vea.distributed.runtime import cpu_multiplies_bf16
from vea.errors import RunError, command
from vea.losses.contrastive import contrastive_similarity, infonce
from vea.models.fusion import build_fusion
from vea.models.mim import MaskedAutoencoder
from vea.models.teachers.clip import ClipTeacher
from vea.models.vit import sincos_positions
from vea.tasks.pretrain import PretrainTask
from vea.training.optim import build_optimizer

STUDENTS = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
SIZE, RATIO, PATCH = 224, 0.75, 16
Step = Callable[[], Tensor]

# ----------------------------------------------------------------------------------------------- the released structure


def conv(inputs: int, outputs: int, size: int) -> nn.Sequential:
    """Returns the convolution, batch norm and leaky ReLU that YOLOv3 is made of."""
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1))


class YoloV3(nn.Module):
    """YOLOv3 (arXiv 1804.02767) on timm's Darknet-53, without box decoding: its cost, not its answers."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = timm.create_model("darknet53", features_only=True, out_indices=(3, 4, 5))
        self.bodies, self.heads, self.ups = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        inputs = 1024
        for width in (512, 256, 128):
            pair = [(inputs, width, 1), (width, 2 * width, 3)]
            again = [(2 * width, width, 1), (width, 2 * width, 3), (2 * width, width, 1)]
            self.bodies.append(nn.Sequential(*(conv(*sizes) for sizes in pair + again)))
            self.heads.append(nn.Sequential(conv(width, 2 * width, 3), nn.Conv2d(2 * width, 255, 1)))
            self.ups.append(nn.Sequential(conv(width, width // 2, 1), nn.Upsample(scale_factor=2)))
            inputs = width + width // 2

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns the three maps (B, 255, h, w)."""
        maps, carried = [], None
        for features, body, head, up in zip(reversed(self.trunk(images)), self.bodies, self.heads, self.ups):
            x = body(features if carried is None else torch.cat([carried, features], 1))
            maps.append(head(x))
            carried = up(x)
        return maps


class PlainMae(nn.Module):
    """facebookresearch/mae's forward, step by step, on timm blocks."""

    def __init__(self, encoder: VisionTransformer) -> None:
        super().__init__()
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.encoder, width = encoder, 512
        self.decoder_embed = nn.Linear(encoder.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_blocks = nn.ModuleList(Block(width, 16, qkv_bias=True, norm_layer=norm) for _ in range(8))
        self.decoder_norm, self.decoder_pred = norm(width), nn.Linear(width, PATCH**2 * 3)
        positions = sincos_positions(width, grid=encoder.patch_embed.grid_size)
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (loss, class token after ``decoder_embed``)."""
        encoder, count = self.encoder, len(images)
        x = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]
        kept = int(x.shape[1] * (1 - RATIO))
        shuffle = torch.rand(count, x.shape[1]).argsort(1)
        restore = shuffle.argsort(1)
        x = x.gather(1, shuffle[:, :kept, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([(encoder.cls_token + encoder.pos_embed[:, :1]).expand(count, -1, -1), x], 1)
        y = self.decoder_embed(encoder.norm(encoder.blocks(x)))
        full = torch.cat([y[:, 1:], self.mask_token.expand(count, restore.shape[1] - kept, -1)], 1)
        full = full.gather(1, restore[..., None].expand(-1, -1, y.shape[2]))
        z = torch.cat([y[:, :1], full], 1) + self.positions
        for block in self.decoder_blocks:
            z = block(z)
        prediction = self.decoder_pred(self.decoder_norm(z))[:, 1:]
        side = SIZE // PATCH
        target = images.reshape(count, 3, side, PATCH, side, PATCH).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        mask = (restore >= kept).float()
        return ((prediction - target).square().mean(-1) * mask).sum() / mask.sum(), y[:, 0]


def released_step(teacher: ClipTeacher, batch: dict[str, Any], *, student: tuple[int, int], detector: YoloV3,
                  detector_size: int) -> Step:  # fmt: skip
    """Returns the released step as a function that computes one."""
    width, heads = student
    encoder = timm.create_model("vit_base_patch16_224", embed_dim=width, num_heads=heads, num_classes=0)
    mae, fusion = PlainMae(encoder), build_fusion("easy", width=512)
    optimizer = torch.optim.AdamW([*mae.parameters(), *fusion.parameters()], lr=1e-4, betas=(0.9, 0.95))
    scene, person = (batch[name].float() / 255 for name in ("scene", "person"))
    large = F.interpolate(scene, size=detector_size)

    def step() -> Tensor:
        with torch.no_grad():
            detector(large)
            image, text = teacher.model.encode_image(scene), teacher.text_features(batch["text"])
        loss, alpha = mae(scene)
        _, beta = mae(person)
        gamma = fusion(alpha, beta)
        total = loss + (1 - F.cosine_similarity(gamma, image)).mean() + contrastive_similarity(gamma, image, text)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return total.detach()

    return step


# ----------------------------------------------------------------------------------------------------------------- ours


def vea_step(
    teacher: ClipTeacher,
    batch: dict[str, Any],
    *,
    student: tuple[int, int],
    cached: bool,
    lean: bool = False,
    bf16: bool = False,
    compiled: bool = False,
) -> Step:
    """Returns our step, with the engine's optimizer."""
    width, heads = student
    config = PretrainConfig.model_validate({
        "name": "benchmark", "train": {"steps": 1, "base_lr": 1e-4},
        "data": {"global_batch_size": len(batch["scene"]), "virtual_readers": 1},
        "model": {"encoder": {"args": {"embed_dim": width, "num_heads": heads}}, "mask_ratio": RATIO,
                  **({"predicted": 0.34, "person_size": 112} if lean else {})},
        "teacher": {"name": "ViT-B-16", "cache": "image" if cached else "none"},
    })  # fmt: skip
    task = PretrainTask(config, teacher=teacher)
    optimizer = build_optimizer(task, config.train)
    model = torch.compile(task) if compiled else task  # as vea.training.parallel does for train.compile

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(batch, step=0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def make_batch(count: int) -> dict[str, Any]:
    """Returns uint8 views, noise, texts and a cached embedding of ``count`` samples."""
    generator = torch.Generator().manual_seed(0)
    scene, person = torch.randint(0, 256, (2, count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return {
        "scene": scene, "person": person, "noise": torch.rand(count, 2, (SIZE // PATCH) ** 2, generator=generator),
        "text": [f"The scene type of this photo is a street number {i}." for i in range(count)],
        "keys": [str(i) for i in range(count)], "teacher_image": torch.randn(count, 512, generator=generator),
    }  # fmt: skip


def seconds(function: Callable[[], Any]) -> float:
    """Returns how long one call takes; with VEA_PROCESSOR_TIME set, in seconds of processor: for a machine in use."""
    clock = time.process_time if os.environ.get("VEA_PROCESSOR_TIME") else time.perf_counter
    start = clock()
    function()
    return clock() - start


def compare(student: str, *, batch_size: int, rounds: int, compiled: bool = False,
            only: list[str] | None = None) -> dict[str, Any]:  # fmt: skip
    """Returns medians, ratios and FLOPs of the arms; with ``compiled`` also those of the live teacher compiled.

    ``only``: names of arms, for a machine without the memory for all of them at once.
    """
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-B-16", pretrained=None, precision="fp32")
    teacher = ClipTeacher(clip, open_clip.get_tokenizer("ViT-B-16"), description="random weights").freeze()
    batch, detector = make_batch(batch_size), YoloV3().eval()
    released = partial(released_step, teacher, batch, student=STUDENTS[student], detector=detector)
    ours = partial(vea_step, teacher, batch, student=STUDENTS[student])
    makers: dict[str, Callable[[], Step]] = {
        "released": partial(released, detector_size=416), "released_224": partial(released, detector_size=224),
        "vea": partial(ours, cached=False), "vea_cached": partial(ours, cached=True),
        "vea_lean": partial(ours, cached=False, lean=True), "vea_lean_cached": partial(ours, cached=True, lean=True),
    }  # fmt: skip
    if compiled:
        makers["vea_compiled"] = partial(ours, cached=False, compiled=True)
    if cpu_multiplies_bf16():
        fast = copy.deepcopy(teacher).in_precision(torch.bfloat16)
        ours = partial(vea_step, fast, batch, student=STUDENTS[student], bf16=True)
        makers |= {"vea_bf16": partial(ours, cached=False), "vea_bf16_cached": partial(ours, cached=True)}
        if compiled:
            makers["vea_bf16_compiled"] = partial(ours, cached=False, compiled=True)
    arms = {name: make() for name, make in makers.items() if only is None or name in only}
    flops = {}
    for name, step in arms.items():
        step()  # the first one of vea's embeds the texts that it then keeps
        with FlopCounterMode(display=False) as counter:
            step()
        flops[name] = counter.get_total_flops()
    square = torch.randn(2048, 2048)
    times: dict[str, list[float]] = {name: [] for name in [*arms, "matmul"]}
    for _ in range(rounds):
        for name, step in arms.items():
            times[name].append(seconds(step))
            times["matmul"].append(seconds(lambda: square @ square))
    median = {name: statistics.median(values) for name, values in times.items()}
    peak = 2 * 2048**3 / median["matmul"]
    ratios = ratios_of(median)
    if "vea" in arms:
        ratios["mfu"] = flops["vea"] / median["vea"] / peak
    for own in ("vea", "vea_lean"):
        if {"released", own} <= arms.keys():
            ratios[f"flops_released/{own}"] = flops["released"] / flops[own]
    return {"student": student, "batch": batch_size, "rounds": rounds, "threads": torch.get_num_threads(),
            "seconds": median, "flops": flops, "matmul_gflops": peak / 1e9, "ratios": ratios}  # fmt: skip


def ratios_of(median: dict[str, float]) -> dict[str, float]:
    """Returns how many times faster the variants are, of the arms that were measured."""
    ratios = {}
    for variant in ("", "_cached", "_lean", "_lean_cached"):
        if f"vea{variant}" not in median:
            continue
        exact = median[f"vea{variant}"]
        best = min(exact, median.get(f"vea_bf16{variant}", exact))
        for size in ("", "_224"):
            if f"released{size}" in median:
                theirs = median[f"released{size}"]
                ratios |= {f"vs_released{size}{variant}": theirs / best,
                           f"vs_released{size}{variant}_fp32": theirs / exact}  # fmt: skip
    return ratios | {f"{name}_compiled": median[name] / median[f"{name}_compiled"]
                     for name in ("vea", "vea_bf16") if f"{name}_compiled" in median}  # fmt: skip


# ------------------------------------------------------------------------------------------------------ plain MAE alone


class LightlyMae(nn.Module):
    """MAE as lightly's example puts it together, with MAE's own decoder."""

    def __init__(self, encoder: VisionTransformer) -> None:
        from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM

        super().__init__()
        self.backbone = MaskedVisionTransformerTIMM(encoder)
        self.decoder = MAEDecoderTIMM(encoder.patch_embed.num_patches, PATCH, embed_dim=encoder.embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the loss."""
        from lightly.models import utils

        size = (len(images), self.backbone.sequence_length)
        kept, masked = utils.random_token_mask(size, mask_ratio=RATIO, device=images.device)
        tokens = self.decoder.embed(self.backbone.encode(images, idx_keep=kept))
        filled = utils.set_at_index(utils.repeat_token(self.decoder.mask_token, size), kept, tokens)
        prediction = self.decoder.predict(utils.get_at_index(self.decoder.decode(filled), masked))
        target = utils.get_at_index(utils.patchify(images, PATCH), masked - 1)
        return F.mse_loss(prediction, target)


def mae_step(batch: int, *, size: int) -> Step:
    """Returns the step of vea's masked autoencoder, ViT-S/16."""
    encoder = EncoderConfig(name="vit_small_patch16_224")
    model = MaskedAutoencoder(encoder, decoder=DecoderConfig(), image_size=size, mask_ratio=RATIO)
    images = torch.rand(batch, 3, size, size)

    def loss() -> Tensor:
        encoded = model.encode(images, torch.rand(batch, model.num_patches))
        prediction = model.decode(model.project(encoded.latent), encoded.order)
        return model.sample_losses(encoded, prediction).mean()

    return training_step(model, loss)


def training_step(model: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """Returns forward, backward and the step of a fused AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    def step() -> Tensor:
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def compare_mae(batch: int, *, rounds: int) -> dict[str, Any]:
    """Returns medians and ratios of plain MAE."""
    images = torch.rand(batch, 3, SIZE, SIZE)
    faithful = PlainMae(timm.create_model("vit_small_patch16_224", num_classes=0))
    arms = {"vea": mae_step(batch, size=SIZE), "mae": training_step(faithful, lambda: faithful(images)[0])}
    if importlib.util.find_spec("lightly") is not None:
        theirs = LightlyMae(timm.create_model("vit_small_patch16_224", num_classes=0))
        arms["lightly"] = training_step(theirs, lambda: theirs(images))
    for step in arms.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, step in arms.items():
            times[name].append(seconds(step))
    median = {name: statistics.median(values) for name, values in times.items()}
    ratios = {f"vs_{name}": value / median["vea"] for name, value in median.items() if name != "vea"}
    return {"batch": batch, "rounds": rounds, "seconds": median, "ratios": ratios}


def growth(path: Path, *, rounds: int) -> dict[str, Any]:
    """Returns the step's seconds by batch (at 160 pixels) and by image side (batch 8), and plots them."""
    from matplotlib.figure import Figure

    cells = [("batch", n, n, 160) for n in (4, 8, 16, 32, 64)] + [("side", s, 8, s) for s in (96, 160, 224, 288)]
    steps = [(kind, x, mae_step(batch, size=size)) for kind, x, batch, size in cells]
    found: dict[str, dict[int, float]] = {"batch": {}, "side": {}}
    for kind, x, step in steps:
        step()
        found[kind][x] = statistics.median(seconds(step) for _ in range(rounds))
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, rows, label in (
        (left, found["batch"], "batch, at 160 pixels"),
        (right, {side**2 / 1000: value for side, value in found["side"].items()}, "thousand pixels, batch 8"),
    ):
        axes.plot(list(rows), list(rows.values()), "o-")
        axes.set(xlabel=label, ylabel="seconds a step", xlim=(0, None), ylim=(0, None))
    figure.savefig(path, dpi=110)
    return {"seconds_by_batch": found["batch"], "seconds_by_side": found["side"]}


# -------------------------------------------------------------------------------------------------------------- InfoNCE


def _infonce(block: int | None, rows: int, threads: int, out: Any) -> None:
    torch.set_num_threads(threads)
    f, t = (torch.randn(rows, 512, requires_grad=True) for _ in range(2))
    infonce(f[:64], t[:64], temperature=0.07).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = seconds(lambda: infonce(f, t, temperature=0.07, block=block).backward())
    out.put((taken, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def compare_infonce(rows: int, *, block: int, rounds: int) -> dict[str, Any]:
    """Returns seconds and MiB of full and blocked InfoNCE, each in a process of its own, and their ratios."""
    context = multiprocessing.get_context("spawn")
    results: dict[str, list[tuple[float, float]]] = {"full": [], "blocked": []}
    for _ in range(rounds):
        for name, size in (("full", None), ("blocked", block)):
            out = context.SimpleQueue()
            process = context.Process(target=_infonce, args=(size, rows, torch.get_num_threads(), out))
            process.start()
            process.join()
            if process.exitcode:
                raise RunError(f"{name} InfoNCE of {rows} rows ended with {process.exitcode}; too little memory?")
            results[name].append(out.get())
    median = {name: [statistics.median(column) for column in zip(*values)] for name, values in results.items()}
    ratios = {"infonce_time": median["full"][0] / median["blocked"][0],
              "infonce_memory": median["full"][1] / median["blocked"][1]}  # fmt: skip
    return {"rows": rows, "block": block, "seconds_and_mib": median, "ratios": ratios}


@command
def main(argv: list[str]) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", choices=STUDENTS, default="base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also vea's live step under torch.compile")
    parser.add_argument("--only", nargs="+", metavar="ARM", help="only these arms: all at once want 20 GB at ViT-B")
    parser.add_argument("--infonce", action="store_true", help="measure InfoNCE instead of the step")
    parser.add_argument("--mae", action="store_true", help="measure the plain masked autoencoder of ViT-S/16")
    parser.add_argument("--growth", type=Path, metavar="PNG", help="measure it by batch and image size, and plot")
    parser.add_argument("--rows", type=int, default=16384, help="of InfoNCE")
    parser.add_argument("--block", type=int, default=256, help="of InfoNCE")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    if given.infonce:
        result = compare_infonce(given.rows, block=given.block, rounds=given.rounds)
        shown = {name: f"{s:.2f} s, {mib:.0f} MiB" for name, (s, mib) in result["seconds_and_mib"].items()}
    elif given.mae:
        result = compare_mae(given.batch, rounds=given.rounds)
        shown = {name: f"{1000 * s:.0f} ms, {given.batch / s:.2f} images/s" for name, s in result["seconds"].items()}
    elif given.growth:
        result = growth(given.growth, rounds=given.rounds)
        shown = {f"batch {n}, 160 pixels": f"{1000 * s:.0f} ms" for n, s in result["seconds_by_batch"].items()}
        shown |= {f"batch 8, {n} pixels": f"{1000 * s:.0f} ms" for n, s in result["seconds_by_side"].items()}
    else:
        result = compare(given.student, batch_size=given.batch, rounds=given.rounds, compiled=given.compile,
                         only=given.only)  # fmt: skip
        shown = {name: f"{1000 * s:.0f} ms, {given.batch / s:.2f} images/s" for name, s in result["seconds"].items()
                 if name != "matmul"}  # fmt: skip
        shown["matmul 2048"] = f"{result['matmul_gflops']:.0f} GFLOP/s"
    table = Table("", "median", title=f"{torch.get_num_threads()} threads, {given.rounds} interleaved rounds")
    for name, text in shown.items():
        table.add_row(name, text)
    for name, value in result.get("ratios", {}).items():
        table.add_row(name, f"{value:.2f}")
    Console().print(table)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1))
        print(f"wrote {given.json}")


if __name__ == "__main__":
    sys.exit(main())
