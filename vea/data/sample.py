"""One sample of any data set, and what its labels mean: the two types every source, shard and loader share."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

MAX_SIDE = 30_000  # pixels; at this side and above an image is refused before decoding
MAX_PIXELS = 178_956_970  # the same for the area, as in Pillow (a decoded image of 512 MiB)


@dataclass
class Sample:
    """One encoded image, or a clip, with everything known about it.

    ``image`` holds the undecoded file; ``extension`` is ``jpg``, ``png`` or ``webp``. ``person_boxes`` are
    ``[x0, y0, x1, y1]`` in pixels of the image as displayed (after EXIF orientation), most prominent person first.
    ``text`` is the list of captions (any may serve as the prompt). ``key`` is unique in its data set.

    Of a clip ``image`` holds the video file, and ``clip`` says ``times`` (seconds of every frame), ``series``
    ({label: a number a frame, null where there is none}) and ``tracks`` ({name: [[frame, x0, y0, x1, y1], ...]}).
    """

    key: str
    image: bytes
    extension: str
    labels: dict[str, Any] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    person_boxes: list[list[float]] = field(default_factory=list)
    source: str = ""
    split: str = "train"
    clip: dict[str, Any] = field(default_factory=dict)

    def metadata(self) -> bytes:
        """Returns the bytes of ``KEY.json``: the same sample always gives the same bytes."""
        record = {
            "id": self.key,
            "labels": self.labels,
            "text": self.text,
            "person_boxes": self.person_boxes,
            "source": self.source,
            "split": self.split,
        }
        if self.clip:  # pictures have the bytes that they had before there were clips
            record["clip"] = self.clip
        return json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def check_image_size(width: int, height: int) -> None:
    """Raises ``ValueError`` for a size, read from a file's header, that must not be decoded."""
    if width < 1 or height < 1:
        raise ValueError(f"the header says {width} x {height} pixels")
    if max(width, height) >= MAX_SIDE or width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are refused before decoding")
