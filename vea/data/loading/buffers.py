"""Memory that loader workers write batches into and the trainer reads, lent again and again.

A batch in new shared memory costs a page of zeros for every 4 KiB in the worker, and page faults in worker and trainer:
more than a tenth of the CPU time of a sample (``benchmarks/loader.py``).
"""

from __future__ import annotations

import itertools
import math
import mmap
import weakref
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

_numbers = itertools.count()
_known: weakref.WeakValueDictionary[int, Buffers] = weakref.WeakValueDictionary()


class Buffers:
    """``count`` buffers of ``nbytes``, shared with every process that is forked after they were made.

    The trainer lends a buffer by its index (``take``), a worker fills it (``tensor``) and sends it back as ``Filled``,
    which arrives in the trainer as a tensor. Once no tensor looks at it any more, the buffer is free again.
    """

    def __init__(self, count: int, nbytes: int) -> None:
        self.number, self.nbytes = next(_numbers), nbytes
        self._memory = mmap.mmap(-1, max(1, count * nbytes))  # anonymous: no file, and no limit of /dev/shm
        self._free = list(range(count))
        _known[self.number] = self

    def take(self) -> int | None:
        """Returns the index of the buffer that was freed last, None where the trainer holds on to all."""
        return self._free.pop() if self._free else None

    def give_back(self, index: int) -> None:
        """Frees a buffer that was taken."""
        self._free.append(index)

    def tensor(self, index: int, shape: tuple[int, ...], *, released: Callable[[], None] | None = None) -> Tensor:
        """Returns buffer ``index`` as uint8 of ``shape``; ``released`` is called when the last tensor on it is gone."""
        view = np.frombuffer(self._memory, np.uint8, math.prod(shape), index * self.nbytes)
        if released:  # torch holds on to the array as long as any tensor shares the storage
            weakref.finalize(view, released).atexit = False
        return torch.frombuffer(view, dtype=torch.uint8).view(shape)


class Filled:
    """A filled buffer on its way from a worker to the trainer, where it arrives as a tensor uint8 of ``shape``."""

    def __init__(self, buffers: Buffers, index: int, shape: tuple[int, ...]) -> None:
        self._place = buffers.number, index, shape

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[int, int, tuple[int, ...]]]:
        return _arrived, self._place


def _arrived(number: int, index: int, shape: tuple[int, ...]) -> Tensor:
    buffers = _known[number]
    return buffers.tensor(index, shape, released=lambda: buffers.give_back(index))
