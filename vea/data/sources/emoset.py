"""EmoSet (ICCV 2023): ``info.json``, ``{train,val,test}.json``, ``{annotation,image}/<emotion>/<id>.{json,jpg}``.

Split rows are ``[emotion, image, annotation]`` or ``[emotion, id, image, annotation]``; both are in circulation, and so
are a nested ``info.json`` (one map per attribute) and an older flat one (emotion only).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vea.data.sample import Sample
from vea.data.sources.base import Malformed, Source, image_sample, read_csv, read_json, read_jsonl, require_file
from vea.errors import VeaError
from vea.taxonomy.fields import LabelField

_TENTHS = ("brightness", "colorfulness")


def classes_of(info: dict[str, Any], field: str) -> tuple[str, ...]:
    """Returns the class names of one attribute in index order, empty where ``info.json`` does not have it.

    Raises:
        VeaError: the indices are not 0 .. n-1.
    """
    entry = info.get(field, info if field == "emotion" and "label2idx" in info else {})
    if not isinstance(entry, dict):
        raise VeaError(f"info.json: {field!r} must be a map of names to indices, it is a {type(entry).__name__}")
    by_name: Any = entry.get("label2idx", entry if all(isinstance(v, int) for v in entry.values()) else {})
    if not isinstance(by_name, dict) or not all(type(index) is int for index in by_name.values()):
        raise VeaError(f"info.json: 'label2idx' of {field!r} must be a map of names to whole numbers")
    if sorted(by_name.values()) != list(range(len(by_name))):
        raise VeaError(f"info.json: the indices of {field!r} are not 0 to {len(by_name) - 1}")
    return tuple(sorted(by_name, key=by_name.__getitem__))


def _flat(info: dict[str, Any]) -> bool:
    return bool(info) and all(isinstance(value, int) for value in info.values())


class EmoSet(Source):
    """Fields: ``emotion`` and the six attributes.

    Class orders are those of the folder's ``info.json``; the card's where it has none.
    """

    def fields(self, root: Path) -> dict[str, LabelField]:
        """Returns the seven fields; a difference between ``info.json`` and the card is a warning."""
        info = read_json(require_file(root, "info.json", self.card))
        if not isinstance(info, dict):
            raise VeaError(f"{root / 'info.json'} must hold a map of labels, it holds a {type(info).__name__}")
        if _flat(info):  # the oldest form: {"amusement": 0, ...}
            info = {"emotion": info}
        fields = {}
        for name, field in self.card.label_fields.items():
            classes = classes_of(info, name)
            if classes and field.classes and classes != field.classes:
                first = next(
                    (i for i, pair in enumerate(zip(classes, field.classes, strict=False)) if pair[0] != pair[1]),
                    min(len(classes), len(field.classes)),
                )
                self.warnings.append(
                    f"warning: {root / 'info.json'} orders {name!r} other than the card from index {first} "
                    f"on ({len(classes)} classes, the card has {len(field.classes)}); info.json is used"
                )
            fields[name] = LabelField(field.kind, classes or field.classes)
        return fields

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (emotion and id, (emotion, image path, annotation path))."""
        path = require_file(root, f"{split}.json", self.card)
        rows = read_json(path)
        if not isinstance(rows, list):
            raise VeaError(f"{path} must hold a list of rows, it holds a {type(rows).__name__}")
        records, bad = [], Malformed(path, self.warnings)
        for number, row in enumerate(rows):
            if not isinstance(row, list) or len(row) not in (3, 4) or not all(isinstance(v, str) for v in row[-2:]):
                text = (
                    f"expected [emotion, image, annotation] or [emotion, id, image, annotation], got {str(row)[:200]}"
                )
                bad.add(f"row {number}: ", text, "mend the row")
                continue
            emotion, image, annotation = row[0], row[-2], row[-1]
            stem = Path(image).stem  # ids carry the emotion as released; elsewhere they may repeat across folders
            key = stem if stem.startswith(str(emotion)) else f"{emotion}_{stem}"
            records.append((key, (emotion, image, annotation)))
        bad.done(len(rows))
        return records

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one image; attributes that its annotation does not have are absent."""
        emotion, image, annotation = record
        path = root / annotation
        known = read_json(path) if path.is_file() else {}
        labels: dict[str, Any] = {"emotion": emotion}
        for name, field in self.card.label_fields.items():
            value = known.get(name)
            if name == "emotion" or value in (None, "", []):
                continue
            if field.kind == "multilabel":
                labels[name] = [value] if isinstance(value, str) else list(value)
            else:
                labels[name] = f"{float(value):.1f}" if name in _TENTHS else str(value)
        return image_sample(root / image, key=key, split=split, source=self.card.name, labels=labels)


class WeakEmoSet(EmoSet):
    """Photographs of other sets with attributes in EmoSet's words, found in their captions and measured; no emotion.

    ``emoset_taxonomy/{info.json,weak_annotations.jsonl}`` beside the raw folders of the sets. OASIS brings the ratings
    of its ``oasis.csv``, ``valence`` and ``arousal``, in the emotion's place. Nothing found is no label (of objects, as
    everywhere in vea, the empty set); so is more than one scene or action where EmoSet has one.
    """

    def fields(self, root: Path) -> dict[str, LabelField]:
        """Returns the card's fields with the class orders of ``info.json``."""
        return super().fields(root / "emoset_taxonomy")

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (set and file stem, (annotation, row of oasis.csv))."""
        path = require_file(root, "emoset_taxonomy/weak_annotations.jsonl", self.card)
        rated = read_csv(require_file(root, "oasis/oasis.csv", self.card), ["file", "valence_mean", "arousal_mean"],
                         warnings=self.warnings)  # fmt: skip
        ratings = {f"oasis/images/{row['file']}": row for row in rated}
        return [
            (f"{row['dataset']}-{Path(row['image']).stem}", (row, ratings.get(row["image"], {})))
            for row in read_jsonl(path, named=["dataset", "image", "split"], warnings=self.warnings)
            if {"valid": "val"}.get(row["split"], row["split"]) == split
        ]

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one photograph with the attributes that were found."""
        known, rating = record
        labels: dict[str, Any] = {name: float(rating[f"{name}_mean"]) for name in ("valence", "arousal") if rating}
        for name, field in self.card.label_fields.items():
            value = known.get(name)
            if name in _TENTHS:
                labels[name] = f"{float(value):.1f}"
            elif field.kind == "multilabel" and value:
                labels[name] = value
            elif isinstance(value, str) or (value and len(value) == 1):
                labels[name] = value if isinstance(value, str) else value[0]
        return image_sample(root / known["image"], key=key, split=split, source=known["dataset"], labels=labels)
