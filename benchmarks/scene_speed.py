"""What a picture costs the scene model that ships, one thread, and whether every way to ask it says the same.

    VEA_DATA=RAW taskset -c 0 python benchmarks/scene_speed.py --json scene_speed.json

Processor time; every photograph of people_samples (without VEA_DATA: 25 drawn scenes) goes through every way in turn,
in rounds, so that a busy machine meets all alike. The answers of the quick form, and of the ONNX export where
onnxruntime is installed, are compared with those of the network as torch runs it; beyond 1e-4 points it fails. It also
fails where the median of ``predict`` is not below ``--limit``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from vea.data import synthetic
from vea.data.views.pictures import read_image, read_picture
from vea.errors import RunError, command
from vea.inference.predict import load
from vea.inference.scene import load_scene
from vea.models.cnn import fold_norms
from vea.publish.onnx import export_onnx
from vea.publish.verify import TOLERANCE
from vea.storage.atomic import write_text
from vea.tasks.saved import SavedModel, open_model

PREDICT = 'vea.load("scene").predict([array])'


def pictures() -> tuple[list[bytes], str]:
    """Returns encoded pictures and what they are."""
    folder = Path(os.environ.get("VEA_DATA", "")) / "people_samples" / "images"
    files = sorted(folder.glob("*.jpg"))
    if files:
        return [file.read_bytes() for file in files], f"{len(files)} photographs of people_samples"
    return [sample.image for sample in islice(synthetic.samples(25, size=480), 25)], "25 drawn scenes of 480 pixels"


@torch.inference_mode()
def values_of(model: SavedModel, views: list[np.ndarray]) -> np.ndarray:
    """Returns (N, 2) valence and arousal by the network as torch runs it."""
    rows = []
    for view in views:
        answers = model.task.answers(model.task.predict({"image": torch.from_numpy(view).permute(2, 0, 1)[None]}))
        rows.append([float(answers[name][0]) for name in ("valence", "arousal")])
    return np.array(rows)


def onnx_session(model: SavedModel, views: list[np.ndarray], folder: Path) -> Any:
    """Returns a session of the exported model, one thread; None where a package for it is missing."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError:
        return None
    export_onnx(model, folder / "scene.onnx", images=torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).contiguous())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(folder / "scene.onnx", options, providers=["CPUExecutionProvider"])


def measure(rounds: int) -> dict[str, Any]:
    """Returns medians in ms, largest differences in points, and what was measured."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    encoded, what = pictures()
    images = [read_image(data) for data in encoded]
    plain, reader, predictor, folded = open_model("scene"), load_scene(), load("scene"), open_model("scene")
    fold_norms(folded.task.encoder)
    views = [reader.view(image) for image in images]
    truth = values_of(plain, views)
    quick = [[p.attributes[name].value for name in ("valence", "arousal")] for p in predictor.predict(images)]
    differences = {"quick form, to torch": float(np.abs(np.array(quick, np.float64) - truth).max())}
    ways: dict[str, Callable[[int], Any]] = {
        PREDICT: lambda k: predictor.predict([images[k]]),
        "of that: the view": lambda k: predictor._view.scene(images[k]),
        "the network as torch runs it": lambda k: values_of(plain, views[k : k + 1]),
        "the network with folded norms": lambda k: values_of(folded, views[k : k + 1]),
        "load_scene().look(array), with brightness and colorfulness": lambda k: reader.look(images[k]),
        "load_scene().look(JPEG)": lambda k: reader.look(read_picture(encoded[k])),
    }
    with tempfile.TemporaryDirectory() as folder:
        session = onnx_session(plain, views, Path(folder))
        if session:
            inputs = [np.ascontiguousarray(view.transpose(2, 0, 1))[None] for view in views]
            names = ["valence", "arousal"]
            rows = np.array([[float(value[0]) for value in session.run(names, {"images": x})] for x in inputs])
            differences["ONNX, to the quick form"] = float(np.abs(rows - np.array(quick, np.float64)).max())
            ways["the exported network by ONNX Runtime"] = lambda k: session.run(names, {"images": inputs[k]})
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(rounds + 1):  # the first warms up
            for k in range(len(images)):
                for name, way in ways.items():
                    start = time.process_time()
                    way(k)
                    if round_:
                        taken[name].append(1000 * (time.process_time() - start))
    times = {
        name: {"median": round(statistics.median(ms), 2), "deciles": np.quantile(ms, [0.1, 0.9]).round(2).tolist()}
        for name, ms in taken.items()
    }
    load_average = [round(value, 1) for value in os.getloadavg()]
    return {"pictures": what, "rounds": rounds, "load_average": load_average, "ms": times, "differences": differences}


@command
def main(argv: list[str]) -> None:
    """Measures, prints and judges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--limit", type=float, default=25.0, help="ms, of predict on an array")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    record = measure(given.rounds)
    print(f"{record['pictures']}, {given.rounds} rounds, load average {record['load_average']}")
    for name, ms in record["ms"].items():
        print(f"| {name} | {ms['median']:.1f} | {ms['deciles'][0]:.1f} to {ms['deciles'][1]:.1f} |")
    for name, value in record["differences"].items():
        print(f"{name}: at most {value:.1e} points")
    if given.json:
        write_text(given.json, json.dumps(record, indent=1) + "\n")
    worst = max(record["differences"].values())
    if not worst <= TOLERANCE:
        raise RunError(f"the answers differ by {worst:.1e} points, beyond {TOLERANCE:.0e}")
    if not record["ms"][PREDICT]["median"] < given.limit:
        raise RunError(f"a picture takes {record['ms'][PREDICT]['median']} ms, not below {given.limit:g}")


if __name__ == "__main__":
    sys.exit(main())
