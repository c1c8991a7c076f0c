"""How a pretraining step scales: measured on 1, 2 and 4 gloo ranks of this machine, and a model of 8 to 512 GPUs.

    python benchmarks/scaling.py [--worlds 1 2 4] [--rounds 3] [--json FILE]     # measures, some four minutes
    python benchmarks/scaling.py --predict [--network-gbps 400] [...]        # the model; each assumption an argument

Measured: the real task of pretrain/train.py (configs/pretrain/smoke.yaml with a wider encoder), under the DDP of the
engine, one thread a rank, on batches of the real loader that are read before the clock starts; the worlds are
interleaved. ``strong`` keeps the global batch, ``weak`` the batch of a rank. ``communication`` is the share of a weak
step that is gone when gradients stay on their ranks. Ranks beyond the number of cores share them: efficiency is
therefore given per core as well. One process also times a checkpoint and the loader. Predicted: docs/scaling.md has the
formula; what a step computes is counted on the recipe itself, without weights (torch's meta device).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vea.config import PretrainConfig, load_config
from vea.data.loading.loader import train_loader
from vea.distributed import collectives
from vea.distributed import runtime as vea_runtime
from vea.errors import RunError, VeaError, command
from vea.models.teachers.load import load_teacher
from vea.storage.checkpoint import save_checkpoint
from vea.tasks.pretrain import PretrainTask
from vea.training.parallel import accumulating, parallel_model
from vea.training.steps import to_device

CONFIG = "configs/pretrain/smoke.yaml"
WIDER = ["model.encoder.args.embed_dim=192", "model.encoder.args.depth=6", "model.encoder.args.num_heads=3",
         "model.decoder.width=96", "data.workers=0", "runtime.device=cpu", "runtime.threads=1"]  # fmt: skip
GLOBAL, PER_RANK, STEPS = 32, 16, 6
RECIPES = ("configs/pretrain/emoset_vitb16.yaml", "configs/pretrain/emoset_vitl16.yaml")


# -------------------------------------------------------------------------------------------------------------- measure


def measured_config(data: str, batch_size: int) -> PretrainConfig:
    """Returns the config of the measured step on the prepared set ``data``."""
    changed = [*WIDER, f"data.train.0.path={data}", f"data.val.0.path={data}", f"data.global_batch_size={batch_size}"]
    config = load_config(CONFIG, changed)
    assert isinstance(config, PretrainConfig) and config.teacher is not None
    return config


def measure_terms(data: str, *, rounds: int) -> dict[str, float]:
    """Returns and prints the size and seconds of a checkpoint, and the loader's images/s with one core (medians)."""
    config = measured_config(data, GLOBAL)
    torch.set_num_threads(1)
    task = PretrainTask(config, teacher=load_teacher(config.teacher))  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], fused=True)
    place = {"rank": 0, "world_size": 1}
    loader = train_loader(config, task.item_spec(), start_step=0, micro_batch=GLOBAL, **place)
    task(next(loader), step=0)["loss"].backward()
    optimizer.step()
    saving, loading = [], []
    with tempfile.TemporaryDirectory() as folder:
        for step in range(rounds):
            start = time.perf_counter()
            written = save_checkpoint(Path(folder), step=step, weights={"model": task.state_to_save()}, state={},
                                      optimizer=optimizer.state_dict(), keep_last=1, keep_every=None)  # fmt: skip
            saving.append(time.perf_counter() - start)
        size = sum(file.stat().st_size for file in written.iterdir())
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in itertools.islice(loader, 10):
            pass
        loading.append(10 * GLOBAL / (time.perf_counter() - start))
    found = {"checkpoint_bytes": size, "checkpoint_s": statistics.median(saving),
             "loader_images_per_s_core": statistics.median(loading)}  # fmt: skip
    parameters = sum(p.numel() for p in task.parameters() if p.requires_grad)
    print(f"checkpoint: {size / 2**20:.1f} MiB ({size / parameters:.1f} bytes a weight) in "
          f"{found['checkpoint_s']:.2f} s with fsync; "
          f"loader: {found['loader_images_per_s_core']:.0f} images/s a core")  # fmt: skip
    return found


def measure_rank(data: str) -> None:
    """Runs on each rank: prints on rank 0 the seconds of a strong, a weak and a silent weak step."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    result: dict[str, Any] = {}
    for kind, batch_size in (("strong", GLOBAL), ("weak", PER_RANK * world)):
        config = measured_config(data, batch_size)
        runtime = vea_runtime.start(config.runtime, precision=config.train.precision)
        torch.manual_seed(0)
        task = PretrainTask(config, teacher=load_teacher(config.teacher))  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], fused=True)
        model = parallel_model(task, runtime, compiled=False)
        place = {"rank": runtime.rank, "world_size": world}
        loader = train_loader(config, task.item_spec(), start_step=0, micro_batch=batch_size // world, **place)
        batches = [to_device(batch, runtime.device) for batch in itertools.islice(loader, 2)]
        for silent in (False, True) if kind == "weak" else (False,):
            taken = []
            for step in range(STEPS + 1):  # the first warms up
                collectives.barrier()
                start = time.perf_counter()
                if silent:
                    with accumulating(model, task):
                        model(batches[step % 2], step=step)["loss"].backward()
                else:
                    model(batches[step % 2], step=step)["loss"].backward()
                optimizer.step()
                optimizer.zero_grad()
                taken.append(time.perf_counter() - start)
            result[f"{kind} silent" if silent else kind] = statistics.median(taken[1:])
        result["gradient_bytes"] = 4 * sum(p.numel() for p in task.parameters() if p.requires_grad)
        if runtime.is_main and kind == "weak":
            print("RESULT " + json.dumps(result), flush=True)
    vea_runtime.stop()


def launch(world: int, data: str) -> dict[str, Any]:
    """Returns what rank 0 of ``world`` processes measured."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, "--rank-of", data], text=True, stdout=subprocess.PIPE,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        told = [rank.communicate(timeout=600)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()  # nothing where they have ended
    if any(rank.returncode for rank in ranks):
        raise RunError(f"a rank of {world} failed; its own message is above")
    line = next(line for line in told[0].splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def measure(worlds: list[int], *, rounds: int, data: str) -> dict[str, Any]:
    """Returns {world: medians over rounds} and prints the table."""
    found: dict[int, list[dict[str, Any]]] = {world: [] for world in worlds}
    for _ in range(rounds):
        for world in worlds:
            found[world].append(launch(world, data))
    cores = len(os.sched_getaffinity(0))
    kinds = ("strong", "weak", "weak silent")
    rows = {w: {kind: statistics.median(run[kind] for run in runs) for kind in kinds} for w, runs in found.items()}
    bytes_ = found[worlds[0]][0]["gradient_bytes"]
    one = rows[min(rows)]
    print(f"{cores} cores, gloo, {bytes_ / 2**20:.1f} MiB of gradients, medians of {rounds} rounds of {STEPS} steps")
    print(f"{'ranks':>5} {'strong img/s':>13} {'efficiency':>11} {'weak img/s':>11} {'efficiency':>11} "
          f"{'per core used':>14} {'communication':>14}")  # fmt: skip
    table = {}
    for world, row in rows.items():
        strong, weak = GLOBAL / row["strong"], PER_RANK * world / row["weak"]
        base_strong, base_weak = GLOBAL / one["strong"] / min(rows), PER_RANK / one["weak"]
        line = {
            "strong_images_per_s": strong, "strong_efficiency": strong / base_strong / world,
            "weak_images_per_s": weak, "weak_efficiency": weak / base_weak / world,
            "weak_efficiency_per_core": weak / base_weak / min(world, cores),
            "communication": max(0.0, 1 - row["weak silent"] / row["weak"]),
        }  # fmt: skip
        table[str(world)] = line
        print(f"{world:>5} {strong:13.1f} {line['strong_efficiency']:11.2f} {weak:11.1f} "
              f"{line['weak_efficiency']:11.2f} {line['weak_efficiency_per_core']:14.2f} "
              f"{line['communication']:14.2f}", flush=True)  # fmt: skip
    return {"cores": cores, "gradient_bytes": bytes_, "worlds": table, "terms": measure_terms(data, rounds=rounds)}


# -------------------------------------------------------------------------------------------------------------- predict


@dataclass(frozen=True)
class Machine:
    """What the model assumes; nothing of it was measured on a GPU. Rates are sustained ones."""

    tflops: float = 989.0  # dense bf16 peak of an H100 SXM, NVIDIA's data sheet
    utilisation: float = 0.4  # of that peak; the goal of the project is 0.5
    tf32_tflops: float = 494.0  # dense TF32 peak, the same sheet: the contrastive matrices are not in bf16
    memory_tbytes: float = 3.35  # bandwidth of the GPU's memory, TB/s, the same sheet
    gpus_per_node: int = 8
    node_gbytes: float = 300.0  # all-reduce bandwidth inside a node, GB/s a GPU
    network_gbps: float = 400.0  # of a node's network, Gbit/s, shared by its GPUs
    latency_us: float = 15.0  # of a hop
    overlap: float = 0.8  # of the gradient's all-reduce hides behind the backward pass
    loader_cpu_ms: float = 1.65  # CPU time of a sample with two views, measured (benchmarks/loader.py)
    cores_per_gpu: int = 8
    host_gbytes: float = 5.0  # from the GPU to pageable host memory, GB/s: what a checkpoint holds the training up for
    checkpoint_gbytes: float = 1.0  # of shared storage, GB/s, written by rank 0 behind the training
    checkpoint_every: int = 490  # steps, as in configs/pretrain/emoset_vitb16.yaml
    node_mtbf_hours: float = 2000.0  # between failures of one node
    restart_s: float = 120.0  # from the failure until steps are made again


@dataclass(frozen=True)
class Model:
    """What a step costs: weights that are trained, FLOPs of an image, and the width D of the embeddings compared."""

    name: str
    parameters: float
    gflop_per_image: float
    width: int = 512


# The contrastive loss relates all B samples to all B texts, the whole matrix on every rank. Counted on
# vea.losses.contrastive.contrastive_similarity, forward and backward (test_scaling.py counts again):
MATRIX_PRODUCTS, MATRIX_PASSES = 3, 43  # products of B x B x D; reads and writes of a B x B matrix in fp32
MATRICES_KEPT = 7.1  # at the peak of memory; measured as resident memory on the CPU at B = 6,144
CLIP_GFLOP = 22.5 + 5.8  # image and text of a live CLIP ViT-B/16, once an image; counted, lower bounds


class _Width(nn.Module):
    """Stands for a teacher where only the width of its embeddings is asked."""

    embed_dim, description = Model.width, "none"


@cache
def count(recipe: str) -> Model:
    """Returns what one image costs in a pretraining recipe: the student's forward and backward and a live CLIP."""
    config = load_config(recipe, ["model.encoder.pretrained=null"])
    assert isinstance(config, PretrainConfig)
    with torch.device("meta"):
        task = PretrainTask(config, teacher=_Width())  # type: ignore[arg-type]
        images = torch.zeros(2, 3, config.augment.image_size, config.augment.image_size)
        with FlopCounterMode(display=False) as counter:
            output = task.model(images, images, torch.zeros(2, 2, task.model.mim.num_patches))
            (output.reconstruction.mean() + output.gamma.mean()).backward()
    parameters = sum(p.numel() for p in task.parameters() if p.requires_grad)
    return Model(config.name, parameters, CLIP_GFLOP + counter.get_total_flops() / len(images) / 1e9)


def all_reduce_seconds(bytes_: float, gpus: int, machine: Machine) -> float:
    """Returns the time of an all-reduce: 2 (n-1)/n of the bytes pass the slowest link; 2 log2(n) hops wait."""
    if gpus == 1:
        return 0.0
    inside, network = machine.node_gbytes * 1e9, machine.network_gbps / 8 * 1e9  # nodes reduce inside themselves first
    rate = inside if gpus <= machine.gpus_per_node else min(inside, network)
    return 2 * (gpus - 1) / gpus * bytes_ / rate + 2 * math.log2(gpus) * machine.latency_us * 1e-6


def predict(model: Model, gpus: int, *, batch: int, machine: Machine) -> dict[str, float]:
    """Returns the terms of a step in seconds, images/s of all GPUs, efficiency, and the share lost to failures."""
    share = batch / gpus
    compute = share * model.gflop_per_image * 1e9 / (machine.tflops * 1e12 * machine.utilisation)
    loader = share * machine.loader_cpu_ms * 1e-3 / machine.cores_per_gpu
    reduce = all_reduce_seconds(4 * model.parameters, gpus, machine)
    exposed = max(reduce * (1 - machine.overlap), reduce - compute * 2 / 3)  # backward is two thirds of a step
    # text, whether there is one, and gamma (for the signs of collapse) are gathered: half an all-reduce, no gradient
    gather = all_reduce_seconds(4 * batch * (2 * model.width + 1), gpus, machine) / 2
    pairs = share * batch  # a rank's own samples against all texts
    relations = MATRIX_PRODUCTS * 2 * pairs * model.width / (machine.tf32_tflops * 1e12 * machine.utilisation)
    relations += MATRIX_PASSES * 4 * pairs / (machine.memory_tbytes * 1e12)
    size = 12 * model.parameters / 1e9  # GB: weights and two moments in fp32
    copy, write = size / machine.host_gbytes, size / machine.checkpoint_gbytes
    step = max(compute + relations + exposed + gather, loader)  # workers go on while the GPU waits for others
    late = max(0.0, write - machine.checkpoint_every * step)  # one is written at a time
    amortised = (copy + late) / machine.checkpoint_every
    ideal = max(compute, loader)  # what this share of the batch takes a GPU that has nobody to talk to
    mtbf = machine.node_mtbf_hours * 3600 / max(1, math.ceil(gpus / machine.gpus_per_node))
    period = machine.checkpoint_every * step + copy + late
    lost = (period / 2 + write + machine.restart_s) / mtbf  # what is on its way does not count yet
    return {
        "compute": compute, "loader": loader, "all_reduce": reduce, "exposed": exposed, "gather": gather,
        "relations": relations, "relations_gb": MATRICES_KEPT * 4 * pairs / 1e9, "checkpoint": amortised,
        "images_per_s": batch / (step + amortised), "efficiency": ideal / (step + amortised),
        "lost_to_failures": lost, "best_checkpoint_every": math.sqrt(2 * copy * mtbf) / step,  # Young 1974
    }  # fmt: skip


# What to set where a term is the largest of those that a GPU waits for, beside its own computing.
CURES = {
    "loader": "prepare.py --max-side, cores a GPU",
    "exposed": "more images a GPU, more links a node",
    "gather": "fewer GPUs at more images each",
    "relations": "a smaller global batch",
    "checkpoint": "train.checkpoint_every",
}


def first_to_break(found: dict[str, float]) -> tuple[str, float]:
    """Returns (term, seconds) of the longest wait in what ``predict`` found; "compute" where none is a percent."""
    waits = {name: found[name] for name in ("exposed", "gather", "relations", "checkpoint")}
    waits["loader"] = found["loader"] - found["compute"] - sum(waits.values()) + found["checkpoint"]
    name = max(waits, key=waits.__getitem__)
    return (name, waits[name]) if waits[name] > 0.01 * found["compute"] else ("compute", 0.0)


def print_prediction(
    machine: Machine, *, recipes: list[str], per_gpu: int, batch: int | None
) -> dict[str, dict[int, dict[str, float]]]:
    """Prints and returns the table of each recipe."""
    print("assumed:", ", ".join(f"{name} {value:g}" for name, value in asdict(machine).items()))
    result: dict[str, dict[int, dict[str, float]]] = {}
    for model in map(count, recipes):
        title = f"global batch {batch}" if batch else f"{per_gpu} images a GPU"
        print(
            f"\n{model.name}, {model.parameters / 1e6:.0f} M, {model.gflop_per_image:.0f} GFLOP an image "
            f"({CLIP_GFLOP / model.gflop_per_image:.0%} of them the live teacher's), {title}"
        )
        terms = ("compute", "loader", "exposed", "gather", "relations", "checkpoint")
        print(f"{'GPUs':>5} {'images/s':>10} {'efficiency':>11}" + "".join(f"{term:>11}" for term in terms)
              + f" ms {'relations GB':>13} {'lost %':>7}  first to break: set")  # fmt: skip
        for gpus in (1, 8, 16, 32, 64, 128, 256, 512):
            found = predict(model, gpus, batch=batch or per_gpu * gpus, machine=machine)
            result.setdefault(model.name, {})[gpus] = found
            first, _ = first_to_break(found)
            print(f"{gpus:>5} {found['images_per_s']:10.0f} {found['efficiency']:11.2f}"
                  + "".join(f"{1e3 * found[term]:11.1f}" for term in terms)
                  + f"    {found['relations_gb']:13.1f} {100 * found['lost_to_failures']:7.2f}"
                  + f"  {first}: {CURES.get(first, 'nothing')}")  # fmt: skip
    return result


@command
def main(argv: list[str]) -> None:
    """Measures, or predicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", default="data/synthetic", help="a prepared set with a train split")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), help="pretraining configs to count")
    parser.add_argument("--per-gpu", type=int, default=64, help="images a GPU (weak scaling)")
    parser.add_argument("--batch", type=int, help="instead: one global batch on any number of GPUs (strong scaling)")
    for name, value in asdict(Machine()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = parser.parse_args(argv)
    if given.rank_of:
        return measure_rank(given.rank_of)
    if given.predict:
        machine = Machine(**{name: getattr(given, name) for name in asdict(Machine())})
        predicted = print_prediction(machine, recipes=given.recipes, per_gpu=given.per_gpu, batch=given.batch)
        record = {"assumed": asdict(machine), "predicted": predicted}
    else:
        if not Path(given.data, "index.json").is_file():
            raise VeaError(f"no prepared set at {given.data}; python datasets/prepare.py synthetic --out {given.data}")
        record = measure(sorted(given.worlds), rounds=given.rounds, data=given.data)
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    sys.exit(main())
