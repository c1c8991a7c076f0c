"""The photographs of a prepared set that the scene model sees as most alike: what people wrote and how they rated them.

    like = Like("data/oasis", load_scene())
    line = like.line(read_image("photo.jpg"))
    print(line.text, line.found)

Alike: the cosine of the frozen features that the scene model reads, each standardised over the set. How near is near is
the set's own: what is further from everything than nearly all of its photographs are from their nearest is like none.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from vea.data.shards.reader import ShardReader
from vea.data.views.decode import CorruptImage, decode
from vea.errors import VeaError
from vea.inference.evidence import Line, nothing
from vea.inference.scene import SceneReader

SHOWN = 2  # photographs that the line names
NEAR = 5.0  # percentile of the set's nearest similarities; below, nothing is alike
SAME = 0.999  # cosine from which two files are one picture


class Like:
    """The set, looked at once; made for ``vea explain --like``.

    Args:
        folder: a prepared set whose pictures have valence, arousal and a text each, e.g. OASIS.
        reader: the scene model.

    Raises:
        VeaError: there is no such set, it lacks the ratings, or it has fewer than ten pictures.
    """

    def __init__(self, folder: str | Path, reader: SceneReader) -> None:
        self.reader = reader
        self.rows: list[dict[str, Any]] = []
        features: list[np.ndarray] = []
        for split in self._splits(folder):
            shards = ShardReader(folder, split)
            self.name = shards.index.name
            for number in range(len(shards)):
                key, encoded, metadata = shards.read(number)
                try:
                    image = decode(encoded)
                except CorruptImage:
                    continue
                features.append(reader.features(image))
                self.rows.append({"key": key, **metadata})
        if len(features) < 10:
            raise VeaError(f"--like: {folder} has {len(features)} pictures that can be read; ten are needed")
        rows = np.stack(features)
        self.mean, self.sd = rows.mean(0), rows.std(0) + 1e-6
        self.units = self._unit(rows)
        alike = self.units @ self.units.T
        np.fill_diagonal(alike, -1.0)
        self.least = float(np.percentile(alike.max(1), NEAR))

    @staticmethod
    def _splits(folder: str | Path) -> list[str]:
        from vea.data.shards.index import read_index

        index = read_index(str(folder))
        if missing := [name for name in ("valence", "arousal") if name not in index.fields]:
            raise VeaError(f"--like: {folder} has no {' and no '.join(missing)}; give a prepared OASIS")
        count = sum(entry["samples"] for entry in index.splits.values())
        print(f"looking at the {count} photographs of {folder} once", file=sys.stderr)
        return list(index.splits)

    def _unit(self, rows: np.ndarray) -> np.ndarray:
        standard = (rows - self.mean) / self.sd
        return standard / np.linalg.norm(standard, axis=-1, keepdims=True).clip(1e-9)

    def line(self, image: np.ndarray) -> Line:
        """Returns the photographs most like RGB uint8 (H, W, 3), with their captions and norms."""
        component = f"scene model, photographs of {self.name}"
        alike = self.units @ self._unit(self.reader.features(image))
        found = []
        for place in np.argsort(-alike)[:SHOWN]:
            if alike[place] < self.least:
                break
            row = self.rows[place]
            found.append(
                {
                    "key": row["key"],
                    "caption": next(iter(row.get("text") or []), None),
                    "valence": row["labels"].get("valence"),
                    "arousal": row["labels"].get("arousal"),
                    "cosine": round(float(alike[place]), 3),
                }
            )
        data = {"photographs": found, "least_cosine": round(self.least, 3)}
        if not found:
            reason = f"no photograph of {self.name} is as near as its own are to each other"
            return nothing("event", component, f"{reason} ({alike.max():.2f} < {self.least:.2f})", **data)
        return Line("event", component, f"most like {'; '.join(map(_named, found))}", data=data)


def _named(row: dict[str, Any]) -> str:
    words = f"{row['caption']!r}" if row["caption"] else "without a caption"
    same = ", the same picture" if row["cosine"] >= SAME else ""
    ratings = ", ".join(f"{name} {row[name]:.1f}" for name in ("valence", "arousal") if row[name] is not None)
    return f"{row['key']}{same}, {words} ({ratings or 'not rated'})"
