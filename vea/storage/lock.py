"""One writer at a time: locks that the system drops when their process dies, and that say who holds them.

``held`` is for what one process writes as a whole (a prepared set, a run folder, a file of the cache): a hidden file
with host, process and time, locked by ``fcntl.lockf``. Such a lock belongs to the process, not to its children, and
reaches over NFS. ``claim`` locks an open file itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

from vea.errors import VeaError

_mine: set[Path] = set()  # lockf lets a process lock twice what it holds


def holder(path: Path) -> str:
    """Returns who holds the lock file ``path``, in words."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


@contextlib.contextmanager
def held(path: Path, *, what: str, wait: bool = False, keep: bool = False) -> Iterator[None]:
    """Holds the lock file ``path`` while the block runs.

    Args:
        path: of the lock file; its folder exists.
        what: what is being done, for the sentence to whom it is refused: "writing data/oasis".
        wait: wait for the holder instead of refusing.
        keep: leave the file; a lock that is never removed cannot be lost to a race, and says who was there last.

    Raises:
        VeaError: another process, or this one, holds it.
    """
    path = path.absolute()
    if path in _mine and not wait:
        raise VeaError(f"this process is {what} already; wait for it to end")
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (closed below)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            file.close()
            raise VeaError(f"{holder(path)} is {what}; wait for it to end, or end it") from None
        try:
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                break
        except FileNotFoundError:
            pass
        file.close()  # the holder before us removed the file between our open and our lock
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    file.truncate(0)
    file.write(json.dumps({"host": socket.gethostname(), "process": os.getpid(), "since": since}))
    file.flush()
    _mine.add(path)
    try:
        yield
    finally:
        _mine.discard(path)
        if not keep:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        file.close()


def claim(file: IO, *, wait: bool = False) -> bool:
    """Locks an open file (``flock``) until it is closed; returns False where another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
