"""Tars behind nginx and on S3: the keys are those of the folder for every number of ranks and workers."""

from __future__ import annotations

import http.server
import shutil
import threading
from pathlib import Path

import pytest

import vea
from vea.config import load_config
from vea.data import synthetic
from vea.data.loading.loader import train_loader
from vea.data.shards.plan import write_dataset
from vea.errors import RunError
from vea.tasks.items import item_spec

REPOSITORY = Path(__file__).resolve().parents[2]
SHARDS = "scenes/train-{000000..000007}.tar"
PLACES = [(1, 0), (1, 2), (2, 1), (4, 2)]  # (world, workers)
pytest.importorskip("aiohttp", reason="needs the extra: pip install 'vea[remote]'")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads http through curl")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Tars of 41 drawn scenes, without what vea's index would say of them."""
    folder = tmp_path_factory.mktemp("streamed") / "scenes"
    write_dataset({"train": synthetic.samples(45, size=48)}, folder, name="scenes", title="", card=None,
                  fields=synthetic.FIELDS, synthetic=True, shard_size=6)  # fmt: skip
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("VEA_CACHE_DIR", str(tmp_path / "cache"))


def keys(path: str, *, world: int = 1, workers: int = 0, start: int = 0, stop: int = 9) -> list[list[str]]:
    words = ["data.global_batch_size=8", "data.virtual_readers=4", f"data.workers={workers}", "augment.image_size=32"]
    train = f"data.train=[{{path: '{path}', shuffle: 5}}]"
    config = load_config(REPOSITORY / "configs" / "pretrain" / "smoke.yaml", [train, "data.val=[]", *words])
    rows: list[list[str]] = [[] for _ in range(start, stop)]
    for rank in range(world):
        place = {"start_step": start, "stop_step": stop, "rank": rank, "world_size": world, "micro_batch": 8}
        for row, batch in zip(rows, train_loader(config, item_spec(config), **place), strict=True):
            row += batch["keys"]
    return rows


def check(url: str, folder: Path) -> None:
    expected = keys(f"{folder.parent}/{SHARDS}")
    for world, workers in PLACES:
        assert keys(url, world=world, workers=workers) == expected, (world, workers)
    assert keys(url, start=5) == expected[5:], "a resume in the middle goes on"
    assert keys(url, start=7, workers=2) == expected[7:]


@needs_curl
def test_keys_from_nginx(prepared, nginx):
    url = nginx(prepared.parent)
    check(f"{url}/{SHARDS}", prepared)
    with pytest.raises(
        RunError, match=r"train-00000[89].tar is missing \(the server has no such file\).*missing_shards"
    ):
        keys(f"{url}/scenes/train-{{000005..000009}}.tar", stop=30)
    webdataset = [sample["__key__"] for sample in vea.as_webdataset(f"{url}/scenes")]
    assert sorted(webdataset) == sorted(f"synthetic-0-{i:08d}" for i in range(45))


@needs_curl
def test_a_transfer_that_breaks_off_is_taken_up_again(prepared):
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(prepared.parent))

        def copyfile(self, source, outputfile):
            asked.append(self.path)
            data = source.read()
            outputfile.write(data[: len(data) // 2] if len(asked) <= 2 else data)  # the length was announced in full

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/{SHARDS}"
        assert keys(url, stop=3) == keys(f"{prepared.parent}/{SHARDS}", stop=3)
        assert len(asked) > len(set(asked)), "asked again"
    finally:
        server.shutdown()
        server.server_close()


def test_keys_from_s3(prepared, s3):
    check(f"{s3(prepared)}/{SHARDS}", prepared)
