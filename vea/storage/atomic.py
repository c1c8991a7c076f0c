"""Files that are whole or absent: written under a temporary name, fsynced, renamed last."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes a small file atomically: a reader sees the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    _fsync(temporary)
    temporary.replace(path)


def _is_disk_full(error: Exception) -> bool:
    text = str(error).lower()
    phrases = ["no space left", "quota", "file too large", "os error 28", "pytorchstreamwriter"]
    phrases += ["unexpected pos", "iostream error"]  # torch.save does not say why a write was short
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
        phrase in text for phrase in phrases
    )
