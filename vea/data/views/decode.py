"""The one reader of encoded images: loaders, predict, explain, serve, prepare, enrichment and check come through here.

Whatever the container, a picture is read by the same rules:

- 16 bits keep their upper 8; floating point is taken where it lies in 0..1, 32-bit integers where they fit 16 bits;
- transparency lies on white; every colour model becomes RGB; embedded colour profiles are not applied;
- the EXIF (or XMP) orientation is applied; of animations and of files with pages the first picture is read;
- only decoders of ordinary picture formats run, and none before the header's size is known to be harmless.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

import vea  # noqa: F401  (sets NO_ALBUMENTATIONS_UPDATE before the next import)
from vea.data.sample import check_image_size
from vea.data.views.formats import CONTAINERS, heif_installed, is_heif, kind_of

_EXIF_ORIENTATION = 0x0112
_JPEG = b"\xff\xd8\xff"
SCALED_FROM = 1000  # pixels of the longer side; below, decoding at a scale gains nothing
_TURNS = {  # EXIF orientation: what makes it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_log = logging.getLogger("vea.data")
_told: set[str] = set()


class CorruptImage(Exception):
    """An image that cannot be decoded, or whose header asks for too much memory; the text is the reason.

    ``looks_like`` names in brackets what a file that is no picture may be.
    """

    def __init__(self, reason: str, *, looks_like: str = "") -> None:
        super().__init__(reason)
        self.looks_like = looks_like


@dataclass(frozen=True)
class Header:
    """What is known of an encoded image before its pixels: Pillow's name of the format, size as stored, pictures."""

    format: str
    width: int
    height: int
    frames: int


def say_once(sentence: str) -> None:
    """Logs a warning the first time that this process has reason to."""
    if sentence not in _told:
        _told.add(sentence)
        _log.warning(sentence)


def decode(data: bytes | memoryview) -> np.ndarray:
    """Returns the image as displayed: RGB uint8 (H, W, 3), by the rules of this module.

    Raises:
        CorruptImage: truncated or unknown data, or sides and area beyond those of ``vea.data.sample``.
    """
    data = bytes(data)
    if data[:3] == _JPEG:
        return _decode_jpeg(data)
    return np.array(open_image(data).convert("RGB"))


class Encoded:
    """An encoded picture whose pixels are decoded when they are wanted, at the scale that is wanted.

    ``width`` and ``height`` are those as displayed. A JPEG whose longer side has ``SCALED_FROM`` pixels can be decoded
    at 1/2, 1/4 or 1/8 by libjpeg's own transform, which averages; of anything else the pixels are those of ``decode``.

    Raises:
        CorruptImage: as ``decode``; of a JPEG damage behind the header shows in ``pixels``.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = bytes(data)
        self._whole: np.ndarray | None = None
        self._scaled: dict[int, np.ndarray] = {}
        self._orientation = 1
        try:
            if self.data[:3] != _JPEG:
                raise ValueError
            height, width, space, _ = simplejpeg.decode_jpeg_header(self.data)
            check_image_size(width, height)
            if space in ("CMYK", "YCCK") or max(width, height) < SCALED_FROM:
                raise ValueError
        except ValueError:
            self._whole = decode(self.data)
            self.height, self.width = self._whole.shape[:2]
            return
        self._orientation = _jpeg_orientation(self.data)
        self._stored = height, width
        self.height, self.width = (width, height) if self._orientation in (5, 6, 7, 8) else (height, width)

    def pixels(self, *, least: float = 1.0) -> np.ndarray:
        """Returns RGB uint8 (H, W, 3) as displayed, at the smallest of the scales 1, 1/2, 1/4, 1/8 not below ``least``.

        A view made of the scaled pixels differs from one of all pixels: benchmarks/loader.py --large prints by how
        much (photographs enlarged to 1,600 pixels, to 224: mean 1.7 of 255 levels, single pixels at edges up to 60).
        """
        factor = next((scale for scale in (8, 4, 2) if least * scale <= 1), 1)
        if self._whole is not None:
            return self._whole
        if factor not in self._scaled:
            self._scaled[factor] = self._at(factor)
        return self._scaled[factor]

    def _at(self, factor: int) -> np.ndarray:
        if factor > 1:
            height, width = (math.ceil(side / factor) for side in self._stored)
            try:
                found = simplejpeg.decode_jpeg(self.data, min_height=height, min_width=width)
                return oriented(found, self._orientation)
            except ValueError:  # harmless extra bytes, or damage: as decode tells
                pass
        return decode(self.data)


SEARCHED = 960  # pixels of the longer side at which pictures are searched for faces and their colours are measured
PANORAMA = 2.5  # longer side over shorter, from which on a picture is searched in windows (vea/faces/tiles.py)
TILE = 2.0  # the same of a window


def size_of(image: np.ndarray | Encoded) -> tuple[int, int]:
    """Returns (width, height) as displayed, in pixels."""
    return (image.width, image.height) if isinstance(image, Encoded) else (image.shape[1], image.shape[0])


def at_scale(image: np.ndarray | Encoded, *, least: float) -> np.ndarray:
    """Returns the pixels that serve where ``least`` of the scale is enough; an array is what it is.

    The one choice of all that look at pictures: pixels and answers depend on the file, not on who reads it.
    """
    return image if isinstance(image, np.ndarray) else image.pixels(least=least)


def searched(image: np.ndarray | Encoded) -> np.ndarray:
    """Returns the pixels, the longer side not below ``SEARCHED`` where the picture has as many; of panoramas a tile."""
    shorter, longer = sorted(size_of(image))
    span = TILE * shorter if longer > PANORAMA * shorter else longer
    return at_scale(image, least=min(1.0, SEARCHED / span))


def read_header(data: bytes | BinaryIO) -> Header:
    """Returns what an encoded image says of itself; raises ``CorruptImage`` as ``decode`` does."""
    with _opened(data) as image:
        try:
            frames = int(getattr(image, "n_frames", 1))
        except Exception:  # the second is damaged, and the first may be whole
            frames = 2
        return Header(str(image.format), image.width, image.height, frames)


def open_image(data: bytes | BinaryIO) -> Image.Image:
    """Returns the image as displayed, in Pillow's mode L or RGB; raises ``CorruptImage`` as ``decode`` does.

    For those who go on with Pillow, and for files on disk, of which an unknown one is not read to its end.
    """
    with _opened(data) as image:
        return displayed(image)


def displayed(image: Image.Image) -> Image.Image:
    """Returns a Pillow image as displayed, in mode L or RGB; what its file still holds is decoded now.

    Raises:
        CorruptImage: the file cannot be decoded, or the numbers are no picture's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # broken EXIF, large pictures: it decodes, or it does not
        try:
            check_image_size(*image.size)
            image.load()
            check_image_size(*image.size)  # icons say less before than after
            orientation = _orientation(image)  # a TIFF is upright once it is loaded
            shown = _on_white(_eight_bits(image))
            return shown.transpose(_TURNS[orientation]) if orientation in _TURNS else shown
        except (CorruptImage, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise many types
            raise CorruptImage(_reason(error)) from None


def from_floats(values: np.ndarray) -> np.ndarray:
    """Returns uint8 of floating-point values 0..1; raises ``CorruptImage`` for any others."""
    if not np.isfinite(values).all():
        raise CorruptImage("it holds numbers that are not finite")
    low, high = float(values.min()), float(values.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise CorruptImage(
            f"its floating-point values go from {low:g} to {high:g} and are taken only in 0..1: divide by the largest "
            "value that can be, or give uint8"
        )
    say_once("floating-point pictures: values 0..1 are scaled to 0..255")
    return (values * 255).round().clip(0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------------------------- Pillow


class _opened:
    """Opens an image with the decoders of ordinary formats; its size is checked, its pixels are not read yet."""

    def __init__(self, data: bytes | BinaryIO) -> None:
        self.data = data

    def __enter__(self) -> Image.Image:
        file = io.BytesIO(self.data) if isinstance(self.data, bytes) else self.data
        try:
            start = file.read(32)
            file.seek(0)
            if not start:
                raise CorruptImage("the file is empty")
            formats = CONTAINERS
            if is_heif(start):
                if not heif_installed():
                    raise CorruptImage("it is a HEIC picture, which needs one more package: pip install pillow-heif")
                formats = ["HEIF"]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.image = Image.open(file, formats=formats)
                check_image_size(*self.image.size)
        except CorruptImage:
            raise
        except UnidentifiedImageError:  # its text holds the address of a buffer
            raise CorruptImage("not an image that can be read", looks_like=kind_of(start)) from None
        except Exception as error:  # Pillow's decoders raise many types
            raise CorruptImage(_reason(error)) from None
        if self.image.format != "MPO" and _is_animated(self.image):
            say_once("animations and files of several pages: the first picture of each is read")
        return self.image

    def __exit__(self, *error: object) -> None:
        self.image.close()


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second picture does not make the first unreadable
        return False


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a broken EXIF block does not make the picture unreadable
        return 1
    return found if isinstance(found, int) else 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Returns an image whose channels have 8 bits or 1."""
    if image.mode == "F":
        return Image.fromarray(from_floats(np.asarray(image)))
    if image.mode[0] != "I":
        return image
    values = np.asarray(image)
    if image.mode == "I":
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise CorruptImage(f"its 32-bit values go from {low} to {high}; save it with 8 or 16 bits")
        if high <= 255 and image.format not in ("PNG", "PPM"):  # an 8-bit picture in a wide type; those two hold 16
            return Image.fromarray(values.astype(np.uint8))
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _on_white(image: Image.Image) -> Image.Image:
    """Returns the image in mode L or RGB; what is transparent is white."""
    if image.mode in ("La", "RGBa"):  # colours multiplied by their alpha
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if ("A" in image.getbands() and image.mode != "LAB") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


# --------------------------------------------------------------------------------------------------------------- JPEG


def _decode_jpeg(data: bytes) -> np.ndarray:
    """Decodes by libjpeg-turbo itself: the same pixels as Pillow's, in less time."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        check_image_size(width, height)
        pixels = None if space in ("CMYK", "YCCK") else simplejpeg.decode_jpeg(data)
    except ValueError:  # strict: also for harmless extra bytes, which Pillow tells from a truncated file
        pixels = None
    if pixels is None:
        return np.array(open_image(data).convert("RGB"))
    return oriented(pixels, _jpeg_orientation(data))


def _jpeg_orientation(data: bytes) -> int:
    if not _has_metadata(data):
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as header:
                return _orientation(header)
    except Exception:  # what Pillow cannot open has been decoded already
        return 1


def _has_metadata(data: bytes) -> bool:
    """Says whether a JPEG has a segment before its scan that may hold an orientation: Exif or XMP."""
    place = 2  # behind the start of the image: segments of 0xff, kind, length, and the scan begins with kind 0xda
    while data[place : place + 1] == b"\xff":
        kind = data[place + 1 : place + 2]
        if kind == b"\xe1" and data[place + 4 : place + 10] in (b"Exif\x00\x00", b"http:/"):
            return True
        if kind == b"\xda":
            return False
        fill = kind == b"\xff"  # a marker may be padded in front
        place += 1 if fill else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


def oriented(image: np.ndarray, orientation: int) -> np.ndarray:
    """Returns the image as displayed for an EXIF orientation, 1 to 8; other values mean upright."""
    if orientation in (5, 6, 7, 8):
        image = cv2.transpose(image)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
