"""The pictures and the videos below files and folders."""

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
from vea.faces.video import SUFFIXES as VIDEO_SUFFIXES
from vea.faces.video import is_video


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
                told = f"; {passed_over(others)}" if others else ""
                raise VeaError(f"{path} holds no pictures ({' '.join(sorted(SUFFIXES))}) and no videos{told}")
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


def find_clips(paths: Sequence[str | Path]) -> tuple[list[Path | int], list[str | Path]]:
    """Returns (videos and numbers of cameras, each once; the paths that are left for ``find_files``).

    A folder with pictures is left: its videos are named to be read (``FOLDER/*.mp4``). A folder with videos alone gives
    them, sorted. A number is a camera where no file has that name.
    """
    clips: list[Path | int] = []
    left: list[str | Path] = []
    for name in paths:
        path = Path(name)
        if is_url(name):
            left.append(name)
        elif path.is_dir():
            inside, _ = pictures_below(path, suffixes=frozenset(VIDEO_SUFFIXES))
            pictures = bool(pictures_below(path)[0]) if inside else True
            left += [name] if pictures else []
            clips += [] if pictures else inside
        elif str(name).isdigit() and not path.exists():
            clips.append(int(str(name)))
        elif path.is_file() and is_video(path.name) and path.suffix:
            clips.append(path)
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(match)]
            found = [match for match in matches if match.suffix and is_video(match)] if not path.exists() else []
            clips += found
            left += [name] if not found else [match for match in matches if match not in found]
    return list(dict.fromkeys(clips)), left


def csv_text(value: Any) -> Any:
    """Returns a cell of CSV: a text that a spreadsheet would run as a formula gets an apostrophe in front.

    Numbers stay as they are. Source: OWASP, CSV Injection.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value
