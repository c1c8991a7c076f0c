"""Which formats are pictures: their file names, their decoders, and what other files look like."""

from __future__ import annotations

import functools
import importlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

_PLUGINS = {  # Pillow's name: its module; decoders of anything else (PostScript, Photoshop, films ...) never run
    "AVIF": "AvifImagePlugin",
    "BMP": "BmpImagePlugin",
    "GIF": "GifImagePlugin",
    "ICO": "IcoImagePlugin",
    "JPEG": "JpegImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
    "MPO": "MpoImagePlugin",
    "PNG": "PngImagePlugin",
    "PPM": "PpmImagePlugin",
    "TIFF": "TiffImagePlugin",
    "WEBP": "WebPImagePlugin",
}
SUFFIXES = frozenset(
    f".{end}"
    for ends in (
        ("jpg", "jpeg", "jpe", "jfif", "jif", "mpo"),
        ("png", "apng", "gif", "bmp", "ico", "webp", "avif", "heic", "heif", "hif"),
        ("tif", "tiff", "jp2", "j2k", "jpf", "jpx", "jpc", "j2c", "ppm", "pgm", "pbm", "pnm", "pfm"),
    )
    for end in ends
)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_OTHER = (  # how files begin that people take for pictures
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"8BPS", "a Photoshop file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"RIFF", "a film or sound"),
    (b"\x1aE\xdf\xa3", "a film"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "XML, perhaps an SVG drawing"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
    (b"version https://git-lfs", "a pointer of git-lfs: fetch the file itself with `git lfs pull`"),
)


def _available() -> list[str]:
    """Returns the formats that this Pillow reads."""
    for module in _PLUGINS.values():
        try:
            importlib.import_module(f"PIL.{module}")
        except ImportError:  # an older Pillow has no AVIF
            continue
    return [name for name in _PLUGINS if name in Image.OPEN]


CONTAINERS = _available()


def is_ordinary(image: Image.Image) -> bool:
    """Returns whether a Pillow image comes from memory or from a file of one of the formats that are read."""
    return image.format is None or image.format in _PLUGINS or image.format == "HEIF"


def is_heif(start: bytes) -> bool:
    """Returns whether a file that starts so is HEIC; AVIF has the same frame and a brand of its own."""
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS and b"avif" not in start[16:32]


@functools.cache
def heif_installed() -> bool:
    """Returns whether pillow-heif is there, and makes it a decoder of Pillow's."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def kind_of(start: bytes) -> str:
    """Returns what a file that is no picture looks like, in brackets; empty where that is not known."""
    if start[4:8] == b"ftyp":
        film = start[8:11] != b"avi"
        return f" (it looks like {'a film' if film else 'AVIF, which needs a newer Pillow: pip install -U pillow'})"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((f" (it looks like {name})" for magic, name in _OTHER if text.startswith(magic)), "")


def pictures_below(
    folder: str | os.PathLike[str], *, suffixes: frozenset[str] = SUFFIXES
) -> tuple[list[Path], Counter[str]]:
    """Returns the pictures in a folder, searched through, sorted, and how many files of each kind were passed over.

    Pictures are told by their suffix, in any case; other ``suffixes`` find other files. Names that begin with a dot are
    passed over as ``hidden`` (macOS writes a ``._NAME`` beside each picture), folders that cannot be opened as
    ``unreadable folder``. Links to folders are followed, each folder once.
    """
    found: list[Path] = []
    passed: Counter[str] = Counter()
    for path in _files(Path(folder), passed):
        suffix = path.suffix.lower()
        if path.name.startswith("."):
            passed["hidden"] += 1
        elif suffix not in suffixes:
            passed[suffix or "without a suffix"] += 1
        elif not path.is_file():
            passed["broken link"] += 1
        else:
            found.append(path)
    return sorted(found), passed


def _files(folder: Path, passed: Counter[str]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        passed["unreadable folder"] += 1

    seen = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        passed["hidden"] += sum(name.startswith(".") for name in folders)
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".") and not _known(os.path.realpath(os.path.join(place, name)), seen)
        ]
        yield from (Path(place, name) for name in files)
    if not passed["hidden"]:
        del passed["hidden"]


def _known(place: str, seen: set[str]) -> bool:
    known = place in seen
    seen.add(place)
    return known


def passed_over(counts: Counter[str]) -> str:
    """Returns ``passed over: 3 .mp4, 1 .txt``, the most frequent kind first; empty where nothing was."""
    kinds = sorted(counts.items(), key=lambda kind: (-kind[1], kind[0]))
    return f"passed over: {', '.join(f'{number} {kind}' for kind, number in kinds)}" if kinds else ""
