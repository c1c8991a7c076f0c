"""Faces are found where yuface has no wheel."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from vea.data.views.geometry import square_around
from vea.data.views.pictures import read_image
from vea.errors import VeaError
from vea.faces.align import cut_turned
from vea.faces.detect import BACKENDS, OWN, FaceDetector, chosen_backend, face_detector, find_yunet

DATA = Path(os.environ.get("VEA_DATA", "/nowhere"))


def test_yuface_is_asked_for_only_where_it_has_wheels():
    extras = tomllib.loads(Path(__file__).parents[3].joinpath("pyproject.toml").read_text())["project"]
    asked = [line for lines in extras["optional-dependencies"].values() for line in lines if "yuface" in line]
    assert asked and all("python_version == '3.11'" in line and "x86_64" in line for line in asked)


def test_faces_are_found_with_no_package_and_no_file_of_others(monkeypatch):
    monkeypatch.setitem(sys.modules, "yuface", None)
    for name in ("VEA_DATA", "VEA_WEIGHTS", "VEA_FACE_DETECTOR"):
        monkeypatch.delenv(name, raising=False)
    assert face_detector()(np.full((64, 80, 3), 127, np.uint8)) == []
    assert sum(path.stat().st_size for path in OWN.iterdir()) < 1e6


@pytest.mark.parametrize("size", [(48, 48), (300, 200), (900, 1200)])
def test_a_face_that_fills_the_picture_is_looked_for_with_a_border(size):
    """By a search that knows a face, here a white square, only where something is around it."""

    def search(image: np.ndarray) -> np.ndarray:
        y, x = np.nonzero(image[..., 0] > 200)
        if not len(y) or np.ptp(x) > 0.8 * image.shape[1]:
            return np.zeros((0, 16), np.int16)
        x0, y0, w, h = x.min(), y.min(), np.ptp(x), np.ptp(y)
        eyes = x0 + w // 3, y0 + h // 3, x0 + 2 * w // 3, y0 + h // 3
        return np.array([[90, x0, y0, w, h, *eyes, x0 + w // 2, y0 + h // 2, *eyes, 0]], np.int16)

    picture = np.full((*size, 3), 255, np.uint8)
    assert FaceDetector(search, min_score=0.6, upright=0.0)(picture) == []
    (((x0, y0, x1, y1), score),) = FaceDetector(search, min_score=0.6, upright=0.0, close_up=True)(picture)
    assert score == 0.9 and (x1 - x0) * (y1 - y0) > 0.9 * picture.size / 3
    blank = np.full((*size, 3), 100, np.uint8)
    blank[: size[0] // 4, : size[1] // 4] = 255  # found without a border: the other looks do not run
    assert len(FaceDetector(search, min_score=0.6, upright=0.0, close_up=True)(blank)) == 1


def test_a_damaged_file_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "yunet").mkdir()
    (tmp_path / "yunet/broken.onnx").write_bytes(b"no network")
    monkeypatch.setenv("VEA_WEIGHTS", str(tmp_path))
    with pytest.raises(VeaError, match=r"broken\.onnx is no YuNet"):
        face_detector(backend="yunet")


@pytest.mark.skipif(not DATA.joinpath("people_samples").is_dir(), reason="needs VEA_DATA")
@pytest.mark.parametrize(("name", "faces"), [("obama.jpg", 1), ("two_people.jpg", 2), ("multi_face.jpg", 5)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_counts_the_people(backend, name, faces):
    assert len(found_by(backend)(read_image(DATA / "people_samples/images" / name))) == faces


def found_by(backend):
    if backend == "yuface":
        pytest.importorskip("yuface")
    elif backend == "yunet" and find_yunet() is None:
        pytest.skip("no YuNet file in VEA_DATA/weights")
    return face_detector(backend=backend)


def fake_search(image):
    """Finds a face where the top left corner is white, upright alone: the points lie as those of an upright face."""
    rows = np.zeros((int(image[:8, :8].mean() > 200), 16))
    rows[:, :5] = [90, 20, 10, 40, 50]
    rows[:, 5:15] = [30, 25, 50, 25, 40, 35, 32, 50, 48, 50]
    return rows


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_quarter_turns_are_tried_where_nothing_is_found(quarters):
    upright = np.zeros((320, 400, 3), np.uint8)
    upright[:8, :8] = 255
    image = np.ascontiguousarray(np.rot90(upright, quarters))
    ((box, score),) = faces = FaceDetector(fake_search, min_score=0.6)(image)
    assert score == 0.9 and (faces[0].turn + 90 * quarters) % 360 == 0
    window = square_around(box)
    assert (cut_turned(image, window, faces[0].turn) == cut_turned(upright, square_around((20, 10, 60, 60)), 0)).all()
    assert FaceDetector(fake_search, min_score=0.8)(image) == ([] if quarters else [((20, 10, 60, 60), 0.9)])


PORTRAITS = [f"stock-emotions-{letter}-{number}.jpg" for letter in "ab" for number in range(1, 9)]


@pytest.mark.skipif(not DATA.joinpath("people_samples").is_dir(), reason="needs VEA_DATA")
@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize(("backend", "least"), [("vea", 13), ("yuface", 15), ("yunet", 15)])
def test_turned_portraits_are_found_the_right_way_up(backend, least, quarters):
    detect, found, right = found_by(backend), 0, 0
    for name in PORTRAITS:
        image = read_image(DATA / "people_samples/images" / name)
        faces = detect(np.ascontiguousarray(np.rot90(image, quarters)))
        found += bool(faces)
        right += bool(faces) and (faces[0].turn + 90 * quarters) % 360 == 0
        assert detect(image)[0].turn == 0
    assert found >= 15 and right >= least


def test_a_backend_can_be_named(monkeypatch):
    with pytest.raises(VeaError, match="vea, yuface, yunet"):
        face_detector(backend="mtcnn")
    monkeypatch.setitem(sys.modules, "yuface", None)
    with pytest.raises(VeaError, match=r"pip install 'vea\[faces\]'"):
        face_detector(backend="yuface")
    monkeypatch.delenv("VEA_DATA", raising=False)
    monkeypatch.delenv("VEA_WEIGHTS", raising=False)
    with pytest.raises(VeaError, match="VEA_WEIGHTS/yunet"):
        face_detector(backend="yunet")


def test_the_environment_chooses_a_backend(monkeypatch):
    monkeypatch.delenv("VEA_FACE_DETECTOR", raising=False)
    assert chosen_backend() == "vea"
    monkeypatch.setenv("VEA_FACE_DETECTOR", "yuface")
    assert chosen_backend() == "yuface"
    monkeypatch.setitem(sys.modules, "yuface", None)
    with pytest.raises(VeaError, match="yuface is not installed"):
        face_detector()
    monkeypatch.setenv("VEA_FACE_DETECTOR", "haar")
    with pytest.raises(VeaError, match="VEA_FACE_DETECTOR: no finder of faces is called 'haar'"):
        face_detector()


@pytest.mark.parametrize(("first", "second", "kept"),
                         [(70, 70, True), (70, 45, False), (50, 90, True), (50, 65, False), (90, 0, True)])  # fmt: skip
def test_a_doubtful_face_is_looked_at_again_and_both_looks_count(first, second, kept):
    def search(image):
        side, alone = image.shape[0], max(image.shape[:2]) <= 128
        rows = np.zeros((1, 16))
        rows[0, :5] = [second if alone else first, side / 4, side / 4, side / 2, side / 2]
        rows[0, 5:9] = [0.4 * side, 0.4 * side, 0.6 * side, 0.4 * side]
        return rows[rows[:, 0] > 0]

    detect = FaceDetector(search, min_score=0.6, second_look=True, upright=0.0)
    faces = detect(np.zeros((400, 400, 3), np.uint8))
    assert [round(score, 2) for _, score in faces] == ([(first if first > 85 else (first + second) / 2) / 100] * kept)


def test_an_upright_face_is_looked_at_no_more_than_twice():
    calls = []

    def search(image):
        calls.append(image.shape)
        side = min(image.shape[:2])
        rows = np.zeros((1, 16))
        rows[0, :5] = [92, side / 4, side / 4, side / 2, side / 2]
        rows[0, 5:9] = [0.4 * side, 0.4 * side, 0.6 * side, 0.4 * side]
        return rows

    assert len(FaceDetector(search, min_score=0.6)(np.zeros((400, 400, 3), np.uint8))) == 1
    assert len(calls) == 2
