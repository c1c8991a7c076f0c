"""``vea predict`` and its Python twin on videos of drawn faces that move, found by the real detector."""

from __future__ import annotations

import csv
import importlib
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

import vea
from vea.commands.predict import main
from vea.data.synthetic.moving import DrawnFace, draw_frame
from vea.errors import VeaError

av = pytest.importorskip("av", reason="the extra video is not installed")

SIZE = (640, 360)
MODEL = "expression-nano"


def encode(path, pictures, *, codec="mpeg4", turn=0, sound=False):
    """Writes [(time in s, RGB)] with these very times; ``turn`` is a display matrix of so many degrees."""
    with av.open(str(path), "w") as container:
        if sound:
            stream = container.add_stream("aac", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            frame.rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
            return path
        stream = container.add_stream(codec, rate=1000)
        stream.height, stream.width = pictures[0][1].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for time, picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if turn:
        rotate(path, turn)
    return path


def rotate(path, degrees):
    """Puts the matrix of a turn (clockwise, as phones do) into the header of the first track of an mp4 (tkhd)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    cos, sin = round(math.cos(math.radians(degrees))), round(math.sin(math.radians(degrees)))
    matrix = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]
    data[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)


def one_face(times, *, size=SIZE):
    return [(t, draw_frame([DrawnFace(1, 200 + 60 * t, 170, 80)], width=size[0], height=size[1])) for t in times]


def every(rate, seconds):
    return [number / rate for number in range(round(rate * seconds))]


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def crossing(tmp_path_factory):
    """Two people: one from left to right all the time, one from 0.4 s to 1.96 s the other way, before the first."""
    pictures = []
    for number in range(60):
        faces = [DrawnFace(0, 80 + 8 * number, 150, 60)]
        if 10 <= number < 50:
            faces.append(DrawnFace(4, 640 - 10 * number, 210, 60))
        pictures.append((number / 25, draw_frame(faces, width=640, height=360)))
    return encode(tmp_path_factory.mktemp("clip") / "two.mp4", pictures)


def test_two_people_one_late_crossing_and_leaving_are_two_tracks_with_their_times(crossing, tmp_path):
    assert main([str(crossing), "--model", MODEL, "--out", str(tmp_path / "rows.csv")]) == 0
    spans = {}
    for row in rows_of(tmp_path / "rows.csv"):
        spans.setdefault(row["track"], []).append((float(row["time"]), (int(row["x0"]) + int(row["x1"])) / 2))
    assert set(spans) == {"1", "2"}
    first, second = spans["1"], spans["2"]
    assert (first[0][0], first[-1][0]) == pytest.approx((0, 59 / 25), abs=0.05)
    assert (second[0][0], second[-1][0]) == pytest.approx((10 / 25, 49 / 25), abs=0.05)
    assert first[-1][1] - first[0][1] == pytest.approx(8 * 59, abs=30)  # nobody changed places in the middle
    assert second[-1][1] - second[0][1] == pytest.approx(-10 * 39, abs=30)


def test_sampled_frames_keep_the_tracks_together(tmp_path):
    clip = encode(tmp_path / "a.mp4", one_face(every(5, 4)))
    for step in (1, 7):
        assert {row["track"] for row in vea.load(MODEL).stream(clip, every=step) for row in [row.record()]} == {1}


def test_times_of_a_variable_rate_are_the_files(tmp_path):
    times = [0.0, 0.04, 0.08, 0.5, 0.52, 1.7, 1.71, 3.0]
    clip = encode(tmp_path / "a.mp4", one_face(times))
    found = [row.time for row in vea.load(MODEL).stream(str(clip))]
    assert found == pytest.approx(times, abs=0.01)
    assert [row.time for row in vea.load(MODEL).stream(clip, every=3)] == pytest.approx(times[::3], abs=0.01)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_turned_video_is_read_as_it_is_shown(tmp_path, turn):
    upright = one_face(every(25, 0.2))
    stored = [(time, np.ascontiguousarray(np.rot90(picture, turn // 90))) for time, picture in upright]
    clip = encode(tmp_path / "a.mp4", stored, turn=turn)
    rows = [row.record() for row in vea.load(MODEL).stream(clip)]
    assert len(rows) == 5
    assert abs((rows[0]["x0"] + rows[0]["x1"]) / 2 - 200) < 25 and abs((rows[0]["y0"] + rows[0]["y1"]) / 2 - 180) < 40


BROKEN = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"this is no video\n" * 99),
    "zeros": lambda path: path.write_bytes(bytes(100_000)),
    "sound": lambda path: encode(path, [], sound=True),
    "half": lambda path: path.write_bytes(
        (data := encode(path, one_face(every(25, 1))).read_bytes())[: len(data) // 2]
    ),
    "head": lambda path: path.write_bytes(encode(path, one_face(every(25, 1))).read_bytes()[:64]),
    "picture": lambda path: Image.new("RGB", (64, 48)).save(path, format="png"),
    "folder": lambda path: (path.mkdir(), (path / "note.txt").write_text("x")),
    "missing": lambda path: None,
}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_read_is_one_sentence_or_the_rows_there_are(tmp_path, capfd, kind, suffix):
    clip, out = tmp_path / f"clip{suffix}", tmp_path / "rows.csv"
    BROKEN[kind](clip)
    out.write_text("what was there\n")
    code = main([str(clip), "--model", MODEL, "--out", str(out)])
    said = [line for line in capfd.readouterr().err.splitlines() if line]
    if code == 0:
        assert len(rows_of(out)) > 0 or said == ["no face found"]
    else:
        assert len(said) == 1 and str(clip) in said[0] and "Traceback" not in said[0]
        assert out.read_text() == "what was there\n" or len(rows_of(out)) > 0
    if kind in ("empty", "text", "zeros", "sound", "head", "folder", "missing"):
        assert code != 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_of_clips_goes_on_past_a_broken_one(tmp_path, capsys):
    folder = tmp_path / "clips"
    (folder / "inner").mkdir(parents=True)
    encode(folder / "a.mp4", one_face(every(25, 0.2)))
    (folder / "b.mp4").write_bytes(b"broken")
    encode(folder / "inner" / "c.MKV", one_face(every(25, 0.2)))
    assert main([str(folder), "--model", MODEL, "--json"]) == 1
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert {row["file"] for row in rows} == {str(folder / "a.mp4"), str(folder / "inner" / "c.MKV")}
    assert len(rows) == 10 and all(row["track"] == 1 for row in rows)
    assert "b.mp4" in captured.err and "1 of 2" not in captured.err and "1 of 3 videos" in captured.err


def test_pictures_and_videos_are_two_calls_and_a_folder_of_pictures_stays_one(tmp_path, capsys):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    clip = encode(tmp_path / "a.mp4", one_face(every(25, 0.2)))
    assert main([str(clip), str(tmp_path / "a.png"), "--model", MODEL]) == 2
    assert "two calls" in capsys.readouterr().err
    assert main([str(tmp_path), "--model", MODEL]) == 0
    captured = capsys.readouterr()
    assert "no face found" in captured.out and "passed over: 1 .mp4" in captured.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--every", "0"], "--every 0"), (["--out", "rows.xls"], "suffix"), (["--no-faces"], "--no-faces"),
        (["--model", "nowhere"], "nowhere"), (["--out", "."], "suffix"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_sentence(tmp_path, capsys, options, said):
    clip = encode(tmp_path / "a.mp4", one_face([0.0]))
    assert main([str(clip), *options]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_without_av_one_sentence_names_the_extra(tmp_path, capsys, monkeypatch):
    clip = encode(tmp_path / "a.mp4", one_face([0.0]))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    assert main([str(clip), "--model", MODEL]) == 2
    assert "pip install 'vea[video]'" in capsys.readouterr().err


def test_parquet_needs_pyarrow_and_says_so(tmp_path, capsys):
    clip, out = encode(tmp_path / "a.mp4", one_face(every(25, 0.2))), tmp_path / "rows.parquet"
    code = main([str(clip), "--model", MODEL, "--out", str(out)])
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        assert code == 2 and "pip install pyarrow" in capsys.readouterr().err and not out.exists()
    else:
        rows = parquet.read_table(out).to_pylist()
        assert code == 0 and [row["frame"] for row in rows] == list(range(5)) and rows[0]["track"] == 1


def test_track_is_a_table_and_keeps_the_rows_before_a_break(tmp_path, monkeypatch):
    clip = encode(tmp_path / "a.mp4", one_face(every(25, 0.4)))
    table = vea.track(clip, model=MODEL, every=2)
    records = table if isinstance(table, list) else table.to_dict("records")
    assert [record["frame"] for record in records] == [0, 2, 4, 6, 8]
    assert sum(value for name, value in records[0].items() if name.startswith("p_")) == pytest.approx(1, abs=1e-3)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    assert isinstance(vea.track(str(clip), model=MODEL, every=5), list)
    with pytest.raises(VeaError, match="no file"):
        vea.track(tmp_path / "none.mp4", model=MODEL)
    from vea.inference import video

    whole = video.frames

    def broken(source, *, every):
        yield from whole(source, every=every)
        raise VeaError("a.mp4: breaks off after 10 frames")

    monkeypatch.setattr(video, "frames", broken)
    with pytest.warns(UserWarning, match="breaks off"):
        assert len(vea.track(clip, model=MODEL)) == 10


def test_report_shows_each_person_with_peaks_and_asks_no_server(crossing, tmp_path):
    page = tmp_path / "new" / "report.html"
    assert main([str(crossing), "--model", MODEL, "--csv", "--report", str(page)]) == 0
    text = page.read_text()
    assert text.count("<svg") == 2 and "Person 1: 0.00 to 2.36 s" in text and "Person 2: 0.4" in text
    assert "data:image/png;base64," in text and "http://" not in text and "https://" not in text


@pytest.mark.parametrize("step", [1, 4])
def test_annotated_video_has_every_frame_its_time_and_the_boxes(tmp_path, step):
    times = [0.0, 0.04, 0.08, 0.5, 0.52, 0.9]
    pictures = one_face(times[:4]) + [(t, np.full((360, 640, 3), 150, np.uint8)) for t in times[4:]]
    clip, out = encode(tmp_path / "a.mp4", pictures), tmp_path / "b.mp4"
    assert main([str(clip), "--model", MODEL, "--every", str(step), "--annotate", str(out), "--json"]) == 0
    from vea.faces.video import frames

    found = list(frames(out))
    assert [frame.time for frame in found] == pytest.approx(times, abs=0.01)
    orange = [int(((f.image[..., 0] > 200) & (f.image[..., 2] < 90) & (f.image[..., 1] > 120)).sum()) for f in found]
    assert all(count > 500 for count in orange[:4]) and not any(orange[4:])


def test_outputs_that_cannot_be_written_are_refused_before_anything_is_read(tmp_path, capsys):
    clip = encode(tmp_path / "a.mp4", one_face([0.0]))
    before = clip.read_bytes()
    for options in (["--annotate", str(clip)], ["--annotate", "b.gif"], ["--report", "page.txt"]):
        assert main([str(clip), "--model", MODEL, *options]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    other = encode(tmp_path / "c.mp4", one_face([0.0]))
    assert main([str(clip), str(other), "--model", MODEL, "--annotate", str(tmp_path / "d.mp4")]) == 2
    assert main([str(clip), str(other), "--model", MODEL, "--annotate", str(tmp_path / "dir")]) == 0
    assert sorted(path.name for path in (tmp_path / "dir").iterdir()) == ["a.mp4", "c.mp4"]
    assert clip.read_bytes() == before
