"""Any WebDataset of images with captions: tars of KEY.jpg with KEY.txt or KEY.json, as img2dataset writes."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vea.data.sample import Sample
from vea.data.shards import Skipped
from vea.data.sources.base import Source
from vea.errors import VeaError

_IMAGES = ("jpg", "jpeg", "png", "webp")


class WebDataset(Source):
    """Every ``*.tar`` below ROOT/SPLIT, or below ROOT as ``train``. The text is KEY.txt, else ``caption`` of the JSON.

    Samples come in the order of the tars: they are too many to list first. Keys get the tar's name in front, since
    img2dataset numbers within a shard.
    """

    options = {"caption": "caption"}  # noqa: RUF012

    def splits(self, root: Path) -> list[str]:
        """Returns the splits that have a folder with tars, or train for tars in the root."""
        named = [split for split in ("train", "val", "test") if any((root / split).glob("*.tar"))]
        if not named and not any(root.glob("*.tar")):
            raise VeaError(f"{root} holds no *.tar files, nor do train, val, test in it")
        return named or ["train"]

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (stem, path) of the tars."""
        folder = root / split if any((root / split).glob("*.tar")) else root
        return [(path.stem, path) for path in sorted(folder.glob("*.tar"))]

    def samples(self, root: str | Path, split: str, *, limit: int | None = None) -> Iterator[Sample | Skipped]:
        """Yields the samples tar by tar; what cannot be read is a ``Skipped`` with the reason."""
        number = 0
        for stem, path in self.records(Path(root), split):
            for made in self._tar(path, stem, split):
                if limit is not None and number >= limit:
                    return
                number += 1
                yield made

    def _tar(self, path: Path, stem: str, split: str) -> Iterator[Sample | Skipped]:
        parts: dict[str, bytes] = {}
        current: str | None = None
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    if not member.isfile():
                        continue
                    base, _, extension = member.name.partition(".")
                    if base != current and current is not None:
                        yield self._sample(parts, f"{stem}_{Path(current).name}", split)
                        parts = {}
                    current = base
                    file = tar.extractfile(member)
                    parts[extension.lower()] = file.read() if file else b""
        except (tarfile.TarError, EOFError, OSError) as error:
            yield Skipped(f"{stem} after {current}", f"{path.name} ends early or is damaged: {error}")
        if current is not None:
            yield self._sample(parts, f"{stem}_{Path(current).name}", split)

    def _sample(self, parts: dict[str, bytes], key: str, split: str) -> Sample | Skipped:
        extension = next((name for name in _IMAGES if name in parts), None)
        if extension is None:
            return Skipped(key, f"no image among {', '.join(sorted(parts))}")
        text = parts.get("txt", b"").decode("utf-8", "replace").strip()
        if not text and "json" in parts:
            try:
                text = str(json.loads(parts["json"]).get(self.option["caption"]) or "").strip()
            except (ValueError, AttributeError):
                return Skipped(key, "its JSON is not readable")
        return Sample(
            key=key,
            image=parts[extension],
            extension=extension.replace("jpeg", "jpg"),
            text=[text] if text else [],
            source=self.card.name,
            split=split,
        )
