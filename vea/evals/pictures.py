"""Pictures that lie in shards or archives, laid out as files: back ends read files."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

from vea.data.shards.reader import ShardReader

_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # they live as long as the process


def new_folder() -> Path:
    """Returns a folder that goes when the process ends."""
    _FOLDERS.append(tempfile.TemporaryDirectory(prefix="vea-eval-"))
    return Path(_FOLDERS[-1].name)


def from_shards(folder: Path, split: str) -> list[tuple[str, Path, dict[str, Any]]]:
    """Returns (key, file, metadata) of every sample of a prepared data set's split."""
    reader, place, found = ShardReader(folder, split), new_folder(), []
    for index in range(len(reader)):
        key, image, metadata = reader.read(index)
        file = place / f"{index:07d}"
        file.write_bytes(image)
        found.append((key, file, metadata))
    return found


def from_zip(archive: Path, names: list[str]) -> dict[str, Path]:
    """Returns the files of some members of a zip, by their last name; members that are absent are left out."""
    place, found = new_folder(), {}
    with zipfile.ZipFile(archive) as opened:
        members = {Path(member).name: member for member in opened.namelist()}
        for name in names:
            if name in members:
                found[name] = place / name
                found[name].write_bytes(opened.read(members[name]))
    return found
