"""Device, rank, world and the few collectives: the same recipe runs under python, torchrun and srun.

Every function works without ``start`` as well: the world is then this one process.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vea.config import RuntimeConfig
from vea.errors import Preempted, RunError, VeaError
from vea.roll_call import RollCall
from vea.training.preempt import came_early

_roll: RollCall | None = None  # of this process, where there is more than one rank


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


def _place_from_environment() -> tuple[int, int, int]:
    """Returns (rank, world size, local rank) from torchrun's or srun's variables; (0, 1, 0) without either."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0))
    # A batch script has SLURM_PROCID too; only a step started by srun has SLURM_STEP_ID and more than one task.
    if "SLURM_STEP_ID" in env and int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        rank, world, local = int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_LOCALID"])
        env.setdefault("MASTER_ADDR", env.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"))
        env.setdefault("MASTER_PORT", str(20000 + int(env.get("SLURM_JOB_ID", "0")) % 20000))
        env.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(local))
        return rank, world, local
    return 0, 1, 0


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
        Preempted: a signal came to any rank since it called ``vea.training.preempt.listen``.
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
    global _roll
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
    _roll = RollCall(store, rank=rank, world_size=world_size, timeout_s=timeout_s)


def at(place: str) -> None:
    """Says where this rank is (``step 7``), for the message of a collective that fails."""
    if _roll is not None:
        _roll.place = place


def arrive(what: str) -> None:
    """Writes down that this rank comes to a collective; those of this module do it themselves."""
    if _roll is not None:
        _roll.here(what)


@contextlib.contextmanager
def naming_absent_ranks() -> Iterator[None]:
    """Turns the error of a collective into one that names the ranks that failed or did not come.

    Raises:
        RunError: a collective timed out or lost a connection; the sentence names the ranks.
    """
    try:
        yield
    except Preempted:  # all leave together
        raise
    except Exception as error:
        if _roll is None:
            raise
        text = str(error)
        if isinstance(error, VeaError) or not (isinstance(error, dist.DistError) or "gloo" in text):
            _roll.failed(error)
            raise
        absent = _roll.absent() or "every rank came: look at the network and the devices"
        _roll.failed(error)
        raise RunError(
            f"the ranks lost each other at {_roll.what}: {absent}; the last checkpoint is good, run the same command "
            f"to go on ({text.splitlines()[0][:200]})"
        ) from error


def world_size() -> int:
    """Returns the number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Returns this process's number among the ranks."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _AllGather(torch.autograd.Function):
    """Concatenates the ranks' rows; its gradient sums what every rank sends back to this rank's rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # type: ignore[override]
        ctx.rows = tensor.shape[0]
        arrive("all_gather")
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.contiguous()
        arrive("the gradient of all_gather")
        dist.all_reduce(gradient)
        return gradient[dist.get_rank() * ctx.rows : (dist.get_rank() + 1) * ctx.rows]


def all_gather(tensor: Tensor) -> Tensor:
    """Returns (W * B, ...): the ranks' (B, ...) in rank order, differentiable; the tensor itself in a world of one.

    A loss computed by every rank on the gathered rows has W times its gradient on the local rows; DDP's mean over
    ranks divides by W again, so parameters receive exactly the gradient of one process with the whole batch.
    """
    return tensor if world_size() == 1 else _AllGather.apply(tensor)


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Returns the mean over ranks of a tensor without gradient."""
    if world_size() > 1:
        tensor = tensor.clone()
        arrive("all_reduce")
        dist.all_reduce(tensor)
        tensor /= world_size()
    return tensor


def gather_objects(item: Any) -> list[Any]:
    """Returns every rank's object, in rank order, on every rank."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    arrive("the gathering of results")
    dist.all_gather_object(items, item)
    return items


def vote(*flags: bool, device: torch.device | str = "cpu") -> list[bool]:
    """Returns, for each flag, whether it is set on any rank; one small all-reduce for all of them."""
    if world_size() == 1:
        return [bool(flag) for flag in flags]
    tensor = torch.tensor([float(flag) for flag in flags], device=device)
    arrive("the vote")
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [bool(value) for value in tensor.tolist()]


def any_rank(flag: bool, *, device: torch.device | str = "cpu") -> bool:
    """Returns whether ``flag`` is set on any rank."""
    return vote(flag, device=device)[0]


def barrier() -> None:
    """Waits for all ranks."""
    if world_size() > 1:
        arrive("the barrier")
        dist.barrier()


def stop() -> None:
    """Leaves the process group; call it last."""
    global _roll
    if _roll is not None:
        _roll.close()
        _roll = None
    if dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()
