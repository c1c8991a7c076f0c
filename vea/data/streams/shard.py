"""The samples of one shard, in its order: grouped by webdataset, from headers alone where the shard can be seeked."""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import re
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from vea.data.streams.urls import local_tar, open_url, shown, stem
from vea.data.views.formats import SUFFIXES
from vea.errors import VeaError

Place = tuple[int, int]  # offset and bytes of a member in a file
PICTURES = ("jpg", "jpeg", "png", "webp", *sorted({end[1:] for end in SUFFIXES} - {"jpg", "jpeg", "png", "webp"}))
KEPT = {*PICTURES, "txt", "json", "cls"}
LOOKED_AT = 400  # files of a shard that are looked at for labels that nobody reads
USUAL = ("label", "class", "emotion", "expression", "valence", "arousal")  # names of labels in JSON of others
ATTEMPTS = 3  # of a shard whose connection breaks
_META = re.compile(r"__[^/]*__($|/)")  # what webdataset passes over


@dataclass
class Record:
    """One sample, undecoded: its members by extension, as bytes or as their place in the file ``path``.

    ``problems`` says what stood before it in the shard and was no sample: {key: sentence}.
    """

    key: str
    picture: str
    members: dict[str, bytes | Place]
    path: str = ""
    problems: dict[str, str] = field(default_factory=dict)


class Missing(Exception):
    """There is no such shard."""


class Damaged(Exception):
    """A shard ends early, or is no tar from some byte on; the samples before that were given."""


def records(url: str) -> Iterator[Record]:
    """Yields the samples of a shard in its order.

    Of a plain tar on this machine only the headers are read; anything else is read from its beginning to where the
    caller stops, and opened again where a connection breaks.

    Raises:
        Missing: no such shard.
        Damaged: it ends early; what came before was yielded.
    """
    if local_tar(url) is not None:
        yield from _samples(url, _headers(url))
        return
    given = 0
    for attempt in range(ATTEMPTS):
        try:
            for record in itertools.islice(_samples(url, _members(url)), given, None):
                given += 1
                yield record
            return
        except Damaged:
            if attempt == ATTEMPTS - 1:
                raise


def _headers(url: str) -> Iterator[dict[str, Any]]:
    """Yields webdataset's file records of a tar on this machine, each with a place instead of its bytes."""
    path = local_tar(url)
    assert path is not None
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # a shard has tens of thousands
                if member.isreg() and not _META.match(member.name):
                    if member.offset_data + member.size > size:
                        raise Damaged(f"ends within {member.name}")
                    place = member.offset_data, member.size
                    yield {"fname": member.name, "data": place, "__url__": url}
            tar.fileobj.seek(tar.offset)  # type: ignore[union-attr, attr-defined]
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # type: ignore[union-attr]
                raise Damaged("ends without the two empty blocks that end a tar")
    except FileNotFoundError:
        raise Missing("there is no such file") from None
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Damaged(str(error)) from None


class _Watched:
    """A stream that knows how many bytes came, and whether they ended with an empty block, as a tar does."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.count, self.last = stream, 0, b""

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.count += len(data)
        self.last = (self.last + data[-tarfile.BLOCKSIZE :])[-tarfile.BLOCKSIZE :]
        return data

    def tell(self) -> int:
        return self.count


def _members(url: str) -> Iterator[dict[str, Any]]:
    """Yields webdataset's file records of a stream."""
    from webdataset.tariterators import tar_file_iterator

    try:
        stream = open_url(url)
    except FileNotFoundError:
        raise Missing("there is no such object") from None
    except (OSError, ValueError) as error:
        raise Missing(" ".join(str(error).split())) from None
    watched, problem = _Watched(stream), ""
    try:
        for member in tar_file_iterator(watched):  # type: ignore[arg-type]
            yield {**member, "__url__": url}
        plain = not re.search(r"\.(?:tgz|tar\.\w+)$", shown(url))
        if watched.count and plain and any(watched.last):
            problem = "ends without the two empty blocks that end a tar"
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
    except GeneratorExit:
        _close(stream)
        raise
    status = _close(stream)
    if status == 22 and url.startswith("http"):  # curl: the server answers with an error
        raise Missing("the server has no such file")
    if not watched.count and not (status and url.startswith("http")):
        raise Missing(f"nothing came{f' (exit {status})' if status else ''}")
    if problem or status:
        raise Damaged(problem or f"the transfer broke off (exit {status})")


def _close(stream: Any) -> int:
    """Returns the exit status of the process behind a stream; 0 where there is none or where it was cut short."""
    with contextlib.suppress(OSError):
        stream.close()
    status = getattr(getattr(stream, "proc", None), "returncode", 0) or 0
    return 0 if status in (141, -13, 23) else status


def _samples(url: str, members: Iterator[dict[str, Any]]) -> Iterator[Record]:
    """Yields what of webdataset's groups has a picture; the others are problems of the next that has."""
    from webdataset.tariterators import group_by_keys

    path, name = local_tar(url), stem(url)
    problems: dict[str, str] = {}

    def twice(error: Exception) -> bool:
        if not isinstance(error, ValueError):  # of this file, not of a sample
            raise error
        problems[name] = f"{shown(url)}: {error.args[0]}; the first one is used"
        return True

    held: Record | None = None  # the last one waits: what comes after it has no other sample to tell
    groups = group_by_keys(members, suffixes=KEPT, handler=twice)
    while True:
        try:
            group = next(groups)
        except StopIteration:
            break
        except Damaged:
            if held is not None:
                yield held
            raise
        kept = {suffix: data for suffix, data in group.items() if suffix in KEPT}
        key = f"{name}_{group['__key__'].strip('./').replace('/', '__')}"
        picture = next((suffix for suffix in PICTURES if suffix in kept), None)
        if picture is None:
            problems[key] = f"{shown(url)}: {group['__key__']!r} has no picture; it is left out"
            continue
        if held is not None:
            yield held
        held, problems = Record(key, picture, kept, str(path or ""), problems), {}
    if held is not None:
        held.problems |= problems
        yield held
    elif problems:
        raise Damaged(f"none of its {len(problems)} groups has a picture")


def left_unread(url: str, fields: Collection[str]) -> dict[str, int]:
    """Returns {what: files} of a shard that may be labels and are not read, of its first ``LOOKED_AT`` files.

    Of a tar that does not lie on this machine nothing is known beforehand.

    Args:
        url: of the shard.
        fields: the labels that the config names; where it is one, ``KEY.cls`` is read.
    """
    path, counts = local_tar(url), collections.Counter[str]()
    if path is None:
        return {}
    with contextlib.suppress(Missing, Damaged, OSError):
        for file in itertools.islice(_headers(url), LOOKED_AT):
            base = file["fname"].rpartition("/")[2]
            suffix = base.partition(".")[2].lower()
            if not suffix or base.startswith("."):
                continue
            if suffix not in KEPT or (suffix == "cls" and len(fields) != 1):
                counts[f".{suffix}"] += 1
            elif suffix == "json":
                with path.open("rb") as tar:
                    tar.seek(file["data"][0])
                    counts.update(_labels_in(tar.read(file["data"][1]), fields))
    return dict(counts)


def _labels_in(data: bytes, fields: Collection[str]) -> list[str]:
    """Returns the labels of a sample's JSON that no field reads."""
    try:
        known = json.loads(data.decode("utf-8-sig", "replace"))
    except ValueError:
        return []
    if not isinstance(known, dict):
        return []
    own = known["labels"] if isinstance(known.get("labels"), dict) else {k: known[k] for k in USUAL if k in known}
    return [f"{name!s:.40} of .json" for name, value in own.items() if name not in fields and value is not None]


def member(record: Record, suffix: str) -> bytes:
    """Returns the bytes of a member, read now where its place is known; raises ``VeaError`` where the file changed."""
    data = record.members[suffix]
    if isinstance(data, bytes):
        return data
    with open(record.path, "rb", buffering=0) as file:
        file.seek(data[0])
        found = file.read(data[1])
    if len(found) != data[1]:
        raise VeaError(f"{record.path} became shorter while it was read; start again when it is whole")
    return found
