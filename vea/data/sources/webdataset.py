"""Any WebDataset of images with captions: tars of KEY.jpg with KEY.txt or KEY.json, as img2dataset writes."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from vea.data.sample import Sample
from vea.data.sources.base import Source, UnreadableRecord
from vea.errors import VeaError

_IMAGES = ("jpg", "jpeg", "png", "webp")


class WebDataset(Source):
    """Every ``*.tar`` below ROOT/SPLIT, or below ROOT as ``train``. The text is KEY.txt, else ``caption`` of the JSON.

    Keys get the tar's name in front, since img2dataset numbers within a shard.
    """

    options = {"caption": "caption"}  # noqa: RUF012

    def splits(self, root: Path) -> list[str]:
        """Returns the splits that have a folder with tars, or train for tars in the root."""
        named = [split for split in ("train", "val", "test") if any((root / split).glob("*.tar"))]
        if not named and not any(root.glob("*.tar")):
            raise VeaError(f"{root} holds no *.tar files, nor do train, val, test in it")
        return named or ["train"]

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (tar stem and member stem, (tar, {extension: (offset, bytes)}, damage)) in the order of the tars.

        Only headers are read. Where a tar ends early or is damaged, one record more says so.
        """
        folder = root / split if any((root / split).glob("*.tar")) else root
        records: list[tuple[str, Any]] = []
        for path in sorted(folder.glob("*.tar")):
            current, damage = None, ""
            try:
                with tarfile.open(path) as tar:
                    for member in tar:
                        base, _, extension = member.name.partition(".")
                        if not member.isfile():
                            continue
                        if base != current:
                            current = base
                            records.append((f"{path.stem}_{Path(base).name}", (path, {}, "")))
                        records[-1][1][1][extension.lower()] = (member.offset_data, member.size)
            except (tarfile.TarError, EOFError, OSError) as error:
                damage = f"{path.name} ends early or is damaged: {error}"
            if not damage and path.stat().st_size % tarfile.BLOCKSIZE:
                damage = f"{path.name} ends early: {path.stat().st_size:,} bytes are no whole number of tar blocks"
            if damage:
                records.append((f"{path.stem} after {current}", (path, {}, damage)))
        return records

    def listing(self, root: Path, split: str, *, limit: int | None = None) -> list[tuple[str, Any]]:
        """Returns the records as the tars have them: img2dataset has shuffled already, and reading stays in order."""
        return list(self.records(root, split))[:limit]

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one image with its caption."""
        path, members, damage = record
        if damage:
            raise UnreadableRecord(damage)
        extension = next((name for name in _IMAGES if name in members), None)
        if extension is None:
            raise UnreadableRecord(f"no image among {', '.join(sorted(members))}")
        with open(path, "rb") as file:
            parts = {name: self._member(file, *members[name]) for name in {extension, "txt", "json"} & set(members)}
        text = parts.get("txt", b"").decode("utf-8", "replace").strip()
        if not text and "json" in parts:
            try:
                text = str(json.loads(parts["json"]).get(self.option["caption"]) or "").strip()
            except (ValueError, AttributeError):
                raise UnreadableRecord("its JSON is not readable") from None
        return Sample(
            key=key,
            image=parts[extension],
            extension=extension.replace("jpeg", "jpg"),
            text=[text] if text else [],
            source=self.card.name,
            split=split,
        )

    def _member(self, file: BinaryIO, offset: int, size: int) -> bytes:
        file.seek(offset)
        data = file.read(size)
        if len(data) != size:
            raise UnreadableRecord(f"{Path(file.name).name} ends within this sample")
        return data
