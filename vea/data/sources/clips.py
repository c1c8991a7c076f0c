"""Videos with labels over time: OMG-Empathy's folders, a folder of videos with a CSV, and drawn stories."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vea.data.sample import Sample
from vea.data.sources.base import Source, UnreadableRecord, read_csv, require_file
from vea.data.views.clips import frame_times, join_pictures, write_video
from vea.data.views.decode import CorruptImage
from vea.errors import VeaError

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
_NAME = re.compile(r"Subject_(\d+)_Story_(\d+)", re.IGNORECASE)
_FOLDERS = {"train": ("Training", "train"), "val": ("Validation", "val"), "test": ("Testing", "Test", "test")}


def _clip(path: Path, series: dict[str, list[float]]) -> tuple[bytes, dict[str, Any]]:
    data = path.read_bytes()
    try:
        times = frame_times(data)
    except CorruptImage as error:
        raise UnreadableRecord(f"{path.name} cannot be decoded ({error})") from None
    for name, values in series.items():
        if len(values) != len(times):
            raise UnreadableRecord(f"{path.name} has {len(times)} frames, {name} has {len(values)} rows")
    return data, {"times": times, "series": series}


class OmgEmpathy(Source):
    """``Training|Validation|Testing/Videos/Subject_X_Story_Y.mp4`` with ``Annotations/Subject_X_Story_Y.csv``.

    The names are checked, and that each CSV has a row for every frame; a video without annotations (the test split of
    the challenge) is a clip without a label.
    """

    def splits(self, root: Path) -> list[str]:
        """Returns the splits that have a folder."""
        found = [split for split in _FOLDERS if self._folder(root, split)]
        if not found:
            raise VeaError(
                f"{root} has none of Training, Validation, Testing. To obtain it: {self.card.obtain.strip()}"
            )
        return found

    @staticmethod
    def _folder(root: Path, split: str) -> Path | None:
        return next((root / name for name in _FOLDERS[split] if (root / name).is_dir()), None)

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (Subject_X_Story_Y, (video, annotations or None)).

        Raises:
            VeaError: a name that is none of the protocol's, or a CSV without its video.
        """
        folder = self._folder(root, split)
        assert folder is not None
        videos = require_file(folder, "Videos", self.card)
        tables = {path.stem.lower(): path for path in (folder / "Annotations").glob("*.csv")}
        records = []
        for path in sorted(videos.iterdir()):
            if path.suffix.lower() not in VIDEOS or path.name.startswith("."):
                continue
            match = _NAME.fullmatch(path.stem)
            if match is None:
                raise VeaError(f"{path}: the name is not Subject_X_Story_Y{path.suffix}")
            key = f"Subject_{int(match[1])}_Story_{int(match[2])}"
            records.append((key, (path, tables.pop(path.stem.lower(), None))))
        if tables:
            raise VeaError(f"{next(iter(tables.values()))} has no video in {videos}")
        return records

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one video with its valence, a number a frame."""
        from vea.metrics.empathy import read_valence  # torch, which no other layout needs

        path, table = record
        values = read_valence(table).tolist() if table else []
        data, clip = _clip(path, {"valence": values} if values else {})
        labels = {"valence": sum(values) / len(values)} if values else {}
        return Sample(key, data, path.suffix[1:].lower(), labels, source=self.card.name, split=split, clip=clip)


class ClipFolder(Source):
    """Videos, or folders of numbered JPEG frames, with ``labels.csv``: ``file``, label columns, and maybe ``split``.

    A label is of the whole clip. With the option ``series`` (a folder), ``series/STEM.csv`` has a column a label and a
    row a frame. ``rate``: frames a second of clips that came as folders of pictures.
    """

    options = {"labels": "labels.csv", "series": "", "rate": 25.0}  # noqa: RUF012

    def _rows(self, root: Path) -> list[dict[str, str]]:
        require_file(root, self.option["labels"], self.card)
        return read_csv(root / self.option["labels"], ["file"])

    def splits(self, root: Path) -> list[str]:
        """Returns the splits that the table names, train where it names none."""
        return list(dict.fromkeys(row.get("split") or "train" for row in self._rows(root)))

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (file without its ending, row of the table)."""
        rows = [row for row in self._rows(root) if (row.get("split") or "train") == split]
        return [(re.sub(r"\.\w+$", "", row["file"]).replace("/", "__"), row) for row in rows]

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one clip with its labels."""
        path = root / record["file"]
        series: dict[str, list[float]] = {}
        if self.option["series"]:
            table = read_csv(root / self.option["series"] / f"{path.stem}.csv", [])
            series = {
                name: [float(row[name]) for row in table]
                for name in self.card.label_fields
                if table and name in table[0]
            }
        if path.is_dir():
            pictures = [
                file.read_bytes() for file in sorted(path.iterdir()) if file.suffix.lower() in (".jpg", ".jpeg")
            ]
            if not pictures:
                raise UnreadableRecord(f"{record['file']} holds no JPEG frames")
            times = [round(number / self.option["rate"], 6) for number in range(len(pictures))]
            try:
                data, clip, extension = join_pictures(pictures, times), {"times": times, "series": series}, "mkv"
            except CorruptImage as error:
                raise UnreadableRecord(str(error)) from None
        else:
            (data, clip), extension = _clip(path, series), path.suffix[1:].lower()
        labels: dict[str, Any] = {}
        for name, field in self.card.label_fields.items():
            if record.get(name):
                labels[name] = float(record[name]) if field.kind == "value" else record[name]
            elif name in series:
                labels[name] = sum(series[name]) / len(series[name])
        return Sample(key, data, extension, labels, source=self.card.name, split=split, clip=clip)


class Moving(Source):
    """Drawn stories (``vea.data.synthetic.moving``): persons tell stories, and no person is in two splits."""

    options = {"subjects": 30, "stories": 3, "frames": 60, "seed": 0, "size": 112}  # noqa: RUF012
    needs_root = False

    def subjects(self) -> dict[str, list[int]]:
        """Returns the persons of each split: three fifths, a fifth and a fifth."""
        count = self.option["subjects"]
        fifth = max(1, count // 5)
        cuts = {
            "train": (0, count - 2 * fifth),
            "val": (count - 2 * fifth, count - fifth),
            "test": (count - fifth, count),
        }
        return {split: list(range(*ends)) for split, ends in cuts.items()}

    def splits(self, root: Path) -> list[str]:
        """Returns train, val and test."""
        return list(self.subjects())

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (Subject_X_Story_Y, (X, Y)), both counted from 1 in the key."""
        pairs = [(s, n) for s in self.subjects()[split] for n in range(self.option["stories"])]
        return [(f"Subject_{subject + 1}_Story_{number + 1}", (subject, number)) for subject, number in pairs]

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one drawn story."""
        from vea.data.synthetic.moving import draw_story, story

        subject, number = record
        told = story(subject, number, seed=self.option["seed"], frames=self.option["frames"])
        pictures, boxes = draw_story(told, subject, seed=self.option["seed"], size=self.option["size"])
        data = write_video(pictures, told.times.tolist())
        track = [[frame, *(round(float(edge), 1) for edge in box)] for frame, box in enumerate(boxes)]
        series = {"valence": [round(float(value), 5) for value in told.valence]}
        clip = {"times": frame_times(data), "series": series, "tracks": {"1": track}}
        labels = {"valence": round(float(told.valence.mean()), 5)}
        return Sample(key, data, "mp4", labels, source=self.card.name, split=split, clip=clip)
