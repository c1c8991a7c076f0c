"""Any WebDataset of images with captions: tars of KEY.jpg with KEY.txt or KEY.json, as img2dataset writes."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from vea.data.sample import Sample
from vea.data.sources.base import Source, UnreadableRecord, texts_of
from vea.data.views.formats import SUFFIXES, pictures_below
from vea.errors import VeaError


def member_name(name: str) -> tuple[str, str]:
    """Returns (key with its folders, extension in lower case) of a member, by WebDataset's rule.

    The base name is cut at its first dot, so folders may have dots. Hidden files (macOS writes ``._NAME``) have no
    extension here: they are no samples.
    """
    folders, _, base = name.replace("\\", "/").rpartition("/")
    kept = [part for part in folders.split("/") if part not in ("", ".")]
    stem, _, extension = base.partition(".")
    hidden = not stem or any(part.startswith(".") or part == "__MACOSX" for part in kept)
    return "/".join([*kept, stem]), "" if hidden else extension.lower()


class WebDataset(Source):
    """Every ``*.tar`` below ROOT/SPLIT, or below ROOT as ``train``. The text is KEY.txt, else ``caption`` of the JSON.

    Keys get the tar's name in front, since img2dataset numbers within a shard.
    """

    options = {"caption": "caption"}  # noqa: RUF012

    def splits(self, root: Path) -> list[str]:
        """Returns the splits that have a folder with tars, or train for tars in the root."""
        named = [split for split in ("train", "val", "test") if any((root / split).glob("*.tar"))]
        if not named and not any(root.glob("*.tar")):
            if pictures_below(root)[0]:  # img2dataset's form without tars: folders of KEY.jpg, KEY.txt, KEY.json
                return [split for split in ("train", "val", "test") if (root / split).is_dir()] or ["train"]
            raise VeaError(f"{root} holds no *.tar files, nor do train, val, test in it")
        return named or ["train"]

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (tar stem and member stem, (tar, {extension: (offset, bytes)}, damage)) in the order of the tars.

        Only headers are read. Where a tar ends early or is damaged, one record more says so.
        """
        folder = root / split if any((root / split).glob("*.tar")) else root
        if not any(folder.glob("*.tar")):
            return self._files(root / split if (root / split).is_dir() else root)
        records: list[tuple[str, Any]] = []
        for path in sorted(folder.glob("*.tar")):
            current, damage = "", ""
            parts: dict[str, dict[str, tuple[int, int]]] = {}  # members of a sample need not lie side by side
            try:
                with tarfile.open(path) as tar:
                    for member in tar:
                        current, extension = member_name(member.name)
                        if member.isfile() and extension:
                            parts.setdefault(current, {})[extension] = (member.offset_data, member.size)
            except (tarfile.TarError, EOFError, OSError) as error:
                damage = f"{path.name} ends early or is damaged: {error}"
            if not damage and path.stat().st_size % tarfile.BLOCKSIZE:
                damage = f"{path.name} ends early: {path.stat().st_size:,} bytes are no whole number of tar blocks"
            records += [(f"{path.stem}_{base.replace('/', '__')}", (path, found, "")) for base, found in parts.items()]
            if damage:
                records.append((f"{path.stem} after {current or None}", (path, {}, damage)))
        return records

    @staticmethod
    def _files(folder: Path) -> list[tuple[str, Any]]:
        """Returns (key by path, (folder, {extension: file}, "")) of the pictures in folders."""
        records = []
        for path in pictures_below(folder)[0]:
            beside = {name: path.with_suffix(f".{name}") for name in ("txt", "json")}
            files = {path.suffix[1:].lower(): path} | {name: file for name, file in beside.items() if file.is_file()}
            key = path.relative_to(folder).with_suffix("").as_posix().replace("/", "__")
            records.append((key, (folder, files, "")))
        return records

    def listing(self, root: Path, split: str, *, limit: int | None = None) -> list[tuple[str, Any]]:
        """Returns the records as the tars have them: img2dataset has shuffled already, and reading stays in order."""
        return list(self.records(root, split))[:limit]

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one image with its caption."""
        path, members, damage = record
        if damage:
            raise UnreadableRecord(damage)
        extension = next((name for name in members if f".{name}" in SUFFIXES), None)
        if extension is None:
            raise UnreadableRecord(f"no image among {', '.join(sorted(members))}")
        wanted = {extension, "txt", "json"} & set(members)
        if path.is_dir():
            parts = {name: members[name].read_bytes() for name in wanted}
        else:
            with open(path, "rb") as file:
                parts = {name: self._member(file, *members[name]) for name in wanted}
        text = parts.get("txt", b"").decode("utf-8-sig", "replace").strip()
        texts = [text] if text else []
        if not text and "json" in parts:
            try:
                known = json.loads(parts["json"].decode("utf-8-sig", "replace")).get(self.option["caption"])
                texts = texts_of(known)
            except (ValueError, AttributeError):
                raise UnreadableRecord("its JSON is not readable") from None
        return Sample(
            key=key,
            image=parts[extension],
            extension=extension.replace("jpeg", "jpg"),
            text=texts,
            source=self.card.name,
            split=split,
        )

    def _member(self, file: BinaryIO, offset: int, size: int) -> bytes:
        file.seek(offset)
        data = file.read(size)
        if len(data) != size:
            raise UnreadableRecord(f"{Path(file.name).name} ends within this sample")
        return data
