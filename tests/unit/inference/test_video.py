from types import SimpleNamespace

import numpy as np
import pytest

from vea.data.views.geometry import crop_square
from vea.errors import VeaError
from vea.faces.video import Frame
from vea.inference import video
from vea.inference.results import Face, Prediction


class Reader:
    """A predictor that sees one face whose probabilities are in the picture's first pixels."""

    reads_faces, description = True, "toy"

    def predict(self, images):
        (image,) = images
        shares = image[0, :2, 0] / 255
        shares = shares / shares.sum()
        probabilities = {"happy": float(shares[0]), "sad": float(shares[1])}
        best = max(probabilities, key=probabilities.__getitem__)
        return [Prediction(best, probabilities, [Face((10, 10, 40, 40), best, probabilities, 0.9)])]


def series(pattern):
    """Frames at 25 a second; h: happy for sure, s: sad for sure, ?: slightly sad."""
    pixels = {"h": (230, 25), "s": (25, 230), "?": (120, 135)}
    for number, letter in enumerate(pattern):
        image = np.zeros((50, 50, 3), np.uint8)
        image[0, :2, 0] = pixels[letter]
        yield Frame(number, number / 25, image)


def letters(rows):
    return "".join(row.expression[0] for row in rows)


def test_a_doubtful_frame_is_decided_by_its_neighbours_and_a_lasting_change_is_kept(monkeypatch):
    pattern = "h" * 25 + "?" + "h" * 24 + "s" * 50
    monkeypatch.setattr(video, "frames", lambda source, every: series(pattern))
    assert letters(video.track("x.mp4", predictor=Reader(), smoothing=False)) == pattern.replace("?", "s")
    rows = list(video.track("x.mp4", predictor=Reader()))
    assert letters(rows) == "h" * 50 + "s" * 50
    assert {row.track for row in rows} == {1}
    assert rows[25].raw["sad"] > 0.5 > rows[25].probabilities["sad"]
    assert sum(rows[25].probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_the_same_frame_again_and_again_is_no_more_sure_than_seen_once_a_while():
    """25 near-copies a second are not 25 witnesses: the smoothed share does not depend on the rate of the file."""
    sparse = video.smooth(np.tile([[0.7, 0.3]], (10, 1)), step_s=0.3)
    dense = video.smooth(np.tile([[0.7, 0.3]], (75, 1)), step_s=0.04)
    assert sparse[5, 0] == pytest.approx(dense[37, 0], abs=0.02)
    assert video.smooth(np.tile([[0.7, 0.3]], (75, 1)), step_s=0.04, evidence_s=0)[37, 0] > 0.99 > dense[37, 0]


def test_blocks_agree_with_one_pass_and_memory_is_bounded(monkeypatch):
    pattern = "hhh?" * 40 + "sss?" * 40
    monkeypatch.setattr(video, "frames", lambda source, every: series(pattern))
    whole = letters(video.track("x.mp4", predictor=Reader()))
    monkeypatch.setattr(video, "BLOCK", 60)
    assert letters(video.track("x.mp4", predictor=Reader())) == whole


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_thumbnail_is_upright_whichever_way_the_face_lies(quarters):
    upright = np.zeros((50, 50, 3), np.uint8)
    upright[10:20, 10:40] = [200, 100, 0]  # the brow, above

    class Turned(Reader):
        def predict(self, images):
            turn = -90.0 * quarters if quarters < 3 else 90.0
            shares = {"happy": 1.0, "sad": 0.0}
            return [Prediction("happy", shares, [Face((10, 10, 40, 40), "happy", shares, 0.9, turn=turn)])]

    frame = Frame(0, 0.0, np.ascontiguousarray(np.rot90(upright, quarters)))
    (row,) = video.track(iter([frame]), predictor=Turned(), thumbnails=True)
    plain = crop_square(upright, (10, 10, 40, 40), size=video.THUMBNAIL)
    assert np.abs(row.thumbnail.astype(int) - plain).max() <= 8


def test_rows_before_a_break_are_yielded(monkeypatch):
    def broken(source, every):
        yield from series("hhh")
        raise VeaError("x.mp4: breaks off after 3 frames")

    monkeypatch.setattr(video, "frames", broken)
    rows = []
    with pytest.raises(VeaError, match="breaks off"):
        for row in video.track("x.mp4", predictor=Reader()):
            rows.append(row)
    assert len(rows) == 3


def test_a_model_of_whole_pictures_is_refused():
    with pytest.raises(VeaError, match="whole pictures"):
        next(video.track("x.mp4", predictor=SimpleNamespace(reads_faces=False, description="scene")))


def test_records_are_flat():
    row = video.Row(3, 0.12, 1, (1, 2, 3, 4), 0.9, "happy", {"happy": 0.75, "sad": 0.25}, {}, {"valence": 0.5})
    assert row.record() == {
        "frame": 3, "time": 0.12, "track": 1, "x0": 1, "y0": 2, "x1": 3, "y1": 4, "score": 0.9, "expression": "happy",
        "p_happy": 0.75, "p_sad": 0.25, "valence": 0.5,
    }  # fmt: skip
