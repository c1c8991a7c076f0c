"""Preemption: a signal sets a flag; the engine asks for it once a step, all ranks vote, save and exit 75.

SIGUSR2 comes from ``sbatch --signal=USR2@120`` and SIGTERM from preemption. SIGUSR1 is left
alone: NCCL has swallowed it.

A recipe calls ``listen()`` before it imports torch, which takes seconds in which a signal would end the process with
the signal's own code, and the job would not be requeued. So nothing here imports torch.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from vea.errors import Preempted

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
_early: list[str] = []  # names of signals that came while no StopSignal was open


def listen() -> None:
    """Makes a signal outside training end this process with exit code 75, as one inside training does.

    A lone process leaves at once: what it has trained is saved, or it has trained nothing. One rank of several only
    remembers the signal until all can leave together, since the others would wait for it.
    """
    for number in SIGNALS:
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    if any(int(os.environ.get(count) or 1) > 1 for count in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")):
        _early.append(name)
        return
    sys.stdout.flush()
    os.write(2, f"error: stopped by {name} outside training: run the same command to go on\n".encode())
    os._exit(Preempted.exit_code)  # an exception could be caught by whatever is being imported


def came_early() -> str | None:
    """Returns the name of a signal that came before training, if one did."""
    return _early[0] if _early else None


class StopSignal:
    """Remembers that SIGUSR2 or SIGTERM arrived while the context was open, or before (``listen``)."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[int, object] = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name

    def __enter__(self) -> StopSignal:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._remember)
        self.name = self.name or came_early()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def received(self) -> bool:
        """True once a signal came."""
        return self.name is not None
