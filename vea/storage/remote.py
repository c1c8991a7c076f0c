"""Prepared data sets on a server: shards from http(s), s3 or any fsspec URL, kept in a bounded cache on this machine.

A shard is fetched when it is first read, checked against the index, and shared by all processes of the machine. The
cache is ``data.cache_dir`` with ``data.cache_gb`` (VEA_CACHE_DIR, VEA_CACHE_GB for commands without a config); beyond
it the shards that were not used for longest go. A map of a shard that is removed stays readable. Rows of sidecars share
the cache and its bound; they have no checksums, so the number of rows is what is checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from vea.errors import RunError, VeaError
from vea.storage import atomic
from vea.storage.lock import claim

T = TypeVar("T")
SIDECARS = ".sidecars"  # in a set's place in the cache; what `vea enrich URL` writes there itself is in `sidecars`
ATTEMPTS = 6
FIRST_WAIT_S = 0.5  # doubles: a server may be away for half a minute


class Absent(RunError):
    """A server answers that it has no such file."""


def check_name(name: Any, *, where: str) -> str:
    """Returns the file name that an index gives; one that leaves the folder of its set is refused.

    Raises:
        VeaError: it is no plain name of one part: folders, drives, hidden files, control characters, links by dots.
    """
    if not isinstance(name, str) or not re.fullmatch(r"(?!\.)[^/\\:\x00-\x1f]{1,200}", name) or name.strip() != name:
        raise VeaError(
            f"{where} names a file {str(name)[:80]!r}, which is no plain file name: do not use this data set"
        )
    return name


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
    query: str = field(default="", repr=False)  # of a signed URL: part of every request, of no name and no message

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Remote:
        """Returns the data set at a URL; equal names at different URLs do not meet in the cache."""
        scheme, _, rest = str(path).partition(":")
        rest, _, query = rest.partition("?")
        url = f"{scheme}://{rest.strip('/').removesuffix('index.json').rstrip('/')}"
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", url.rpartition("/")[2])[:40]
        return cls(url, cache_root() / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:16]}", query)

    def index(self) -> Path:
        """Returns ``index.json``, fetched anew: it says what every shard must be."""
        target = self.folder / "index.json"
        self._fetch("index.json", target)
        return target

    def shard(self, entry: Mapping[str, Any], open_it: Callable[[Path], T]) -> T:
        """Returns what ``open_it`` makes of a shard's tar on this machine, its offsets beside it.

        Nobody makes room by removing a file while it is being opened; what is open stays readable.

        Raises:
            RunError: the server does not have it, or what it sends is not what the index says.
        """
        path = self.folder / check_name(entry["file"], where=f"{self.url}/index.json")
        with self._alone(path.with_suffix("")):
            there = path.is_file() and path.stat().st_size == entry["bytes"] and path.with_suffix(".idx").is_file()
            if there:
                os.utime(path)
            else:
                self._fetch(path.with_suffix(".idx").name, path.with_suffix(".idx"))
                self._fetch(path.name, path, partial(_difference, entry=entry))
            opened = open_it(path)
        if not there:
            _make_room(keep=path)
        return opened

    def sidecar(self, name: str) -> Path | None:
        """Returns the folder for a sidecar's rows, ``meta.json`` in it, or None where the server has no such sidecar.

        ``meta.json`` is fetched anew; rows that were made with another one are in a folder of their own.
        """
        fetched = self.folder / SIDECARS / f"{check_name(name, where='the config')}.json"
        with self._alone(fetched):
            try:
                self._fetch(f"sidecars/{name}/meta.json", fetched)
            except Absent:
                return None
            folder = fetched.with_name(f"{name}-{hashlib.sha256(fetched.read_bytes()).hexdigest()[:16]}")
            folder.mkdir(exist_ok=True)
            atomic.rename(fetched, folder / "meta.json")
        return folder

    def rows(self, name: str, path: Path, check: Callable[[Path], str], open_it: Callable[[Path], T]) -> T:
        """Returns what ``open_it`` makes of ``path``, a file of the sidecar's folder, fetched where the cache lacks it.

        Args:
            name: of the sidecar.
            path: in the folder that ``sidecar`` returned.
            check: says what is wrong with a file that was fetched; nothing is the empty text.
            open_it: is called while nobody else may remove the file.

        Raises:
            RunError: the server does not have it (``Absent``), or what it sends is wrong.
        """
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise VeaError(f"{path.name!r} is not in the cache of {self.url}: do not use this data set")
        with self._alone(path):
            there = path.is_file()
            if there:
                os.utime(path)
            else:
                self._fetch(f"sidecars/{name}/{path.name}", path, check)
            opened = open_it(path)
        if not there:
            _make_room(keep=path)
        return opened

    @contextlib.contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Lets one process fetch a file; the others find it there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(_lock_of(path), "w") as lock:
            claim(lock, wait=True)
            yield

    def _fetch(self, name: str, target: Path, check: Callable[[Path], str] = lambda path: "") -> None:
        """Fetches a file under a temporary name; a server that is away or sends rubbish is asked again."""
        url = f"{self.url}/{name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = atomic.partial_name(target)
        try:
            for attempt in range(ATTEMPTS):
                if attempt:
                    time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
                try:
                    _download(f"{url}?{self.query}" if self.query else url, draft)
                    problem = check(draft)
                except VeaError:
                    raise
                except FileNotFoundError:
                    raise Absent(f"{url} does not exist; copy the data set to the server again") from None
                except PermissionError as error:
                    raise RunError(f"{url}: not allowed ({error}); check the address and your credentials") from None
                except Exception as error:  # each kind of server has errors of its own
                    problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
                    if self.query:
                        problem = problem.replace(self.query, "...")
                if not problem:
                    atomic.rename(draft, target)
                    return
        finally:
            atomic.remove(draft)
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


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _make_room(*, keep: Path) -> None:
    """Removes the shards and rows that were not used for longest until the cache fits its bound."""
    limit = float(os.environ.get("VEA_CACHE_GB") or 50) * 1e9
    known = []
    for path in (*cache_root().glob("*/*.tar"), *cache_root().glob(f"*/{SIDECARS}/*/[!.]*-*")):
        try:
            known.append((path.stat().st_mtime, path.stat().st_size, path))
        except FileNotFoundError:  # another process makes room too
            continue
    total = sum(size for _, size, _ in known)
    for _, size, path in sorted(known):
        if total <= limit:
            return
        if path == keep:
            continue
        shard = path.suffix == ".tar"
        with open(_lock_of(path.with_suffix("") if shard else path), "w") as lock:
            if not claim(lock):  # somebody opens it just now
                continue
            atomic.remove(path)
            if shard:
                atomic.remove(path.with_suffix(".idx"))
        total -= size
