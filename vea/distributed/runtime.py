"""Device, rank, world and the few collectives: the same recipe runs under python, torchrun and srun.

Every function works without ``start`` as well: the world is then this one process.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import hashlib
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from vea.config import RuntimeConfig
from vea.distributed import stragglers
from vea.distributed.collectives import any_rank, barrier
from vea.distributed.preempt import came_early
from vea.errors import Preempted, RunError, VeaError, did_you_mean

DEVICES = ("cpu", "cuda", "mps", "xpu")  # what people have; torch knows more


@dataclass(frozen=True)
class Runtime:
    """Where this process runs: its device, its place among the ranks, and the dtype of autocast."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    precision: torch.dtype = torch.float32

    @property
    def is_main(self) -> bool:
        """True on rank 0, the only rank that writes and prints."""
        return self.rank == 0

    def autocast(self) -> contextlib.AbstractContextManager:
        """Returns the autocast context of a forward pass; no context at all in fp32."""
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    def barrier(self) -> None:
        """Waits for all ranks."""
        barrier()


def step_port(job: str, step: str) -> int:
    """Returns the port at which the ranks of a job step meet; steps of one job, and jobs of one node, have others."""
    return 20000 + int.from_bytes(hashlib.blake2b(f"{job}.{step}".encode(), digest_size=4).digest(), "little") % 12000


def _place_from_environment() -> tuple[int, int, int]:
    """Returns (rank, world size, local rank) from torchrun's or srun's variables; (0, 1, 0) without either."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0))
    # A batch script has SLURM_PROCID too; only a step started by srun has SLURM_STEP_ID and more than one task.
    if "SLURM_STEP_ID" in env and int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        rank, world, local = int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_LOCALID"])
        env.setdefault("MASTER_ADDR", env.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"))
        env.setdefault("MASTER_PORT", str(step_port(env.get("SLURM_JOB_ID", "0"), env["SLURM_STEP_ID"])))
        env.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(local))
        return rank, world, local
    return 0, 1, 0


def compute_device(name: str | torch.device) -> torch.device:
    """Returns the device to compute on outside training, by torch's name: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        VeaError: torch has no such device, or this machine has none.
    """
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
        torch.empty(1, device=device)
    except Exception as error:  # each backend has types of its own
        kind = str(name).partition(":")[0].lower()
        if kind in DEVICES:
            why = f": {str(error).splitlines()[0].rstrip('.')[:120]}" if str(error) else ""
        else:
            why = did_you_mean("cuda" if kind == "gpu" else kind, DEVICES)
        raise VeaError(f"device {str(name)!r} cannot be used here{why}; cpu always can") from None
    return device


def cpu_multiplies_bf16() -> bool:
    """Returns whether the CPU has instructions for products of bf16 (AVX-512 BF16, AMX); False outside Linux."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def start(config: RuntimeConfig, *, precision: str = "auto") -> Runtime:
    """Returns the runtime of this process and joins the process group where there is more than one rank.

    ``precision`` auto means bf16 on a GPU that has it and fp32 elsewhere. A CPU that multiplies
    bf16 itself (AVX-512 BF16, AMX) trains a ViT-S and larger faster in bf16, and a small one not: say so in the config.

    Raises:
        VeaError: ``device: cuda`` was asked for and there is none.
        RunError: not all ranks came within ``timeout_s``.
        Preempted: a signal came to any rank since it called ``vea.distributed.preempt.listen``.
    """
    rank, world_size, local_rank = _place_from_environment()
    if config.device == "cuda" and not torch.cuda.is_available():
        raise VeaError("runtime.device is cuda and this machine shows no GPU; set runtime.device=cpu or auto")
    use_cuda = config.device != "cpu" and torch.cuda.is_available()
    if use_cuda:
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
        device = torch.device("cuda", torch.cuda.current_device())
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    else:
        device = torch.device("cpu")
        if config.threads:
            torch.set_num_threads(config.threads)
    if precision == "auto":
        precision = "bf16" if use_cuda and torch.cuda.is_bf16_supported() else "fp32"
    if world_size > 1 and not dist.is_initialized():
        _join(rank, world_size, backend="nccl" if use_cuda else "gloo", timeout_s=config.timeout_s)
    if any_rank(came_early() is not None, device=device):
        raise Preempted(f"stopped by {came_early() or 'another rank'} before training: run the same command to go on")
    return Runtime(device, rank, world_size, local_rank, {"bf16": torch.bfloat16, "fp32": torch.float32}[precision])


def _join(rank: int, world_size: int, *, backend: str, timeout_s: float) -> None:
    try:
        dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout_s))
    except RuntimeError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RunError(
            f"rank {rank} of {world_size} could not meet the others at {where} within {timeout_s:g} s "
            f"({str(error).splitlines()[0]}); look at the logs of the ranks that did not come"
        ) from error
    if backend == "gloo":  # left to Python's end, its threads abort the process now and then: -6 in place of 75
        atexit.register(stop)
    store = dist.PrefixStore("vea/roll_call", dist.distributed_c10d._get_default_store())
    stragglers.start(stragglers.RollCall(store, rank=rank, world_size=world_size, timeout_s=timeout_s))


def stop() -> None:
    """Leaves the process group; call it last."""
    stragglers.stop()
    if dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()
