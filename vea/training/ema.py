"""The moving average of weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from vea.errors import RunError
from vea.tasks.base import Task
from vea.training.parallel import (
    cut_like,
    local,
)
from vea.training.schedule import ema_decay


class Ema:
    """An exponential moving average of a task's trainable state, kept in fp32 beside it."""

    def __init__(self, task: Task, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in task.state_to_save().items()}

    @torch.no_grad()
    def update(self, task: Task, step: int) -> None:
        """Moves the average towards the task's weights after optimizer step ``step``."""
        state = task.state_to_save()
        names = [name for name, value in state.items() if value.is_floating_point()]
        weight = 1 - ema_decay(step, self.decay)
        averages, values = [local(self.tensors[name]) for name in names], [local(state[name]) for name in names]
        torch._foreach_lerp_(averages, [value.detach() for value in values], weight)
        for name in state.keys() - set(names):
            self.tensors[name].copy_(state[name])

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Goes on from the averages of a checkpoint."""
        for name, value in tensors.items():
            self.tensors[name].copy_(cut_like(value, self.tensors[name]))

    @contextlib.contextmanager
    def swapped_in(self, task: Task) -> Iterator[None]:
        """Lets the task use the averaged weights inside the block."""
        before = {name: value.detach().clone() for name, value in task.state_to_save().items()}
        task.load_state_dict(self.tensors, strict=False)
        try:
            yield
        finally:
            task.load_state_dict(before, strict=False)


def load_into(task: Task, weights: dict[str, Tensor], *, where: str) -> None:
    """Loads what ``state_to_save`` wrote; anything missing, unknown or of another shape is an error that names it."""
    wanted = {name: tuple(value.shape) for name, value in task.state_to_save().items()}
    for name in sorted(wanted.keys() ^ weights.keys()):
        raise RunError(
            f"{where} does not fit this config: only the {'config' if name in wanted else 'file'} has {name}; "
            "resume with the config that made it"
        )
    for name, shape in wanted.items():
        if tuple(weights[name].shape) != shape:
            raise RunError(
                f"{where} does not fit this config: {name} is {tuple(weights[name].shape)} there and {shape} here; "
                "resume with the config that made it"
            )
    task.load_state_dict(weights, strict=False)  # frozen teachers are not in the file
