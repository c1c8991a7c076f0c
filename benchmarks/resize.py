"""OpenCV's kernels against an anti-aliased resize: which one the loader should take where a picture shrinks.

    VEA_DATA=... python benchmarks/resize.py [--size 224]

Crops of OASIS photographs, larger than ``--size`` by a factor, are brought to ``--size`` on one thread. PSNR is that
against Pillow's bicubic, which widens its kernel with the factor; the time is the median of a resize.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from vea.data.views.decode import decode
from vea.errors import VeaError, command

KERNELS = {"cubic": cv2.INTER_CUBIC, "linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}
FACTORS = (0.7, 1.1, 1.3, 1.6)


def psnr(found: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio of two uint8 images in dB."""
    return float(10 * np.log10(255**2 / np.mean((found.astype(np.float32) - wanted) ** 2)))


@command
def main(argv: list[str]) -> None:
    """Makes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--count", type=int, default=200, help="photographs")
    given = parser.parse_args(argv)
    files = sorted((Path(os.environ.get("VEA_DATA", "")) / "oasis").rglob("*.jpg"))[: given.count]
    if "VEA_DATA" not in os.environ or not files:
        raise VeaError("no photographs: set VEA_DATA to the folder that holds oasis/")
    cv2.setNumThreads(0)
    generator = np.random.default_rng(0)
    rows: dict[tuple[float, str], list[tuple[float, float]]] = {}
    for file in files:
        image = decode(file.read_bytes())
        for factor in FACTORS:
            side = round(given.size * factor)
            if side > min(image.shape[:2]):
                continue
            y, x = (int(generator.integers(0, length - side + 1)) for length in image.shape[:2])
            crop = image[y : y + side, x : x + side]
            wanted = np.asarray(Image.fromarray(crop).resize((given.size, given.size), Image.Resampling.BICUBIC))
            for name, kernel in KERNELS.items():
                start = time.perf_counter()
                found = cv2.resize(crop, (given.size, given.size), interpolation=kernel)
                rows.setdefault((factor, name), []).append((psnr(found, wanted), time.perf_counter() - start))
    table = Table(title=f"{len(files)} photographs, crops of FACTOR x {given.size} pixels to {given.size}")
    for column in ("factor", "kernel", "PSNR, dB", "ms"):
        table.add_column(column)
    for (factor, name), values in sorted(rows.items()):
        quality, seconds = np.array(values).T
        table.add_row(f"{factor}", name, f"{quality.mean():.1f}", f"{1000 * np.median(seconds):.3f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    sys.exit(main())
