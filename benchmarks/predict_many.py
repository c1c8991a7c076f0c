"""Many photographs through ``vea predict``: images/s, memory over time, and what it says of broken files.

    python benchmarks/predict_many.py [--count 1000] [--threads 1] [--json FILE]    # needs VEA_DATA

    python benchmarks/predict_many.py --large 12 [--rounds 3]    # JPEGs of 12 megapixels: scaled decoding against whole

The photographs are those under VEA_DATA, repeated; among them, evenly spread, are broken and unusual files. Fails where
a bad file is not reported, a good one is, or memory grows by more than 5 % from the first third to the last.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from vea.errors import RunError, VeaError, command

SOURCES = ("people_samples/images", "oasis", "coco_mini", "flickr8k_1k")
FASTER = 1.6  # that scaled decoding must be on 12 megapixels
GROWTH = 1.05  # largest median of the last third over that of the first


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """Returns the bytes of a picture file."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def unusual(photo: Path) -> dict[str, tuple[bytes, bool]]:
    """Returns {file name: (content, whether it can be read)}."""
    data, noise = photo.read_bytes(), np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    frames = [Image.fromarray(np.roll(noise, shift, 0)) for shift in (0, 10, 20)]
    huge = Image.new("L", (24_000, 12_000), 128)  # 288 M pixels: a bomb that a few kB hold
    return {
        "truncated.jpg": (data[: len(data) // 3], False),
        "text.jpg": (b"this is no picture\n", False),
        "empty.png": (b"", False),
        "random.webp": (noise.tobytes()[:5000], False),
        "beyond.png": (encoded(huge, "PNG"), False),
        "large.jpg": (encoded(Image.open(photo).convert("RGB").resize((7000, 5000)), "JPEG"), True),
        "one_pixel.png": (encoded(Image.new("RGB", (1, 1)), "PNG"), True),
        "narrow.png": (encoded(Image.new("RGB", (3000, 2)), "PNG"), True),
        "animated.gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), True),
        "cmyk.jpg": (encoded(Image.open(photo).convert("CMYK"), "JPEG"), True),
        "sixteen_bit.png": (encoded(Image.fromarray(noise[..., 0].astype(np.uint16) * 256), "PNG"), True),
        "transparent.png": (encoded(Image.new("RGBA", (90, 90), (9, 9, 9, 0)), "PNG"), True),
    }


def fill(folder: Path, *, count: int, data: Path) -> set[str]:
    """Returns the names of the files that cannot be read; ``folder`` gets ``count`` files, one in 25 unusual."""
    photos = [path for name in SOURCES for path in sorted((data / name).rglob("*")) if path.suffix.lower() == ".jpg"]
    if not photos:
        raise VeaError(f"VEA_DATA={data} holds no photographs in {', '.join(SOURCES)}")
    photos = photos[:: max(1, len(photos) // count)]
    strange, bad = list(unusual(photos[0]).items()), set()
    for number in range(count):
        if number % 25 == 12:
            name, (content, readable) = strange[number // 25 % len(strange)]
            (folder / f"{number:05d}_{name}").write_bytes(content)
            if not readable:
                bad.add(f"{number:05d}_{name}")
        else:
            (folder / f"{number:05d}_photo.jpg").symlink_to(photos[number % len(photos)].resolve())
    return bad


def resident_mb(pid: int) -> float:
    """Returns the resident memory of a process in MB; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError):
        return 0.0


def large(photos: list[Path], *, rounds: int) -> dict[str, object]:
    """Returns processor ms a picture of JPEGs of 12 megapixels, decoded whole and at the scale that serves, in turns.

    The photographs are enlarged to 4,000 x 3,000 (or less of one side), so their detail is that of the small ones: real
    12-megapixel files take longer to decode whole. Fails below ``FASTER`` times.
    """
    from vea.data.views.pictures import read_image
    from vea.inference.predict import load
    from vea.inference.scene import load_scene, look

    faces, scene = load(), load_scene()
    files = []
    for photo in photos:
        image = Image.open(photo).convert("RGB")
        factor = (12e6 / (image.width * image.height)) ** 0.5
        size = round(image.width * factor), round(image.height * factor)
        files.append(encoded(image.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=90))
    files = [data for data in files if faces.predict(data)[0].faces]
    result: dict[str, object] = {"pictures_with_a_face": len(files), "rounds": rounds}
    models = {"faces": (None, faces), "scene": (scene, None), "both": (scene, faces)}
    moved = [
        max(abs(whole.faces[0].probabilities[name] - share) for name, share in scaled.faces[0].probabilities.items())
        for whole, scaled in ((faces.predict(read_image(d))[0], faces.predict(d)[0]) for d in files)
        if len(whole.faces) == len(scaled.faces)
    ]
    for name, (first, second) in models.items():
        times: dict[str, list[float]] = {"whole": [], "scaled": []}
        for _ in range(rounds):
            for data in files:
                for way in times:
                    started = time.process_time()
                    next(look([read_image(data) if way == "whole" else data], scene=first, faces=second))
                    times[way].append(1000 * (time.process_time() - started))
        whole, scaled = (statistics.median(times[way]) for way in ("whole", "scaled"))
        result |= {f"{name}_whole_ms": round(whole, 1), f"{name}_scaled_ms": round(scaled, 1)}
        result[f"{name}_times_faster"] = round(whole / scaled, 2)
    result["same_number_of_faces"] = len(moved)
    result["median_largest_move_of_a_probability"] = round(statistics.median(moved), 4) if moved else None
    return result


@command
def main(argv: list[str]) -> int:
    """Runs the benchmark; returns 1 where it fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="expression")
    parser.add_argument("--large", type=int, default=0, metavar="N", help="N JPEGs of 12 megapixels instead")
    parser.add_argument("--rounds", type=int, default=3, help="with --large")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(argv)
    if "VEA_DATA" not in os.environ:
        raise VeaError("VEA_DATA is not set: this benchmark reads real photographs, set it to the folder of raw data")

    if given.large:
        photos = sorted((Path(os.environ["VEA_DATA"]) / SOURCES[0]).rglob("*.jpg"))[: given.large]
        found = large(photos, rounds=given.rounds)
        for name, value in found.items():
            print(f"{name:>40}  {value}")
        if given.json:
            given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        slow = [name for name in ("faces", "scene", "both") if float(str(found[f"{name}_times_faster"])) < FASTER]
        if slow:
            raise RunError(f"scaled decoding is less than {FASTER} times as fast for {', '.join(slow)}")
        return 0

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photographs"
        folder.mkdir()
        bad = fill(folder, count=given.count, data=Path(os.environ["VEA_DATA"]))
        errors = Path(place) / "errors.txt"
        limits = {name: str(given.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        with errors.open("w") as stream:
            started = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "vea.commands.main", "predict", str(folder), "--json", "--model", given.model],
                stdout=subprocess.PIPE, stderr=stream, text=True, env={**os.environ, **limits},
            )  # fmt: skip
            samples: list[tuple[int, float]] = []  # (pictures answered so far, MB)
            answered: list[dict] = []
            ended = threading.Event()

            def watch() -> None:
                while not ended.wait(0.2):
                    if answered:  # start and imports are not what is asked
                        samples.append((len(answered), resident_mb(process.pid)))

            watcher = threading.Thread(target=watch, daemon=True)
            watcher.start()
            first = 0.0
            assert process.stdout is not None
            for line in process.stdout:
                first = first or time.perf_counter()
                answered.append(json.loads(line))
            code = process.wait()
            ended.set()
            watcher.join()
        seconds = time.perf_counter() - started
        said = errors.read_text()

    reported = set(re.findall(r"skipped: .*?/(\d{5}_[\w.]+):", said))

    def medians_of(parts: int) -> list[float]:
        shares = [(done / max(1, len(answered)), mb) for done, mb in samples if mb]
        found = [[mb for share, mb in shares if k / parts <= share <= (k + 1) / parts] for k in range(parts)]
        return [round(statistics.median(part), 1) if part else 0.0 for part in found]

    medians = medians_of(3)
    result = {
        "files": given.count,
        "bad_files": len(bad),
        "answered": len(answered),
        "with_faces": sum(bool(record["faces"]) for record in answered),
        "seconds": round(seconds, 1),
        "images_per_second": round(given.count / seconds, 2),
        "images_per_second_after_start": round(given.count / (time.perf_counter() - first), 2) if first else 0.0,
        "exit_code": code,
        "memory_mb_by_third": medians,
        "memory_mb_by_tenth": medians_of(10),
        "memory_mb_peak": round(max((mb for _, mb in samples), default=0.0), 1),
        "threads": given.threads,
        "model": given.model,
    }
    for name, value in result.items():
        print(f"{name:>30}  {value}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if reported != bad:
        more, fewer = sorted(reported - bad)[:3], sorted(bad - reported)[:3]
        raise RunError(f"reported as unreadable: {more} too many, {fewer} missing")
    if len(answered) + len(bad) != given.count or code != (1 if bad else 0):
        raise RunError(f"{len(answered)} answers and exit code {code} for {given.count} files; it said: {said[-300:]}")
    if not medians[0] or medians[2] > GROWTH * medians[0]:
        raise RunError(f"memory grew from {medians[0]} MB to {medians[2]} MB (medians of the first and last third)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
