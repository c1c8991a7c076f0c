"""Boxes and names drawn into pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

    from vea.inference.results import Prediction


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


def annotated(image: np.ndarray, prediction: Prediction) -> np.ndarray:
    """Returns RGB uint8 (H, W, 3): the picture with a box and a name on every face."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(12, max(picture.size) // 45))
    width = max(2, max(picture.size) // 300)
    for face in prediction.faces:
        draw.rectangle(face.box, outline="#ffb000", width=width)
        text = f"{face.expression} {face.probabilities.get(face.expression, 0):.0%}" if face.expression else "face"
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

    picture = Image.fromarray(annotated(read_image(path, urls=is_url(path)), prediction))
    path = Path(picture_name(path))
    target = folder / f"{path.stem}.png"
    number = 1
    while target.exists():  # pictures of the same name in two folders, or of an earlier call: nothing is overwritten
        number += 1
        target = folder / f"{path.stem}_{number}.png"
    picture.save(target)
    return target
