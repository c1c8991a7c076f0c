"""Preemption: a signal sets a flag; the engine asks for it once a step, all ranks vote, save and exit 75.

SIGUSR2 comes from ``sbatch --signal=USR2@120`` and SIGTERM from preemption. SIGUSR1 is left
alone: NCCL has swallowed it.
"""

from __future__ import annotations

import signal
from types import FrameType


class StopSignal:
    """Remembers that SIGUSR2 or SIGTERM arrived while the context was open."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[int, object] = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGUSR2, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def received(self) -> bool:
        """True once a signal came."""
        return self.name is not None
