"""Answers on disk: one JSON line each, written and synced the moment it comes, so that a kill loses nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from vea.errors import VeaError
from vea.evals.question import Answer


class Answers:
    """The kept answers of a folder: ``answers.jsonl``, read once and appended to.

    A last line that a kill cut short is left where it is and skipped; the next answer begins a line of its own.
    ``torn`` counts such lines.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "answers.jsonl"
        self.torn = 0
        self._held = self._read()
        self._file = self.path.open("ab")
        if self._file.tell() and not self._ends_a_line():
            self._file.write(b"\n")

    def _ends_a_line(self) -> bool:
        with self.path.open("rb") as handle:
            handle.seek(-1, os.SEEK_END)
            return handle.read(1) == b"\n"

    def _read(self) -> dict[str, Answer]:
        held: dict[str, Answer] = {}
        if not self.path.exists():
            return held
        fields = set(Answer.__dataclass_fields__)
        for line in self.path.read_bytes().split(b"\n"):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                kept = {name: value for name, value in entry["answer"].items() if name in fields}
                held[entry["key"]] = Answer(**kept)
            except (ValueError, KeyError, TypeError, AttributeError):
                self.torn += 1
        return held

    def get(self, key: str) -> Answer | None:
        """Returns the answer that was kept under a key."""
        return self._held.get(key)

    def keep(self, key: str, answer: Answer, **about: Any) -> None:
        """Writes an answer and waits until the disk has it; ``about`` is for people who read the file."""
        line = json.dumps({"key": key, **about, "answer": answer.record()}, ensure_ascii=False)
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise VeaError(f"{self.path} cannot be written ({error.strerror}); free space and run again") from None
        self._held[key] = answer

    def __len__(self) -> int:
        return len(self._held)

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
