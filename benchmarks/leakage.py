"""How much of a test score is memory: accuracy on test pictures with and without a near-identical training picture.

    python benchmarks/leakage.py runs/expression-ship --data data/fer2013plus [--target expression] [--json FILE]

Reads the predictions that ``finetune/evaluate.py RUN --split test`` wrote; nothing is predicted again. A twin is a
training picture whose perceptual hash differs in at most 15 of 256 bits; every pair is compared.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from vea.data.duplicates import MAX_BITS, picture_hash
from vea.data.shards.reader import ShardReader
from vea.errors import VeaError, command


def hashes(folder: str, split: str) -> tuple[list[str], np.ndarray]:
    """Returns the keys of a split and their hashes, uint64 (N, 4)."""
    reader = ShardReader(folder, split)
    rows = [reader.read(i)[:2] for i in range(len(reader))]
    digests = [picture_hash(Image.open(io.BytesIO(data))) for _, data in rows]
    return [key for key, _ in rows], np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 4)


@command
def main(argv: list[str]) -> None:
    """Prints both accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True, help="the prepared data set that it was trained and scored on")
    parser.add_argument("--target", default="expression")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    file = given.run / "evaluation_test.json"
    if not file.is_file():
        raise VeaError(f"{file} is missing; run finetune/evaluate.py {given.run} --split test first")
    predictions = json.loads(file.read_text(encoding="utf-8"))["predictions"]
    rows = predictions.get(given.target)
    if rows is None:
        raise VeaError(f"--target: {file} has no predictions of {given.target!r}")
    right = {
        key: target == answer
        for key, target, answer in zip(predictions["keys"], rows["target"], rows["prediction"], strict=True)
        if target is not None and target >= 0
    }
    known = hashes(given.data, "train")[1]
    keys, tests = hashes(given.data, "test")
    twins = {key for key, one in zip(keys, tests) if np.bitwise_count(known ^ one).sum(1).min() <= MAX_BITS}
    groups = {"all": list(right), "with a twin in train": [key for key in right if key in twins],
              "without": [key for key in right if key not in twins]}  # fmt: skip
    record = {name: {"pictures": len(group), "accuracy": float(np.mean([right[key] for key in group]))}
              for name, group in groups.items() if group}  # fmt: skip
    for name, found in record.items():
        print(f"{name:<22} {found['pictures']:>7,} pictures  accuracy {100 * found['accuracy']:.1f} %")
    if given.json:
        given.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    sys.exit(main())
