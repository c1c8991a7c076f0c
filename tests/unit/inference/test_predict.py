from __future__ import annotations

import csv
import ctypes
import io
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from vea.commands import predict
from vea.config import RecogniseConfig
from vea.data.views.pictures import read_image
from vea.errors import VeaError
from vea.faces.align import crop_square
from vea.inference.predict import batch_sizes, load
from vea.storage.checkpoint import save_weights
from vea.tasks.recognise import RecogniseTask
from vea.taxonomy.fields import LabelField

CLASSES = ("angry", "happy", "neutral")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run folder as the engine writes it, with an untrained network."""
    folder = tmp_path_factory.mktemp("run")
    config = RecogniseConfig.model_validate(
        {
            "name": "tiny",
            "data": {"global_batch_size": 8, "virtual_readers": 1},
            "augment": {"image_size": 32},
            "train": {"steps": 1},
            "model": {"encoder": {"name": "vea_face_cnn", "args": {"widths": [8, 16]}}, "channels": 1},
            "targets": {"expression": 1.0, "votes": 1.0},
        }
    )
    torch.manual_seed(0)
    fields = {"expression": LabelField("class", CLASSES), "votes": LabelField("distribution", ("sad", "calm"))}
    task = RecogniseTask(config, fields=fields)
    with torch.no_grad():
        task.heads.layers["expression"].weight.normal_()
    state = {"recipe": "expression", "config": config.model_dump(mode="json"), "task": task.metadata(), "step": 7}
    save_weights(folder / "best", task.state_to_save(), state)
    return folder


@pytest.fixture
def found_faces(monkeypatch):
    """Two known faces in every picture wider than 64 pixels, none in others: the real detector has its own tests."""

    def detector(**_):
        return lambda image: [((10, 10, 60, 60), 0.9), ((70, 20, 90, 40), 0.7)] if image.shape[1] > 64 else []

    monkeypatch.setattr("vea.inference.predict.face_detector", detector)


def picture(width: int = 100, height: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(array: np.ndarray, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, form)
    return stream.getvalue()


def test_every_kind_of_image_gives_the_same_result(run_dir, tmp_path):
    array = picture()
    path = tmp_path / "face.png"
    path.write_bytes(encoded(array))
    predictor = load(run_dir)
    kinds = [array, Image.fromarray(array), encoded(array), path, str(path)]
    results = predictor.predict(kinds, detect_faces=False)
    assert len(results) == 5
    assert all(result.probabilities == pytest.approx(results[0].probabilities, abs=1e-5) for result in results)
    first = results[0]
    assert set(first.probabilities) == set(CLASSES)
    assert sum(first.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert first.expression == max(first.probabilities, key=first.probabilities.__getitem__)
    assert first.faces == []


def test_faces_are_classified_one_by_one_largest_first(run_dir, found_faces):
    predictor = load(run_dir)
    array = picture()
    with_faces, without = predictor.predict([array, picture(50, 50)])
    assert [face.box for face in with_faces.faces] == [(10, 10, 60, 60), (70, 20, 90, 40)]
    assert with_faces.faces[1].score == 0.7
    assert with_faces.expression == with_faces.faces[0].expression
    crop = array[10:60, 10:60]
    (alone,) = predictor.predict(crop, detect_faces=False)
    assert with_faces.faces[0].probabilities == pytest.approx(alone.probabilities, abs=1e-5)
    assert without.expression is None and without.faces == [] and without.probabilities == {}


def test_the_target_can_be_chosen(run_dir):
    assert load(run_dir, target="votes").classes == ("sad", "calm")
    with pytest.raises(VeaError, match="no label 'mood'; it has expression, votes"):
        load(run_dir, target="mood")


def test_orientation_and_transparency_are_respected():
    upright = Image.fromarray(picture(40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    stream = io.BytesIO()
    upright.save(stream, "PNG", exif=exif)
    assert read_image(stream.getvalue()).shape == (40, 20, 3)
    assert (read_image(Image.new("RGBA", (4, 4), (0, 0, 0, 0))) == 255).all()
    assert read_image(np.zeros((5, 6), np.uint8)).shape == (5, 6, 3)


def test_images_that_are_none_are_refused_in_one_sentence(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(encoded(picture())[:300])
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    cases = [
        (broken, r"broken\.png: cannot be read as an image"),
        (text, r"text\.jpg: not an image"),
        (tmp_path / "absent.jpg", r"no file .*absent\.jpg"),
        (b"", "the image bytes: not an image"),
        (np.zeros((4, 4, 3)) - 1, "uint8"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
    ]
    for image, sentence in cases:
        with pytest.raises(VeaError, match=sentence):
            read_image(image)


def test_crops_are_square_and_repeat_the_border():
    array = np.arange(100, dtype=np.uint8).reshape(10, 10)[..., None].repeat(3, 2)
    assert (crop_square(array, (2, 3, 6, 7), size=4) == array[3:7, 2:6]).all()
    outside = crop_square(array, (-2, 0, 2, 4), size=4)
    assert (outside[:, 0] == array[:4, 0]).all() and (outside[:, 1] == array[:4, 0]).all()
    assert crop_square(array, (4, 4, 5, 8), size=48).shape == (48, 48, 3)


def test_absent_models_and_detector_are_named(run_dir, tmp_path, monkeypatch):
    with pytest.raises(VeaError, match=r"no model at .*nowhere"):
        load(tmp_path / "nowhere")
    monkeypatch.setattr("vea.tasks.saved.ASSETS", tmp_path)
    with pytest.raises(VeaError, match="carries no model expression"):
        load()
    save_weights(tmp_path / "other", {"a": torch.zeros(1)}, {"recipe": "pretrain", "task": {}})
    with pytest.raises(VeaError, match=r"recipe is .pretrain."):
        load(tmp_path / "other")
    monkeypatch.setitem(sys.modules, "yuface", None)
    monkeypatch.setenv("VEA_FACE_DETECTOR", "yuface")
    with pytest.raises(VeaError, match=r"pip install 'vea\[faces\]'"):
        load(run_dir).predict(picture())


def test_the_detector_maps_boxes_back_from_small_and_large_pictures(monkeypatch):
    calls = []

    class Detector:
        @staticmethod
        def c_detect(image):
            calls.append((image.shape, image[0, 0].tolist()))
            rows = np.zeros((3, 16), np.int16)
            rows[:, :5] = [[80, 10, 20, 30, 40], [95, 0, 0, 100, 120], [60, 5, 5, 50, 50]]
            return rows

    monkeypatch.setitem(sys.modules, "yuface", Detector)
    from vea.faces.detect import face_detector

    red = np.zeros((960, 1920, 3), np.uint8)
    red[..., 0] = 255
    detect = face_detector(backend="yuface")
    assert detect(red) == [((0, 0, 200, 240), 0.95), ((20, 40, 80, 120), 0.8)]
    assert calls == [((480, 960, 3), [0, 0, 255])]  # reduced to 960 pixels, BGR
    small = np.zeros((80, 160, 3), np.uint8)
    assert detect(small)[1][0] == (5, 10, 20, 30)


def test_the_command_reports_unreadable_files_and_goes_on(run_dir, tmp_path, found_faces, capsys):
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    (folder / "a.png").write_bytes(encoded(picture()))
    (folder / "deeper" / "b.jpg").write_bytes(encoded(picture(50, 50), "JPEG"))
    (folder / "broken.jpg").write_bytes(b"no image")
    arguments = [str(folder), "--model", str(run_dir)]
    assert predict.main([*arguments, "--json", "--annotate", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["a.png", "b.jpg"]
    assert len(lines[0]["faces"]) == 2 and lines[1]["expression"] is None
    assert "broken.jpg: not an image" in said.err and "1 of 3 files" in said.err
    drawn = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert drawn.shape == (80, 100, 3) and tuple(drawn[10, 30]) == (255, 176, 0)

    assert predict.main([*arguments, "--csv"]) == 1
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["face"] for row in rows] == ["0", "1", ""]
    assert sum(float(rows[0][name]) for name in CLASSES) == pytest.approx(1, abs=1e-3)
    assert predict.main([str(folder / "a.png"), "--no-faces", "--model", str(run_dir)]) == 0
    assert "a.png: " in capsys.readouterr().out
    assert predict.main([str(tmp_path / "nothing")]) == 2
    assert "no file or folder" in capsys.readouterr().err


def test_the_real_detector_finds_nothing_in_grey():
    from vea.faces.detect import face_detector

    assert face_detector()(np.full((120, 90, 3), 127, np.uint8)) == []


def drawn_face() -> np.ndarray:
    """Returns a drawing that the detector takes for a face: it needs no more than shading, eyes, nose and mouth."""
    board = Image.new("RGB", (320, 320), (90, 120, 150))
    draw = ImageDraw.Draw(board)
    parts = [
        ((90, 60, 230, 250), (222, 178, 150)),
        ((85, 45, 235, 110), (60, 40, 30)),
        ((118, 130, 146, 146), (250, 250, 250)),
        ((174, 130, 202, 146), (250, 250, 250)),
        ((126, 131, 140, 145), (40, 25, 20)),
        ((182, 131, 196, 145), (40, 25, 20)),
        ((150, 150, 172, 185), (200, 150, 125)),
        ((130, 203, 190, 222), (170, 70, 70)),
    ]
    for corners, colour in parts:
        draw.ellipse(corners, fill=colour)
    return cv2.GaussianBlur(np.asarray(board), (0, 0), 2)


class HeapUse(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def allocated_bytes() -> int:
    """Returns what malloc has handed out and not got back: Python's tracemalloc does not see a C library's."""
    try:
        mallinfo2 = ctypes.CDLL("libc.so.6").mallinfo2
    except (OSError, AttributeError):
        pytest.skip("mallinfo2 is glibc's, from 2.33")
    mallinfo2.restype = HeapUse
    use = mallinfo2()
    return use.uordblks + use.hblkhd


def test_the_real_detector_answers_as_its_binding_and_keeps_no_memory():
    yuface = pytest.importorskip("yuface")
    from vea.faces.detect import ANSWER_BYTES, face_detector, face_search

    detect, image = face_detector(backend="yuface"), drawn_face()
    found = detect(image)
    assert [score for _, score in found] == [0.74]
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    assert (face_search(yuface)(bgr)[:, :15] == yuface.c_detect(bgr)[:, :15]).all()
    detect(image)
    before = allocated_bytes()
    for _ in range(50):
        assert detect(image) == found
    assert allocated_bytes() - before < 10 * ANSWER_BYTES  # the binding keeps all 50


def test_batches_of_any_number_have_few_sizes(run_dir, monkeypatch):
    predictor = load(run_dir)
    crop, sizes = np.zeros((32, 32, 3), np.uint8), []
    whole = predictor.task.normalise
    monkeypatch.setattr(predictor.task, "normalise", lambda images: sizes.append(len(images)) or whole(images))
    for number in range(131):
        assert len(predictor.probabilities([crop] * number)) == number
    assert set(sizes) == {1, 2, 4, 8, 16, 32, 64}  # torch keeps memory for each
    assert batch_sizes(131, largest=64) == [64, 64, 2, 1] and batch_sizes(7, largest=5) == [5, 2]


def test_batches_keep_the_order_of_the_crops(run_dir):
    predictor = load(run_dir)
    crops = [np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8) for seed in range(11)]
    alone = np.concatenate([predictor.probabilities([crop]) for crop in crops])
    assert np.allclose(predictor.probabilities(crops), alone, atol=1e-5)
    assert np.ptp(alone, 0).max() > 0.001
