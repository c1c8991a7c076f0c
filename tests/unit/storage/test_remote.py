"""The cache of remote sets: who opens a file is never overtaken by who makes room."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import shutil

import pytest

from vea.storage import remote
from vea.storage.remote import Remote

SHARDS, SIZE, READERS, READS = 5, 4000, 4, 40


def content(number: int, suffix: str) -> bytes:
    return (f"{number}{suffix} " * SIZE).encode()[:SIZE]


@pytest.fixture
def server(tmp_path, monkeypatch):
    folder = tmp_path / "server"
    folder.mkdir()
    for number in range(SHARDS):
        for suffix in (".tar", ".idx"):
            (folder / f"train-{number}{suffix}").write_bytes(content(number, suffix))
    monkeypatch.setenv("VEA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("VEA_CACHE_GB", str(1.5 * SIZE / 1e9))  # one shard: each that is fetched drives another out
    monkeypatch.setattr(remote, "_download", lambda url, path: shutil.copy(folder / url.rpartition("/")[2], path))
    return "http://server.test/set"


def entry(number: int) -> dict:
    data = content(number, ".tar")
    return {"file": f"train-{number}.tar", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def both(path):
    return path.read_bytes(), path.with_suffix(".idx").read_bytes()


def read_many(url: str, seed: int, failures) -> None:
    cache, draw = Remote.at(url), random.Random(seed)
    for _ in range(READS):
        number = draw.randrange(SHARDS)
        try:
            if cache.shard(entry(number), both) != (content(number, ".tar"), content(number, ".idx")):
                failures.put(f"another content of shard {number}")
        except Exception as error:
            failures.put(f"{type(error).__name__}: {error}")


def test_readers_and_evictors_never_meet(server, tmp_path):
    context = multiprocessing.get_context("fork")
    failures = context.Queue()
    processes = [context.Process(target=read_many, args=(server, seed, failures)) for seed in range(READERS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert failures.empty(), failures.get()
    left = [path.name for path in (tmp_path / "cache").rglob("train-*.tar")]
    assert 1 <= len(left) <= READERS  # the bound was at work: of five shards, at most one a reader is left


def test_what_is_open_stays_readable(server):
    cache = Remote.at(server)
    with cache.shard(entry(0), lambda path: path.open("rb")) as file:
        for number in range(1, SHARDS):
            cache.shard(entry(number), both)
        assert file.read() == content(0, ".tar")
