"""The clip view: T frames of a video, the same crop in all, chosen and turned by the sample's key.

Clips are encoded videos in memory, read by PyAV (extra ``video``). A frame is known by its number; ``times`` of the
clip's metadata says when it is shown, so that a frame is found by seeking to the key frame before it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from vea.config import AugmentConfig
from vea.data.loading.order import KeyedUniforms
from vea.data.views.decode import CorruptImage, decode
from vea.data.views.geometry import crop_square
from vea.errors import VeaError

SEEK_S = 4.0  # a first frame later than this is sought; before it decoding from the start is as quick


def require_av() -> Any:
    """Returns the module av; raises ``VeaError`` where it is not installed."""
    try:
        import av
    except ImportError:
        raise VeaError("clips need the package av: pip install 'vea[video]'") from None
    av.logging.set_level(av.logging.PANIC)  # what is wrong is said in one sentence of ours
    return av


def write_video(frames: Sequence[np.ndarray], times: Sequence[float], *, bit_rate: int = 2_000_000) -> bytes:
    """Returns an mp4 (MPEG-4 part 2) of RGB uint8 frames (H, W, 3), shown at ``times``; even sides."""
    av = require_av()
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", bit_rate
        stream.codec_context.gop_size = 12
        stream.codec_context.time_base = Fraction(1, 1000)
        for picture, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def join_pictures(pictures: Sequence[bytes], times: Sequence[float]) -> bytes:
    """Returns an mkv that holds JPEG pictures as they are: frames that came as files become one clip, not re-encoded.

    Raises:
        CorruptImage: a picture cannot be decoded, is no JPEG, or has another size than the first.
    """
    av = require_av()
    out, size = io.BytesIO(), None
    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.pix_fmt = "yuvj420p"
        for number, (data, time) in enumerate(zip(pictures, times, strict=True)):
            shape = decode(data).shape[:2]
            if data[:2] != b"\xff\xd8" or (size is not None and shape != size):
                raise CorruptImage(f"frame {number} is no JPEG of the size of the first")
            if size is None:
                size = shape
                stream.height, stream.width = shape
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 1000), True
            packet.pts = packet.dts = round(1000 * time)
            container.mux(packet)
    return out.getvalue()


def _decoded(data: bytes, *, start: float = 0.0) -> Iterator[tuple[float, Any]]:
    """Yields (seconds, frame) from the key frame before ``start`` on; raises ``CorruptImage``."""
    av = require_av()
    try:
        with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise CorruptImage("it has no moving pictures")
            stream = container.streams.video[0]
            if start > SEEK_S:
                container.seek(int(start / float(stream.time_base)), stream=stream)
            for frame in container.decode(stream):
                yield float(frame.time or 0.0), frame
    except (av.error.FFmpegError, ValueError) as error:
        raise CorruptImage(" ".join(str(error).split()) or type(error).__name__) from None


def frame_times(data: bytes) -> list[float]:
    """Returns the seconds at which each frame of an encoded video is shown; raises ``CorruptImage``."""
    return [round(time, 6) for time, _ in _decoded(data)]


def check_clip(data: bytes, clip: dict[str, Any]) -> None:
    """Raises ``ValueError`` unless the video has the frames of ``clip``, and each series a number for every frame."""
    try:
        found = frame_times(data)
    except CorruptImage as error:
        raise ValueError(str(error)) from None
    if not found:
        raise ValueError("no frame of the video can be decoded")
    if len(found) != len(clip["times"]):
        raise ValueError(f"the video has {len(found)} frames, its metadata {len(clip['times'])} times")
    for name, series in clip.get("series", {}).items():
        if len(series) != len(found):
            raise ValueError(f"the video has {len(found)} frames, {name} has {len(series)} values")


def read_frames(data: bytes, times: Sequence[float], numbers: Sequence[int]) -> list[np.ndarray]:
    """Returns frames by their ``numbers`` (ascending, may repeat), RGB uint8 (H, W, 3).

    Raises:
        CorruptImage: a frame that was asked for does not come.
    """
    known, found = np.asarray(times), {}
    wanted, last = set(numbers), max(numbers)
    for time, frame in _decoded(data, start=times[min(numbers)]):
        number = int(np.abs(known - time).argmin())
        if number in wanted and number not in found:
            found[number] = frame.to_ndarray(format="rgb24")
        if number >= last:
            break
    if missing := wanted - set(found):
        raise CorruptImage(f"frame {min(missing)} of {len(times)} cannot be decoded")
    return [found[number] for number in numbers]


class ClipViews:
    """Draws T frames of a clip and cuts one square from all of them.

    Args:
        config: ``image_size`` and ``flip``; other changes would need their own meaning in time and are refused.
        frames: T.
        stride: frames of the video from one to the next.
        seed: of the run.
        train: start and flip are drawn by the key; otherwise from the first frame on, as it is.

    Raises:
        VeaError: the config asks for what clips do not have.
    """

    def __init__(self, config: AugmentConfig, *, frames: int, stride: int, seed: int, train: bool) -> None:
        for name in ("rotate", "color_jitter", "grayscale", "erase", "rand_augment"):
            if train and getattr(config, name):
                raise VeaError(f"augment.{name} is not made for clips; clips know image_size and flip")
        self.config, self.frames, self.stride, self.seed, self.train = config, frames, stride, seed, train
        self.channels = 3

    def numbers(self, total: int, *, key: str, pass_number: int) -> tuple[np.ndarray, bool]:
        """Returns the numbers of the T frames, int64 (T,), and whether they are mirrored: a function of the key.

        Behind the end of a short clip its last frame stands again.
        """
        start, mirrored = 0, False
        if self.train:
            draws = KeyedUniforms("clip", self.seed, pass_number, key).random(2)
            start = int(draws[0] * max(1, total - (self.frames - 1) * self.stride))
            mirrored = draws[1] < self.config.flip
        return np.minimum(start + self.stride * np.arange(self.frames), total - 1), mirrored

    def cut(
        self, data: bytes, clip: dict[str, Any], *, key: str, pass_number: int
    ) -> tuple[list[np.ndarray], np.ndarray, bool]:
        """Returns T views uint8 (S, S, 3), the numbers of their frames, and whether they are mirrored.

        Raises:
            CorruptImage: the video cannot be decoded.
        """
        numbers, mirrored = self.numbers(len(clip["times"]), key=key, pass_number=pass_number)
        pictures = read_frames(data, clip["times"], numbers.tolist())
        boxes = _boxes(clip, numbers)
        views = []
        for picture, box in zip(pictures, boxes, strict=True):
            height, width = picture.shape[:2]
            if box is None:
                view = crop_square(picture, (0, 0, width, height), size=self.config.image_size, scale=1.0)
            else:
                view = crop_square(picture, box, size=self.config.image_size)
            views.append(np.ascontiguousarray(view[:, ::-1]) if mirrored else view)
        return views, numbers, mirrored


def _boxes(clip: dict[str, Any], numbers: np.ndarray) -> list[list[float] | None]:
    """Returns the box of the longest track at each frame, between its looks in a straight line; None without one."""
    tracks = clip.get("tracks") or {}
    if not tracks:
        return [None] * len(numbers)
    rows = np.array(max(tracks.values(), key=len), float)
    return np.stack([np.interp(numbers, rows[:, 0], rows[:, at]) for at in range(1, 5)], 1).tolist()
