"""From an encoded image to the uint8 views a network sees; the only file that imports albumentations.

An image is decoded once for both views. Geometry is one crop and one resize in OpenCV, colour changes are
albumentations', and normalisation waits for the device. All randomness is keyed by (seed, pass, sample key, view) and
never by worker, so a sample looks the same wherever it is read.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

import vea  # noqa: F401  (sets NO_ALBUMENTATIONS_UPDATE before the next import)
from vea.config import AugmentConfig
from vea.data.order import KeyedUniforms, keyed_bits
from vea.data.person import Window, person_window
from vea.data.sample import check_image_size
from vea.errors import VeaError

_INTERPOLATION = {"cubic": cv2.INTER_CUBIC, "linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}
_EXIF_ORIENTATION = 0x0112


class CorruptImage(Exception):
    """An image that cannot be decoded, or whose header asks for too much memory; the text is the reason."""


# ------------------------------------------------------------------------------------------------------------ decoding


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


# ------------------------------------------------------------------------------------------------------------ geometry


def keyed_generator(*key: int | str) -> np.random.Generator:
    """Returns a random generator that is a function of ``key`` alone."""
    return np.random.Generator(keyed_bits(*key))


def random_resized_window(
    numbers: KeyedUniforms, *, width: int, height: int, scale: Sequence[float], ratio: Sequence[float]
) -> Window:
    """Returns a crop of random area and aspect: torchvision's ``RandomResizedCrop`` (ten tries, then the centre)."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area_share, aspect_share, x_share, y_share = numbers.random(4)
        area = width * height * (scale[0] + (scale[1] - scale[0]) * area_share)
        aspect = math.exp(low + (high - low) * aspect_share)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x0, y0 = int(x_share * (width - w + 1)), int(y_share * (height - h + 1))
            return x0, y0, x0 + w, y0 + h
    w = max(1, min(width, round(height * ratio[1])))
    h = max(1, min(height, round(width / ratio[0])))
    x0, y0 = (width - w) // 2, (height - h) // 2
    return x0, y0, x0 + w, y0 + h


def eval_window(*, width: int, height: int, image_size: int, eval_crop: float) -> Window:
    """Returns the centre square of evaluation in original pixels.

    The same as resizing the short side to ``image_size / eval_crop`` and cropping the centre, in one resize. A crop
    that would have to be enlarged only because of ``eval_crop`` grows to ``image_size`` instead: a 48 x 48 face goes to
    a 48-pixel network untouched.
    """
    short = min(width, height)
    side = max(1, round(short * eval_crop), min(short, image_size))
    x0, y0 = (width - side) // 2, (height - side) // 2
    return x0, y0, x0 + side, y0 + side


def crop_resize(image: np.ndarray, window: Window, *, size: int, interpolation: str) -> np.ndarray:
    """Returns the window of the image at (size, size).

    OpenCV's linear and cubic kernels look at two and four pixels however many they skip. So shrinking by more than two
    averages areas, and from 1.2 on linear stands in for cubic: nearer to Pillow's anti-aliased bicubic by three dB, and
    faster (benchmarks/resize.py).
    """
    x0, y0, x1, y1 = window
    crop = image[y0:y1, x0:x1]
    if crop.shape[:2] == (size, size):
        return np.ascontiguousarray(crop)
    method = _INTERPOLATION[interpolation]
    if max(x1 - x0, y1 - y0) > 2 * size:
        method = cv2.INTER_AREA
    elif method == cv2.INTER_CUBIC and min(x1 - x0, y1 - y0) > 1.2 * size:
        method = cv2.INTER_LINEAR
    return cv2.resize(crop, (size, size), interpolation=method)


# --------------------------------------------------------------------------------------------------------------- views


class Views:
    """Makes the views of one recipe; picklable, so loader workers can hold it.

    Args:
        config: sizes and strengths.
        seed: of the run.
        channels: 3, or 1 for grey views.
        train: False for the deterministic views of evaluation.
    """

    def __init__(self, config: AugmentConfig, *, seed: int, channels: int = 3, train: bool = True) -> None:
        self.config, self.seed, self.channels, self.train = config, seed, channels, train
        self._colour: Any = None
        self._policy: Callable[[Image.Image], Image.Image] | None = None
        if train and config.rand_augment:
            self._policy = _rand_augment(config.rand_augment, size=config.image_size)
        if train and (config.color_jitter or config.grayscale or config.erase):
            self._colour = _colour_changes(config)  # here, so that forked workers share the import

    def one(self, image: np.ndarray, *, key: str, pass_number: int = 0) -> np.ndarray:
        """Returns the scene view of an RGB image, uint8 (S, S, C)."""
        shared = self._shared(key, pass_number)
        return self._view(image, self._scene_window(image, key, pass_number), shared, key, pass_number, "scene")

    def two(
        self, image: np.ndarray, *, boxes: Sequence[Sequence[float]], key: str, pass_number: int = 0
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Returns scene view, person view, both uint8 (S, S, C), and whether the person view shows a person.

        The person view is the crop around the most prominent person in the original image, resized; where nobody is
        found it is the whole image. Both views share flip and rotation.
        """
        height, width = image.shape[:2]
        shared = self._shared(key, pass_number)
        numbers = KeyedUniforms("box", self.seed, pass_number, key) if self.train else None
        window = person_window(boxes, width=width, height=height, numbers=numbers)
        scene = self._view(image, self._scene_window(image, key, pass_number), shared, key, pass_number, "scene")
        person = self._view(image, window or (0, 0, width, height), shared, key, pass_number, "person")
        return scene, person, window is not None

    def _shared(self, key: str, pass_number: int) -> tuple[bool, float]:
        """Returns (flip, degrees), which the two views of a sample have in common."""
        if not self.train:
            return False, 0.0
        flip, angle = KeyedUniforms("shared", self.seed, pass_number, key).random(2)
        return flip < self.config.flip, self.config.rotate * (2 * angle - 1)

    def _scene_window(self, image: np.ndarray, key: str, pass_number: int) -> Window:
        height, width = image.shape[:2]
        if not self.train:
            size, crop = self.config.image_size, self.config.eval_crop
            return eval_window(width=width, height=height, image_size=size, eval_crop=crop)
        return random_resized_window(
            KeyedUniforms("crop", self.seed, pass_number, key),
            width=width,
            height=height,
            scale=self.config.scale,
            ratio=self.config.ratio,
        )

    def _view(
        self, image: np.ndarray, window: Window, shared: tuple[bool, float], key: str, pass_number: int, name: str
    ) -> np.ndarray:
        size = self.config.image_size
        flip, degrees = shared
        view = crop_resize(image, window, size=size, interpolation=self.config.interpolation)
        if flip:
            view = cv2.flip(view, 1)
        if degrees:
            centre = ((size - 1) / 2, (size - 1) / 2)
            matrix = cv2.getRotationMatrix2D(centre, degrees, 1.0)
            view = cv2.warpAffine(view, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        if self.train:
            view = self._photometric(view, key=key, pass_number=pass_number, name=name)
        return cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)[..., None] if self.channels == 1 else view  # luma, ITU-R 601

    def _photometric(self, view: np.ndarray, *, key: str, pass_number: int, name: str) -> np.ndarray:
        if self._policy is not None:
            view = _with_global_seed(self._policy, view, keyed_generator("policy", self.seed, pass_number, key, name))
        if self._colour is not None:
            generator = keyed_generator("colour", self.seed, pass_number, key, name)
            self._colour.set_random_state(generator, random.Random(int(generator.integers(2**63))))
            view = self._colour(image=view)["image"]
        return view


def _colour_changes(config: AugmentConfig) -> Any:
    """Returns the albumentations pipeline; its random state is set before each sample.

    In 2.0.8 ``Compose(seed=k)`` gives every transform the same stream and unseeded forked workers repeat each other;
    ``set_random_state`` before each sample cures both.
    """
    import albumentations

    changes: list[Any] = []
    if config.color_jitter:
        span = (max(0.0, 1 - config.color_jitter), 1 + config.color_jitter)
        changes.append(
            albumentations.ColorJitter(brightness=span, contrast=span, saturation=span, hue=(0.0, 0.0), p=1.0)
        )
    if config.grayscale:
        changes.append(albumentations.ToGray(p=config.grayscale))
    if config.erase:
        changes.append(albumentations.Erasing(fill="random", p=config.erase))
    return albumentations.Compose(changes)


def _rand_augment(policy: str, *, size: int) -> Callable[[Image.Image], Image.Image]:
    """Returns timm's RandAugment; raises ``VeaError`` when the policy string is not one."""
    from timm.data.auto_augment import rand_augment_transform

    if not policy.startswith("rand"):
        raise VeaError(f"augment.rand_augment: {policy!r} does not start with 'rand' (rand-m9-mstd0.5-inc1)")
    try:
        return rand_augment_transform(policy, {"translate_const": int(size * 0.45), "img_mean": (124, 116, 104)})
    except (AssertionError, ValueError, KeyError) as error:
        raise VeaError(f"augment.rand_augment: {policy!r} is not a policy timm knows ({_reason(error)})") from None


def _with_global_seed(
    policy: Callable[[Image.Image], Image.Image], view: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Returns the policy applied with its own seed: timm draws from the global generators, which are put back."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(int(generator.integers(2**63)))
    np.random.seed(int(generator.integers(2**32)))
    try:
        return np.array(policy(Image.fromarray(view)))
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
