"""Data sets on servers: a real HTTP server with faults, nginx and an S3 server where they are installed."""

from __future__ import annotations

import http.server
import json
import multiprocessing
import os
import pickle
import shutil
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vea.commands.main import main as cli
from vea.commands.shards import main as shards_main
from vea.config import load_config
from vea.data import synthetic
from vea.data.loading.loader import train_loader
from vea.data.shards.index import read_index
from vea.data.shards.plan import write_dataset
from vea.data.shards.reader import ShardReader
from vea.data.shards.sidecars import Sidecar, check_sidecars
from vea.errors import RunError, VeaError
from vea.storage import remote
from vea.tasks.items import item_spec

REPOSITORY = Path(__file__).resolve().parents[2]
pytest.importorskip("aiohttp", reason="needs the extra: pip install 'vea[remote]'")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """40 drawn scenes in 5 shards."""
    folder = tmp_path_factory.mktemp("served") / "scenes"
    write_dataset({"train": synthetic.samples(40, size=48)}, folder, name="scenes", title="", card=None,
                  fields=synthetic.FIELDS, synthetic=True, shard_size=8)  # fmt: skip
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VEA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    return tmp_path / "cache"


class Server:
    """An HTTP server of a folder; ``fail[name]`` answers are 500 first, ``asked`` counts what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.fail: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        owner = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=str(folder))

            def do_GET(self):
                name = self.path.rpartition("/")[2]
                owner.asked[name] += 1
                if owner.fail[name] > 0:
                    owner.fail[name] -= 1
                    self.send_error(500)
                else:
                    super().do_GET()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server(prepared):
    running = Server(prepared.parent)
    yield running
    running.server.shutdown()
    running.server.server_close()


def batches(path: str, count: int = 4) -> list[tuple[list[str], np.ndarray]]:
    words = ["data.global_batch_size=8", "data.virtual_readers=4", "data.workers=0", "augment.image_size=32"]
    config = load_config(REPOSITORY / "configs" / "pretrain" / "smoke.yaml", [f"data.train.0.path={path}", *words])
    place = {"start_step": 0, "rank": 0, "world_size": 1, "micro_batch": 8}
    made = iter(train_loader(config, item_spec(config), **place))
    return [(batch["keys"], batch["scene"].numpy()) for batch in (next(made) for _ in range(count))]


def same(one, other) -> None:
    assert [keys for keys, _ in one] == [keys for keys, _ in other]
    assert all((a == b).all() for (_, a), (_, b) in zip(one, other, strict=True))


def test_batches_over_http_are_those_of_the_folder(prepared, server, cache, capsys):
    url = f"{server.url}/scenes"
    assert len(ShardReader(url, "train")) == 40
    assert sum(server.asked[f"train-{i:06d}.tar"] for i in range(5)) == 0, "nothing is fetched before it is read"
    same(batches(url), batches(str(prepared)))
    same(batches(url), batches(str(prepared)))
    assert {server.asked[f"train-{i:06d}.tar"] for i in range(5)} == {1}, "the second run reads the cache"
    assert not list(cache.glob("*/.*.tar.*")), "no temporary files stay"
    assert shards_main(["check", url]) == 0 and "40 samples, all well" in capsys.readouterr().out
    assert shards_main(["stats", f"{url}/index.json"]) == 0


def test_a_server_that_stumbles_is_asked_again(server):
    server.fail.update({"index.json": 2, "train-000000.tar": 2, "train-000000.idx": 1})
    reader = ShardReader(f"{server.url}/scenes", "train")
    assert reader.read(0)[0] == "synthetic-0-00000000" and server.asked["train-000000.tar"] == 3


def test_what_cannot_be_read_is_one_sentence(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path / "www" / "scenes")
    (tmp_path / "www" / "scenes" / "train-000001.tar").unlink()
    changed = bytearray((tmp_path / "www" / "scenes" / "train-000002.tar").read_bytes())
    changed[600] ^= 1
    (tmp_path / "www" / "scenes" / "train-000002.tar").write_bytes(changed)
    (tmp_path / "www" / "scenes" / "train-000003.tar").write_bytes(changed[:1000])
    running = Server(tmp_path / "www")
    reader = ShardReader(f"{running.url}/scenes", "train")
    with pytest.raises(RunError, match=r"train-000001.tar does not exist"):
        reader.read(8)
    with pytest.raises(RunError, match=r"train-000002.tar cannot be read after 6 attempts: another checksum"):
        reader.read(16)
    with pytest.raises(RunError, match=r"train-000003.tar cannot be read .*: 1,000 bytes, the index says"):
        reader.read(24)
    assert reader.read(0)[0] and reader.read(39)[0], "the others are readable"
    running.fail["train-000004.tar"] = 99
    shutil.rmtree(remote.cache_root())
    with pytest.raises(RunError, match=r"after 6 attempts: ClientResponseError: 500"):
        ShardReader(f"{running.url}/scenes", "train").read(39)
    with pytest.raises(RunError, match=r"nothing/index.json does not exist"):
        read_index(f"{running.url}/nothing")
    running.server.shutdown()
    running.server.server_close()
    with pytest.raises(RunError, match="cannot be read after 6 attempts: ClientConnector"):
        read_index(f"{running.url}/scenes")
    with pytest.raises(VeaError, match="needs another package"):
        read_index("nowhere://x/y")


def test_the_cache_stays_within_its_bound(prepared, server, cache, monkeypatch):
    size = (prepared / "train-000000.tar").stat().st_size
    monkeypatch.setenv("VEA_CACHE_GB", str(2.5 * size / 1e9))
    reader = ShardReader(f"{server.url}/scenes", "train")
    for i in (0, 8, 16, 24, 32, 0, 39):  # the map of a removed shard stays readable
        assert reader.read(i)[0] == f"synthetic-0-{i:08d}"
        assert len(list(cache.glob("*/*.tar"))) <= 2
    assert ShardReader(f"{server.url}/scenes", "train").read(0)[0] == "synthetic-0-00000000"
    assert server.asked["train-000000.tar"] == 2, "fetched again after it had to go"


def test_sidecars_come_from_the_server_too(prepared, tmp_path, cache, monkeypatch, capsys):
    root = tmp_path / "www" / "scenes"
    shutil.copytree(prepared, root)
    assert cli(["enrich", "prompts", str(root)]) == 0
    running = Server(tmp_path / "www")
    url = f"{running.url}/scenes"
    running.fail.update({"train-000000.jsonl": 2})

    def texts() -> list[str]:
        rows = Sidecar(ShardReader(url, "train"), "prompts", made_by="prompts")
        assert running.asked["train-000004.jsonl"] == 0 or first, "nothing is fetched before it is read"
        return [pickle.loads(pickle.dumps(rows)).row(i)["text"] for i in range(40)]

    first: list[str] = []
    first = texts()
    lines = [line for path in sorted(root.glob("sidecars/*/*.jsonl")) for line in path.read_text().splitlines()]
    written = [json.loads(line)["text"] for line in lines]
    assert first == texts() == written
    assert {running.asked[f"train-{i:06d}.jsonl"] for i in range(1, 5)} == {1}, "the second reader finds them"
    assert shards_main(["check", url]) == 0
    assert "40 samples and the sidecars prompts, all well" in capsys.readouterr().out
    with pytest.raises(VeaError, match=f"{url} has no sidecar persons: run `vea enrich persons {url}`"):
        Sidecar(ShardReader(url, "train"), "persons", made_by="persons")

    folder = root / "sidecars" / "prompts"  # written again: what the cache holds of the former is not used
    shutil.rmtree(folder)
    assert cli(["enrich", "prompts", str(root), "--source", "attributes"]) == 0
    assert texts() != first
    path = folder / "train-000003.jsonl"
    path.write_bytes(path.read_bytes()[:-1].rpartition(b"\n")[0])
    (folder / "train-000002.jsonl").unlink()
    shutil.rmtree(cache)
    capsys.readouterr()
    assert shards_main(["check", url, "--no-decode"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "train-000003.jsonl cannot be read after 6 attempts: 7 rows for 8 samples" in lines[0]
    assert lines[1].startswith("sidecars/prompts/train-000002.jsonl and 0 more are missing")
    shutil.rmtree(cache)
    monkeypatch.setenv("VEA_CACHE_GB", "0")
    rows = Sidecar(ShardReader(url, "train"), "prompts", made_by="prompts")
    assert rows.row(0) and rows.row(8) and len(list(cache.glob("*/.sidecars/*/*.jsonl"))) == 1
    with pytest.raises(RunError, match=r"prompts/train-000002.jsonl does not exist"):
        rows.row(16)
    running.server.shutdown()
    running.server.server_close()


def read_all(url: str, cache: str) -> None:
    os.environ["VEA_CACHE_DIR"] = cache  # the server of forks has the environment of its own beginning
    reader = ShardReader(url, "train")
    assert [reader.read(i)[0] for i in range(40)] == [f"synthetic-0-{i:08d}" for i in range(40)]


def test_processes_fetch_a_shard_once(server, cache):
    context = multiprocessing.get_context("forkserver")
    readers = [context.Process(target=read_all, args=(f"{server.url}/scenes", str(cache))) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(120)
    assert [reader.exitcode for reader in readers] == [0, 0, 0] and len(list(cache.glob("*/*.tar"))) == 5
    assert {server.asked[f"train-{i:06d}.tar"] for i in range(5)} == {1}


def test_batches_from_nginx(prepared, nginx):
    same(batches(f"{nginx(prepared.parent)}/scenes"), batches(str(prepared)))


def test_batches_from_s3(prepared, s3):
    bucket = s3(prepared)
    same(batches(f"{bucket}/scenes"), batches(str(prepared)))
    assert check_sidecars(read_index(f"{bucket}/scenes")) == ([], [])
    with pytest.raises(RunError, match=r"s3://bucket/nothing/index.json does not exist"):
        read_index(f"{bucket}/nothing")
