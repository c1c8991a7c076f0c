"""Loader processes: signals, threads, their end."""

from __future__ import annotations

import atexit
import gc
import signal
import weakref
from collections.abc import Generator
from types import FrameType

import cv2
import torch

from vea.data.loading.collate import Batch

SIGTERM_GRACE_S = 120  # how long a worker goes on after SIGTERM, so that its trainer can finish a step and save
_running: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()


@atexit.register
def _close_loaders() -> None:
    """Ends the workers of loaders that are still referenced at exit, before Python waits for them in vain."""
    for batches in list(_running):
        batches.close()


def _start_worker(worker: int) -> None:
    """Prepares a loader process: one thread, and signals that are the trainer's business.

    SLURM signals every process of a step. A worker that died would fail the step that the trainer wants to finish and
    save, so it ignores them, but not forever: Python ends its children by SIGTERM and waits for them.
    """
    gc.freeze()  # collecting what was inherited would write to, and so copy, every page that is shared with the trainer
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _end_later)


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.alarm(SIGTERM_GRACE_S)
