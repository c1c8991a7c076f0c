"""Boxes and names drawn into pictures and videos."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vea.errors import VeaError
from vea.faces.video import frames, require_av

if TYPE_CHECKING:
    from PIL import Image

    from vea.inference.results import Face, Prediction
    from vea.inference.video import Row


MAX_SHOWN = 1600  # pixels a side of pictures that are shown: WebP ends at 16,383, and a browser has no use for more


def shown(image: np.ndarray) -> Image.Image:
    """Returns the picture, reduced where a side is above ``MAX_SHOWN``."""
    from PIL import Image

    picture = Image.fromarray(image)
    if max(picture.size) > MAX_SHOWN:
        factor = MAX_SHOWN / max(picture.size)
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return picture


def annotated(image: np.ndarray, faces: Sequence[Face | Row]) -> np.ndarray:
    """Returns RGB uint8 (H, W, 3): the picture with a box and a name on every face; in a video the person's number."""
    from PIL import Image, ImageDraw, ImageFont

    from vea.inference.video import Row

    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(12, max(picture.size) // 45))
    width = max(2, max(picture.size) // 300)
    for face in faces:
        draw.rectangle(face.box, outline="#ffb000", width=width)
        text = f"{face.expression} {face.probabilities.get(face.expression, 0):.0%}" if face.expression else "face"
        text = f"{face.track}: {text}" if isinstance(face, Row) else text
        place = draw.textbbox((face.box[0], face.box[3]), text, font=font)
        below = place[3] <= picture.height
        corner = (face.box[0], face.box[3] if below else face.box[1] - (place[3] - face.box[3]))
        draw.rectangle(draw.textbbox(corner, text, font=font), fill="#ffb000")
        draw.text(corner, text, fill="black", font=font)
    return np.asarray(picture)


def annotate(path: Path | str, prediction: Prediction, *, folder: Path) -> Path:
    """Returns the picture written under ``folder`` with a box and a name on every face."""
    from PIL import Image

    from vea.data.views.pictures import is_url, picture_name, read_image

    picture = Image.fromarray(annotated(read_image(path, urls=is_url(path)), prediction.faces))
    target = free_name(folder, Path(picture_name(path)).stem, ".png")
    picture.save(target)
    return target


def free_name(folder: Path, stem: str, suffix: str) -> Path:
    """Returns the first of STEM, STEM_2 ... that is free: of files of one name in two folders none is overwritten."""
    target, number = folder / f"{stem}{suffix}", 1
    while target.exists():
        number += 1
        target = folder / f"{stem}_{number}{suffix}"
    return target


class VideoAnnotator:
    """Writes a video again, every frame, with a box and a name on every face; without its sound.

    Give it the rows of ``source`` in order. It reads the file a second time, beside the one who makes the rows, so that
    no frame has to be kept. Boxes stay for the frames between those that were looked at.
    """

    FORMATS: ClassVar = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi"}

    def __init__(self, source: Path, target: Path, *, every: int = 1, form: str = "mp4") -> None:
        self._av = require_av()
        self._frames, self._every = frames(source), every
        self._container = self._av.open(str(target), "w", format=form)
        self._stream: Any = None
        self._last = -1  # time of the last frame, ms
        self._rows: list[Row] = []
        self._next = 0  # number of the first frame that is not written

    def add(self, row: Row) -> None:
        """Adds a face; frames before it are written."""
        if self._rows and row.frame != self._rows[0].frame:
            self._write_until(row.frame)
            self._rows = []
        elif not self._rows:
            self._write_until(row.frame)
        self._rows.append(row)

    def close(self) -> None:
        """Writes the rest and ends the file."""
        self._write_until(None)
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def _write_until(self, number: int | None) -> None:
        """Writes frames up to the one before ``number``, with the rows that wait where they still hold."""
        while number is None or self._next < number:
            try:
                frame = next(self._frames, None)
            except VeaError:  # it breaks off; who makes the rows says so
                frame = None
            if frame is None:
                return
            self._next = frame.number + 1
            held = self._rows if self._rows and frame.number < self._rows[0].frame + self._every else []
            self._write(annotated(frame.image, held) if held else frame.image, frame.time)

    def _write(self, image: np.ndarray, time: float) -> None:
        height, width = (side // 2 * 2 for side in image.shape[:2])  # colours are stored at half the size
        base = Fraction(1, 1000)
        if self._stream is None:
            codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
            self._stream = self._container.add_stream(codec, rate=1000)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            self._stream.time_base = self._stream.codec_context.time_base = base
            self._stream.options = {"preset": "veryfast"} if codec == "libx264" else {"qscale": "3"}
        self._last = max(self._last + 1, round(1000 * time))
        picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        picture.pts, picture.time_base = self._last, base
        self._container.mux(self._stream.encode(picture))
