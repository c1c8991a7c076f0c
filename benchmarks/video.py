"""Video: frames/s at 1080p, memory over a long file, and what the chain over a track is worth.

    python benchmarks/video.py [--parts speed,memory,chain,clip,peer] [--minutes 10] [--picture PNG] [--json FILE]

Parts chain, clip and peer need VEA_DATA.

- speed: one drawn face at 1080p, every frame read, found, tracked and recognised; median over five stretches.
- memory: resident memory of this process while a clip of 320x180 is read again and again as one file.
- chain: FER2013 validation faces in the order of a Markov chain (an expression stays with .9) and in no order (each
  drawn anew). Frames alone, the chain with the true matrix, and one whose rate was fitted on other series; 3 seeds.
- clip: VEA_DATA/video_sample, 20 seconds from crying to laughing: the expressions over time, frame-wise and smoothed.
- peer: the network of the package fer on that clip, each frame alone behind vea's search, beside vea; ms a frame.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import vea
from vea.data.cards import find_card
from vea.data.sample import Sample
from vea.data.sources.fer2013plus import Fer2013Plus
from vea.data.synthetic.moving import DrawnFace, draw_frame
from vea.errors import RunError, VeaError, command
from vea.faces.video import require_av
from vea.inference.video import Row, smooth, track

CARDS = Path(__file__).resolve().parents[1] / "datasets" / "cards"
STAY, LENGTH, SERIES, SEEDS = 0.9, 100, 40, (0, 1, 2)
RATES = np.linspace(0.0, 0.98, 50)  # probabilities of staying that are tried when it is fitted
GROWTH = 1.05  # largest median of the last third of the memory over that of the second third


def write_clip(path: Path, *, width: int, height: int, frames: int, repeat: int = 1) -> None:
    """Writes a drawn face that moves and smiles, 25 frames a second; repeated packets are encoded once."""
    av = require_av()
    pictures = []
    for number in range(frames):
        turn = 2 * np.pi * number / frames
        units = {"AU12": 2.5 + 2.5 * np.sin(turn), "AU6": 2.5 + 2.5 * np.sin(turn)}
        face = DrawnFace(1, width / 2 + height / 6 * np.cos(turn), height / 2, height / 4, units)
        pictures.append(draw_frame([face], width=width, height=height))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 4_000_000
        stream.codec_context.gop_size = frames
        packets = []
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += [(bytes(p), p.is_keyframe) for p in stream.encode(frame)]
        packets += [(bytes(p), p.is_keyframe) for p in stream.encode()]
        for number, (data, key) in enumerate(itertools.chain.from_iterable(itertools.repeat(packets, repeat))):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            packet.is_keyframe = key
            container.mux(packet)


def speed(folder: Path, *, frames: int, threads: int) -> dict[str, Any]:
    """Returns frames a second by the clock and by processor time, for both models that ship."""
    torch.set_num_threads(threads)
    write_clip(folder / "hd.mp4", width=1920, height=1080, frames=frames)
    found: dict[str, Any] = {"threads": threads, "frames": frames}
    predictors = {name: vea.load(name) for name in ("expression", "expression-nano")}
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in predictors}
    for predictor in predictors.values():
        next(iter(track(folder / "hd.mp4", predictor=predictor, every=frames)))  # what is prepared once
    for _ in range(5):
        for name, predictor in predictors.items():  # by turns: the machine is shared
            clock, busy = time.perf_counter(), time.process_time()
            rows = sum(1 for _ in track(folder / "hd.mp4", predictor=predictor))
            if rows != frames:
                raise RunError(f"{rows} rows of {frames} frames: the drawn face is not found in each")
            rates[name].append((frames / (time.perf_counter() - clock), frames / (time.process_time() - busy)))
    for name, pairs in rates.items():
        for what, values in zip(("clock", "processor"), zip(*pairs)):
            found[f"{name}_{what}"] = {
                "median": round(statistics.median(values), 1), "low": round(min(values), 1),
                "high": round(max(values), 1),
            }  # fmt: skip
    return found


def resident() -> float:
    """Returns this process's resident memory in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory(folder: Path, *, minutes: float) -> dict[str, Any]:
    """Returns resident memory at each tenth of a long file."""
    frames = 250
    write_clip(folder / "long.mp4", width=320, height=180, frames=frames, repeat=max(1, round(minutes * 6)))
    total, used, rows = frames * max(1, round(minutes * 6)), [], 0
    predictor = vea.load("expression-nano")
    for row in track(folder / "long.mp4", predictor=predictor):
        rows += 1
        if row.frame % (total // 30) == 0:
            used.append(round(resident(), 1))
    third = len(used) // 3
    middle, last = statistics.median(used[third : 2 * third]), statistics.median(used[2 * third :])
    if last > GROWTH * middle:
        raise RunError(f"memory grows: {middle:.0f} MB in the middle, {last:.0f} MB at the end")
    return {"minutes": minutes, "rows": rows, "first_mb": used[0], "middle_mb": middle, "last_mb": last, "mb": used}


def validation_faces(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (probabilities (N, C), classes (N,)) of FER2013's validation faces, by the model that ships."""
    predictor = vea.load("expression")
    card = find_card("fer2013plus", CARDS)
    images, labels = [], []
    for sample in Fer2013Plus(card).samples(root, "val"):
        label = sample.labels.get("expression") if isinstance(sample, Sample) else None
        if label in predictor.classes:
            grey = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_GRAYSCALE)
            images.append(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))
            labels.append(predictor.classes.index(label))
    found = predictor.predict(images, detect_faces=False)
    return np.array([[one.probabilities[c] for c in predictor.classes] for one in found]), np.array(labels)


def draw_series(labels: np.ndarray, *, stay: float, rng: np.random.Generator, count: int) -> np.ndarray:
    """Returns (count, LENGTH) numbers of faces: a class stays with ``stay``, else any class is drawn; then a face."""
    classes = np.unique(labels)
    faces = {c: np.flatnonzero(labels == c) for c in classes}
    series = np.zeros((count, LENGTH), int)
    for row in series:
        current = rng.choice(classes)
        for turn in range(LENGTH):
            if turn and rng.random() >= stay:
                current = rng.choice(classes)
            row[turn] = rng.choice(faces[current])
    return series


def accuracy(shares: np.ndarray, labels: np.ndarray, series: np.ndarray, *, stay: float | None) -> float:
    """Returns the share of right classes: frames alone (None), or by a chain in which a class stays with ``stay``."""
    right = 0
    for row in series:
        found = shares[row]
        if stay is not None:
            chance = max(stay, 1e-3) + (1 - max(stay, 1e-3)) / shares.shape[1]  # leaving may end where it began
            found = smooth(found, step_s=1.0, lasts_s=-1 / float(np.log(chance)), evidence_s=0)
        right += int((found.argmax(1) == labels[row]).sum())
    return right / series.size


def chain(root: Path) -> dict[str, Any]:
    """Returns accuracies of frames alone, the true chain and the fitted one, on ordered and on unordered series."""
    shares, labels = validation_faces(root)
    found: dict[str, Any] = {"faces": len(labels), "length": LENGTH, "series": SERIES, "seeds": list(SEEDS)}
    rows: dict[str, list[float]] = {}
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        half = rng.permutation(len(labels))
        fit, held = half[: len(half) // 2], half[len(half) // 2 :]  # the rate is fitted on other faces
        for name, stay in (("chain", STAY), ("independent", 0.0)):
            others = draw_series(labels[fit], stay=stay, rng=rng, count=8)
            best = max(RATES[::4], key=lambda rate: accuracy(shares[fit], labels[fit], others, stay=float(rate)))
            series = draw_series(labels[held], stay=stay, rng=rng, count=SERIES)
            score = {
                f"{how}/{name}": accuracy(shares[held], labels[held], series, stay=rate)
                for how, rate in (("frames", None), ("stay_.9", STAY), ("fitted", float(best)))
            }
            score[f"rate/{name}"] = float(best)
            for key, value in score.items():
                rows.setdefault(key, []).append(round(value, 4))
    means = {key: round(float(np.mean(values)), 4) for key, values in rows.items()}
    gains = {
        f"{how}/{name}": [round(a - b, 4) for a, b in zip(rows[f"{how}/{name}"], rows[f"frames/{name}"])]
        for how in ("stay_.9", "fitted") for name in ("chain", "independent")
    }  # fmt: skip
    return found | {"accuracy": rows, "mean": means, "gain_over_frames": gains}


def draw(rows: list[Row], path: Path) -> None:
    """Draws the probabilities over time, of each frame alone and smoothed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, what in zip(figure.subplots(2, 1, sharex=True), ("raw", "probabilities")):
        shares = {name: [getattr(row, what)[name] for row in rows] for name in rows[0].raw}
        axes.stackplot([row.time for row in rows], *shares.values(), labels=list(shares))
        axes.set(ylim=(0, 1), xlim=(rows[0].time, rows[-1].time), ylabel="alone" if what == "raw" else "smoothed")
    axes.set_xlabel("seconds")
    axes.legend(ncols=7, loc="lower center", fontsize=7)
    figure.savefig(path, dpi=100)


def clip(root: Path, picture: Path | None) -> dict[str, Any]:
    """Returns stretches (from, to, expression) of the sample clip, and how its frames' errors hang together."""
    (path,) = root.glob("*.mp4")
    rows = list(track(path))
    if picture:
        draw(rows, picture)
    logits = np.log(np.clip([list(row.raw.values()) for row in rows], 1e-4, 1))
    kernel = np.ones(49) / 49  # two seconds
    rest = logits - np.stack([np.convolve(np.pad(c, 24, mode="edge"), kernel, "valid") for c in logits.T], 1)
    alike = [float((rest[:-lag] * rest[lag:]).sum() / (rest**2).sum()) for lag in range(1, 25)]
    first = next((i for i, value in enumerate(alike) if value <= 0), len(alike))
    step = float(np.median(np.diff([row.time for row in rows])))
    return {
        "frames": len(rows), "people": len({row.track for row in rows}),
        "smoothed": stretches([(row.time, row.expression) for row in rows]),
        "frames_alone": stretches([(row.time, max(row.raw, key=row.raw.__getitem__)) for row in rows]),
        "autocorrelation": [round(value, 2) for value in alike[:10]],
        "independent_after_s": round(step * (1 + 2 * sum(alike[:first])), 2),
    }  # fmt: skip


def peer(root: Path, weights: Path, *, every: int = 8) -> dict[str, Any]:
    """Returns ms a frame and stretches of the clip by fer, each frame alone, and by vea with both models that ship."""
    from expression_peers import fer
    from face_speed import grey48

    from vea.faces.detect import face_detector
    from vea.faces.video import frames

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    (path,) = root.glob("*.mp4")
    network, detect, found, faceless = fer(weights), face_detector(), {}, 0
    points: list[tuple[float, str]] = []
    start, count = time.process_time(), 0
    for frame in frames(path, every=every):
        count += 1
        faces = detect(frame.image)
        faceless += not faces
        if faces:
            points.append((frame.time, network(grey48(frame.image, faces[0][0]))[0]))
    ms = round(1000 * (time.process_time() - start) / count, 1)
    found["fer"] = {"ms_a_frame": ms, "frames_without_a_face": faceless, "stretches": stretches(points)}
    for name in ("expression", "expression-nano"):
        predictor = vea.load(name)
        next(iter(track(path, predictor=predictor, every=100)))  # what is prepared once
        start = time.process_time()
        rows = list(track(path, predictor=predictor, every=every))
        found[name] = {
            "ms_a_frame": round(1000 * (time.process_time() - start) / count, 1),
            "frames_without_a_face": count - len({row.frame for row in rows}),
            "stretches": stretches([(row.time, row.expression) for row in rows]),
        }
    return {"frames": count, "every": every, **found}


def stretches(points: list[tuple[float, str]]) -> list[tuple[float, float, str]]:
    """Returns (first time, last time, expression) of each run of equal expressions."""
    runs = [list(run) for _, run in itertools.groupby(points, key=lambda point: point[1])]
    return [(round(run[0][0], 2), round(run[-1][0], 2), run[0][1]) for run in runs]


@command
def main(argv: list[str]) -> int:
    """Runs the parts and prints what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="speed,memory,chain,clip")
    parser.add_argument("--frames", type=int, default=50, help="of the 1080p clip")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=10, help="of the long file")
    parser.add_argument("--picture", type=Path, help="of the clip's timeline")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    data = os.environ.get("VEA_DATA")
    record: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        parts = {
            "speed": lambda: speed(Path(folder), frames=arguments.frames, threads=arguments.threads),
            "memory": lambda: memory(Path(folder), minutes=arguments.minutes),
            "chain": lambda: chain(Path(str(data)) / "fer2013plus"),
            "clip": lambda: clip(Path(str(data)) / "video_sample", arguments.picture),
            "peer": lambda: peer(Path(str(data)) / "video_sample", Path(str(data)) / "weights" / "peers"),
        }
        for name in arguments.parts.split(","):
            if name not in parts:
                raise VeaError(f"--parts: {name} is none of {', '.join(parts)}")
            if name in ("chain", "clip", "peer") and not data:
                raise VeaError(f"{name} needs VEA_DATA")
            record[name] = parts[name]()
            print(f"{name}: {json.dumps(record[name])}", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
