"""Loader speed side by side: images/s and CPU time per sample, interleaved rounds, medians.

    python benchmarks/loader.py --json loader.json
    VEA_DATA=... python benchmarks/loader.py             # photographs (oasis), otherwise drawn 500 x 375 scenes
    python benchmarks/loader.py --large 1600 --images 48 --json large.json   # large JPEGs: decoded whole or as needed
    python benchmarks/loader.py --soak 1000000 --data data/fer2013plus      # memory over a million samples

What is compared, each with the same JPEG files, workers and batch size, worker start included:

- ``emoset_class``: the EmoSet / u-emo way: PIL opens one JPEG and one JSON per sample; a 224 view and a view resized to
  416 and then 224, both bicubic, normalised float;
- ``image_folder``: torchvision's ImageFolder with its transforms, one view, normalised float;
- ``webdataset``: WebDataset, cv2 and albumentations, two views, normalised float;
- ``vea``: two views (scene and person crop), uint8; ``vea_float``: the same, normalised on the host as the others do;
- ``decode``: nothing but decoding the files, in one process.

``--soak`` reads two views of ``--size`` pixels of a prepared set again and again, and takes the memory of all processes
(anonymous and shared pages, each counted once) a hundred times; the command fails where the last tenth of the way needs
5 % more than the second.

Ratios above 1 mean vea is better, except ``of_decode``: CPU per sample over that of the bare decode.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

from vea.config import AugmentConfig, DataConfig, DatasetRef, PretrainConfig, TrainConfig
from vea.data import synthetic
from vea.data.loading.loader import train_loader
from vea.data.sample import Sample
from vea.data.shards.plan import write_dataset
from vea.data.shards.reader import ShardReader
from vea.data.views import decode as decoding
from vea.data.views.views import Views
from vea.errors import RunError, VeaError, command
from vea.tasks.items import item_spec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, BATCH = 224, 64


# ---------------------------------------------------------------------------------------------------------------- data


def jpegs(count: int) -> tuple[str, list[bytes]]:
    """Returns what the pictures are and their files: photographs where ``VEA_DATA`` has them, else drawn scenes."""
    folder = Path(os.environ.get("VEA_DATA", "")) / "oasis"
    if "VEA_DATA" in os.environ and folder.is_dir():
        return "photographs (oasis)", [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[:count]]
    drawn = []
    for index in range(count):
        scene = cv2.imdecode(np.frombuffer(synthetic.scene(index, size=128).image, np.uint8), cv2.IMREAD_COLOR)
        noise = np.random.default_rng(index).normal(0, 12, (375, 500, 3))  # drawn surfaces alone decode too easily
        picture = np.clip(cv2.resize(scene, (500, 375)) + noise, 0, 255).astype(np.uint8)
        drawn.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
    return "drawn scenes with noise (synthetic)", drawn


def write_inputs(files: list[bytes], folder: Path, *, shard_size: int = 250) -> None:
    """Writes the same files in the two layouts: ``raw/a/N.jpg`` with ``N.json``, and shards."""
    raw = folder / "raw" / "a"
    raw.mkdir(parents=True)
    samples = []
    for number, data in enumerate(files):
        (raw / f"{number:06d}.jpg").write_bytes(data)
        (raw / f"{number:06d}.json").write_text(json.dumps({"image_id": number, "emotion": "awe", "brightness": 0.4}))
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        box = [width * 0.25, height * 0.1, width * 0.7, height * 0.95]
        samples.append(Sample(f"{number:06d}", data, "jpg", {}, ["a picture"], [box]))
    write_dataset({"train": samples}, folder / "shards", name="bench", title="bench", fields={}, card=None,
                  shard_size=shard_size)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- loaders


class EmoSetWay(Dataset):
    """One JPEG and one JSON opened per sample, two transform chains on PIL images."""

    def __init__(self, folder: Path, count: int) -> None:
        self.files, self.count = sorted((folder / "raw" / "a").glob("*.jpg")), count
        tail = [tv.RandomHorizontalFlip(), tv.ToTensor(), tv.Normalize(MEAN, STD)]
        bicubic = tv.InterpolationMode.BICUBIC
        self.scene = tv.Compose([tv.RandomResizedCrop(SIZE, (0.2, 1.0), interpolation=bicubic), *tail])
        self.person = tv.Compose([tv.Resize((416, 416), bicubic), tv.Resize((SIZE, SIZE), bicubic), *tail])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        path = self.files[i % len(self.files)]
        with open(path.with_suffix(".json")) as file:
            emotion = json.load(file)["emotion"]
        image = Image.open(path).convert("RGB")
        return self.scene(image), self.person(image), emotion


class WebDatasetWay:
    """The map function of the WebDataset pipeline: cv2 decodes, albumentations crops, flips and normalises twice."""

    def __init__(self) -> None:
        import albumentations
        from albumentations.pytorch import ToTensorV2

        tail = [albumentations.HorizontalFlip(), albumentations.Normalize(MEAN, STD), ToTensorV2()]
        crop = albumentations.RandomResizedCrop((SIZE, SIZE), scale=(0.2, 1.0), interpolation=cv2.INTER_CUBIC)
        resize = albumentations.Resize(SIZE, SIZE, interpolation=cv2.INTER_CUBIC)
        self.scene, self.person = albumentations.Compose([crop, *tail]), albumentations.Compose([resize, *tail])

    def __call__(self, sample: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, str]:
        cv2.setNumThreads(0)
        image = cv2.cvtColor(cv2.imdecode(np.frombuffer(sample["jpg"], np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return self.scene(image=image)["image"], self.person(image=image)["image"], sample["__key__"]


def emoset_class(folder: Path, count: int, workers: int) -> Iterator[int]:
    """Yields batch sizes."""
    loader = DataLoader(EmoSetWay(folder, count), BATCH, shuffle=True, num_workers=workers)
    yield from (len(scene) for scene, _, _ in loader)


def image_folder(folder: Path, count: int, workers: int) -> Iterator[int]:
    """Yields batch sizes."""
    bicubic = tv.InterpolationMode.BICUBIC
    steps = [tv.RandomResizedCrop(SIZE, (0.2, 1.0), interpolation=bicubic), tv.RandomHorizontalFlip(), tv.ToTensor()]
    data = ImageFolder(str(folder / "raw"), tv.Compose([*steps, tv.Normalize(MEAN, STD)]))
    places = [i % len(data) for i in range(count)]
    yield from (len(image) for image, _ in DataLoader(data, BATCH, sampler=places, num_workers=workers))


def web_dataset(folder: Path, count: int, workers: int) -> Iterator[int]:
    """Yields batch sizes."""
    shards = [str(path) for path in sorted((folder / "shards").glob("*.tar"))]
    data = webdataset.WebDataset(shards, resampled=True, shardshuffle=False, nodesplitter=None)
    data = data.shuffle(500).map(WebDatasetWay()).batched(BATCH)
    loader = webdataset.WebLoader(data, batch_size=None, num_workers=workers).with_epoch(-(-count // BATCH))
    yield from (len(scene) for scene, _, _ in loader)


def vea(folder: Path, count: int, workers: int) -> Iterator[int]:
    """Yields batch sizes."""
    for batch in _vea_batches(folder, count, workers):
        yield len(batch["scene"])


def vea_float(folder: Path, count: int, workers: int) -> Iterator[int]:
    """Yields batch sizes; normalises on the host what belongs on the device."""
    mean, std = (torch.tensor(row).view(1, 3, 1, 1) * 255 for row in (MEAN, STD))
    normalised = torch.empty(BATCH, 3, SIZE, SIZE)  # once: new memory for each batch costs more than the arithmetic
    for batch in _vea_batches(folder, count, workers):
        for name in ("scene", "person"):
            normalised[: len(batch[name])].copy_(batch[name]).sub_(mean).mul_(1 / std)
        yield len(batch["scene"])


def _vea_batches(folder: Path, count: int, workers: int) -> Iterator[dict[str, Any]]:
    config = PretrainConfig(
        name="bench",
        data=DataConfig(train=[DatasetRef(path=str(folder / "shards"))], global_batch_size=BATCH, workers=workers),
        train=TrainConfig(steps=1),
        augment=AugmentConfig(image_size=SIZE),
    )
    return train_loader(
        config, item_spec(config), start_step=0, stop_step=-(-count // BATCH), micro_batch=BATCH, rank=0, world_size=1
    )


def decode(folder: Path, count: int, workers: int) -> Iterator[int]:
    """Yields 1 per decoded file; no loader."""
    reader = ShardReader(folder / "shards", "train")
    for i in range(count):
        simplejpeg.decode_jpeg(reader.read(i % len(reader))[1])
        yield 1


LOADERS: dict[str, Callable[[Path, int, int], Iterator[int]]] = {
    "emoset_class": emoset_class,
    "image_folder": image_folder,
    "webdataset": web_dataset,
    "vea": vea,
    "vea_float": vea_float,
    "decode": decode,
}


# ------------------------------------------------------------------------------------------------------------ measuring


def cpu_seconds() -> float:
    """Returns user and system time of this process and of the children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(name: str, folder: Path, count: int, workers: int) -> tuple[float, float]:
    """Returns images/s and CPU-ms per sample."""
    return measured(lambda: LOADERS[name](folder, count, workers))


def measured(batches: Callable[[], Iterator[int]]) -> tuple[float, float]:
    """Returns images/s and CPU-ms per sample of what yields batch sizes."""
    cpu, start = cpu_seconds(), time.perf_counter()
    done = sum(batches())
    wall = time.perf_counter() - start
    gc.collect()  # a generator that was left early holds on to its workers
    while multiprocessing.active_children():  # their time counts when they have ended: here, not in what comes next
        time.sleep(0.01)
    return done / wall, (cpu_seconds() - cpu) / done * 1000


def seconds_to_first_batch(folder: Path, workers: int, step: int) -> float:
    """Returns the time from nothing to the first batch of ``step``."""
    config = PretrainConfig(
        name="bench",
        data=DataConfig(train=[DatasetRef(path=str(folder / "shards"))], global_batch_size=BATCH, workers=workers),
        train=TrainConfig(steps=1),
        augment=AugmentConfig(image_size=SIZE),
    )
    start = time.perf_counter()
    batches = train_loader(config, item_spec(config), start_step=step, micro_batch=BATCH, rank=0, world_size=1)
    next(batches)
    seconds = time.perf_counter() - start
    batches.close()
    return seconds


# ----------------------------------------------------------------------------------------------------------------- soak


def memory_mb() -> float:
    """Returns the memory of this process and its descendants, pages that they share counted once, without files."""
    pages, family = 0, [os.getpid()]
    for pid in family:  # grows while it is read
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        family += [int(child) for row in children for child in row]
        pages += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(("Pss_Anon", "Pss_Shmem")))
    return pages / 1024


def soak(count: int, *, data: str, size: int, workers: int, path: Path | None) -> None:
    """Reads ``count`` samples of the set ``data`` and compares memory along the way.

    Raises:
        RunError: memory grew by more than 5 %.
    """
    config = PretrainConfig(
        name="bench",
        data=DataConfig(train=[DatasetRef(path=data)], global_batch_size=BATCH, workers=workers),
        train=TrainConfig(steps=1),
        augment=AugmentConfig(image_size=size),
    )
    steps = -(-count // BATCH)
    seen: list[float] = []
    start = time.perf_counter()
    batches = train_loader(
        config, item_spec(config), start_step=0, stop_step=steps, micro_batch=BATCH, rank=0, world_size=1
    )
    for step, _ in enumerate(batches, start=1):
        if step % max(1, steps // 100) == 0:
            seen.append(memory_mb())
            if len(seen) % 10 == 0:
                speed = step * BATCH / (time.perf_counter() - start)
                print(f"{step * BATCH:>9} samples, {seen[-1]:7.1f} MB, {speed:6.0f} images/s", flush=True)
    tenths = [statistics.median(seen[i * len(seen) // 10 : (i + 1) * len(seen) // 10]) for i in range(10)]
    growth = tenths[9] / tenths[1] - 1  # the first tenth still warms up
    listed = ", ".join(f"{mb:.1f}" for mb in tenths)
    print(f"median MB by tenth: {listed}; {100 * growth:+.1f} % from the second to the last")
    if path:
        record = {"samples": steps * BATCH, "data": data, "workers": workers, "mb_by_tenth": tenths, "growth": growth}
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if growth > 0.05:
        raise RunError("memory grew by more than 5 %")


def large(side: int, *, images: int, samples: int, rounds: int, path: Path | None) -> None:
    """Prints images/s of two views of JPEGs of ``side`` pixels, decoded whole and at a scale, in turns."""
    what, files = jpegs(images)
    with tempfile.TemporaryDirectory() as temporary:
        folder, enlarged = Path(temporary), []
        for data in files:
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            factor = side / max(picture.shape[:2])
            picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
            enlarged.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
        rows = {"train": [Sample(f"{i:05d}", data, "jpg") for i, data in enumerate(enlarged)]}
        write_dataset(rows, folder / "shards", name="bench", title=what, fields={}, card=None)
        scaled_from = decoding.SCALED_FROM
        speeds: dict[str, list[float]] = {"whole": [], "scaled": []}
        for _ in range(rounds):
            for name, row in speeds.items():
                decoding.SCALED_FROM = scaled_from if name == "scaled" else sys.maxsize
                row.append(measure("vea", folder, samples, 0)[0])
        views = Views(AugmentConfig(image_size=SIZE), seed=0, train=False)
        moved = [abs(views.one(decoding.Encoded(data), key="").astype(int) - views.one(decoding.decode(data), key=""))
                 for data in enlarged]  # fmt: skip
    ratios = [fast / slow for fast, slow in zip(speeds["scaled"], speeds["whole"], strict=True)]
    record = {"pictures": f"{images} {what} of {side} pixels", "images_per_s": speeds, "ratios": ratios,
              "ratio": statistics.median(ratios), "mean_difference": np.mean([row.mean() for row in moved]),
              "max_difference": int(max(row.max() for row in moved))}  # fmt: skip
    print(json.dumps(record, indent=1))
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


@command
def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--images", type=int, default=1000, help="different files")
    parser.add_argument("--samples", type=int, default=4096, help="samples per round and loader")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--soak", type=int, metavar="SAMPLES", help="memory over so many samples, and nothing else")
    parser.add_argument("--large", type=int, metavar="SIDE", help="JPEGs of this longer side, and nothing else")
    parser.add_argument("--data", help="--soak: a prepared set")
    parser.add_argument("--size", type=int, default=64, help="--soak: pixels of a view")
    arguments = parser.parse_args(argv)
    if min(arguments.images, arguments.samples, arguments.rounds) < 1 or arguments.workers < 0:
        raise VeaError("--images, --samples and --rounds must be 1 or more, --workers 0 or more")
    torch.set_num_threads(1)
    if arguments.soak:
        if not arguments.data or arguments.soak < 100 * BATCH:
            raise VeaError(f"--soak needs --data, a prepared set, and at least {100 * BATCH} samples")
        soak(arguments.soak, data=arguments.data, size=arguments.size, workers=arguments.workers, path=arguments.json)
        return

    if arguments.large:
        given = {name: getattr(arguments, name) for name in ("images", "samples", "rounds")}
        return large(arguments.large, path=arguments.json, **given)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        what, files = jpegs(arguments.images)
        write_inputs(files, folder)
        gc.freeze()  # a collection in ``measure`` shall not scan torch, and be charged to a loader
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in LOADERS}
        for _ in range(arguments.rounds):
            for name in LOADERS:
                rounds[name].append(measure(name, folder, arguments.samples, arguments.workers))
        first = {
            str(step): statistics.median(
                seconds_to_first_batch(folder, arguments.workers, step + i) for i in range(arguments.rounds)
            )
            for step in (0, 10**6)
        }

    speed = {name: statistics.median(row[0] for row in rows) for name, rows in rounds.items()}
    cpu = {name: statistics.median(row[1] for row in rows) for name, rows in rounds.items()}
    ratios = {
        "vs_emoset_class": speed["vea"] / speed["emoset_class"],
        "vs_webdataset": speed["vea"] / speed["webdataset"],
        "cpu_vs_emoset_class": cpu["emoset_class"] / cpu["vea_float"],
        "cpu_vs_webdataset": cpu["webdataset"] / cpu["vea_float"],
        "of_decode": cpu["vea"] / cpu["decode"],
    }
    print(f"{len(files)} {what}, {arguments.workers} workers, batches of {BATCH}, medians of {arguments.rounds} rounds")
    print(f"{'loader':<14}{'images/s':>10}{'CPU-ms/sample':>16}")
    for name in LOADERS:
        print(f"{name:<14}{speed[name]:>10.0f}{cpu[name]:>16.2f}")
    print("first batch: " + ", ".join(f"{seconds:.2f} s at step {step}" for step, seconds in first.items()))
    print("ratios: " + ", ".join(f"{name} {value:.2f}" for name, value in ratios.items()))
    if arguments.json:
        record = {
            "data": what,
            "images": len(files),
            "samples": arguments.samples,
            "rounds": arguments.rounds,
            "workers": arguments.workers,
            "batch": BATCH,
            "torch": torch.__version__,
            "loaders": {name: {"images_per_s": speed[name], "cpu_ms_per_sample": cpu[name]} for name in LOADERS},
            "first_batch_s": first,
            "ratios": ratios,
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
