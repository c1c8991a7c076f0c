"""How a pretraining step scales: measured on 1, 2 and 4 gloo ranks of this machine, and a model of 8 to 512 GPUs.

    python benchmarks/scaling.py [--worlds 1 2 4] [--rounds 3] [--json FILE]     # measures, some four minutes
    python benchmarks/scaling.py --predict [--network-gbps 400] [...]        # the model; each assumption an argument

Measured: the real task of pretrain/train.py (configs/pretrain/smoke.yaml with a wider encoder), under the DDP of the
engine, one thread a rank, on batches of the real loader that are read before the clock starts; the worlds are
interleaved. ``strong`` keeps the global batch, ``weak`` the batch of a rank. ``communication`` is the share of a weak
step that is gone when gradients stay on their ranks. Ranks beyond the number of cores share them: efficiency is
therefore given per core as well. Predicted: docs/scaling.md has the formula.
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
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vea import runtime as vea_runtime
from vea.config import PretrainConfig, load_config
from vea.data.loaders import train_loader
from vea.errors import RunError, VeaError, command
from vea.models.teacher import load_teacher
from vea.tasks.pretrain import PretrainTask
from vea.training.engine import to_device
from vea.training.parallel import accumulating, parallel_model

CONFIG = "configs/pretrain/smoke.yaml"
WIDER = ["model.encoder.args.embed_dim=192", "model.encoder.args.depth=6", "model.encoder.args.num_heads=3",
         "model.decoder.width=96", "data.workers=0", "runtime.device=cpu", "runtime.threads=1"]  # fmt: skip
GLOBAL, PER_RANK, STEPS = 32, 16, 6


# -------------------------------------------------------------------------------------------------------------- measure


def measure_rank(data: str) -> None:
    """Runs on each rank: prints on rank 0 the seconds of a strong, a weak and a silent weak step."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    result: dict[str, Any] = {}
    for kind, batch_size in (("strong", GLOBAL), ("weak", PER_RANK * world)):
        changed = [*WIDER, f"data.train.0.path={data}", f"data.val.0.path={data}"]
        config = load_config(CONFIG, [*changed, f"data.global_batch_size={batch_size}"])
        assert isinstance(config, PretrainConfig) and config.teacher is not None
        runtime = vea_runtime.start(config.runtime, precision=config.train.precision)
        torch.manual_seed(0)
        task = PretrainTask(config, teacher=load_teacher(config.teacher))
        optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], fused=True)
        model = parallel_model(task, runtime, compiled=False)
        place = {"rank": runtime.rank, "world_size": world, "num_patches": task.num_patches}
        loader = train_loader(config, views="pretrain", start_step=0, micro_batch=batch_size // world, **place)
        batches = [to_device(batch, runtime.device) for batch in itertools.islice(loader, 2)]
        for silent in (False, True) if kind == "weak" else (False,):
            taken = []
            for step in range(STEPS + 1):  # the first warms up
                vea_runtime.barrier()
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
    told = [rank.communicate(timeout=600)[0] for rank in ranks]
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
    return {"cores": cores, "gradient_bytes": bytes_, "worlds": table}


# -------------------------------------------------------------------------------------------------------------- predict


@dataclass(frozen=True)
class Machine:
    """What the model assumes; nothing of it was measured on a GPU. Rates are sustained ones."""

    tflops: float = 989.0  # dense bf16 peak of an H100 SXM, NVIDIA's data sheet
    utilisation: float = 0.4  # of that peak; the goal of the project is 0.5
    gpus_per_node: int = 8
    node_gbytes: float = 300.0  # all-reduce bandwidth inside a node, GB/s a GPU
    network_gbps: float = 400.0  # of a node's network, Gbit/s, shared by its GPUs
    latency_us: float = 15.0  # of a hop
    overlap: float = 0.8  # of the gradient's all-reduce hides behind the backward pass
    loader_cpu_ms: float = 1.65  # CPU time of a sample with two views, measured (benchmarks/loader.py)
    cores_per_gpu: int = 8
    checkpoint_gbytes: float = 1.0  # of shared storage, GB/s, written by rank 0
    checkpoint_every: int = 490  # steps, as in configs/pretrain/emoset_vitb16.yaml
    node_mtbf_hours: float = 2000.0  # between failures of one node
    restart_s: float = 120.0  # from the failure until steps are made again


@dataclass(frozen=True)
class Model:
    """What a step costs: weights that are trained, FLOPs of an image, and the width of what is gathered."""

    name: str
    parameters: float
    gflop_per_image: float
    gathered: int  # floats of an image that every rank sees


def student(name: str, parameters: float, encoder: float, decoder: float) -> Model:
    """Returns UniEmoX with a live CLIP ViT-B/16: teacher (image 22.5 and text 5.8 GFLOP) once, student three times.

    ``encoder`` and ``decoder`` are GFLOP of one view forward; both views pass the encoder, the scene the decoder.
    """
    return Model(name, parameters, 22.5 + 5.8 + 3 * (2 * encoder + decoder), 2 * 512)


# ViT-B: 8.7 of 18.8 GFLOP in the encoder (mask ratio .75, lower bounds); ViT-L: scaled by its encoder's weights, 303/86
MODELS = (student("ViT-B/16", 112e6, 8.7, 10.1), student("ViT-L/16", 330e6, 8.7 * 303 / 86, 10.1))


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
    gather = all_reduce_seconds(4 * batch * model.gathered, gpus, machine) / 2
    save = 16 * model.parameters / (machine.checkpoint_gbytes * 1e9)  # weights, two moments, the average: fp32
    step = max(compute, loader) + exposed + gather
    amortised = save / machine.checkpoint_every
    alone = max(compute, loader) * gpus / batch  # seconds an image takes one GPU that has nobody to talk to
    mtbf = machine.node_mtbf_hours * 3600 / max(1, math.ceil(gpus / machine.gpus_per_node))
    period = machine.checkpoint_every * (step + amortised)
    lost = (period / 2 + machine.restart_s) / mtbf
    return {
        "compute": compute, "loader": loader, "all_reduce": reduce, "exposed": exposed, "gather": gather,
        "checkpoint": amortised, "images_per_s": batch / (step + amortised),
        "efficiency": alone * batch / gpus / (step + amortised), "lost_to_failures": lost,
        "best_checkpoint_every": math.sqrt(2 * save * mtbf) / step,  # Young 1974
    }  # fmt: skip


def print_prediction(machine: Machine, *, per_gpu: int, batch: int | None) -> dict[str, Any]:
    """Prints and returns the table of both models."""
    print("assumed:", ", ".join(f"{name} {value:g}" for name, value in asdict(machine).items()))
    result: dict[str, Any] = {}
    for model in MODELS:
        title = f"global batch {batch}" if batch else f"{per_gpu} images a GPU"
        print(f"\n{model.name}, {model.parameters / 1e6:.0f} M, {model.gflop_per_image:.0f} GFLOP an image, {title}")
        print(f"{'GPUs':>5} {'images/s':>10} {'efficiency':>11} {'compute ms':>11} {'loader ms':>10} "
              f"{'exposed ms':>11} {'gather ms':>10} {'save ms':>8} {'lost %':>7}")  # fmt: skip
        for gpus in (1, 8, 16, 32, 64, 128, 256, 512):
            found = predict(model, gpus, batch=batch or per_gpu * gpus, machine=machine)
            result.setdefault(model.name, {})[gpus] = found
            print(f"{gpus:>5} {found['images_per_s']:10.0f} {found['efficiency']:11.2f} {1e3 * found['compute']:11.1f} "
                  f"{1e3 * found['loader']:10.1f} {1e3 * found['exposed']:11.1f} {1e3 * found['gather']:10.1f} "
                  f"{1e3 * found['checkpoint']:8.1f} {100 * found['lost_to_failures']:7.2f}")  # fmt: skip
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
    parser.add_argument("--per-gpu", type=int, default=64, help="images a GPU (weak scaling)")
    parser.add_argument("--batch", type=int, help="instead: one global batch on any number of GPUs (strong scaling)")
    for name, value in asdict(Machine()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = parser.parse_args(argv)
    if given.rank_of:
        return measure_rank(given.rank_of)
    if given.predict:
        machine = Machine(**{name: getattr(given, name) for name in asdict(Machine())})
        predicted = print_prediction(machine, per_gpu=given.per_gpu, batch=given.batch)
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
