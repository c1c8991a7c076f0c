"""Landmarks: geometry of the crop, pose of the head, the file; the networks themselves where VEA_DATA has them."""

import math
import zipfile

import numpy as np
import pytest

from vea.errors import VeaError
from vea.faces.landmarks import (
    BLENDSHAPES,
    FILE,
    FOLDER,
    PARTS,
    SIDE,
    SUBSET,
    Landmarker,
    Mesh,
    around,
    find_landmarker,
    placed,
)


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def block(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def mesh_bytes(vertices: np.ndarray, basis: dict[int, float]) -> bytes:
    rows = np.concatenate([vertices, np.zeros((len(vertices), 2))], 1).astype("<f4")
    floats = b"".join(varint(3 << 3 | 5) + value.tobytes() for value in rows.ravel())
    top = block(1, varint(1 << 3) + varint(1) + floats + varint(4 << 3) + varint(300))
    for place, weight in basis.items():
        top += block(2, varint(1 << 3) + varint(place) + varint(2 << 3 | 5) + np.float32(weight).tobytes())
    return top


def a_mesh() -> tuple[np.ndarray, Mesh]:
    vertices = np.random.default_rng(0).normal(size=(200, 3)) * [4, 6, 2]
    return vertices, Mesh.read(mesh_bytes(vertices, {3: 1.0, 9: 0.5, 40: 2.0, 130: 1.0, 199: 0.7}))


def rotated(vertices: np.ndarray, *, yaw: float, pitch: float, roll: float) -> np.ndarray:
    y, p, r = (math.radians(angle) for angle in (yaw, -pitch, -roll))
    about_x = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_z = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return vertices @ (about_z @ about_y @ about_x).T


def test_the_mesh_is_read_from_the_wire_form():
    vertices, mesh = a_mesh()
    assert np.allclose(mesh.vertices, vertices, atol=1e-5)
    assert mesh.places.tolist() == [3, 9, 40, 130, 199] and mesh.weights[2] == 2


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(0, 0, 0), (25, -10, 5), (-60, 30, 170), (10, 0, -90)])
def test_the_pose_of_a_turned_head_is_found_at_any_size_and_place(yaw: float, pitch: float, roll: float):
    vertices, mesh = a_mesh()
    seen = 37 * rotated(vertices, yaw=yaw, pitch=pitch, roll=roll) + [100, -50, 3]
    assert np.allclose(mesh.pose(seen), (yaw, pitch, roll), atol=1e-3)


def test_a_head_that_looks_to_the_right_of_the_picture_or_up_has_positive_angles():
    forward = np.array([[0.0, 0.0, 1.0]])  # x to the viewer's right, y up, z to the viewer
    assert rotated(forward, yaw=30, pitch=0, roll=0)[0, 0] > 0
    assert rotated(forward, yaw=0, pitch=30, roll=0)[0, 1] > 0
    assert rotated(np.array([[0.0, 1.0, 0.0]]), yaw=0, pitch=0, roll=30)[0, 0] > 0  # the crown goes clockwise


def test_points_of_the_square_are_put_where_they_were_cut():
    window, turn = (100, 40, 228, 168), 30.0  # 128 pixels
    middle = np.array([[SIDE / 2, SIDE / 2, 4.0]])
    assert np.allclose(placed(middle, window, turn), [[164, 104, 2]])
    above = placed(np.array([[SIDE / 2, 0, 0.0]]), window, turn)[0]  # turned clockwise: up and to the right
    assert np.allclose(above[:2], [164 + 64 * math.sin(math.pi / 6), 104 - 64 * math.cos(math.pi / 6)])


def test_the_second_square_is_level_by_the_eyes_and_around_all_points():
    points = np.zeros((478, 3))
    points[:, :2] = np.random.default_rng(1).uniform((280, 180), (320, 220), (478, 2))
    points[33, :2], points[263, :2] = (280, 190), (320, 230)
    window, turn = around(points)
    assert turn == pytest.approx(45)
    side = window[2] - window[0]
    angle = math.radians(turn)
    level = (points[:, :2] - [window[0] + side / 2, window[1] + side / 2]) @ np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    assert np.abs(level).max() * 2 * 1.5 == pytest.approx(side, abs=3)


def test_without_the_file_one_sentence_says_where_it_comes_from(monkeypatch, tmp_path):
    monkeypatch.delenv("VEA_DATA", raising=False)
    monkeypatch.setenv("VEA_WEIGHTS", str(tmp_path))
    assert find_landmarker() is None
    with pytest.raises(VeaError, match=r"fetch https://.*face_landmarker\.task"):
        Landmarker()


def test_a_file_that_is_something_else_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("VEA_WEIGHTS", str(tmp_path))
    path = tmp_path / FOLDER / FILE
    path.parent.mkdir()
    path.write_bytes(b"<html>not found</html>")
    assert find_landmarker() == path
    with pytest.raises(VeaError, match="is no face_landmarker"):
        Landmarker()
    with zipfile.ZipFile(path, "w") as bundle:
        for name in PARTS.values():
            bundle.writestr(name, b"nothing")
    pytest.importorskip("ai_edge_litert", reason="needs the extra: pip install 'vea[landmarks]'")
    with pytest.raises(VeaError, match="cannot be read"):
        Landmarker()


@pytest.mark.real_data
def test_real_portraits_have_points_where_the_eyes_are_and_turn_with_the_picture():
    import os

    from vea.data.views.pictures import read_image
    from vea.faces.detect import face_detector

    pytest.importorskip("ai_edge_litert", reason="needs the extra: pip install 'vea[landmarks]'")
    if "VEA_DATA" not in os.environ:
        pytest.skip("VEA_DATA is not set")
    image = read_image(os.path.join(os.environ["VEA_DATA"], "people_samples/images/obama.jpg"))
    reader, detect = Landmarker(), face_detector()
    (face,) = detect(image)[:1]
    (read,) = reader(image, [face])
    assert read.points.shape == (478, 3) and set(read.blendshapes) == set(BLENDSHAPES) and read.presence > 0.9
    assert read.blendshapes["mouthSmileLeft"] > 0.7 and max(abs(read.yaw), abs(read.pitch), abs(read.roll)) < 10
    width = face[0][2] - face[0][0]
    eyes = read.points[[468, 473], :2]  # the irises
    assert np.abs(eyes - face.points[:2]).max() < 0.1 * width
    turned = np.ascontiguousarray(np.rot90(image))
    (again,) = reader(turned, detect(turned)[:1])
    assert again.roll == pytest.approx(read.roll - 90, abs=3) and again.yaw == pytest.approx(read.yaw, abs=3)
    assert again.blendshapes["mouthSmileLeft"] == pytest.approx(read.blendshapes["mouthSmileLeft"], abs=0.05)
    assert len(SUBSET) == 146 and reader(image, []) == []
