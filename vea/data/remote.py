"""Prepared data sets on a server: shards from http(s), s3 or any fsspec URL, kept in a bounded cache on this machine.

A shard is fetched when it is first read, checked against the index, and shared by all processes of the machine. The
cache is ``data.cache_dir`` with ``data.cache_gb`` (VEA_CACHE_DIR, VEA_CACHE_GB for commands without a config); beyond
it the shards that were not used for longest go. A map of a shard that is removed stays readable.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vea.errors import RunError, VeaError

ATTEMPTS = 6
FIRST_WAIT_S = 0.5  # doubles: a server may be away for half a minute


def is_url(path: str | os.PathLike[str]) -> bool:
    """Returns whether a data set is on a server; a ``Path`` of a URL has lost a slash and counts as well."""
    return re.match(r"[a-z][a-z0-9+]+:/", str(path)) is not None


def cache_root() -> Path:
    """Returns the folder that holds the shards of all servers."""
    return Path(os.environ.get("VEA_CACHE_DIR") or ".cache/shards").resolve()


@dataclass(frozen=True)
class Remote:
    """A prepared data set at ``url``; ``folder`` is its place in the cache."""

    url: str
    folder: Path

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Remote:
        """Returns the data set at a URL; equal names at different URLs do not meet in the cache."""
        scheme, _, rest = str(path).partition(":")
        url = f"{scheme}://{rest.strip('/').removesuffix('index.json').rstrip('/')}"
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", url.rpartition("/")[2])[:40]
        return cls(url, cache_root() / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:16]}")

    def index(self) -> Path:
        """Returns ``index.json``, fetched anew: it says what every shard must be."""
        target = self.folder / "index.json"
        self._fetch("index.json", target)
        return target

    def shard(self, entry: Mapping[str, Any]) -> Path:
        """Returns a shard's tar on this machine, its offsets beside it.

        Raises:
            RunError: the server does not have it, or what it sends is not what the index says.
        """
        path = self.folder / entry["file"]
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f".{path.stem}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process fetches, the others find it there
            if path.is_file() and path.stat().st_size == entry["bytes"] and path.with_suffix(".idx").is_file():
                os.utime(path)
                return path
            self._fetch(path.with_suffix(".idx").name, path.with_suffix(".idx"))
            self._fetch(path.name, path, entry)
        _make_room(keep=path)
        return path

    def _fetch(self, name: str, target: Path, entry: Mapping[str, Any] | None = None) -> None:
        """Fetches a file under a temporary name; a server that is away or sends rubbish is asked again."""
        url = f"{self.url}/{name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            for attempt in range(ATTEMPTS):
                if attempt:
                    time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
                try:
                    _download(url, partial)
                    problem = _difference(partial, entry) if entry else ""
                except VeaError:
                    raise
                except FileNotFoundError:
                    raise RunError(f"{url} does not exist; copy the data set to the server again") from None
                except PermissionError as error:
                    raise RunError(f"{url}: not allowed ({error}); check the address and your credentials") from None
                except Exception as error:  # each kind of server has errors of its own
                    problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
                if not problem:
                    partial.replace(target)
                    return
        finally:
            partial.unlink(missing_ok=True)
        raise RunError(f"{url} cannot be read after {ATTEMPTS} attempts: {problem}")


def _download(url: str, path: Path) -> None:
    import fsspec

    options: dict[str, Any] = {}
    try:
        if url.startswith("http"):
            import aiohttp

            # no limit on the whole: a shard of gigabytes may take minutes; a silent connection is given up
            silent = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
            options = {"client_kwargs": {"timeout": silent}}
        system, place = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise VeaError(f"{url}: reading it needs another package ({error}): pip install 'vea[remote]'") from None
    system.get_file(place, str(path))


def _difference(path: Path, entry: Mapping[str, Any]) -> str:
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"{size:,} bytes, the index says {entry['bytes']:,}"
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return "" if found == entry["sha256"] else "another checksum than the index says"


def _make_room(*, keep: Path) -> None:
    """Removes the shards that were not used for longest until the cache fits its bound."""
    limit = float(os.environ.get("VEA_CACHE_GB") or 50) * 1e9
    known = []
    for path in cache_root().glob("*/*.tar"):
        try:
            known.append((path.stat().st_mtime, path.stat().st_size, path))
        except FileNotFoundError:  # another process makes room too
            continue
    total = sum(size for _, size, _ in known)
    for _, size, path in sorted(known):
        if total <= limit:
            return
        if path != keep:
            path.unlink(missing_ok=True)
            path.with_suffix(".idx").unlink(missing_ok=True)
            total -= size
