"""The gradient of one step: the global batch in micro-batches, in one pass or, where the loss relates samples, in two.

Losses that are a mean over samples add up over micro-batches. The others are of the global batch whatever
``train.max_micro_batch``: their rows of all micro-batches are made without gradient, the loss of the whole gives the
gradient of each row, and a second pass sends it on (Gao et al. 2021, arXiv 2101.06983, section 3.2). Torch's generator
and every buffer (running means) stand in the second pass where they stood in the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vea.config import RunConfig
from vea.distributed import stragglers
from vea.distributed.runtime import Runtime
from vea.errors import RunError, VeaError
from vea.tasks.base import Batch, Task
from vea.training.meter import _Meter
from vea.training.parallel import accumulating, compiling, parallel_model

SAME = 0.05  # most that a row may differ between the passes, of its largest number: products in bf16 do by a hundredth


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Returns the batch with its tensors (nested in dicts as well) on ``device``; lists and strings stay."""
    moved: Batch = {}
    for name, value in batch.items():
        if isinstance(value, Tensor):
            value = value.to(device, non_blocking=True)
        elif isinstance(value, dict):
            value = to_device(value, device)
        moved[name] = value
    return moved


def micro_batch_size(config: RunConfig, world_size: int) -> tuple[int, int]:
    """Returns (samples per rank and forward, forwards per step); their product with the world is the global batch.

    Raises:
        VeaError: the global batch cannot be divided evenly.
    """
    total, limit = config.data.global_batch_size, config.train.max_micro_batch
    if total % world_size:
        raise VeaError(
            f"data.global_batch_size ({total}) is not a multiple of the {world_size} ranks; change one of them"
        )
    local = total // world_size
    accumulate = math.ceil(local / limit) if limit else 1
    while local % accumulate:
        accumulate += 1
    return local // accumulate, accumulate


def step_seed(seed: int, step: int, rank: int) -> int:
    """Returns the seed of torch's generator at one step of one rank (dropout, drop path, mixing)."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest(), "little") >> 1


class TwoPasses(nn.Module):
    """What is called, under DDP or FSDP, for a task in two passes: its rows, or what ends in their gradient."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(
        self, batch: Batch, *, step: int, pull: tuple[dict[str, Tensor], list[Tensor]] | None = None
    ) -> dict[str, Tensor]:
        """Returns ``rows``; with ``pull``, the gradients of rows and parameters, also the ``loss`` that has them."""
        if pull is None:
            return self.task.rows(batch, step=step)
        return self.task.pulled(batch, step=step, rows=pull[0], parameters=pull[1])


@dataclass
class Gradient:
    """What a step knows beside the gradients themselves."""

    parts: dict[str, Tensor]  # the loss and its parts, of this rank
    keys: list[str]  # of this rank's samples


class StepMaker:
    """Leaves in ``parameter.grad`` the gradient of the global batch's loss, of as many forwards as it takes.

    Args:
        task: model + loss, on its device, cut over the ranks where it is to be.
        config: the resolved config.
        runtime: of this process.
        meter: is told how long the data were waited for.
    """

    def __init__(self, task: Task, *, config: RunConfig, runtime: Runtime, meter: _Meter) -> None:
        self.task, self.config, self.runtime, self.meter = task, config, runtime, meter
        self.micro, self.accumulate = micro_batch_size(config, runtime.world_size)
        self.two_passes = task.relates_samples and self.accumulate > 1
        self.compiled = config.train.compile
        module = TwoPasses(task) if self.two_passes else task
        self.model = parallel_model(module, runtime, compiled=self.compiled)
        self._compared = False  # the two passes were found to be alike

    def step(self, batches: Iterator[Batch], *, step: int) -> Gradient:
        """Returns the loss of step ``step`` after its backward passes; takes its micro-batches from ``batches``."""
        torch.manual_seed(step_seed(self.config.seed, step, self.runtime.rank))
        return self._twice(batches, step) if self.two_passes else self._once(batches, step)

    def _next(self, batches: Iterator[Batch], keys: list[str]) -> Batch:
        with self.meter.waiting_for_data():
            batch = next(batches)
        keys += batch.get("keys", [])
        return to_device(batch, self.runtime.device)

    def _call(self, batch: Batch, **given: object) -> dict[str, Tensor]:
        with self.runtime.autocast(), compiling(self.compiled):
            return self.model(batch, **given)

    def _alone(self, index: int) -> contextlib.AbstractContextManager:
        """Returns the context of micro-batch ``index``: the last one brings the ranks' gradients together."""
        last = index == self.accumulate - 1
        return contextlib.nullcontext() if last else accumulating(self.model, self.task)

    def _backward(self, loss: Tensor, index: int) -> None:
        if index == self.accumulate - 1:
            stragglers.mark_collective("the backward pass")
        loss.backward()

    def _once(self, batches: Iterator[Batch], step: int) -> Gradient:
        done = Gradient({}, [])
        for index in range(self.accumulate):
            batch = self._next(batches, done.keys)
            with self._alone(index):
                outputs = self._call(batch, step=step)
                self._backward(outputs["loss"] / self.accumulate, index)
            for name, value in outputs.items():
                done.parts[name] = done.parts.get(name, 0) + value.detach().float() / self.accumulate
        return done

    def _twice(self, batches: Iterator[Batch], step: int) -> Gradient:
        keys: list[str] = []
        kept, made, states = [], [], []
        buffers = [(buffer, buffer.clone()) for buffer in self.task.buffers()]
        with torch.no_grad(), accumulating(self.model, self.task):
            for _ in range(self.accumulate):
                kept.append(self._next(batches, keys))
                states.append(_generators(self.runtime.device))
                made.append(self._call(kept[-1], step=step))
            for buffer, before in buffers:
                buffer.copy_(before)
            whole = {name: torch.cat([rows[name] for rows in made]) for name in made[0]}
            with self.runtime.autocast():
                outputs, gradients, parameters = self.task.pull(whole)
        parts_of = {name: gradient.split([len(rows[name]) for rows in made]) for name, gradient in gradients.items()}
        own = [gradient / self.accumulate for gradient in parameters]
        for index, (batch, rows) in enumerate(zip(kept, made)):
            known = {name: rows[name] for name in rows if name in self.task.constant_rows}
            pull = {name: slices[index] for name, slices in parts_of.items()}
            _restore(states[index], self.runtime.device)
            with self._alone(index):
                again = self._call({**batch, "known": known}, step=step, pull=(pull, own))
                self._backward(again["loss"], index)
            if not self._compared:
                check_alike(rows, again)
        self._compared = True
        return Gradient({name: value.float() for name, value in outputs.items()}, keys)


def check_alike(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Raises ``RunError`` where the second pass did not make the rows of the first: its gradient would be another's."""
    for name, rows in first.items():
        if not rows.is_floating_point():
            continue
        known = ~(rows.isnan() | second[name].isnan())
        apart, size = ((rows - second[name].detach())[known].abs(), rows[known].abs())
        if apart.numel() and apart.max() > SAME * size.max().clamp(min=1e-6):
            raise RunError(
                f"train.max_micro_batch: {name} is not the same in the two passes of a step (off by "
                f"{float(apart.max()):.2g}); something is drawn outside torch's generator: set max_micro_batch=null"
            )


def _generators(device: torch.device) -> list[Tensor]:
    """Returns the states of torch's generators, of the CPU's and of the device's."""
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


def _restore(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
