"""Checksums by which files and teachers are told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from vea.config import TeacherConfig

TINY_SYNTHETIC = Path(__file__).resolve().parent.parent / "assets" / "tiny_teacher"


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file's content in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def teacher_identity(config: TeacherConfig) -> dict[str, str | None]:
    """Returns name and weights of a teacher, and the sha256 over its local files (None where they are not local).

    Two configs with the same sha256 are the same teacher, whatever they are called.
    """
    folder = TINY_SYNTHETIC if config.name == "tiny-synthetic" else Path(config.name)
    files = [Path(config.pretrained)] if config.pretrained and Path(config.pretrained).is_file() else []
    if folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin", ".pth"))
    parts = [f"{path.name} {file_sha256(path)}" for path in files] if files else []
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest() if parts else None
    return {"name": config.name, "pretrained": config.pretrained, "sha256": digest}


def same_teacher(first: Mapping[str, str | None], second: Mapping[str, str | None]) -> bool:
    """Returns whether two identities are of one teacher: by their files where both have some, by name elsewhere."""
    if first.get("sha256") and second.get("sha256"):
        return first["sha256"] == second["sha256"]
    return all(first.get(key) == second.get(key) for key in ("name", "pretrained"))
