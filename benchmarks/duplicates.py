"""How far perceptual hashes of changed copies lie from the original, and of other pictures: where a threshold can be.

    python benchmarks/duplicates.py data/oasis data/wikiart data/fer2013plus [--count 400] [--json FILE]

The first pictures of each train split, each copied as JPEG of quality 50, at half its size, and cropped by 2 %.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from vea.data.duplicates import MAX_BITS, picture_hash
from vea.data.shards.reader import ShardReader
from vea.errors import command


def as_jpeg(image: Image.Image) -> Image.Image:
    """Returns the image after JPEG of quality 50."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=50)
    return Image.open(data)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 50": as_jpeg,
    "half size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "cropped 2 %": lambda image: image.crop((image.width // 50 + 1, image.height // 50 + 1, *image.size)),
}


def bits(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns in how many bits hashes (..., 32) differ."""
    return np.bitwise_count(one ^ other).sum(-1)


def measure(folder: str, count: int) -> dict[str, list[int]]:
    """Returns the distances of each change and, under "nearest other", to the most similar other picture."""
    reader = ShardReader(folder, "train")
    images = [Image.open(io.BytesIO(reader.read(i)[1])).convert("RGB") for i in range(min(count, len(reader)))]

    def table(change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
        return np.frombuffer(b"".join(picture_hash(change(image)) for image in images), np.uint8).reshape(-1, 32)

    original = table(lambda image: image)
    between = bits(original[:, None], original[None])
    np.fill_diagonal(between, 999)
    distances = {name: bits(original, table(change)) for name, change in CHANGES.items()}
    return {name: values.tolist() for name, values in {**distances, "nearest other": between.min(1)}.items()}


@command
def main(argv: list[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dirs", nargs="+", help="prepared data sets")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    shown = Table(title=f"bits of 256 that differ: 1 %, median, 99 % (vea shards check takes up to {MAX_BITS})")
    for column in ("data", *CHANGES, "nearest other"):
        shown.add_column(column)
    record = {}
    for folder in given.dirs:
        record[folder] = measure(folder, given.count)
        cells = [np.percentile(values, (1, 50, 99)).round().astype(int).tolist() for values in record[folder].values()]
        shown.add_row(folder, *(", ".join(map(str, cell)) for cell in cells))
    Console(width=120).print(shown)
    if given.json:
        given.json.write_text(json.dumps(record))


if __name__ == "__main__":
    sys.exit(main())
