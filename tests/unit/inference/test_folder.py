"""Class folders of one's own: divided by picture, sized to the data, trained from the model that ships, tested once."""

import importlib.util
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vea.data.class_folders import divide, find_pictures, look_at
from vea.data.shards.reader import ShardReader
from vea.errors import VeaError
from vea.inference.folder import sized_config, train_on_folder
from vea.inference.predict import load

ROOT = Path(__file__).resolve().parents[3]
COLOURS = {"red things": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200)}


def drawn(seed: int, colour=(128, 128, 128), size=(96, 80)) -> Image.Image:
    """A picture of a colour with blocks of noise, another one for each seed."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(-60, 60, (40, 40, 3)).astype(np.int16) + np.array(colour, np.int16)
    return Image.fromarray(blocks.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def own(folder: Path, count: int = 10, suffix: str = ".jpg") -> Path:
    for number, (name, colour) in enumerate(COLOURS.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            drawn(100 * number + i, colour).save(folder / name / f"IMG_{i}{suffix}")
    return folder


def command(*arguments: str) -> int:
    spec = importlib.util.spec_from_file_location("vea_finetune_train", ROOT / "finetune" / "train.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.main(list(arguments))


def test_thirty_pictures_become_a_model_that_predicts_as_it_was_tested(tmp_path, capsys, monkeypatch):
    def shorter(*given, **named):  # colours are told apart long before the 60 steps of photographs
        config = sized_config(*given, **named)
        config.train.steps, config.train.eval_every, config.train.warmup_steps = 15, 5, 2
        return config

    monkeypatch.setattr("vea.inference.folder.sized_config", shorter)
    folder, run = own(tmp_path / "own"), tmp_path / "run"
    assert command("--folder", str(folder), "--out", str(run), "--region", "scene") == 0
    said = capsys.readouterr().out
    assert said.rstrip().endswith(f"vea predict --model {run} PICTURE")
    assert "30 pictures, 3 classes" in said and "train 18, val 6, test 6" in said and "chance 0.33" in said
    record = json.loads((run / "evaluation_test.json").read_text())
    assert record["targets"]["emotion"]["metrics"]["accuracy"] >= 0.8
    predicted = predictions_of_the_test_part(run, folder)
    assert predicted == record["predictions"]["emotion"]["prediction"]
    before = (run / "evaluation_test.json").stat().st_mtime_ns
    assert command("--folder", str(folder), "--out", str(run), "--region", "scene") == 0  # nothing is done twice
    assert (run / "evaluation_test.json").stat().st_mtime_ns == before
    drawn(999).save(folder / "blue" / "new.jpg")
    assert command("--folder", str(folder), "--out", str(run), "--region", "scene") == 2
    assert "not a model of these pictures" in capsys.readouterr().err


def predictions_of_the_test_part(run: Path, folder: Path) -> list[int]:
    """Returns the class index that ``vea predict`` gives for the files behind the test part, in the order of keys."""
    from vea.data.shards.writer import safe_key

    files = {safe_key(f"{path.parent.name}__{path.name}"): path for path in folder.glob("*/*")}
    keys = json.loads((run / "evaluation_test.json").read_text())["predictions"]["keys"]
    model = load(run)
    found = model.predict([files[key] for key in keys])
    return [model.classes.index(one.emotion or one.expression) for one in found]


@pytest.mark.skipif(not os.environ.get("VEA_DATA"), reason="needs the real data: set VEA_DATA")
def test_thirty_real_faces(tmp_path, vea_data):
    source = vea_data / "lfw_expressions"
    rows = [json.loads(line) for line in (source / "index.jsonl").read_text().splitlines()]
    for emotion, name in (("happiness", "very happy"), ("sadness", "sad"), ("surprise", "surprised")):
        (tmp_path / "own" / name).mkdir(parents=True)
        for row in [row for row in rows if row["emotion"] == emotion][:10]:
            shutil.copy(source / row["file"], tmp_path / "own" / name)
    lines = []
    result = train_on_folder(tmp_path / "own", tmp_path / "run", say=lines.append)
    assert result.accuracy >= 0.5  # chance is a third
    assert any("faces are looked at" in line for line in lines)
    record = json.loads((tmp_path / "run" / "evaluation_test.json").read_text())
    predicted = predictions_of_the_test_part(tmp_path / "run", tmp_path / "own")
    assert predicted == record["predictions"]["expression"]["prediction"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "no folder"),
        (lambda folder: folder.write_text("x"), "no folder but a file"),
        (lambda folder: folder.mkdir(), "no pictures"),
        (lambda folder: (folder / "happy").mkdir(parents=True), "no pictures"),
        (lambda folder: (folder.mkdir(), drawn(0).save(folder / "a.jpg")), "1 pictures lie in it directly"),
        (lambda folder: ((folder / "a").mkdir(parents=True), drawn(0).save(folder / "a" / "a.jpg")), "one class"),
        (lambda folder: [own(folder / name, 1) for name in ("train", "val", "test")], "divided already"),
        (lambda folder: own(folder, 2), "each class needs 3 different pictures"),
        (lambda folder: [shutil.copy(path, path.with_name(f"copy{i}.jpg"))
                         for path in list(own(folder, 1).glob("*/*")) for i in range(9)],
         "each class needs 3 different pictures"),
        (lambda folder: (own(folder, 4), (folder / "green" / "up").symlink_to(folder)), "each class needs 3 different"),
        (lambda folder: [path.write_bytes(b"not a picture") for path in own(folder, 4).glob("green/*")], "green"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_from_is_one_sentence(tmp_path, make, says, capsys):
    make(tmp_path / "own")
    assert command("--folder", str(tmp_path / "own"), "--out", str(tmp_path / "run"), "--region", "scene") == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("count", [3, 4, 5, 10, 33, 120])
def test_no_picture_is_in_two_parts_and_every_class_in_each(count):
    rng = np.random.default_rng(count)
    pictures = []
    for label in ("a", "b"):
        for i in range(count):
            image = np.asarray(drawn(int(rng.integers(1 << 30)), size=(384, 320)))
            pictures.append(look_at(Path(f"{label}/{i}.png"), label, image))
            if i % 3 == 0:  # the same again under another name, and saved again
                again = io.BytesIO()
                Image.fromarray(image).save(again, "JPEG", quality=90)
                saved = np.asarray(Image.open(again))
                pictures += [
                    look_at(Path(f"{label}/copy{i}.png"), label, image),
                    look_at(Path(f"{label}/saved{i}.png"), label, saved),
                ]
    parts = divide(pictures)
    assert sum(len(part) for part in parts.values()) == len(pictures)
    number = {path: name for name, part in parts.items() for path in (p.path for p in part)}
    for label in ("a", "b"):
        assert {number[p.path] for p in pictures if p.label == label} == {"train", "val", "test"}
        for i in range(0, count, 3):
            alike = (f"{label}/{i}.png", f"{label}/copy{i}.png", f"{label}/saved{i}.png")
            assert len({number[Path(name)] for name in alike}) == 1
    again = divide(pictures[::-1])
    assert {name: {p.path for p in part} for name, part in parts.items()} == {
        name: {p.path for p in part} for name, part in again.items()
    }


def test_hidden_files_links_and_other_kinds_are_counted(tmp_path):
    folder = own(tmp_path / "own", 3)
    (folder / "__MACOSX").mkdir()
    (folder / "blue" / "._IMG_0.jpg").write_bytes(b"mac")
    (folder / "blue" / "film.mp4").write_bytes(b"film")
    (folder / "empty").mkdir()
    (folder / "linked").symlink_to(folder / "green")
    found, passed = find_pictures(folder)
    assert len(found) == 12 and passed == {"hidden": 1, ".mp4": 1, "empty class folder": 1}


def test_same_names_in_folders_inside_a_class_stay_apart(tmp_path, monkeypatch):
    folder = own(tmp_path / "own", 3)
    for number, sub in enumerate(("one.day", "two.day")):
        (folder / "blue" / sub).mkdir()
        drawn(500 + number, COLOURS["blue"]).save(folder / "blue" / sub / "IMG_0.jpg")
    monkeypatch.setattr("vea.inference.folder._trained", lambda *given: None)
    train_on_folder(folder, tmp_path / "run", region="scene", say=lambda line: None)
    assert sum(len(ShardReader(tmp_path / "run/data", split)) for split in ("train", "val", "test")) == 11


@pytest.mark.parametrize(("count", "part"), [(6, "linear"), (299, "linear"), (300, "last_blocks"), (3000, "full")])
@pytest.mark.parametrize("kind", ["face", "scene"])
def test_the_run_is_sized_to_the_data(tmp_path, kind, count, part):
    config = sized_config(tmp_path, kind=kind, train=count, classes=3)
    assert config.model.train == part and config.train.patience
    assert config.train.steps * config.data.global_batch_size >= 20 * count
    assert config.train.eval_every <= config.train.steps // 5


def test_too_few_faces_is_said(tmp_path):
    with pytest.raises(VeaError, match="--region scene"):
        train_on_folder(own(tmp_path / "own", 3), tmp_path / "run", region="face", say=lambda line: None)


def _renamed(folder: Path) -> Path:
    own(folder, 4)
    for old, new in (("red things", "très heureux 😀"), ("green", "悲しい"), ("blue", " o'clock & co; $HOME")):
        (folder / old).rename(folder / new)
    return folder


def _more(folder: Path, *files: tuple[str, bytes]) -> None:
    own(folder, 4)
    for name, data in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _png(seed: int) -> bytes:
    out = io.BytesIO()
    drawn(seed, COLOURS["blue"]).save(out, "PNG")
    return out.getvalue()


HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00" + bytes(64)


@pytest.mark.parametrize(
    ("make", "count", "says"),
    [
        (lambda folder: _renamed(folder), 12, "très heureux 😀 4"),
        (lambda folder: _more(folder, ("blue/A.JPG", _png(900)), ("blue/b.JpEg", _png(901))), 14, "blue 6"),
        (lambda folder: _more(folder, ("blue/deep/er/a.png", _png(900))), 13, "blue 5"),
        (lambda folder: _more(folder, (".git/a.png", _png(900)), ("blue/.trash/a.png", _png(901))), 12, "1 hidden"),
        (lambda folder: _more(folder, (".DS_Store", b"x"), ("__MACOSX/blue/._a.jpg", b"x"), ("blue/.DS_Store", b"x"),
                              ("blue/Thumbs.db", b"x")), 12, "1 .db"),
        (lambda folder: _more(folder, ("blue/a.heic", HEIC)), 12, "pip install pillow-heif"),
        (lambda folder: _more(folder, ("blue/a.jpg", b"none"), ("blue/b.jpg", b"")), 12, "left out: 2 pictures"),
        (lambda folder: _more(folder, ("a.png", _png(900)), ("notes.txt", b"x")), 12, "2 beside the class folders"),
        (lambda folder: (own(folder, 4), (folder / "nothing").mkdir()), 12, "empty class folder"),
        (lambda folder: (own(folder, 4), (folder / "green" / "l.jpg").symlink_to(folder / "green" / "IMG_0.jpg")), 13,
         "green 5"),
        (lambda folder: (own(folder, 4), (folder / "green" / "gone.jpg").symlink_to(folder / "no.jpg")), 12,
         "1 broken link"),
        (lambda folder: (own(folder, 4), shutil.copy(folder / "green" / "IMG_0.jpg", folder / "blue" / "z.jpg")), 13,
         "1 pictures lie in more than one class (blue__z.jpg and green__IMG_0.jpg)"),
        (lambda folder: (own(folder, 4), [drawn(2000 + i).save(folder / "blue" / f"{i}.png") for i in range(60)]), 72,
         "blue 64"),
        (lambda folder: (own(folder, 4), (folder / "train").mkdir()), 12, "empty class folder"),
    ],
)  # fmt: skip
def test_odd_folders_work_and_what_is_odd_is_said(tmp_path, monkeypatch, make, count, says):
    monkeypatch.setattr("vea.data.views.decode.heif_installed", lambda: False)
    monkeypatch.setattr("vea.inference.folder._trained", lambda *given: None)
    make(tmp_path / "own")
    lines: list[str] = []
    train_on_folder(tmp_path / "own", tmp_path / "run", region="scene", say=lines.append)
    stored = sum(len(ShardReader(tmp_path / "run/data", split)) for split in ("train", "val", "test"))
    assert stored == count and says in "\n".join(lines), lines
