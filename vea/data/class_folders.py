"""Class folders of photographs as a person has them: found, read, and divided so that no picture is in two parts."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vea.data.duplicates import clusters, picture_hash
from vea.data.views.formats import pictures_below
from vea.errors import VeaError

SPLIT_NAMES = ("train", "val", "valid", "validation", "test")
FEWEST = 3  # different pictures of a class: one each for training, validation and test


@dataclass(frozen=True)
class Picture:
    """One readable picture: its file, its class, a digest of its pixels and a perceptual hash of 32 bytes."""

    path: Path
    label: str
    digest: str
    look: bytes


def find_pictures(folder: Path) -> tuple[list[tuple[str, Path]], Counter[str]]:
    """Returns (class, file) of every picture in the class folders of ``folder``, and what was passed over, by kind.

    Raises:
        VeaError: there is no such folder, it is divided already, or it holds fewer than two classes with pictures.
    """
    if not folder.is_dir():
        raise VeaError(f"--folder: {'no folder' if not folder.exists() else 'no folder but a file:'} {folder}")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    divided = [path.name for path in classes if path.name.lower() in SPLIT_NAMES]
    if len(divided) >= 2 or (divided and len(divided) == len(classes)):
        raise VeaError(
            f"--folder: {folder} is divided already ({', '.join(divided)}); give the folder whose folders are the "
            "classes, or keep your parts: python datasets/prepare.py image_folder, and a config"
        )
    found: list[tuple[str, Path]] = []
    passed: Counter[str] = Counter()
    empty = []
    for path in classes:
        pictures, other = pictures_below(path)
        found += [(path.name, picture) for picture in pictures]
        passed += other
        if not pictures:
            empty.append(path.name)
    passed += Counter({"empty class folder": len(empty)} if empty else {})
    beside = sum(path.is_file() and not path.name.startswith(".") for path in folder.iterdir())
    passed += Counter({"beside the class folders": beside} if beside else {})
    names = sorted({label for label, _ in found})
    how = f"put the pictures of each class into a folder of its own: {folder / 'happy' / 'one.jpg'}, ..."
    if not found:
        loose = len(pictures_below(folder)[0])
        what = f"no folders with pictures ({loose} pictures lie in it directly)" if loose else "no pictures"
        raise VeaError(f"--folder: {folder} holds {what}; {how}")
    if len(names) < 2:
        raise VeaError(f"--folder: {folder} holds one class with pictures, {names[0]!r}, and two are needed; {how}")
    return found, passed


def look_at(path: Path, label: str, image: np.ndarray) -> Picture:
    """Returns what division needs of a picture (H, W, 3) uint8: the pixels count, not the name or the format."""
    about = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    about.update(np.ascontiguousarray(image).data)
    return Picture(path, label, about.hexdigest(), picture_hash(Image.fromarray(image)))


def groups_of(pictures: Sequence[Picture]) -> list[list[Picture]]:
    """Returns the pictures in groups that look the same (also re-encoded or scaled), in the order of their digests."""
    ordered = sorted(pictures, key=lambda picture: (picture.digest, picture.label, str(picture.path)))
    flat = {picture.look for picture in ordered if _is_flat(picture.look)}
    parent = list(range(len(ordered)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    seen: dict[str, int] = {}
    for i, picture in enumerate(ordered):
        parent[i] = root(seen.setdefault(picture.digest, i))
    for members in clusters([picture.look for picture in ordered]):
        alike = [i for i in members if ordered[i].look not in flat]
        for i in alike[1:]:
            parent[root(i)] = root(alike[0])
    groups: dict[int, list[Picture]] = {}
    for i, picture in enumerate(ordered):
        groups.setdefault(root(i), []).append(picture)
    return list(groups.values())


def _is_flat(look: bytes) -> bool:
    """Says whether a hash is that of a picture of one colour: such hashes say nothing about likeness."""
    return np.unpackbits(np.frombuffer(look, np.uint8)).sum() <= 2


def in_two_classes(pictures: Sequence[Picture]) -> list[list[Picture]]:
    """Returns the pictures of the same pixels that have more than one label, those of one picture together."""
    same: dict[str, list[Picture]] = {}
    for picture in pictures:
        same.setdefault(picture.digest, []).append(picture)
    return [alike for alike in same.values() if len({picture.label for picture in alike}) > 1]


def divide(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    """Returns {train, val, test: pictures}: of each class about 60/20/20 %, of 100 pictures and more 80/10/10 %.

    What looks the same stays together, in whatever class or folder it is. The cut hangs on the pixels alone.

    Raises:
        VeaError: a class has fewer than ``FEWEST`` different pictures.
    """
    by_class: dict[str, list[list[Picture]]] = {label: [] for label in sorted({p.label for p in pictures})}
    for group in groups_of(pictures):
        by_class[group[0].label].append(group)
    few = {label: len(groups) for label, groups in by_class.items() if len(groups) < FEWEST}
    if few:
        said = ", ".join(f"{label!r} {number}" for label, number in few.items())
        raise VeaError(
            f"--folder: each class needs {FEWEST} different pictures and more (to train, to validate, to test), "
            f"and there are of {said}; add pictures or take the folder out"
        )
    parts: dict[str, list[Picture]] = {"train": [], "val": [], "test": []}
    for groups in by_class.values():
        share = 0.2 if len(groups) < 100 else 0.1
        held = max(1, round(share * len(groups)))
        for name, some in zip(parts, (groups[2 * held :], groups[:held], groups[held : 2 * held]), strict=True):
            parts[name] += [picture for group in some for picture in group]
    return parts


def key_of(picture: Picture, folder: Path) -> str:
    """Returns the key of a picture: its path below the folder, so that equal names in two folders stay two."""
    return re.sub(r"[\\/]", "__", picture.path.relative_to(folder).as_posix())
