"""Enrichment: resumable passes, parts that add up, sidecars that the loader uses and that it refuses."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from vea.commands.main import main
from vea.config import (
    AugmentConfig,
    DataConfig,
    DatasetRef,
    DecoderConfig,
    EncoderConfig,
    PretrainConfig,
    PromptConfig,
    TeacherConfig,
    TrainConfig,
)
from vea.data.loading.loader import train_loader
from vea.data.sample import Sample
from vea.data.shards.index import read_index
from vea.data.shards.plan import write_dataset
from vea.data.shards.reader import ShardReader
from vea.data.shards.sidecars import check_sidecars
from vea.data.views.decode import decode
from vea.enrich.prompts import Prompts
from vea.enrich.run import Pass, enrich, shards_of
from vea.enrich.teacher import TeacherImages, TeacherTexts
from vea.errors import VeaError
from vea.models.teachers.load import load_teacher
from vea.tasks.items import item_spec
from vea.tasks.pretrain import PretrainTask

TINY = TeacherConfig(name="tiny-synthetic")


def picture(n: int, *, side: int = 32) -> bytes:
    image = np.random.default_rng(n).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return cv2.imencode(".png", cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC))[1].tobytes()


def write(
    folder: Path, count: int = 30, *, offset: int = 0, boxes: bool = False, texts: int = 5, size: int = 8
) -> Path:
    def sample(n: int, split: str) -> Sample:
        own = [[2.0, 2.0, 30.0, 30.0]] if boxes else []
        return Sample(f"{split}{n:03d}", picture(n + offset), "png", {}, [f"a red circle {n % texts}"], own, "", split)

    splits = {"train": count - 4, "val": 4}
    made = {split: [sample(n, split) for n in range(number)] for split, number in splits.items()}
    write_dataset(made, folder, name=folder.name, title="", fields={}, card=None, synthetic=True, shard_size=size)
    return folder


def spoil(root: Path, key: str, split: str = "train") -> None:
    """Overwrites the bytes of an image in its tar."""
    for shard in read_index(root).splits[split]["shards"]:
        path = root / shard["file"]
        content = bytearray(path.read_bytes())
        for at, size, json_at, json_size in np.load(path.with_suffix(".idx")).tolist():
            if json.loads(content[json_at : json_at + json_size])["id"] == key:
                content[at : at + size] = bytes(size)
        path.write_bytes(content)


class Fixed(Pass):
    """Says that a person is in the left half of every picture, and counts what it was asked."""

    name, batch_size = "persons", 3

    def __init__(self, score: float = 1.0, *, stop_after: int | None = None) -> None:
        self.options = {"score": score}
        self.seen, self.stop_after = 0, stop_after

    def prepare(self, image: np.ndarray | None, metadata: dict) -> tuple[int, int]:
        assert image is not None
        if self.seen == self.stop_after:
            raise KeyboardInterrupt
        self.seen += 1
        return image.shape[1], image.shape[0]

    def rows(self, prepared: list) -> list[dict]:
        return [{"boxes": [[0, 0, width / 2, height]], "scores": [1.0]} for width, height in prepared]

    def empty(self) -> dict:
        return {"boxes": [], "scores": []}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def quiet(line: str) -> None:
    """Says nothing."""


# -------------------------------------------------------------------------------------------------------------- engine


def test_an_interrupted_pass_does_only_the_rest(tmp_path: Path):
    index = read_index(write(tmp_path / "set"))
    sizes = [shard.samples for shard in shards_of(index)]
    assert sizes == [8, 8, 8, 2, 4]
    whole = enrich(index, Fixed(), name="whole", say=quiet)
    assert (whole.made, whole.images, whole.there_before) == (5, 30, 0)
    stopped = Fixed(stop_after=21)
    with pytest.raises(KeyboardInterrupt):
        enrich(index, stopped, say=quiet)
    assert stopped.seen == 21
    there = {path.name for path in (index.root / "sidecars" / "persons").glob("*.jsonl")} - {"meta.json"}
    assert there == {"train-000000.jsonl", "train-000001.jsonl"}
    rest = Fixed()
    done = enrich(index, rest, say=quiet)
    assert (done.made, done.there_before, rest.seen) == (3, 2, 30 - 16)
    assert content(done.folder) == content(whole.folder)
    again = Fixed()
    assert enrich(index, again, say=quiet).made == 0 and again.seen == 0


STUCK = """
import sys, time
from vea.config import PromptConfig
from vea.enrich.prompts import Prompts
from vea.enrich.run import enrich
from vea.data.shards.index import read_index
class Stuck(Prompts):
    count = 0
    def prepare(self, image, metadata):
        self.count += 1
        if self.count == 12:
            print("stuck in the second shard", file=sys.stderr, flush=True)
            time.sleep(300)
        return super().prepare(image, metadata)
enrich(read_index(sys.argv[1]), Stuck(PromptConfig()))
"""


def test_a_killed_process_leaves_whole_shards_and_a_living_one_keeps_its_own(tmp_path: Path):
    index = read_index(write(tmp_path / "set"))
    process = subprocess.Popen([sys.executable, "-c", STUCK, str(index.root)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(2)]
    assert "train-000000 (1 of 5 shards), 8 samples" in lines[0] and "stuck" in lines[1]
    beside = enrich(index, Prompts(PromptConfig()), splits=["train"], part=(2, 4), say=quiet)
    assert (beside.made, beside.elsewhere) == (0, 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder = index.root / "sidecars" / "prompts"
    assert [path.name for path in folder.glob("*.jsonl")] == ["train-000000.jsonl"]
    done = enrich(index, Prompts(PromptConfig()), say=quiet)
    assert (done.made, done.there_before, done.elsewhere) == (4, 1, 0)
    whole = enrich(index, Prompts(PromptConfig()), name="whole", say=quiet)
    assert content(folder) == content(whole.folder)


def test_three_parts_give_the_bytes_of_one(tmp_path: Path):
    index = read_index(write(tmp_path / "set"))
    spoil(index.root, "train005")
    for make in (Fixed, lambda: TeacherImages(TINY)):
        one = enrich(index, make(), name="one", say=quiet)
        images = [enrich(index, make(), name="three", part=(i, 3), say=quiet).images for i in (3, 1, 2)]
        assert sum(images) == 30 and min(images) > 0
        assert content(one.folder) == content(index.root / "sidecars" / "three")
        for name in ("one", "three"):
            for path in (index.root / "sidecars" / name).iterdir():
                path.unlink()
    with pytest.raises(VeaError, match="--part 4/3"):
        enrich(index, Fixed(), part=(4, 3), say=quiet)


def test_an_image_that_cannot_be_decoded_is_an_empty_row(tmp_path: Path, capsys):
    root = write(tmp_path / "set")
    for key in ("train003", "train009"):
        spoil(root, key)
    lines: list[str] = []
    done = enrich(read_index(root), Fixed(), say=lines.append)
    assert [(entry["key"], entry["shard"], entry["row"]) for entry in done.skipped] == [
        ("train003", "train-000000", 3),
        ("train009", "train-000001", 1),
    ]
    assert [line.split(":")[0] for line in lines if "skipped train" in line] == ["skipped train003", "skipped train009"]
    rows = [json.loads(line) for line in (done.folder / "train-000000.jsonl").read_text().splitlines()]
    assert [len(row["boxes"]) for row in rows] == [1, 1, 1, 0, 1, 1, 1, 1]
    assert len(enrich(read_index(root), Fixed(), say=quiet).skipped) == 2  # also of an earlier call
    assert main(["enrich", "teacher-image", str(root), "--teacher", "tiny-synthetic"]) == 0
    assert "2 images could not be decoded" in capsys.readouterr().out
    rows = np.load(root / "sidecars" / "teacher_image" / "train-000000.npy")
    assert np.isnan(rows).any(1).tolist() == [row == 3 for row in range(8)]


def test_other_options_and_other_sets_are_refused(tmp_path: Path):
    index = read_index(write(tmp_path / "set"))
    enrich(index, Fixed(), say=quiet)
    with pytest.raises(VeaError, match=r'options \{"score": 1.0\}, not \{"score": 0.5\}; give another --name'):
        enrich(index, Fixed(0.5), say=quiet)
    with pytest.raises(VeaError, match='pass "persons", not "prompts"'):
        enrich(index, Prompts(PromptConfig()), name="persons", say=quiet)
    other = write(tmp_path / "other", offset=100)
    os.rename(index.root / "sidecars", other / "sidecars")
    with pytest.raises(VeaError, match="made from other images than those of"):
        enrich(read_index(other), Fixed(), say=quiet)
    with pytest.raises(VeaError, match="made from other images than those of"):
        batch_of(config(other, persons="persons"))


# --------------------------------------------------------------------------------------------------------------- check


class Vectors(Fixed):
    """One number per picture, NaN where there is none."""

    name, suffix = "teacher-image", ".npy"

    def rows(self, prepared: list) -> np.ndarray:
        return np.ones((len(prepared), 3), dtype=np.float32)

    def empty(self) -> np.ndarray:
        return np.full(3, np.nan, dtype=np.float32)


@pytest.fixture(scope="module")
def enriched(tmp_path_factory) -> Path:
    """A set with one picture that cannot be decoded and two sidecars."""
    root = write(tmp_path_factory.mktemp("checked") / "set")
    spoil(root, "train009")
    for enrichment in (Fixed(), Vectors()):
        enrich(read_index(root), enrichment, name=enrichment.name.replace("-", "_"), say=quiet)
    return root


def test_the_check_reads_sidecars(enriched: Path, capsys):
    assert check_sidecars(read_index(enriched)) == ([], ["persons", "teacher_image"])
    assert main(["shards", "check", str(enriched), "--no-decode"]) == 1  # the spoilt image has another checksum
    assert "train-000001.tar has another checksum" in capsys.readouterr().out


def _lines(change) -> object:
    return lambda path: path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def _matrix(change) -> object:
    return lambda path: np.save(path, change(np.load(path)), allow_pickle=False)


@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("persons/train-000000.jsonl", _lines(lambda lines: lines[:-1]), "has 7 rows for 8 samples; remove it and run"),
        ("persons/train-000000.jsonl", _lines(lambda lines: [b"{\n", *lines[1:]]), "row 0 is not JSON"),
        ("persons/val-000000.jsonl", _lines(lambda lines: [b'{"boxes": [[1]]}\n', *lines[1:]]), "row 0 has boxes"),
        ("persons/train-000002.jsonl", Path.unlink, "and 0 more are missing: run `vea enrich persons` again"),
        ("persons/train-000009.jsonl", Path.touch, "belongs to no shard of this set"),
        ("persons/meta.json", Path.unlink, "meta.json is missing"),
        ("persons/meta.json", lambda path: path.write_text("{"), "meta.json is damaged"),
        ("teacher_image/val-000000.npy", lambda path: path.write_bytes(path.read_bytes()[:140]), "is not readable"),
        ("teacher_image/val-000000.npy", lambda path: path.write_bytes(b""), "is not readable (No data left in file)"),
        ("teacher_image/val-000000.npy", _matrix(lambda rows: rows[:, :2]), "holds vectors of [2, 3] numbers"),
        ("teacher_image/val-000000.npy", _matrix(lambda rows: rows * np.nan), "rows 0 and 3 more"),
        ("teacher_image/val-000000.npy", _matrix(lambda rows: rows.astype("f8")), "holds float64, not float32"),
        (
            "teacher_image/train-000001.skipped.json",
            lambda path: path.write_text(path.read_text().replace("train009", "train008")),
            "has skipped samples in train-000001.skipped.json",
        ),
    ],
)
def test_a_damaged_sidecar_is_one_sentence_with_its_name(enriched: Path, tmp_path: Path, name, damage, expected):
    root = tmp_path / "set"
    shutil.copytree(enriched, root)
    damage(root / "sidecars" / name)
    problems, _ = check_sidecars(read_index(root))
    assert len(problems) == 1 and expected in problems[0], problems
    assert "[2, 3]" in expected or Path(name).stem.split(".")[0] in problems[0]


def test_a_split_may_have_no_rows(tmp_path: Path):
    index = read_index(write(tmp_path / "set"))
    enrich(index, Fixed(), splits=["val"], say=quiet)
    assert check_sidecars(index) == ([], ["persons"])
    (problem,), _ = check_sidecars(index, ["faces"])
    assert "faces/meta.json is missing" in problem


# --------------------------------------------------------------------------------------------------------------- loader


def config(root: Path, *, cache: str = "none", persons: str | None = None) -> PretrainConfig:
    """Views without any change: the scene is the stored image."""
    return PretrainConfig(
        name="test",
        augment=AugmentConfig(image_size=32, scale=(1, 1), ratio=(1, 1), flip=0),
        data=DataConfig(
            train=[DatasetRef(path=str(root), persons=persons)], global_batch_size=8, virtual_readers=4, workers=0
        ),
        train=TrainConfig(steps=1),
        teacher=TeacherConfig(name="tiny-synthetic", cache=cache),  # type: ignore[arg-type]
    )


def batch_of(settings: PretrainConfig) -> dict:
    return next(train_loader(settings, item_spec(settings), start_step=0, micro_batch=8, rank=0, world_size=1))


def test_the_persons_sidecar_changes_the_person_view(tmp_path: Path):
    root = write(tmp_path / "set")
    with pytest.raises(VeaError, match="has no sidecar persons: run `vea enrich persons"):
        batch_of(config(root, persons="persons"))
    without = batch_of(config(root))
    enrich(read_index(root), Fixed(), splits=["val"], say=quiet)
    with pytest.raises(VeaError, match=r"train-000000.jsonl and 3 more are missing"):
        batch_of(config(root, persons="persons"))
    enrich(read_index(root), Fixed(), say=quiet)
    found = batch_of(config(root, persons="persons"))
    assert found["keys"] == without["keys"] and torch.equal(found["scene"], without["scene"])
    assert not without["has_person"].any() and found["has_person"].all()
    assert torch.equal(without["person"], without["scene"])
    # the box is the left half: the person view shows nothing of the right quarter of the scene
    halves = [cv2.resize(scene.permute(1, 2, 0).numpy()[:, :17], (32, 32)) for scene in found["scene"]]
    for view, half, scene in zip(found["person"], halves, found["scene"]):
        near = np.abs(view.permute(1, 2, 0).numpy().astype(float) - half).mean()
        far = (view.float() - scene.float()).abs().mean().item()
        assert near < far / 2


def test_boxes_that_come_with_the_data_win(tmp_path: Path):
    root = write(tmp_path / "set", boxes=True)
    enrich(read_index(root), Fixed(), say=quiet)
    assert torch.equal(batch_of(config(root))["person"], batch_of(config(root, persons="persons"))["person"])


def test_cached_teacher_images_are_what_a_live_teacher_says(tmp_path: Path):
    root = write(tmp_path / "set")
    assert main(["enrich", "teacher-image", str(root), "--teacher", "tiny-synthetic", "--batch-size", "3"]) == 0
    teacher = load_teacher(TINY)
    settings = config(root, cache="image")
    batches = train_loader(settings, item_spec(settings), start_step=0, micro_batch=8, rank=0, world_size=1)
    for batch in (next(batches) for _ in range(4)):
        live = teacher.encode_image(batch["scene"])
        assert (batch["teacher_image"] - live).abs().max() < 1e-5
        assert (live[0] - live[1]).abs().max() > 1e-3  # different pictures differ
    settings = config(root, cache="image")
    settings.teacher = TeacherConfig(name="ViT-B-16", pretrained="openai", cache="image")
    with pytest.raises(VeaError, match="holds embeddings of the teacher tiny-synthetic, not of ViT-B-16"):
        batch_of(settings)


# --------------------------------------------------------------------------------------------------------------- passes


def test_equal_prompts_are_embedded_once_over_shards_and_runs(tmp_path: Path):
    index = read_index(write(tmp_path / "set", texts=5))
    first = TeacherTexts(TINY, PromptConfig())
    assert enrich(index, first, splits=["train"], say=quiet).made == 4 and first.embedded == 5
    later = TeacherTexts(TINY, PromptConfig())
    done = enrich(index, later, say=quiet)
    assert done.made == 1 and later.embedded == 0  # the texts of val occur in train
    reader = ShardReader(index.root, "val")
    texts = [reader.read(i)[2]["text"][0] for i in range(4)]
    rows = np.load(done.folder / "val-000000.npy")
    assert np.array_equal(rows, load_teacher(TINY).encode_text(texts).numpy())
    settings = config(index.root, cache="text")
    batch = batch_of(settings)
    assert torch.equal(batch["teacher_text"], load_teacher(TINY).encode_text(batch["text"]))
    assert "teacher_image" not in batch and "teacher_text" not in batch_of(config(index.root))
    settings.prompt.source = "attributes"
    with pytest.raises(VeaError, match=r"teacher_text was made with .*the config says .*attributes"):
        batch_of(settings)


def test_cached_targets_give_the_loss_of_a_live_teacher(tmp_path: Path):
    root = write(tmp_path / "set")
    for kind in ("image", "text"):
        assert main(["enrich", f"teacher-{kind}", str(root), "--teacher", "tiny-synthetic"]) == 0
    losses = []
    for cache in ("none", "both"):
        settings = config(root, cache=cache)
        settings.model.encoder = EncoderConfig(
            name="vit_tiny_patch16_224", args={"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2}
        )
        settings.model.decoder = DecoderConfig(width=16, depth=1, heads=2)
        torch.manual_seed(0)
        task = PretrainTask(settings, teacher=load_teacher(TINY))
        losses.append({name: float(value.detach()) for name, value in task.forward(batch_of(settings), step=0).items()})
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and losses[0]["contrastive"] > 0


def test_prompts(tmp_path: Path):
    root = write(tmp_path / "set", texts=30)
    assert main(["enrich", "prompts", str(root), "--splits", "val", "--name", "words"]) == 0
    lines = (root / "sidecars" / "words" / "val-000000.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [f"a red circle {n}" for n in range(4)]
    assert main(["enrich", "prompts", str(root), "--splits", "vla"]) == 2


def test_a_torchvision_detector_from_a_local_file(tmp_path: Path, capsys):
    from torchvision.models import get_model

    torch.manual_seed(0)
    name = "ssdlite320_mobilenet_v3_large"
    network = get_model(name, weights=None, weights_backbone=None, num_classes=91)
    with torch.no_grad():  # weights that were never trained, and see people everywhere
        for layer in network.head.classification_head.module_list:
            layer[1].bias[1::91] = 3
    weights = tmp_path / f"{name}_coco-00000000.pth"
    torch.save(network.state_dict(), weights)
    root = write(tmp_path / "set", 6)
    command = ["enrich", "persons", str(root), "--backend", "torchvision", "--min-score", "0.1"]
    assert main([*command, "--weights", str(weights), "--splits", "val"]) == 0
    rows = [json.loads(line) for line in (root / "sidecars" / "persons" / "val-000000.jsonl").read_text().splitlines()]
    network.eval()
    for row, i in zip(rows, range(4), strict=True):
        image = torch.from_numpy(decode(ShardReader(root, "val").read(i)[1])).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            found = network([image])[0]
        people = found["boxes"][(found["labels"] == 1) & (found["scores"] >= 0.1)]
        assert len(row["boxes"]) == len(people) > 0
        assert np.array(row["boxes"]).sum(0) == pytest.approx(people.numpy().sum(0), abs=0.06 * len(people))
        areas = [(b[2] - b[0]) * (b[3] - b[1]) * s for b, s in zip(row["boxes"], row["scores"])]
        assert areas == pytest.approx(sorted(areas, reverse=True), rel=0.05)
    capsys.readouterr()
    torch.save({"layer": torch.zeros(1)}, tmp_path / "other.pth")
    for bad, said in (("other.pth", "--model: give one of fasterrcnn"), ("nothing.pth", "--model")):
        assert main([*command, "--weights", str(tmp_path / bad)]) == 2
        assert said in capsys.readouterr().err
    assert main([*command, "--weights", str(tmp_path / "other.pth"), "--model", name]) == 2
    assert "does not hold COCO weights of ssdlite320" in capsys.readouterr().err
    assert main([*command, "--model", name]) == 2
    assert "is not there: download https://" in capsys.readouterr().err
    assert main(["enrich", "persons", str(root), "--backend", "onnx"]) == 2


def test_faces_are_boxes_in_the_largest_first_order(tmp_path: Path, monkeypatch):
    from vea.enrich.faces import Faces
    from vea.faces.detect import Detection

    found = [Detection((1, 2, 9, 9), 0.91234, turn=12.5, upright=(0, 1, 9, 10))]
    monkeypatch.setattr("vea.enrich.faces.face_detector", lambda min_score: lambda image: found)
    done = enrich(read_index(write(tmp_path / "set")), Faces(), splits=["val"], say=quiet)
    line = (done.folder / "val-000000.jsonl").read_text().splitlines()[0]
    assert json.loads(line) == {
        "boxes": [[1, 2, 9, 9]], "scores": [0.9123], "turns": [12.5], "upright": [[0, 1, 9, 10]],
    }  # fmt: skip


@pytest.mark.real_data
def test_a_real_person_is_found_whatever_the_orientation(vea_data: Path, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    weights = vea_data / "weights" / "person-centernet" / "human-centernet.onnx"
    if not weights.is_file():
        pytest.skip(f"no detector at {weights}")
    path = vea_data / "people_samples" / "images" / "astronaut.jpg"
    astronaut = Image.open(path)
    width, height = astronaut.size
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # stored lying on its side, displayed after a quarter turn clockwise
    wide = Image.new("RGB", (2 * width, height))  # another aspect than the detector's square
    wide.paste(astronaut, (0, 0))
    wide.transpose(Image.Transpose.ROTATE_90).save(turned, "JPEG", exif=exif, quality=95)
    images = [path.read_bytes(), turned.getvalue(), picture(1)]
    samples = [Sample(f"s{n}", data, "png" if n == 2 else "jpg") for n, data in enumerate(images)]
    root = tmp_path / "set"
    write_dataset({"train": samples}, root, name="set", title="", fields={}, card=None)
    assert main(["enrich", "persons", str(root), "--backend", "onnx", "--weights", str(weights), "--threads", "1"]) == 0
    lines = (root / "sidecars" / "persons" / "train-000000.jsonl").read_text().splitlines()
    upright, lying, nobody = (json.loads(line) for line in lines)
    for row in (upright, lying):
        x0, y0, x1, y1 = row["boxes"][0]
        assert row["scores"][0] > 0.4
        # head at (220, 110), the flight suit down to the lower edge of 512 pixels
        assert 0 <= x0 < 120 and y0 < 60 and 330 < x1 <= 512 and y1 > 480
    assert nobody == {"boxes": [], "scores": []}
    batch = batch_of(config(root, persons="persons"))
    assert {key: bool(found) for key, found in zip(batch["keys"], batch["has_person"])} == {
        key: key != "s2" for key in batch["keys"]
    }
