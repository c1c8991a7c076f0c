"""A model of one's own from class folders of photographs: find, divide, size the run to the data, train, test once.

Built from the pieces that everything else uses: prepared shards, a recognition config, the one engine. The run can be
evaluated, resumed, exported and shown as any other.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from vea.config import DatasetRef, RecogniseConfig
from vea.config.sections import DataConfig, TrackingConfig, TrainConfig
from vea.data.class_folders import Picture, divide, find_pictures, in_two_classes, key_of, look_at
from vea.data.loading.loader import eval_loader
from vea.data.sample import Sample
from vea.data.shards.plan import write_dataset
from vea.data.shards.writer import Records, Skipped
from vea.data.views.decode import Encoded, at_scale
from vea.data.views.formats import passed_over
from vea.data.views.pictures import read_picture
from vea.data.views.views import cut_face
from vea.distributed import runtime as vea_runtime
from vea.errors import VeaError
from vea.faces.detect import Box, Detection, face_detector, faces_in
from vea.inference.evaluate import collect
from vea.storage.atomic import write_text
from vea.tasks.recognise_metrics import RecogniseMetrics
from vea.tasks.saved import open_model
from vea.taxonomy.fields import LabelField
from vea.training.finetune import fine_tune

Face = tuple[Box, float]  # the square's box and the degrees by which the face is turned, as ``predict`` cuts it
Region = Literal["auto", "face", "scene"]
LOOKED_AT = 60  # pictures whose faces decide what `auto` means
LARGEST_FACE = 512  # pixels a side from which a cut face is stored at half, a third, ... of its size
MODELS = {"face": "expression", "scene": "scene"}  # what each region starts from; both ship


@dataclass(frozen=True)
class Result:
    """What came of it: the run folder, and the record of its one evaluation on the test part."""

    run: Path
    record: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """Share of the test pictures that were recognised."""
        return next(iter(self.record["targets"].values()))["metrics"]["accuracy"]


def train_on_folder(
    folder: Path, out: Path | None = None, *, region: Region = "auto", say: Callable[[str], None] = print
) -> Result:
    """Returns the model that was trained on ``folder/CLASS/PICTURE``, and how good it is on pictures it has not seen.

    Args:
        folder: one folder per class; deeper folders belong to their class.
        out: run folder; by default ``runs/<name of the folder>``. The same command goes on where it was stopped.
        region: ``face`` looks at the largest face of each picture (pictures without one are left out), ``scene`` at
            whole pictures, ``auto`` at faces where more than half of the pictures have one.
        say: gets each line of what is done.

    Raises:
        VeaError: fewer than two classes, too few pictures, no face detector, or ``out`` holds something else.
    """
    run = out or Path("runs") / folder.resolve().name
    found, passed = find_pictures(folder)
    say(f"{folder}: {_counted([label for label, _ in found])}{'; ' if passed else ''}{passed_over(passed)}")
    pictures, boxes, kind, lost = _looked_at(found, region, say)
    if lost:
        shown = ", ".join(str(path.relative_to(folder)) for path, _ in lost[:5])
        reasons = "; ".join(dict.fromkeys(reason for _, reason in lost))
        say(f"left out: {len(lost)} pictures ({shown}{', ...' if len(lost) > 5 else ''}): {reasons}")
    classes = sorted({label for label, _ in found})
    gone = sorted(set(classes) - {picture.label for picture in pictures})
    if gone:
        other = "" if kind == "scene" else "; --region scene looks at whole pictures"
        raise VeaError(f"--folder: no picture of {', '.join(gone)} can be used, see above{other}")
    if twice := in_two_classes(pictures):
        shown = "; ".join(" and ".join(key_of(picture, folder) for picture in alike[:3]) for alike in twice[:3])
        say(f"{len(twice)} pictures lie in more than one class ({shown}): keep each in the one that is right")
    parts = divide(pictures)
    say(
        ", ".join(f"{name} {len(some)}" for name, some in parts.items())
        + " pictures; those that look the same stay in one part"
    )
    _prepare(folder, run, parts, boxes, kind=kind, classes=classes)
    config = sized_config(run, kind=kind, train=len(parts["train"]), classes=len(classes))
    trained = {"linear": "its head", "last_blocks": "its last blocks", "full": "all of it"}[config.model.train]
    say(
        f"start: the model {MODELS[kind]!r} that ships; trained is {trained}, at most {config.train.steps} steps of "
        f"{config.data.global_batch_size} pictures"
    )
    return _trained(config, run, say)


def _counted(labels: Sequence[str]) -> str:
    names = sorted(set(labels))
    return f"{len(labels)} pictures, {len(names)} classes ({', '.join(f'{n} {labels.count(n)}' for n in names[:12])})"


# ------------------------------------------------------------------------------------------------------------ pictures


def _detector(region: Region, say: Callable[[str], None]) -> Callable[[np.ndarray], list[Detection]] | None:
    if region == "scene":
        return None
    try:
        return face_detector()
    except VeaError as error:
        if region == "face":
            raise
        say(f"whole pictures are looked at: {error}")
        return None


def _looked_at(
    found: Sequence[tuple[str, Path]], region: Region, say: Callable[[str], None]
) -> tuple[list[Picture], dict[Path, Face], Literal["face", "scene"], list[tuple[Path, str]]]:
    """Returns the readable pictures, the largest face of each, the region, and what is left out with the reason."""
    detect = _detector(region, say)
    if detect is not None and region == "auto":
        some = found[:: max(1, len(found) // LOOKED_AT)]
        with_face = sum(
            bool(image is not None and faces_in(image, detect)) for image in (_read(path) for _, path in some)
        )
        many = 2 * with_face > len(some)
        say(f"{with_face} of {len(some)} pictures have a face: {'faces' if many else 'whole pictures'} are looked at")
        detect = detect if many else None
    kind: Literal["face", "scene"] = "scene" if detect is None else "face"
    pictures: list[Picture] = []
    boxes: dict[Path, Face] = {}
    lost: list[tuple[Path, str]] = []
    for label, path in found:
        try:
            image = read_picture(path)
        except VeaError as error:
            lost.append((path, str(error).removeprefix(f"{path}: ")))
            continue
        if detect is not None:
            faces = faces_in(image, detect)
            if not faces:
                lost.append((path, "no face was found"))
                continue
            boxes[path] = faces[0].upright, faces[0].turn
        pictures.append(look_at(path, label, at_scale(image, least=1.0)))
    return pictures, boxes, kind, lost


def _read(path: Path) -> np.ndarray | Encoded | None:
    try:
        return read_picture(path)
    except VeaError:
        return None


def _stored(picture: Picture, face: Face | None, *, size: int) -> tuple[bytes, str]:
    """Returns the encoded picture and its extension: its file as it is, or without loss what ``predict`` cuts out."""
    data = picture.path.read_bytes()
    if face is None and data[:3] == b"\xff\xd8\xff":
        return data, "jpg"
    image = at_scale(read_picture(data), least=1.0) if face is None else cut_face(read_picture(data), *face, size=size)
    if face is not None:
        factor = max(1, image.shape[0] // (LARGEST_FACE // 2))
        if image.shape[0] >= LARGEST_FACE:
            side = round(image.shape[0] / factor)
            image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes(), "png"


def _prepare(
    folder: Path, run: Path, parts: dict[str, list[Picture]], boxes: dict[Path, Face], *, kind: str, classes: list[str]
) -> None:
    """Writes the prepared set ``run/data``; one of the same pictures that is there already is kept."""
    field = "expression" if kind == "face" else "emotion"
    about = json.dumps(
        {name: sorted((key_of(p, folder), p.digest, boxes.get(p.path)) for p in some) for name, some in parts.items()}
    )
    told = hashlib.sha256(f"{kind} {classes} {about}".encode("utf-8", "surrogatepass")).hexdigest()
    note = run / "folder.json"
    try:
        same = json.loads(note.read_text(encoding="utf-8"))["pictures"] == told
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if same and (run / "data" / "index.json").is_file():
        return
    if not same and run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise VeaError(f"--out: {run} holds something already, and not a model of these pictures; choose another --out")

    size = open_model(MODELS["face"]).task.config.augment.image_size if kind == "face" else 0
    run.mkdir(parents=True, exist_ok=True)
    write_text(note, json.dumps({"folder": folder.resolve().name, "region": kind, "pictures": told}, indent=1))

    def records(split: str, some: list[Picture]) -> Records:
        def load(i: int) -> Sample | Skipped:
            data, extension = _stored(some[i], boxes.get(some[i].path), size=size)
            key, labels = key_of(some[i], folder), {field: some[i].label}
            return Sample(key, data, extension, labels, source=folder.name, split=split)

        return Records([key_of(picture, folder) for picture in some], load, about=told)

    write_dataset(
        {split: records(split, some) for split, some in parts.items()},
        run / "data",
        name=folder.resolve().name,
        title=f"class folders {folder.resolve().name}",
        fields={field: LabelField("class", tuple(classes))},
        card=None,
    )


# ------------------------------------------------------------------------------------------------------------ the run


def sized_config(run: Path, *, kind: Literal["face", "scene"], train: int, classes: int) -> RecogniseConfig:
    """Returns the config of a run on ``train`` pictures of ``classes`` classes, beginning at the model that ships.

    Below 300 pictures only the head learns, on the features of the model; from 300 on its last layers too, from 3,000
    on all of it. Validation chooses the weights by the loss, which says more of few pictures than their accuracy, and
    ends the run when it has not fallen for four validations.
    """
    base = open_model(MODELS[kind]).task.config.model_copy(deep=True)
    field = "expression" if kind == "face" else "emotion"
    part: Literal["linear", "last_blocks", "full"]
    part, passes, rate = (
        ("linear", 120 if kind == "face" else 40, 3e-3)
        if train < 300
        else ("last_blocks", 40, 3e-4)
        if train < 3000
        else ("full", 20, 5e-4)
    )
    batch = 16 if train < 300 else 32 if train < 3000 else 64
    steps = max(60, math.ceil(passes * train / batch))
    every = max(10, min(steps // 15, math.ceil(4 * train / batch)))
    values = base.model_dump() | {
        "name": run.resolve().name,
        "out": str(run),
        "seed": 0,
        "notes": f"class folders, {train} training pictures of {classes} classes",
        "targets": {field: 1.0},
        "select_by": f"{field}/nll",
        "data": DataConfig(
            train=[DatasetRef(path=str(run / "data"), split="train")],
            val=[DatasetRef(path=str(run / "data"), split="val")],
            global_batch_size=batch,
            virtual_readers=min(8, batch),
            workers=0 if train < 300 else 2,
        ).model_dump(),
        "train": TrainConfig(
            steps=steps,
            base_lr=rate * 256 / batch,
            warmup_steps=min(20, steps // 10),
            betas=(0.9, 0.999),
            weight_decay=0.05,
            clip_grad=5.0,
            precision="fp32",
            eval_every=every,
            checkpoint_every=every,
            patience=4,
            init_from=MODELS[kind],
        ).model_dump(),
        "tracking": TrackingConfig(backend="none").model_dump(),
        "distill": {"models": []},
        "imbalance": {"weights": "sqrt"},
        "mix": {"smoothing": 0.05},
    }
    values["augment"] |= {"region": "whole", "scale": (0.7, 1.0) if kind == "face" else (0.4, 1.0), "flip": 0.5}
    values["model"] |= {"train": part, "drop_rate": 0.1}
    return type(base).model_validate(values)


def _trained(config: RecogniseConfig, run: Path, say: Callable[[str], None]) -> Result:
    file = run / "evaluation_test.json"
    runtime = vea_runtime.start(config.runtime, precision=config.train.precision)
    try:
        if not file.is_file():  # the test part is looked at once
            fine_tune(config, runtime)
            model = open_model(run)
            model.task.to(runtime.device)
            refs = [DatasetRef(path=str(run / "data"), split="test")]
            batches = eval_loader(config, model.task.item_spec(), refs=refs, batch_size=64, rank=0, world_size=1)
            metrics = collect(model.task, batches, runtime, RecogniseMetrics(model.task.fields))
            record = {
                "format": 1,
                "flip": False,
                "split": "test",
                "data": [ref.path for ref in refs],
                "synthetic": False,
                "weights": {"kind": "best", "step": model.state.get("step"), "best": model.state.get("best")},
                **metrics.report(),
            }
            write_text(file, json.dumps(record, ensure_ascii=False, separators=(",", ":")))
    finally:
        vea_runtime.stop()
    record = json.loads(file.read_text(encoding="utf-8"))
    (name, scores), blind = next(iter(record["targets"].items())), next(iter(record["blind"].values()))
    best = record["weights"]["best"]
    low, high = scores["intervals"].get("accuracy", (float("nan"),) * 2)
    say(f"chosen by validation: step {best['step']}, {best['metric']} {best['value']:.3f}")
    say(
        f"test, {scores['samples']} pictures that it has not seen: {name} accuracy "
        f"{scores['metrics']['accuracy']:.2f} (95 % {low:.2f} to {high:.2f}); chance {blind['chance']:.2f}, always the "
        f"most frequent class {blind['majority']:.2f}"
    )
    return Result(run, record)
