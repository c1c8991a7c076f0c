"""The views of a sample, keyed by seed, pass and key."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

import vea  # noqa: F401  (sets NO_ALBUMENTATIONS_UPDATE before the next import)
from vea.config import AugmentConfig
from vea.data.loading.order import KeyedUniforms, keyed_bits
from vea.data.views.colour import _colour_changes, _rand_augment, _with_global_seed
from vea.data.views.decode import Encoded
from vea.data.views.geometry import (
    crop_resize,
    cut_turned,
    eval_window,
    placed_boxes,
    random_resized_window,
    scale_for,
    scaled_window,
    square_around,
)
from vea.data.views.person import Window, person_window


def keyed_generator(*key: int | str) -> np.random.Generator:
    """Returns a random generator that is a function of ``key`` alone."""
    return np.random.Generator(keyed_bits(*key))


def _size(image: np.ndarray | Encoded) -> tuple[int, int]:
    """Returns (width, height) in pixels."""
    return (image.width, image.height) if isinstance(image, Encoded) else (image.shape[1], image.shape[0])


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

    def one(self, image: np.ndarray | Encoded, *, key: str, pass_number: int = 0) -> np.ndarray:
        """Returns the scene view of an RGB image, uint8 (S, S, C).

        Of an encoded picture the crop is drawn first, in all its pixels, and then decoded at the scale that serves.
        """
        shared = self._shared(key, pass_number)
        pixels, (window,) = self._decoded(image, [self._scene_window(*_size(image), key, pass_number)])
        return self._view(pixels, window, shared, key, pass_number, "scene")

    def scene(self, image: np.ndarray | Encoded) -> np.ndarray:
        """Returns the view of evaluation of a picture that has no key: what ``read_view`` and ``predict`` want."""
        return self.one(image, key="")

    def _decoded(self, image: np.ndarray | Encoded, windows: list[Window]) -> tuple[np.ndarray, list[Window]]:
        """Returns the pixels, never fewer than the views need, and the windows in them."""
        if isinstance(image, np.ndarray):
            return image, windows
        pixels = image.pixels(least=scale_for(windows, size=self.config.image_size))
        if pixels.shape[:2] == (image.height, image.width):
            return pixels, windows
        return pixels, [scaled_window(window, width=image.width, image=pixels) for window in windows]

    def face(
        self, image: np.ndarray, box: Sequence[float], *, turn: float = 0.0, key: str = "", pass_number: int = 0
    ) -> np.ndarray:
        """Returns the view of the face in ``box``, uint8 (S, S, C): that of the square around it as a picture.

        A face that is turned by ``turn`` degrees (clockwise) is turned back about the middle of ``box``.
        """
        return self.one(cut_turned(image, square_around(box), turn), key=key, pass_number=pass_number)

    def two(
        self, image: np.ndarray | Encoded, *, boxes: Sequence[Sequence[float]], key: str, pass_number: int = 0
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Returns scene view, person view, both uint8 (S, S, C), and whether the person view shows a person.

        The person view is the crop around the most prominent person in the original image, resized; where nobody is
        found it is the whole image. Both views share flip and rotation.
        """
        width, height = _size(image)
        shared = self._shared(key, pass_number)
        numbers = KeyedUniforms("box", self.seed, pass_number, key) if self.train else None
        window = person_window(boxes, width=width, height=height, numbers=numbers)
        windows = [self._scene_window(width, height, key, pass_number), window or (0, 0, width, height)]
        pixels, (first, second) = self._decoded(image, windows)
        scene = self._view(pixels, first, shared, key, pass_number, "scene")
        person = self._view(pixels, second, shared, key, pass_number, "person")
        return scene, person, window is not None

    def placed(
        self,
        boxes: Sequence[Sequence[float]],
        *,
        size: tuple[int, int],
        around: Sequence[Sequence[float]],
        key: str,
        pass_number: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns where ``boxes`` of the image are in the scene and person views of ``two``, float64 (M, 4) each.

        Args:
            boxes: (M, 4) in pixels of the image.
            size: width and height of the image.
            around: the boxes of people that ``two`` got.
            key: of the sample, as in ``two``.
            pass_number: as in ``two``.
        """
        width, height = size
        flip, degrees = self._shared(key, pass_number)
        numbers = KeyedUniforms("box", self.seed, pass_number, key) if self.train else None
        window = person_window(around, width=width, height=height, numbers=numbers) or (0, 0, width, height)
        side, windows = self.config.image_size, (self._scene_window(width, height, key, pass_number), window)
        first, second = (placed_boxes(boxes, view, side=side, flip=flip, degrees=degrees) for view in windows)
        return first, second

    def _shared(self, key: str, pass_number: int) -> tuple[bool, float]:
        """Returns (flip, degrees), which the two views of a sample have in common."""
        if not self.train:
            return False, 0.0
        flip, angle = KeyedUniforms("shared", self.seed, pass_number, key).random(2)
        return flip < self.config.flip, self.config.rotate * (2 * angle - 1)

    def _scene_window(self, width: int, height: int, key: str, pass_number: int) -> Window:
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
