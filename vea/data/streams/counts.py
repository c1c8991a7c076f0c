"""How many samples a shard holds, without reading it: img2dataset's statistics, or what was counted before."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

from vea.data.streams.urls import local_tar, read_beside, shown
from vea.storage import atomic
from vea.storage.remote import cache_root


class Counts:
    """The sizes of the shards ``urls``: found, learned while they are read, and kept for the next life of a run.

    A resume passes over shards whose size is known. Sizes are kept in ``streams/`` of the shard cache, those of files
    with their bytes and time, so that another file under the same name is counted anew.
    """

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self._known: dict[int, int] = {}
        self._stated: dict[int, int | None] = {}  # by statistics beside the shard
        self._none_beside = False  # the first shard that was asked for has no statistics: neither have the others

    def known(self, shard: int) -> int | None:
        """Returns the samples of a shard, or None where only reading it would say."""
        if shard not in self._known:
            found = self._kept(shard)
            found = self.stated(shard) if found is None else found
            if found is None:
                return None
            self._known[shard] = found
        return self._known[shard]

    def stated(self, shard: int) -> int | None:
        """Returns what img2dataset's ``_stats.json`` or ``.parquet`` beside a shard says of its samples."""
        if shard not in self._stated and not self._none_beside:
            self._stated[shard] = _stated(self.urls[shard])
            self._none_beside = self._stated[shard] is None and len(self._stated) == 1
        return self._stated.get(shard)

    def learn(self, shard: int, samples: int) -> None:
        """Takes in how many samples a shard gave, for other processes and the next life of a run too."""
        self._known[shard] = samples
        if self._kept(shard) != samples:
            place = self._place(shard)
            place.parent.mkdir(parents=True, exist_ok=True)
            record = {"samples": samples, "file": self._file(shard), "url": shown(self.urls[shard])}
            atomic.write_text(place, json.dumps(record) + "\n")

    def total(self) -> int | None:
        """Returns the samples of all shards where each is known without a request, else None."""
        sizes = []
        for shard, url in enumerate(self.urls):
            if local_tar(url) is None or (size := self.known(shard)) is None:
                return None
            sizes.append(size)
        return sum(sizes)

    def _place(self, shard: int) -> Path:
        name = hashlib.sha256(shown(self.urls[shard]).encode()).hexdigest()[:24]
        return cache_root() / "streams" / name[:2] / f"{name}.json"

    def _file(self, shard: int) -> list[int] | None:
        path = local_tar(self.urls[shard])
        if path is None or not path.is_file():
            return None
        found = path.stat()
        return [found.st_size, found.st_mtime_ns]

    def _kept(self, shard: int) -> int | None:
        try:
            record = json.loads(self._place(shard).read_bytes())
            return int(record["samples"]) if record["file"] == self._file(shard) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _stated(url: str) -> int | None:
    raw = read_beside(url, "_stats.json")
    if raw is not None:
        try:
            return int(json.loads(raw)["successes"])
        except (ValueError, KeyError, TypeError):
            return None
    raw = read_beside(url, ".parquet")
    if raw is None:
        return None
    try:
        import pyarrow.parquet

        status = pyarrow.parquet.read_table(io.BytesIO(raw), columns=["status"])["status"]
        return status.to_pylist().count("success")
    except Exception:  # no pyarrow, or another parquet than img2dataset's: the shard is read
        return None
