"""The pictures below files and folders."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vea.data.views.formats import SUFFIXES, passed_over, pictures_below
from vea.data.views.pictures import is_url
from vea.errors import VeaError


def find_files(paths: Sequence[str | Path], *, passed: Counter[str] | None = None) -> list[Path | str]:
    """Returns the files named and the pictures in the folders named (searched through), sorted, each once.

    Addresses (``https://...``) stay what they are: text. ``passed`` is told how many files of each kind the folders
    hold that are not pictures.

    Raises:
        VeaError: nothing is at a path, or a folder holds no picture.
    """
    found: list[Path | str] = []
    counts: Counter[str] = Counter()
    for name in paths:
        path = Path(name)
        if is_url(name):
            found.append(name)
        elif path.is_dir():
            inside, others = pictures_below(path)
            if not inside:
                told = passed_over(others)
                raise VeaError(f"{path} holds no pictures ({' '.join(sorted(SUFFIXES))}){f'; {told}' if told else ''}")
            found += inside
            counts.update(others)
        elif path.is_file():
            found.append(path)
        elif matches := sorted(glob.glob(str(path), recursive=True)):  # a pattern that no shell has expanded
            found += [Path(match) for match in matches if os.path.isfile(match)]
        else:
            raise VeaError(f"no file or folder {path}")
    if passed is not None:
        passed.update(counts)
    return list(dict.fromkeys(found))


def csv_text(value: Any) -> Any:
    """Returns a cell of CSV: a text that a spreadsheet would run as a formula gets an apostrophe in front.

    Numbers stay as they are. Source: OWASP, CSV Injection.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value
