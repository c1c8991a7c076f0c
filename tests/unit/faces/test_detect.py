"""Faces are found where yuface has no wheel."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

import pytest

from vea.data.views.pictures import read_image
from vea.errors import VeaError
from vea.faces.detect import face_detector, find_yunet

DATA = Path(os.environ.get("VEA_DATA", "/nowhere"))


def test_yuface_is_asked_for_only_where_it_has_wheels():
    extras = tomllib.loads(Path(__file__).parents[3].joinpath("pyproject.toml").read_text())["project"]
    asked = [line for lines in extras["optional-dependencies"].values() for line in lines if "yuface" in line]
    assert asked and all("python_version == '3.11'" in line and "x86_64" in line for line in asked)


def test_without_any_detector_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "yuface", None)
    monkeypatch.delenv("VEA_DATA", raising=False)
    monkeypatch.delenv("VEA_WEIGHTS", raising=False)
    with pytest.raises(VeaError, match="VEA_WEIGHTS/yunet"):
        face_detector()


def test_a_damaged_file_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "yunet").mkdir()
    (tmp_path / "yunet/broken.onnx").write_bytes(b"no network")
    monkeypatch.setitem(sys.modules, "yuface", None)
    monkeypatch.setenv("VEA_WEIGHTS", str(tmp_path))
    with pytest.raises(VeaError, match=r"broken\.onnx is no YuNet"):
        face_detector()


@pytest.mark.skipif(not DATA.joinpath("people_samples").is_dir(), reason="needs VEA_DATA")
@pytest.mark.parametrize(("name", "faces"), [("obama.jpg", 1), ("two_people.jpg", 2), ("multi_face.jpg", 5)])
def test_yunet_stands_in_for_yuface(monkeypatch, name, faces):
    monkeypatch.setitem(sys.modules, "yuface", None)
    if find_yunet() is None:
        pytest.skip("no YuNet file in VEA_DATA/weights")
    assert len(face_detector()(read_image(DATA / "people_samples/images" / name))) == faces
