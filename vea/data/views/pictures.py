"""Pictures as people have them: paths, URLs, bytes, open files, Pillow images, arrays, tensors."""

from __future__ import annotations

import os
import re
import stat
import sys
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, TypeAlias, TypeVar, cast

import numpy as np
from PIL import Image

from vea.data.sample import MAX_PIXELS
from vea.data.views.decode import CorruptImage, Encoded, decode, displayed, from_floats, open_image, searched
from vea.data.views.formats import is_ordinary
from vea.errors import VeaError

ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray | Encoded | Any"
)
_Read = TypeVar("_Read")
MAX_BYTES = 256 << 20  # of a picture from an open file or a URL
TIMEOUT_S = 30  # of a server's answer
_SHAPES = "(H, W), or (H, W, C) with 1 grey, 2 grey and alpha, 3 RGB or 4 RGBA channels"


def is_url(name: object) -> bool:
    """Returns whether a name is an address and no path: ``https://...``, ``s3://...``, ``data:image/...``."""
    return isinstance(name, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/+[^/]|data:image/", name) is not None


def is_single(images: object) -> bool:
    """Returns whether ``images`` is one picture, and not several: an array or a tensor of four axes is several."""
    if isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)) or images is None:
        return True
    if isinstance(images, np.ndarray) or _is_tensor(images):
        return cast(Any, images).ndim < 4
    return hasattr(images, "read") or not isinstance(images, Iterable)


def read_image(image: ImageLike, *, urls: bool = False) -> np.ndarray:
    """Returns RGB uint8 (H, W, 3) as displayed, by the rules of ``vea.data.views.decode``, whatever holds the picture.

    Args:
        image: a path, encoded bytes, a file opened for bytes, a Pillow image, an array (H, W) or (H, W, C), or a torch
            tensor (C, H, W). Numbers are uint8, bool, uint16 (the upper 8 bits are kept) or floats 0..1; of 2 and 4
            channels the last is alpha.
        urls: True fetches ``http(s)://`` addresses; by default they are refused, for nothing is fetched unasked.

    Raises:
        VeaError: the picture cannot be read; the sentence names it and says why.
    """
    return _named(image, lambda: _read(image, urls=urls, make=decode))


def read_picture(image: ImageLike, *, urls: bool = False) -> np.ndarray | Encoded:
    """Returns a picture for those who need more than one scale of it: what is encoded stays so, and is known to decode.

    Raises:
        VeaError: as ``read_image``.
    """

    def read() -> np.ndarray | Encoded:
        found: np.ndarray | Encoded = _read(image, urls=urls, make=Encoded)
        searched(found)  # damage shows now, and what comes first has its pixels
        return found

    return _named(image, read)


def read_view(
    image: ImageLike, view: Callable[[np.ndarray | Encoded], np.ndarray], *, urls: bool = False
) -> np.ndarray:
    """Returns what ``view`` makes of a picture that ``read_image`` would read; it decodes no more than it needs.

    Raises:
        VeaError: as ``read_image``.
    """
    return _named(image, lambda: view(_read(image, urls=urls, make=Encoded)))


def _named(image: ImageLike, read: Callable[[], _Read]) -> _Read:
    """Returns what ``read`` gives; raises ``VeaError`` that names the picture where it cannot be read."""
    try:
        return read()
    except CorruptImage as error:
        reason = str(error)
        if reason == "the file is empty":
            raise VeaError(f"{picture_name(image)}: not an image, it is empty") from None
        if reason.startswith("not an image"):
            raise VeaError(f"{picture_name(image)}: {reason}{error.looks_like}") from None
        raise VeaError(f"{picture_name(image)}: cannot be read as an image ({reason})") from None
    except MemoryError:
        raise VeaError(
            f"{picture_name(image)}: cannot be read as an image (it needs more memory than there is)"
        ) from None


def shown(image: np.ndarray, *, max_side: int = 2048) -> np.ndarray:
    """Returns RGB uint8 (H, W, 3) no side of which is above ``max_side``: for pages, reports and drawn boxes.

    Browsers and WebP end at 16,383 pixels, and a page needs fewer.
    """
    height, width = image.shape[:2]
    factor = max_side / max(height, width)
    if factor >= 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX, reducing_gap=2.0))


def _read(image: Any, *, urls: bool, make: Callable[[bytes], Any]) -> Any:
    """Returns an array, or what ``make`` (``decode`` or ``Encoded``) makes of a file's bytes."""
    if isinstance(image, Encoded):
        return image if make is Encoded else image.pixels()
    if isinstance(image, (bytes, bytearray, memoryview)):
        return make(bytes(image))
    if isinstance(image, Image.Image):
        if not is_ordinary(image):  # its decoder may still be to run, and may be a program
            raise CorruptImage(f"{image.format} files are not decoded here; give image.convert('RGB') if you trust it")
        return np.array(displayed(image).convert("RGB"))
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if _is_tensor(image):
        return _from_tensor(image)
    if is_url(image):
        return make(_fetched(image, urls=urls))
    if isinstance(image, (str, os.PathLike)):
        if is_url(os.fspath(image)):
            raise VeaError(f"{picture_name(image)} is an address in a path; give it as text, with urls=True")
        return _from_file(os.fspath(image), make)
    if hasattr(image, "read"):
        return make(_from_open(image))
    raise CorruptImage(f"not an image: {_kind(image)}; give a path, bytes, an open file, a PIL image, an array or a "
                       "tensor")  # fmt: skip


def _kind(image: object) -> str:
    return "None" if image is None else f"an object of type {type(image).__name__}"


def picture_name(image: Any) -> str:
    """Returns what to call a picture in a sentence; an address without its query, which may hold a signature."""
    if is_url(image):
        return re.split(r"[?#,]", image)[0]
    if isinstance(image, (str, os.PathLike)):
        return os.fsdecode(image)
    if isinstance(image, (Encoded, bytes, bytearray, memoryview)):
        return "the image bytes"
    if isinstance(image, Image.Image):
        return f"the PIL image {os.fsdecode(name)}" if (name := getattr(image, "filename", "")) else "the PIL image"
    if isinstance(image, np.ndarray):
        return "the image array"
    if _is_tensor(image):
        return "the image tensor"
    if hasattr(image, "read"):
        name = getattr(image, "name", None)
        return name if isinstance(name, str) and name else "the open file"
    return "the image"


def _from_file(path: str | bytes, make: Callable[[bytes], Any]) -> Any:
    try:
        with open(path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CorruptImage("not an image: it is no file")
            if file.read(3) == b"\xff\xd8\xff":
                file.seek(0)
                return make(file.read())
            file.seek(0)
            return np.array(open_image(file).convert("RGB"))
    except FileNotFoundError:
        raise VeaError(f"no file {os.fsdecode(path)}") from None
    except IsADirectoryError:
        raise VeaError(f"{os.fsdecode(path)} is a folder; give the pictures in it") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise VeaError(f"{os.fsdecode(path)!r}: cannot be read ({reason})") from None


def _from_open(file: Any) -> bytes:
    """Returns the bytes of an open file from its start, as Pillow reads it."""
    try:
        if getattr(file, "seekable", lambda: False)():
            file.seek(0)
        data = file.read(MAX_BYTES + 1)
    except Exception as error:  # of whatever object this is
        raise CorruptImage(" ".join(str(error).split()) or type(error).__name__) from None
    if not isinstance(data, bytes):
        raise CorruptImage("not an image: the file gives text; open it with mode 'rb'")
    if len(data) > MAX_BYTES:
        raise CorruptImage(f"it has more than {MAX_BYTES >> 20} MiB")
    return data


def _fetched(url: str, *, urls: bool) -> bytes:
    if not url.lower().startswith(("http://", "https://")):
        raise VeaError(f"{picture_name(url)} is an address of a kind that is not read; give a file, or http(s)")
    if not urls:
        raise VeaError(
            f"{picture_name(url)} is an address, and nothing is fetched unasked; allow it by urls=True (--urls)"
        )
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            data = answer.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", "") or error).replace(url, picture_name(url))
        raise VeaError(f"{picture_name(url)}: cannot be fetched ({reason})") from None
    if len(data) > MAX_BYTES:
        raise CorruptImage(f"it has more than {MAX_BYTES >> 20} MiB")
    return data


# ------------------------------------------------------------------------------------------------------------- numbers


def _is_tensor(image: object) -> bool:
    torch = sys.modules.get("torch")  # who holds a tensor has imported it
    return torch is not None and isinstance(image, torch.Tensor)


def _from_tensor(image: Any) -> np.ndarray:
    """Returns the picture of a tensor (C, H, W) or (H, W)."""
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[0] not in (1, 2, 3, 4)):
        hint = "; permute(2, 0, 1) it first" if image.ndim == 3 and image.shape[2] in (1, 3, 4) else ""
        raise CorruptImage(f"a tensor is (C, H, W) with 1 to 4 channels or (H, W), got {tuple(image.shape)}{hint}")
    image = image.detach().cpu()
    if image.is_floating_point():
        image = image.float()
    return _from_array((image.permute(1, 2, 0) if image.ndim == 3 else image).numpy())


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        hint = "; transpose(1, 2, 0) it first" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise CorruptImage(f"an array is {_SHAPES}, got {array.shape}{hint}")
    if array.size == 0:
        raise CorruptImage(f"the image array is empty: {array.shape}")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise CorruptImage(f"{array.shape[1]} x {array.shape[0]} pixels are more than are looked at")
    pixels = np.ascontiguousarray(_eight_bits(np.asarray(array)))
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if channels in (2, 4):
        return np.array(displayed(Image.fromarray(pixels)).convert("RGB"))  # LA or RGBA, by the shape
    return np.ascontiguousarray(np.broadcast_to(pixels.reshape(*pixels.shape[:2], channels), (*pixels.shape[:2], 3)))


def _eight_bits(array: np.ndarray) -> np.ndarray:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array.astype(np.uint8) * 255
    if kind == "u" and size == 1:
        return array
    if kind == "u" and size == 2:
        return (array >> 8).astype(np.uint8)
    if kind == "f":
        return from_floats(array)
    raise CorruptImage(f"numbers of an image are uint8, bool, uint16 or floats 0..1, got {array.dtype}")
