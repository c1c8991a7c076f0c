import shutil
import subprocess
from fractions import Fraction

import numpy as np
import pytest

from vea.errors import VeaError
from vea.faces.video import frames, is_video

av = pytest.importorskip("av", reason="the extra video is not installed")


def write(path, times, *, size=(64, 48), rotation=None, codec="mpeg4"):
    """Writes one grey frame at each time (seconds), brighter and brighter."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            picture = np.full((size[1], size[0], 3), (10 * number + 5) % 200, np.uint8)
            picture[:4] = 255  # the upper edge
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_times_of_a_variable_rate_are_kept(tmp_path):
    times = [0.0, 0.04, 0.08, 0.5, 0.52, 1.7]
    found = list(frames(write(tmp_path / "a.mp4", times)))
    assert [frame.number for frame in found] == list(range(6))
    assert [frame.time for frame in found] == pytest.approx(times, abs=0.002)
    assert found[0].image.shape == (48, 64, 3)
    assert found[4].image[24, 32].mean() == pytest.approx(45, abs=4)


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed (apt-get install ffmpeg)")
def test_times_are_those_of_ffprobe(tmp_path):
    path = write(tmp_path / "a.mp4", [0.0, 0.04, 0.08, 0.5, 0.52, 1.7, 1.74, 3.0])
    words = ["-v", "error", "-select_streams", "v:0", "-show_entries", "frame=pts_time", "-of", "csv=p=0"]
    told = subprocess.run(["ffprobe", *words, str(path)], capture_output=True, text=True, check=True).stdout.split()
    assert [frame.time for frame in frames(path)] == pytest.approx([float(t.strip(",")) for t in told], abs=1e-4)


def test_every_takes_each_nth_frame(tmp_path):
    path = write(tmp_path / "a.mp4", [n / 10 for n in range(10)])
    assert [frame.number for frame in frames(path, every=4)] == [0, 4, 8]
    with pytest.raises(VeaError, match="from 1 on"):
        next(frames(path, every=0))


@pytest.mark.parametrize("content", [b"", b"no video at all", b"\x00" * 4000])
def test_what_is_no_video_is_one_sentence(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(VeaError, match=r"a\.mp4") as caught:
        list(frames(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_file_of_sound_alone(tmp_path):
    with pytest.raises(VeaError, match="no file"):
        next(frames(tmp_path / "none.mp4"))
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VeaError, match="no moving pictures, only audio"):
        next(frames(path))


def test_a_file_that_breaks_off_gives_what_can_be_had(tmp_path):
    path = write(tmp_path / "a.avi", [n / 10 for n in range(30)], size=(320, 240))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    found = []
    try:
        for frame in frames(path):
            found.append(frame)
    except VeaError as error:
        assert "breaks off after" in str(error)
    assert 3 < len(found) < 30


@pytest.mark.parametrize(("source", "said"), [("a.MP4", True), ("0", True), (0, True), ("a.jpg", False), (True, False)])
def test_what_is_a_video(source, said):
    assert is_video(source) is said


def test_a_file_that_is_shorter_than_its_head_says_is_told(tmp_path):
    """mp4 whose index is in front, as web videos are: what is cut off is simply not there for the decoder."""
    path = tmp_path / "a.mp4"
    write(path, [n / 10 for n in range(60)], size=(320, 240))
    with av.open(str(path)) as source, av.open(str(path) + ".fast.mp4", "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    data = (tmp_path / "a.mp4.fast.mp4").read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    found = []
    with pytest.raises(VeaError, match=r"breaks off after \d+ frames"):
        for frame in frames(path):
            found.append(frame.number)
    assert len(found) > 10
