"""Speed and time left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from vea.distributed import collectives


class _Meter:
    """Means over the steps since the last log line: loss parts, gradient norm, speed, share of time spent waiting."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.seconds_per_step = 0.0
        self.reset()

    def reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps, self.waited, self.busy = 0, 0.0, 0.0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leaves what happened since the last step (a validation, a checkpoint) out of the speed."""
        self.clock = time.perf_counter()

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def add(self, parts: dict[str, Tensor], norm: Tensor) -> None:
        for name, value in {**parts, "grad_norm": norm.detach().float()}.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.steps += 1
        now = time.perf_counter()
        self.busy += now - self.clock
        self.clock = now

    def summary(self) -> dict[str, float]:
        names = sorted(self.sums)
        means = collectives.all_reduce_mean(
            torch.stack([self.sums[name].float() for name in names]) / self.steps
        ).tolist()
        self.seconds_per_step = self.busy / self.steps
        record = {name: value for name, value in zip(names, means)}
        record |= {
            "images_per_s": self.steps * self.batch_size / max(self.busy, 1e-9),
            "data_wait": self.waited / max(self.busy, 1e-9),
        }
        if torch.cuda.is_available():
            record["memory_gb"] = torch.cuda.max_memory_allocated() / 2**30
        return record
