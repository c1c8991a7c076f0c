"""Pictures as people have them: paths, bytes, PIL images, arrays."""

from __future__ import annotations

import io
import os
import struct
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vea.data.sample import MAX_PIXELS, MAX_SIDE
from vea.errors import VeaError

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray"


def read_image(image: ImageLike) -> np.ndarray:
    """Returns RGB uint8 (H, W, 3) of a path, encoded bytes, a PIL image or an array (H, W), (H, W, 1), (H, W, 3 RGB).

    Raises:
        VeaError: the file cannot be read, or the array has another shape or dtype.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
            raise VeaError(f"an image array is uint8 (H, W, 3) in RGB order or (H, W); got {image.dtype} {image.shape}")
        if image.size == 0:
            raise VeaError(f"the image array is empty: {image.shape}")
        grey = image[..., None] if image.ndim == 2 else image
        return np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:2], 3)))
    if isinstance(image, Image.Image):
        return _from_pil(image)
    name = "the image bytes" if isinstance(image, bytes) else os.fspath(image)
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            if max(opened.size) >= MAX_SIDE or opened.width * opened.height > MAX_PIXELS:  # as the loaders
                raise ValueError(f"{opened.width} x {opened.height} pixels are refused before decoding")
            return _from_pil(opened)
    except FileNotFoundError:
        raise VeaError(f"no file {name}") from None
    except UnidentifiedImageError:
        raise VeaError(f"{name}: not an image in a format that PIL reads") from None
    except Exception as error:  # Pillow's decoders raise many types, and one file must not end a batch of thousands
        reason = " ".join(str(error).split()) or type(error).__name__
        raise VeaError(f"{name}: cannot be read as an image ({reason})") from None


def _from_pil(image: Image.Image) -> np.ndarray:
    try:
        upright = ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):  # broken EXIF: the picture may be whole
        upright = image
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    return np.asarray(upright.convert("RGB"))
