"""What visitors of the page leave here: their uploads and the results of these, for as long as their session lasts.

Every upload has a folder with a name that nobody can guess, and what is made of it lies in the same folder. A folder
goes when the last session that used it ends, or ``keep_s`` seconds after its last use where no session is open
(programs that call the page once); all of it goes with the process.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vea.errors import VeaError

RESULTS = "results"
_MAX_NAME = 120  # characters of an upload's name that are kept


@dataclass
class _Kept:
    folder: tempfile.TemporaryDirectory[str]
    size: int = 0
    used: float = field(default_factory=time.monotonic)
    sessions: set[str] = field(default_factory=set)


def plain_name(name: str | None) -> str:
    """Returns a file name without folders and control characters, of at most ``_MAX_NAME`` characters."""
    last = re.split(r"[/\\]", name or "")[-1].encode("utf-8", "replace").decode()
    clean = re.sub(r"[\x00-\x1f\x7f\u202a-\u202e\u2066-\u2069]", "", last).strip().lstrip(".")
    stem, dot, suffix = clean.rpartition(".")
    short = f"{stem[: _MAX_NAME - 10]}{dot}{suffix[:9]}" if stem else clean[:_MAX_NAME]
    while len(short.encode()) > 250:  # a file system counts bytes
        short = short[1:]
    return short or "upload"


class Visitors:
    """The files of all visitors below ``folder``.

    Args:
        keep_s: seconds that a file outlives its last use when none of its sessions is open.
        max_bytes: uploads beyond this sum are refused until others have gone.
    """

    def __init__(self, *, keep_s: float = 600, max_bytes: int = 4 * 2**30) -> None:
        # in the folder of the platform's temporary files, or where gradio was told to keep its own
        above = os.environ.get("GRADIO_TEMP_DIR")
        if above:
            Path(above).mkdir(parents=True, exist_ok=True)
        self._root = tempfile.TemporaryDirectory(prefix="vea-serve-", dir=above)
        self.folder = Path(self._root.name).resolve()
        self.keep_s, self.max_bytes = keep_s, max_bytes
        self._kept: dict[str, _Kept] = {}
        self._open: dict[str, int] = {}  # session: its connections
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def stored(self) -> int:
        """Bytes of the uploads that are kept."""
        return sum(kept.size for kept in self._kept.values())

    def place(self, name: str | None, size: int = 0) -> Path:
        """Returns where an upload called ``name`` goes; its folder is there."""
        folder = tempfile.TemporaryDirectory(prefix=f"{secrets.token_hex(16)}-", dir=self.folder)
        with self._lock:
            self._kept[Path(folder.name).name] = _Kept(folder, size)
        return self.folder / Path(folder.name).name / plain_name(name)

    def _of(self, path: str | Path) -> _Kept | None:
        """Returns the folder a path names, from its text alone: the disk is not asked about paths of strangers."""
        text = str(path)
        prefix = f"{self.folder}{os.sep}"
        if not text.startswith(prefix) or "\0" in text:
            return None
        parts = text[len(prefix) :].split(os.sep)
        if len(parts) not in (2, 3) or any(part in ("", ".", "..") for part in parts):
            return None
        if len(parts) == 3 and parts[1] != RESULTS:
            return None
        return self._kept.get(parts[0])

    def knows(self, path: str | Path) -> bool:
        """Returns whether a path is an upload of this process, or a result of one, that is still kept."""
        kept = self._of(path)
        return kept is not None and Path(path).is_file() and not Path(path).is_symlink()

    def use(self, path: str | Path, session: str | None) -> None:
        """Keeps an upload for a session (None: for ``keep_s`` seconds)."""
        kept = self._of(path)
        if kept is not None:
            with self._lock:
                kept.used = time.monotonic()
                if session:
                    kept.sessions.add(session)

    def result(self, upload: str | Path, name: str, write: Callable[[Path], Any]) -> str:
        """Returns the path of what ``write`` makes of an upload; it goes when the upload goes.

        Raises:
            VeaError: the upload has gone in the meantime, with its session.
        """
        folder = Path(upload).parent / RESULTS
        place = folder / f"{secrets.token_hex(4)}-{name}"
        try:
            folder.mkdir(exist_ok=True)
            write(place)
        except FileNotFoundError:
            raise VeaError("the session of this file has ended; upload it again") from None
        return str(place)

    def opened(self, session: str) -> None:
        """A page of this session is open from now on."""
        with self._lock:
            self._open[session] = self._open.get(session, 0) + 1

    def is_open(self, session: str) -> bool:
        """Returns whether a page of this session is open."""
        return session in self._open

    def closed(self, session: str) -> bool:
        """A page of this session was closed; returns whether it was the last, and its files are gone."""
        with self._lock:
            self._open[session] = self._open.get(session, 1) - 1
            if self._open[session] > 0:
                return False
            del self._open[session]
            gone = []
            for token, kept in self._kept.items():
                if session in kept.sessions:
                    kept.sessions.discard(session)
                    if not kept.sessions:
                        gone.append(token)
            self._remove(gone)
        return True

    def sweep(self) -> None:
        """Removes what no open session uses and nobody has used for ``keep_s`` seconds."""
        oldest = time.monotonic() - self.keep_s
        with self._lock:
            self._remove(
                [
                    token
                    for token, kept in self._kept.items()
                    if kept.used < oldest and not kept.sessions & self._open.keys()
                ]
            )

    def _remove(self, tokens: list[str]) -> None:
        for token in tokens:
            self._kept.pop(token).folder.cleanup()

    def end(self) -> None:
        """Removes everything."""
        with self._lock:
            self._remove(list(self._kept))
            self._root.cleanup()
