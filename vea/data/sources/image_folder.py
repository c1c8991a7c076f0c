"""Image folders: ``root/{train,val,test}/<Class>/*``, the form in which most benchmarks are shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vea.data.sample import LabelField, Sample
from vea.data.sources.base import Source, hash_of, image_sample
from vea.errors import VeaError, did_you_mean

_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class ImageFolder(Source):
    """One class field, called by option ``field``; its classes in the card's order, else the sorted folder names.

    Option ``divide`` cuts splits where a set ships none: ``{FOLDER: {split: share}}``, FOLDER ``.`` for classes in
    the root. The cut is made inside each innermost folder, by a hash of the file name: the same on every machine. A
    root that has all of the card's split folders is taken as it is.
    """

    options = {"field": "label", "divide": {}}  # noqa: RUF012

    def _divided(self, root: Path) -> dict[str, dict[str, float]]:
        shipped = all(any((root / name).is_dir() for name in _FOLDERS[split]) for split in self.card.splits)
        return {} if shipped else self.option["divide"]

    def _folder(self, root: Path, split: str) -> Path | None:
        for name, shares in self._divided(root).items():
            if split in shares and (root / name).is_dir():
                return root / name
        if self._divided(root):
            return None
        return next((root / name for name in _FOLDERS[split] if (root / name).is_dir()), None)

    def _cut(self, root: Path, split: str, paths: list[Path]) -> list[Path]:
        """Returns the share of ``split`` among the pictures of its folder, group by innermost folder."""
        folder = self._folder(root, split)
        shares = next((s for name, s in self._divided(root).items() if root / name == folder and split in s), None)
        if shares is None:
            return paths
        groups: dict[Path, list[Path]] = {}
        for path in paths:
            groups.setdefault(path.parent, []).append(path)
        order = list(shares)
        before = sum(shares[name] for name in order[: order.index(split)]) / sum(shares.values())
        after = before + shares[split] / sum(shares.values())
        kept = []
        for group in groups.values():
            group.sort(key=lambda path: (hash_of(path.name), path.name))
            kept += group[round(before * len(group)) : round(after * len(group))]
        return kept

    def splits(self, root: Path) -> list[str]:
        """Returns those of train, val and test that have a folder."""
        found = [split for split in _FOLDERS if self._folder(root, split)]
        if not found:
            raise VeaError(f"{root} has none of the folders train, val, test with one folder per class inside")
        return found

    def fields(self, root: Path) -> dict[str, LabelField]:
        """Returns the one field; raises ``VeaError`` when a folder is not one of the card's classes."""
        found = {
            path.name
            for split in self.splits(root)
            for path in (self._folder(root, split) or root).iterdir()
            if path.is_dir() and not path.name.startswith(".")
        }
        if not found:
            raise VeaError(f"{root} has no class folders in {', '.join(self.splits(root))}")
        field = self.option["field"]
        known = self.card.label_fields.get(field)
        if known is None or not known.classes:
            return {field: LabelField("class", tuple(sorted(found)))}
        for name in sorted(found - set(known.classes)):
            raise VeaError(
                f"{root} has a class folder {name!r} that is not among the classes given"
                f"{did_you_mean(name, known.classes)}"
            )
        for name in known.classes:
            if name not in found:
                self.warnings.append(f"warning: {root} has no folder of class {name!r}")
        return {field: known}

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (split__class__stem, path); of a stem that a class holds twice the key keeps the suffix."""
        folder = self._folder(root, split)
        if folder is None:
            return []
        paths = [
            path
            for path in folder.glob("*/**/*")
            if path.suffix.lower() in _SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        ]
        paths = self._cut(root, split, paths)
        names = [path.relative_to(folder).as_posix() for path in paths]
        stems = [name[: -len(path.suffix)] for name, path in zip(names, paths, strict=True)]
        count = Counter(stems)
        keys = [stem.replace("/", "__") if count[stem] == 1 else name for stem, name in zip(stems, names, strict=True)]
        return [(f"{split}__{key}", path) for key, path in zip(keys, paths, strict=True)]

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one image; its class is the first folder below the split."""
        name = record.relative_to(self._folder(root, split) or root).parts[0]
        return image_sample(record, key=key, split=split, source=self.card.name, labels={self.option["field"]: name})
