"""Names of streams: what counts as one, which shards it has, and how one is opened, through webdataset."""

from __future__ import annotations

import glob
import importlib
import re
from pathlib import Path
from typing import Any, BinaryIO

from vea.errors import VeaError
from vea.storage.remote import is_url

_TAR = re.compile(r"\.(?:tar(?:\.\w+)?|tgz)(?:\?.*)?$")


def is_stream(path: str) -> bool:
    """Returns whether ``path`` names tars to be read as they come: ``a/{000..411}.tar``, URLs, ``pipe:`` commands."""
    return path.startswith("pipe:") or "::" in path or _TAR.search(path) is not None


def expand(path: str) -> list[str]:
    """Returns the shards that ``path`` names, by webdataset's rule: ``{000..411}``, ``a::b``, and ``*`` in a folder.

    Raises:
        VeaError: there are none, or one is named twice.
    """
    from webdataset.shardlists import expand_urls

    urls: list[str] = []
    for url in expand_urls(path):
        local = not url.startswith("pipe:") and not is_url(url)
        urls += sorted(glob.glob(url)) if local and "*" in url else [url]
    if not urls:
        raise VeaError(f"{shown(path)} names no shards; write for example data/{{00000..00099}}.tar")
    if len(set(urls)) != len(urls):
        raise VeaError(f"{shown(path)} names a shard twice: each sample would come twice a pass")
    return urls


def shown(url: str) -> str:
    """Returns a URL without its query, which may hold a signature."""
    return url if url.startswith("pipe:") else re.sub(r"\?[^:]*", "", url)


def stem(url: str) -> str:
    """Returns a shard's name without folder and ``.tar``, the first part of its samples' keys."""
    named = re.findall(r"([^/\s'\"|<>]+?)\.(?:tar|tgz)\b", shown(url))
    return named[-1] if named else re.sub(r"\W+", "-", url).strip("-")[-60:]


def local_tar(url: str) -> Path | None:
    """Returns the file of a shard whose members can be found by seeking: a plain tar on this machine."""
    if url.startswith("pipe:") or (is_url(url) and not url.startswith("file:")):
        return None
    path = Path(re.sub(r"^file:(//)?", "", url))
    return path if path.suffix == ".tar" else None


def open_url(url: str) -> BinaryIO:
    """Returns a shard as a stream of bytes; s3 goes through fsspec, for which webdataset has no handler."""
    return register().gopen(url)


def register() -> Any:
    """Teaches webdataset to open s3 URLs; returns its module."""
    module = importlib.import_module("webdataset.gopen")  # the package's name ``gopen`` is the function
    module.gopen_schemes.setdefault("s3", _open_fsspec)
    return module


def _open_fsspec(url: str, mode: str = "rb", bufsize: int = 8192) -> Any:
    try:
        import fsspec

        return fsspec.open(url, mode).open()
    except (ImportError, ValueError) as error:
        raise VeaError(f"{shown(url)}: reading it needs another package ({error}): pip install 'vea[remote]'") from None


def read_beside(url: str, suffix: str) -> bytes | None:
    """Returns the file that lies beside a shard under its name with ``suffix`` for ``.tar``; None where it does not."""
    if url.startswith("pipe:"):
        return None
    place, mark, query = url.partition("?")
    name = re.sub(r"\.(?:tar(?:\.\w+)?|tgz)$", "", place) + suffix + mark + query
    try:
        if not is_url(name):
            return Path(name).read_bytes()
        import fsspec

        with fsspec.open(name, "rb") as file:
            return file.read()
    except Exception:  # each kind of server has errors of its own; without the file the shard is read
        return None
