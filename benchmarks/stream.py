"""Tars as they are, read by vea and by plain webdataset: images/s and CPU time, interleaved rounds, medians.

    VEA_DATA=... python benchmarks/stream.py --json stream.json

The same tars of KEY.jpg + KEY.json for both, on this machine, or with ``--serve`` through http. Both
decode with the same reader, crop and flip two views of 224 pixels, and deliver uint8 batches of 64. ``webdataset``: its
own shuffle buffer, workers, and vea's views as its map function: what differs is the way from tar to sample. With
``webdataset_usual`` its users' way: cv2 and albumentations, normalised float.

``keys``: nothing but the bytes, from tar to (key, picture), one process. Ratios above 1 mean vea is better.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import loader as others
import numpy as np
import torch
import webdataset

from vea.config import AugmentConfig, DataConfig, DatasetRef, PretrainConfig, TrainConfig
from vea.data.loading.loader import train_loader
from vea.data.streams.shard import member, records
from vea.data.views.decode import Encoded
from vea.data.views.views import Views
from vea.errors import VeaError, command
from vea.tasks.items import item_spec

SIZE, BATCH = others.SIZE, others.BATCH
Loader = Callable[[list[str], str, int, int], Iterator[int]]


def vea_stream(urls: list[str], braces: str, count: int, workers: int) -> Iterator[int]:
    """Yields batch sizes."""
    config = PretrainConfig(
        name="bench",
        data=DataConfig(train=[DatasetRef(path=braces)], global_batch_size=BATCH, workers=workers),
        train=TrainConfig(steps=1),
        augment=AugmentConfig(image_size=SIZE),
    )
    place = {"start_step": 0, "stop_step": -(-count // BATCH), "micro_batch": BATCH, "rank": 0, "world_size": 1}
    for batch in train_loader(config, item_spec(config), **place):  # type: ignore[arg-type]
        yield len(batch["scene"])


class SameViews:
    """vea's two views as the map function of a webdataset pipeline."""

    def __init__(self) -> None:
        self.views = Views(AugmentConfig(image_size=SIZE), seed=0, train=True)

    def __call__(self, sample: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, str]:
        boxes = json.loads(sample["json"])["person_boxes"]
        scene, person, _ = self.views.two(Encoded(sample["jpg"]), boxes=boxes, key=sample["__key__"], pass_number=0)
        rows = (torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1))) for view in (scene, person))
        return *rows, sample["__key__"]  # type: ignore[return-value]


def _webdataset(urls: list[str], count: int, workers: int, way: Callable[[dict[str, Any]], Any]) -> Iterator[int]:
    data = webdataset.WebDataset(urls, resampled=True, shardshuffle=False, nodesplitter=None)
    data = data.shuffle(500).map(way).batched(BATCH)
    loader = webdataset.WebLoader(data, batch_size=None, num_workers=workers).with_epoch(-(-count // BATCH))
    yield from (len(scene) for scene, _, _ in loader)


def webdataset_same(urls: list[str], braces: str, count: int, workers: int) -> Iterator[int]:
    """Yields batch sizes."""
    yield from _webdataset(urls, count, workers, SameViews())


def webdataset_usual(urls: list[str], braces: str, count: int, workers: int) -> Iterator[int]:
    """Yields batch sizes."""
    yield from _webdataset(urls, count, workers, others.WebDatasetWay())


def vea_keys(urls: list[str], braces: str, count: int, workers: int) -> Iterator[int]:
    """Yields 1 a picture; no loader."""
    found = (len(member(record, record.picture)) > 0 for _ in iter(int, 1) for url in urls for record in records(url))
    yield from islice((int(there) for there in found), count)


def webdataset_keys(urls: list[str], braces: str, count: int, workers: int) -> Iterator[int]:
    """Yields 1 a picture; no loader."""
    data = webdataset.WebDataset(urls, resampled=True, shardshuffle=False)
    yield from islice((int(len(sample["jpg"]) > 0) for sample in data), count)


LOADERS: dict[str, Loader] = {
    "vea": vea_stream,
    "webdataset": webdataset_same,
    "webdataset_usual": webdataset_usual,
    "vea_keys": vea_keys,
    "webdataset_keys": webdataset_keys,
}
RATIOS = {
    "same views": ("vea", "webdataset"),
    "usual": ("vea", "webdataset_usual"),
    "keys": ("vea_keys", "webdataset_keys"),
}


@command
def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--images", type=int, default=1000, help="different files")
    parser.add_argument("--samples", type=int, default=2048, help="samples a round and loader")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--serve", action="store_true", help="read the tars through http from a server of this script")
    arguments = parser.parse_args(argv)
    if min(arguments.images, arguments.samples, arguments.rounds) < 1 or arguments.workers < 0:
        raise VeaError("--images, --samples and --rounds must be 1 or more, --workers 0 or more")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary, _served(Path(temporary), arguments.serve) as root:
        what, files = others.jpegs(arguments.images)
        others.write_inputs(files, Path(temporary), shard_size=50)
        last = len(list((Path(temporary) / "shards").glob("*.tar"))) - 1
        names = [f"train-{number:06d}.tar" for number in range(last + 1)]
        urls, braces = [f"{root}/shards/{name}" for name in names], f"{root}/shards/train-{{000000..{last:06d}}}.tar"
        gc.freeze()
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in LOADERS}
        for _ in range(arguments.rounds):
            for name, run in LOADERS.items():
                places = (urls, braces, arguments.samples, arguments.workers)
                rounds[name].append(others.measured(lambda run=run, places=places: run(*places)))  # type: ignore[misc]
    print(
        f"{len(files)} {what} in {last + 1} tars{' behind http' if arguments.serve else ''}, "
        f"{arguments.workers} workers"
    )
    print(f"{'loader':<18}{'images/s':>10}{'CPU-ms/sample':>16}")
    for name, rows in rounds.items():
        print(f"{name:<18}{statistics.median(r[0] for r in rows):>10.0f}{statistics.median(r[1] for r in rows):>16.2f}")
    ratios = {name: _ratios(rounds[a], rounds[b]) for name, (a, b) in RATIOS.items()}
    for name, row in ratios.items():
        print(f"{name}: images/s {row['speed']:.2f} times webdataset ({row['each']}), CPU {row['cpu']:.2f} times less")
    if arguments.json:
        record = {
            "data": what,
            "rounds": rounds,
            "ratios": ratios,
            **{k: v for k, v in vars(arguments).items() if k != "json"},
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _ratios(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> dict[str, Any]:
    speed = [a[0] / b[0] for a, b in zip(ours, theirs, strict=True)]
    cpu = [b[1] / a[1] for a, b in zip(ours, theirs, strict=True)]
    each = " ".join(f"{value:.2f}" for value in speed)
    return {"speed": statistics.median(speed), "cpu": statistics.median(cpu), "each": each}


class _served:
    """The folder, or the address of a server of it in a process of its own."""

    def __init__(self, folder: Path, serve: bool) -> None:
        self.folder, self.serve = folder, serve

    def __enter__(self) -> str:
        if not self.serve:
            return str(self.folder)
        import socket
        import subprocess
        import time

        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        words = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(self.folder)]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1.5)
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *_: Any) -> None:
        if self.serve:
            self.process.terminate()
            self.process.wait()


if __name__ == "__main__":
    sys.exit(main())
