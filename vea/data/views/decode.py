"""Encoded bytes to pixels."""

from __future__ import annotations

import io

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

import vea  # noqa: F401  (sets NO_ALBUMENTATIONS_UPDATE before the next import)
from vea.data.sample import check_image_size

_EXIF_ORIENTATION = 0x0112


class CorruptImage(Exception):
    """An image that cannot be decoded, or whose header asks for too much memory; the text is the reason."""


def decode(data: bytes | memoryview) -> np.ndarray:
    """Returns the image as displayed: RGB uint8 (H, W, 3), EXIF orientation applied, first frame of an animation.

    Grey, palette, CMYK and 16-bit images become RGB; transparency is dropped.

    Raises:
        CorruptImage: truncated or unknown data, or sides and area beyond those of ``vea.data.sample``.
    """
    data = bytes(data)
    if not data:
        raise CorruptImage("the file is empty")
    if data[:3] == b"\xff\xd8\xff":
        return _decode_jpeg(data)
    try:
        with Image.open(io.BytesIO(data)) as header:  # reads the header only
            _check_size(*header.size)
            orientation = header.getexif().get(_EXIF_ORIENTATION, 1)
            frames = getattr(header, "n_frames", 1)
    except CorruptImage:
        raise
    except Exception as error:  # Pillow's decoders raise many types
        raise CorruptImage(_reason(error)) from None
    image = None if frames > 1 else cv2.imdecode(np.frombuffer(data, np.uint8), _READ)
    return _oriented(_decode_pillow(data) if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB), orientation)


_READ = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def _decode_jpeg(data: bytes) -> np.ndarray:
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise CorruptImage(_reason(error)) from None
    _check_size(width, height)
    orientation = 1
    if _has_exif(data):
        try:
            with Image.open(io.BytesIO(data)) as header:
                orientation = header.getexif().get(_EXIF_ORIENTATION, 1)
        except Exception:  # a broken EXIF block does not make the picture unreadable
            orientation = 1
    image = None
    if space not in ("CMYK", "YCCK"):
        try:
            image = simplejpeg.decode_jpeg(data)
        except ValueError:  # strict: also for harmless extra bytes, which Pillow tells from a truncated file
            image = None
    return _oriented(_decode_pillow(data) if image is None else image, orientation)


def _has_exif(data: bytes) -> bool:
    """Says whether a JPEG has an Exif segment before its scan."""
    place = 2  # behind the start of the image: segments of 0xff, kind, length, and the scan begins with kind 0xda
    while data[place : place + 1] == b"\xff":
        kind = data[place + 1 : place + 2]
        if kind == b"\xe1" and data[place + 4 : place + 10] == b"Exif\x00\x00":
            return True
        if kind == b"\xda":
            return False
        fill = kind == b"\xff"  # a marker may be padded in front
        place += 1 if fill else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


def _decode_pillow(data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise many types
        raise CorruptImage(_reason(error)) from None


def _check_size(width: int, height: int) -> None:
    try:
        check_image_size(width, height)
    except ValueError as error:
        raise CorruptImage(str(error)) from None


def _oriented(image: np.ndarray, orientation: int) -> np.ndarray:
    """Returns the image as displayed for an EXIF orientation, 1 to 8; other values mean upright."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its text holds the address of a buffer
        return "not an image that can be read"
    return " ".join(str(error).split()) or type(error).__name__
