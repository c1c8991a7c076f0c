"""Frames of a video file or a camera, one at a time: upright RGB pictures with the time at which they are shown.

Files are read by PyAV (extra ``video``), cameras by OpenCV. Times are the file's own (``pts``), so that files of a
variable rate keep theirs; nothing but the current frame is held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vea.errors import VeaError

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".ogv")
SHORT_S = 1.0  # seconds by which a file may end before the time that its head promises


@dataclass(frozen=True)
class Frame:
    """One picture of a video: its number, counted from 0, its time in seconds, and RGB uint8 (H, W, 3)."""

    number: int
    time: float
    image: np.ndarray


def is_video(source: object) -> bool:
    """Returns whether ``source`` is a path with the ending of a video, or the number of a camera."""
    text = str(source) if isinstance(source, (str, Path, int)) and not isinstance(source, bool) else ""
    return text.isdigit() or Path(text).suffix.lower() in SUFFIXES


def frames(source: str | Path | int, *, every: int = 1) -> Iterator[Frame]:
    """Yields every ``every``-th frame of a file, or of a camera by its number, until it ends.

    Raises:
        VeaError: no such file, not a video, no pictures in it, or it breaks off; frames before a break were yielded.
    """
    if every < 1:
        raise VeaError(f"--every: {every} is not a number of frames from 1 on")
    text = str(source)
    yield from _camera(int(text), every) if text.isdigit() else _file(Path(text), every)


def require_av() -> Any:
    """Returns the module av.

    Raises:
        VeaError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise VeaError("reading videos needs the package av: pip install 'vea[video]'") from None
    av.logging.set_level(av.logging.PANIC)  # what is wrong is said in one sentence of ours
    return av


def _file(path: Path, every: int) -> Iterator[Frame]:
    if not path.is_file():
        raise VeaError(f"{path} is a folder; give the videos in it" if path.is_dir() else f"no file {path}")
    if not path.stat().st_size:
        raise VeaError(f"{path} is empty")
    av = require_av()
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (av.error.FFmpegError, ValueError) as error:
        raise VeaError(f"{path}: not a video that can be read ({_reason(error)})") from None
    with container:
        films = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not films:  # the cover of a song is no film
            others = dict.fromkeys(s.type for s in container.streams if s.type != "video")
            raise VeaError(f"{path} has no moving pictures, only {', '.join(others) or 'nothing'}")
        stream = films[0]
        stream.thread_type = "AUTO"
        number, last, lasts = -1, -1.0, 0.0
        try:
            for frame in container.decode(stream):
                number += 1
                time = frame.time if frame.time is not None else last + 1 / float(stream.average_rate or 25)
                last, lasts = float(time), float((frame.duration or 0) * (frame.time_base or 0))
                if number % every == 0:
                    yield Frame(number, last, _upright(frame.to_ndarray(format="rgb24"), frame))
        except (av.error.FFmpegError, ValueError) as error:
            where = f"after {number + 1} frames ({last:.2f} s)" if number >= 0 else "before its first frame"
            raise VeaError(f"{path}: breaks off {where} ({_reason(error)})") from None
        if number < 0:
            raise VeaError(f"{path}: no frame in it can be decoded")
        end = float(((stream.start_time or 0) + (stream.duration or 0)) * stream.time_base)
        if last + lasts + SHORT_S < end:  # decoders take a file that was cut for one that ends
            raise VeaError(f"{path}: breaks off after {number + 1} frames ({last:.2f} s of {end:.2f} s)")


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def _upright(image: np.ndarray, frame: Any) -> np.ndarray:
    """Returns the picture as a player shows it: phones store it lying, with the turn beside it."""
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # degrees, counter-clockwise
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _camera(number: int, every: int) -> Iterator[Frame]:
    import time

    import cv2

    if hasattr(cv2, "setLogLevel"):
        cv2.setLogLevel(0)  # what is wrong is said in one sentence of ours
    capture = cv2.VideoCapture(number)
    try:
        if not capture.isOpened():
            raise VeaError(f"no camera {number}; cameras are counted from 0")
        start, count = time.monotonic(), -1
        while True:
            good, image = capture.read()
            if not good:
                return
            count += 1
            if count % every == 0:
                yield Frame(count, time.monotonic() - start, np.ascontiguousarray(image[:, :, ::-1]))
    finally:
        capture.release()
