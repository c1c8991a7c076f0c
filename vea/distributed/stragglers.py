"""Which rank is missing: each writes its place into the group's store, and a failed collective names the absent."""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist

from vea.errors import Preempted, RunError, VeaError

_roll: RollCall | None = None  # of this process, where there is more than one rank


def start(roll: RollCall) -> None:
    """Makes ``roll`` the roll call of this process."""
    global _roll
    _roll = roll


def stop() -> None:
    """Ends the roll call of this process, where there is one."""
    global _roll
    if _roll is not None:
        _roll.close()
        _roll = None


def set_place(place: str) -> None:
    """Says where this rank is (``step 7``), for the message of a collective that fails."""
    if _roll is not None:
        _roll.place = place


def mark_collective(what: str) -> None:
    """Writes down that this rank comes to a collective; those of this module do it themselves."""
    if _roll is not None:
        _roll.here(what)


@contextlib.contextmanager
def naming_absent_ranks() -> Iterator[None]:
    """Turns the error of a collective into one that names the ranks that failed or did not come.

    Raises:
        RunError: a collective timed out or lost a connection; the sentence names the ranks.
    """
    try:
        yield
    except Preempted:  # all leave together
        raise
    except Exception as error:
        if _roll is None:
            raise
        text = str(error)
        if isinstance(error, VeaError) or not (isinstance(error, dist.DistError) or "gloo" in text):
            _roll.failed(error)
            raise
        absent = _roll.absent() or "every rank came: look at the network and the devices"
        _roll.failed(error)
        raise RunError(
            f"the ranks lost each other at {_roll.what}: {absent}; the last checkpoint is good, run the same command "
            f"to go on ({text.splitlines()[0][:200]})"
        ) from error


WARN_AT = 0.8  # share of the timeout after which a waiting rank says whom it waits for: NCCL leaves no time after it


class RollCall:
    """The entry of one rank, and what it reads in those of the others.

    Args:
        store: a ``torch.distributed.Store`` that all ranks share.
        rank: this rank.
        world_size: of all ranks.
        timeout_s: of the process group's collectives.
    """

    def __init__(self, store: Any, *, rank: int, world_size: int, timeout_s: float) -> None:
        self._store, self.rank, self.world_size, self.timeout_s = store, rank, world_size, timeout_s
        self.place = "the start"  # where the engine is, for people
        self._count, self._what, self._since = 0, "the start", time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vea-roll-call", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a thread that is inside the store when Python ends would abort the process

    def here(self, what: str) -> None:
        """Writes that this rank has come to the next collective; all ranks come to the same ones in the same order."""
        self._count += 1
        self._what, self._since = f"{what} of {self.place}", time.monotonic()
        self._write(self._what)

    def failed(self, error: BaseException) -> None:
        """Writes that this rank ends, and why."""
        self._count = -1
        self._write(" ".join(f"{type(error).__name__}: {error}".split())[:300])

    def _write(self, text: str) -> None:
        with contextlib.suppress(RuntimeError):  # rank 0 is gone: the next collective tells
            self._store.set(str(self.rank), f"{self._count}\t{text}")

    def absent(self) -> str | None:
        """Returns a sentence about the ranks that failed or are behind this one; None where there are none."""
        failed, behind = [], []
        for rank in range(self.world_size):
            try:
                count, text = "0", "nowhere yet"
                if self._store.check([str(rank)]):
                    count, _, text = self._store.get(str(rank)).decode().partition("\t")
            except RuntimeError:
                return "rank 0, which keeps the book of the ranks, is gone"
            if rank != self.rank and int(count) < 0:
                failed.append(f"rank {rank} failed ({text})")
            elif int(count) < self._count:
                behind.append(f"rank {rank} did not arrive (last seen: {text})")
        return ", ".join((failed or behind)[:8]) or None

    @property
    def what(self) -> str:
        """The collective that this rank came to last, and where that was."""
        return self._what

    def _watch(self) -> None:
        told = -1
        while not self._closed.wait(min(5.0, self.timeout_s / 20)):
            count, waited = self._count, time.monotonic() - self._since
            if waited > WARN_AT * self.timeout_s and count != told and (absent := self.absent()):
                told = count
                line = f"warning: rank {self.rank} has waited {waited:.0f} s at {self._what}: {absent}"
                print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the watch."""
        self._closed.set()
        self._thread.join(1)
        atexit.unregister(self.close)
