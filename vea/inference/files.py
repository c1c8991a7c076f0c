"""The pictures below files and folders."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any

from vea.errors import VeaError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def find_files(paths: list[Path]) -> list[Path]:
    """Returns the files named and the pictures in the folders named (searched through), sorted, each once.

    Raises:
        VeaError: nothing is at a path, or a folder holds no picture.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise VeaError(f"{path} holds no pictures ({' '.join(sorted(SUFFIXES))})")
            found += inside
        elif path.is_file():
            found.append(path)
        elif matches := sorted(glob.glob(str(path), recursive=True)):  # a pattern that no shell has expanded
            found += [Path(match) for match in matches if os.path.isfile(match)]
        else:
            raise VeaError(f"no file or folder {path}")
    return list(dict.fromkeys(found))


def csv_text(value: Any) -> Any:
    """Returns a cell of CSV: a text that a spreadsheet would run as a formula gets an apostrophe in front.

    Numbers stay as they are. Source: OWASP, CSV Injection.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value
