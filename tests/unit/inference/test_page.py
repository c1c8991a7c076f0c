"""What the page makes of a picture and of a clip, without a browser."""

from __future__ import annotations

import csv
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs the extra: pip install 'vea[serve]'")

from vea.errors import VeaError
from vea.faces.video import Frame
from vea.inference import page_video
from vea.inference.evidence import Line
from vea.inference.page import _told, answer, why
from vea.inference.page_video import answer_clip
from vea.inference.results import Face, Prediction
from vea.inference.visitors import Visitors

SHARES = {"happy": 0.75, "sad": 0.25}


@pytest.fixture
def visitors(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    made = Visitors()
    yield made
    made.end()


def upload(visitors: Visitors, name: str) -> Path:
    place = visitors.place(name)
    place.write_bytes(b"something")
    return place


class Sees:
    """A model that finds a face in the upper left of every picture; what covers the face's top changes the answer."""

    description, reads_faces, classes, fields = "a stand-in", True, tuple(SHARES), {}
    turn = 0.0

    def predict(self, images, *, detect_faces=True):
        if not detect_faces:  # the views of ``why``
            top = [float((view[: len(view) // 4] == 127).mean()) for view in images]
            return [Prediction("happy", {"happy": 1 - share, "sad": share}) for share in top]
        several = images if isinstance(images, list) else [images]
        face = Face((8, 8, 40, 40), "happy", SHARES, 0.9, turn=self.turn, upright=(8, 8, 40, 40))
        return [Prediction("happy", SHARES, [face]) for _ in several]


@pytest.mark.parametrize("turn", [0.0, 90.0, 180.0])
def test_the_heat_map_shows_the_face_upright(turn):
    """A square face, red above and blue below, lying in the picture by ``turn``: on the map it stands."""
    face = np.zeros((48, 48, 3), np.uint8)
    face[:24, :, 0], face[24:, :, 2] = 255, 255
    lying = np.rot90(face, -round(turn / 90))  # clockwise as one sees it
    image = np.zeros((60, 60, 3), np.uint8)
    image[:48, :48] = lying
    model = Sees()
    model.turn = turn
    (found,) = model.predict(image)
    shown = why(model, image, found).astype(int)
    above, below = shown[: len(shown) // 4], shown[-len(shown) // 4 :]
    assert above[..., 0].mean() > below[..., 0].mean() + 50 and below[..., 2].mean() > above[..., 2].mean()
    assert shown[:20, 100:140, 0].mean() > shown[-20:, 100:140, 0].mean(), "the hot part is the top"


def test_the_heat_map_of_a_very_long_picture_takes_little_memory():
    """The square around 20,000 x 20 pixels would be 1.2 GB."""
    tracemalloc.start()
    try:
        heat = why(Sees(), np.zeros((20, 20_000, 3), np.uint8), Prediction("happy", SHARES))
        assert heat.shape[0] == heat.shape[1] and tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


class Tells:
    def explain(self, image, *, respond=False):
        return [Line("event", "pixels", "brightness 0.4"), Line("emotion", "scene model", "no evidence: none", False)]


def test_the_answer_has_the_lines_of_evidence(visitors):
    place = visitors.place("a.png")
    Image.new("RGB", (64, 64), "white").save(place)
    *_, lines = answer(Sees(), visitors, str(place), Tells())
    assert lines == [["event", "brightness 0.4", "pixels"], ["emotion", "no evidence: none", "scene model"]]
    assert answer(Sees(), visitors, str(place))[-1] is None
    place.write_text("no picture")
    told, *rest = answer(Sees(), visitors, str(place), Tells())
    assert told.startswith("**a.png**: ") and len(rest) == 6 and rest == [None] * 6


def put_frames(monkeypatch, count: int, error: VeaError | None = None) -> list[int]:
    """Makes every clip ``count`` frames long, 25 a second; returns the numbers of those that were decoded."""
    decoded: list[int] = []

    def frames(path, *, every=1):
        for number in range(0, count, every):
            decoded.append(number)
            yield Frame(number, number / 25, np.zeros((64, 64, 3), np.uint8))
        if error:
            raise error

    monkeypatch.setattr(page_video, "frames", frames)
    return decoded


def test_a_clip_gets_a_timeline_rows_and_a_file(visitors, monkeypatch):
    place = upload(visitors, "a_b.mp4")
    put_frames(monkeypatch, 50)
    told, timeline, rows, saved = answer_clip(Sees(), visitors, str(place), 5, _told)
    assert told == "**1 person**, 10 rows." and "<svg" in timeline and "a_b.mp4" in timeline
    assert rows[1] == [0.2, 1, "happy", pytest.approx(0.75, abs=0.2), "8, 8, 40, 40"]
    with open(saved, newline="") as file:
        kept = list(csv.DictReader(file))
    assert [row["frame"] for row in kept] == [str(5 * k) for k in range(10)] and "p_happy" in kept[0]
    assert visitors.knows(saved), "it goes with the upload"


def test_long_and_broken_clips_say_so(visitors, monkeypatch):
    place = upload(visitors, "long.mp4")
    monkeypatch.setattr(page_video, "MOST_FRAMES", 6)
    decoded = put_frames(monkeypatch, 10_000)
    told, *_ = answer_clip(Sees(), visitors, str(place), 10, _told)
    assert told.endswith("6 rows. Only 6 frames were looked at, up to 2.4 s.") and len(decoded) == 7
    put_frames(monkeypatch, 3, VeaError(f"{place}: breaks off after 3 frames"))
    told, _, rows, _ = answer_clip(Sees(), visitors, str(place), 1, _told)
    assert len(rows) == 3 and "breaks off" in told and str(place.parent) not in told
    put_frames(monkeypatch, 0, VeaError(f"{place}: not a video"))
    assert answer_clip(Sees(), visitors, str(place), 1, _told) == ("**long.mp4**: long.mp4: not a video", "", [], None)
    assert answer_clip(Sees(), visitors, None, 1, _told)[0] == "Choose or record a clip."
