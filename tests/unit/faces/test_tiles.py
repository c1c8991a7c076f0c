"""Panoramas: windows that cover them, and one box a face."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from vea.data.views.decode import searched
from vea.data.views.pictures import read_image
from vea.faces.detect import FaceDetector, face_detector
from vea.faces.tiles import MOST, OVERLAP, distinct, windows


@pytest.mark.parametrize(("width", "height"), [(6000, 1000), (1000, 6000), (2501, 1000), (40000, 100), (1200, 40)])
def test_windows_cover_a_panorama_and_overlap(width, height):
    tiles = windows(width, height)
    across = width > height
    pairs = [(x0, x1) if across else (y0, y1) for x0, y0, x1, y1 in tiles]
    assert all((y0, y1) == (0, height) if across else (x0, x1) == (0, width) for x0, y0, x1, y1 in tiles)
    assert pairs[0][0] == 0 and pairs[-1][1] == max(width, height) and 1 < len(tiles) <= MOST
    for (a, b), (c, d) in pairwise(pairs):
        assert b - c >= OVERLAP * (b - a) - 2 and abs((d - c) - (b - a)) <= 1


@pytest.mark.parametrize(("width", "height"), [(960, 100), (2500, 1000), (640, 480), (1, 1)])
def test_other_pictures_are_searched_whole(width, height):
    assert windows(width, height) == [(0, 0, width, height)]


def test_a_face_in_two_windows_is_one():
    boxes = [(0, 0, 10, 10), (1, 0, 11, 12), (30, 0, 40, 10), (30, 0, 36, 10), (8, 8, 20, 20)]
    assert distinct(boxes) == [4, 1, 2] and distinct([]) == []


def test_what_windows_find_lies_where_it_is_in_the_whole():
    """The search here sees one bright square of 20 pixels, at whatever scale it is shown."""

    def search(image):
        ys, xs = np.where(image[:, :, 0] > 128)
        if len(xs) == 0:
            return np.zeros((0, 16), np.int16)
        x0, y0, x1, y1 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        w, h = x1 - x0, y1 - y0
        points = [x0 + w // 3, y0 + h // 3, x0 + 2 * w // 3, y0 + h // 3, x0 + w // 2, y0 + h // 2]
        points += [x0 + w // 3, y0 + 2 * h // 3, x0 + 2 * w // 3, y0 + 2 * h // 3]
        return np.array([[95, x0, y0, w, h, *points, 0]], np.int16)

    image = np.zeros((400, 3000, 3), np.uint8)
    image[200:220, 700:720] = 255  # in two windows
    (face,) = FaceDetector(search, min_score=0.6)(image)
    assert np.abs(np.array(face[0]) - [700, 200, 720, 220]).max() <= 2
    assert np.abs(face.points.mean(0) - [710, 209.5]).max() <= 3


@pytest.mark.real_data
def test_small_faces_of_a_panorama_are_found(vea_data):
    folder = vea_data / "people_samples/images"
    portraits = [read_image(folder / f"stock-emotions-a-{number}.jpg") for number in (1, 2, 3)]
    image = np.full((500, 6000, 3), 120, np.uint8)
    for number, portrait in enumerate(portraits):
        image[150:250, 900 + 2000 * number : 1000 + 2000 * number] = cv2.resize(portrait, (100, 100))
    assert len(face_detector()(searched(image))) == 3
