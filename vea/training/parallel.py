"""One step on several ranks: DDP, or FSDP2 for models that outgrow a GPU. Checkpoints are the same for both.

FSDP2 (``fully_shard``) keeps a slice of every parameter, gradient and optimizer state on each rank. What is saved is
always whole tensors, and what is loaded is cut anew, so a run goes on with another number of ranks or the other mode.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from vea.distributed.runtime import Runtime
from vea.errors import RunError
from vea.tasks.base import Task

SCALARS: weakref.WeakKeyDictionary[nn.Module, set[str]] = weakref.WeakKeyDictionary()  # names, of tasks that are cut


def shard(task: Task) -> None:
    """Cuts the task's parameters over the ranks, in place: each layer of a stack is gathered just before its use.

    A frozen teacher stays whole on every rank. A single number cannot be cut and becomes a row of one (``SCALARS``);
    files hold it as it was. Needs torch 2.7.
    """
    for path, parameter in list(task.named_parameters()):
        if parameter.requires_grad and parameter.ndim == 0:
            owner, _, name = path.rpartition(".")
            setattr(task.get_submodule(owner), name, nn.Parameter(parameter.detach().reshape(1)))
            SCALARS.setdefault(task, set()).add(path)
    frozen = {parameter for parameter in task.parameters() if not parameter.requires_grad}
    for module in list(task.modules()):
        layers = list(module.children()) if isinstance(module, (nn.ModuleList, nn.Sequential)) else []
        if len(layers) > 1 and len({type(layer) for layer in layers}) == 1:
            for layer in layers:
                if any(parameter.requires_grad for parameter in layer.parameters()):
                    fully_shard(layer, ignored_params=frozen)
    fully_shard(task, ignored_params=frozen)
    for method in ("predict", "pictures", "rows", "pull", "pulled"):  # they use parameters outside forward
        register_fsdp_forward_method(task, method)


def is_sharded(model: nn.Module) -> bool:
    """Returns whether parameters of ``model`` are cut over the ranks."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def parallel_model(task: nn.Module, runtime: Runtime, *, compiled: bool) -> nn.Module:
    """Returns what is called in a step; its backward leaves the mean of the ranks' gradients."""
    model: nn.Module = torch.compile(task) if compiled else task  # type: ignore[assignment]
    if runtime.world_size == 1 or is_sharded(task):
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
    if isinstance(target, DTensor) and isinstance(value, Tensor):
        if value.ndim == 0 and target.shape == (1,):  # of a single number; the step of an optimizer stays as it is
            value = value.reshape(1)
        if value.shape == target.shape:
            return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    return value


def to_host(tensors: dict[str, Any], *, scalars: set[str] = frozenset(), keep: bool) -> dict[str, Any]:  # type: ignore[assignment]
    """Returns whole copies on the host, made one tensor at a time: no device ever holds more than one; all have to ask.

    Args:
        tensors: by name; those that are cut over the ranks are put together.
        scalars: names of single numbers that were made rows of one.
        keep: whether this rank wants them; the others get nothing.
    """
    found: dict[str, Any] = {}
    for name, value in tensors.items():
        whole = full(value)
        if keep:
            if isinstance(whole, Tensor):
                whole = whole.detach().to("cpu", copy=True)
            found[name] = whole.reshape(()) if name in scalars and whole.numel() == 1 else whole
        del whole
    return found


def optimizer_to_host(optimizer: torch.optim.Optimizer, task: nn.Module, *, keep: bool) -> dict[str, Any]:
    """Returns ``optimizer.state_dict()``, whole, on the host, made one tensor at a time; nothing but where ``keep``."""
    state = optimizer.state_dict()
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    scalars = SCALARS.get(task, set())
    values = {}
    for index, parameter in enumerate(_parameters(optimizer)):
        if index in state["state"]:
            entry = state["state"][index]
            single = set(entry) if names.get(id(parameter)) in scalars else set()
            values[index] = to_host(entry, scalars=single, keep=keep)
    return {**state, "state": values} if keep else {}


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads the state of a checkpoint, on any number of ranks."""
    parameters = list(_parameters(optimizer))
    values = {
        index: {name: value if name == "step" else cut_like(value, parameters[index]) for name, value in entry.items()}
        for index, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": values})
