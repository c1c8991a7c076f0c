"""Image folders: ``root/{train,val,test}/<Class>/*``, the form in which most benchmarks are shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vea.data.sample import Sample
from vea.data.sources.base import Source, hash_of, image_sample
from vea.data.views.formats import passed_over, pictures_below
from vea.errors import VeaError, did_you_mean
from vea.taxonomy.fields import LabelField

_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


class ImageFolder(Source):
    """One class field, called by option ``field``; its classes in the card's order, else the sorted folder names.

    Option ``divide`` cuts splits where a set ships none: ``{FOLDER: {split: share}}``, FOLDER ``.`` for classes in
    the root. The cut is made inside each innermost folder, by a hash of the file name: the same on every machine. A
    root that has all of the card's split folders is taken as it is.
    """

    options = {"field": "label", "divide": {}}  # noqa: RUF012

    def _place(self, root: Path, split: str) -> tuple[Path | None, dict[str, float]]:
        """Returns (folder with the classes of a split, shares it is cut into; none where it is all the split's)."""
        shipped = all(any((root / name).is_dir() for name in _FOLDERS[wanted]) for wanted in self.card.splits)
        if self.option["divide"] and not shipped:
            for name, shares in self.option["divide"].items():
                if split in shares and (root / name).is_dir():
                    return root / name, shares
            return None, {}
        return next((root / name for name in _FOLDERS[split] if (root / name).is_dir()), None), {}

    def _folder(self, root: Path, split: str) -> Path | None:
        return self._place(root, split)[0]

    def splits(self, root: Path) -> list[str]:
        """Returns those of train, val and test that have a folder."""
        found = [split for split in _FOLDERS if self._folder(root, split)]
        if not found:
            flat = sum(path.is_dir() and not path.name.startswith(".") for path in root.iterdir())
            raise VeaError(
                f"{root} has none of the folders train, val, test with one folder per class inside"
                + ("; if its folders are the classes, copy the card and give it options: "
                   "{divide: {.: {train: 80, val: 10, test: 10}}}, or train on it at once by finetune/train.py --folder"
                   if flat else "")
            )  # fmt: skip
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
        folder, shares = self._place(root, split)
        if folder is None:
            return []
        paths: list[Path] = []
        for label in sorted(folder.iterdir()):
            if label.is_dir() and not label.name.startswith("."):
                pictures, passed = pictures_below(label)
                paths += pictures
                if passed:
                    self.warnings.append(f"{label}: {passed_over(passed)}")
        if shares:
            paths = cut(paths, shares=shares, split=split)
        names = [path.relative_to(folder).as_posix() for path in paths]
        stems = [name[: -len(path.suffix)] for name, path in zip(names, paths, strict=True)]
        count = Counter(stems)
        keys = [stem.replace("/", "__") if count[stem] == 1 else name for stem, name in zip(stems, names, strict=True)]
        return [(f"{split}__{key}", path) for key, path in zip(keys, paths, strict=True)]

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one image; its class is the first folder below the split."""
        name = record.relative_to(self._folder(root, split) or root).parts[0]
        return image_sample(record, key=key, split=split, source=self.card.name, labels={self.option["field"]: name})


def cut(paths: Iterable[Path], *, shares: dict[str, float], split: str) -> list[Path]:
    """Returns the share of ``split`` in each innermost folder; every picture is in one split, ordered by a hash."""
    groups: dict[Path, list[Path]] = {}
    for path in paths:
        groups.setdefault(path.parent, []).append(path)
    total = sum(shares.values())
    # both edges of a split are the same numbers as its neighbours': a sum of fractions would round apart
    edges = [sum(list(shares.values())[:i]) / total for i in range(len(shares) + 1)]
    first = list(shares).index(split)
    kept = []
    for group in groups.values():
        group.sort(key=lambda path: (hash_of(path.name), path.name))
        low, high = (round(edge * len(group)) for edge in edges[first : first + 2])
        kept += group[low:high]
    return kept
