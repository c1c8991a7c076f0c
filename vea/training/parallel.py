"""One step on several ranks: DDP, or FSDP2 for models that outgrow a GPU. Checkpoints are the same for both.

FSDP2 (``fully_shard``) keeps a slice of every parameter, gradient and optimizer state on each rank. What is saved is
always whole tensors, and what is loaded is cut anew, so a run goes on with another number of ranks or the other mode.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from vea.distributed.runtime import Runtime
from vea.errors import RunError
from vea.tasks.base import Task


def shard(task: Task) -> None:
    """Cuts the task's parameters over the ranks, in place: each layer of a stack is gathered just before its use.

    A frozen teacher stays whole on every rank. Needs torch 2.7.
    """
    frozen = {parameter for parameter in task.parameters() if not parameter.requires_grad}
    for module in list(task.modules()):
        layers = list(module.children()) if isinstance(module, (nn.ModuleList, nn.Sequential)) else []
        if len(layers) > 1 and len({type(layer) for layer in layers}) == 1:
            for layer in layers:
                if any(parameter.requires_grad for parameter in layer.parameters()):
                    fully_shard(layer, ignored_params=frozen)
    fully_shard(task, ignored_params=frozen)
    for method in ("predict", "pictures"):  # they use parameters outside forward
        register_fsdp_forward_method(task, method)


def parallel_model(task: Task, runtime: Runtime, *, compiled: bool) -> nn.Module:
    """Returns what is called in a step; its backward leaves the mean of the ranks' gradients."""
    model: nn.Module = torch.compile(task) if compiled else task  # type: ignore[assignment]
    if runtime.world_size == 1 or isinstance(task, FSDPModule):
        return model
    # An all-reduce adds the ranks in an order that depends on a gradient's place in its bucket, which matters from
    # three ranks on. By default DDP orders buckets anew after its first backward pass, so a run that resumes would sum
    # its first step otherwise than the undisturbed run, and end with other bits. Looking for unused parameters keeps
    # the first order; there are none, and torch says so at length.
    keep_order = runtime.world_size > 2
    if keep_order:
        warnings.filterwarnings("ignore", message=r"find_unused_parameters=True was specified")
    devices = [runtime.device.index] if runtime.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=keep_order)


@contextlib.contextmanager
def compiling(enabled: bool):
    """Turns torch.compile's failure inside the block, the first call of a compiled model, into one sentence."""
    try:
        yield
    except Exception as error:
        if not (enabled and type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))):
            raise
        lines = (line for line in str(error).splitlines() if line.strip() and not line.endswith("raised:"))
        raise RunError(
            f"train.compile: torch.compile failed ({next(lines, type(error).__name__)}); "
            "it needs a C++ compiler on a CPU and Triton on a GPU: install it, or set train.compile=false"
        ) from error


@contextlib.contextmanager
def accumulating(model: nn.Module, task: Task):
    """Leaves gradients on their ranks inside the block: micro-batches before the last of a step."""
    if isinstance(task, FSDPModule):
        task.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            task.set_requires_gradient_sync(True)
    elif isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    else:
        yield


def full(tensor: Any) -> Any:
    """Returns a whole tensor for one that is cut over the ranks (all ranks have to ask), anything else as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Returns this rank's slice of a tensor, which shares its memory; a whole tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def cut_like(value: Any, target: Tensor) -> Any:
    """Returns ``value`` cut over the ranks as ``target`` is, where it is and the shapes agree; else as it is."""
    if isinstance(target, DTensor) and isinstance(value, Tensor) and value.shape == target.shape:
        return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    return value


def full_optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns ``optimizer.state_dict()`` with whole tensors."""
    state = optimizer.state_dict()
    values = {index: {name: full(value) for name, value in entry.items()} for index, entry in state["state"].items()}
    return {**state, "state": values}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads what ``full_optimizer_state`` returned, on any number of ranks."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    values = {
        index: {name: cut_like(value, parameters[index]) for name, value in entry.items()}
        for index, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": values})
