"""The few collectives; without a process group the world is this one process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vea.distributed.stragglers import mark_collective


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
        mark_collective("all_gather")
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.contiguous()
        mark_collective("the gradient of all_gather")
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
        mark_collective("all_reduce")
        dist.all_reduce(tensor)
        tensor /= world_size()
    return tensor


def gather_objects(item: Any) -> list[Any]:
    """Returns every rank's object, in rank order, on every rank."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    mark_collective("the gathering of results")
    dist.all_gather_object(items, item)
    return items


def vote(*flags: bool, device: torch.device | str = "cpu") -> list[bool]:
    """Returns, for each flag, whether it is set on any rank; one small all-reduce for all of them."""
    if world_size() == 1:
        return [bool(flag) for flag in flags]
    tensor = torch.tensor([float(flag) for flag in flags], device=device)
    mark_collective("the vote")
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [bool(value) for value in tensor.tolist()]


def any_rank(flag: bool, *, device: torch.device | str = "cpu") -> bool:
    """Returns whether ``flag`` is set on any rank."""
    return vote(flag, device=device)[0]


def barrier() -> None:
    """Waits for all ranks."""
    if world_size() > 1:
        mark_collective("the barrier")
        dist.barrier()
