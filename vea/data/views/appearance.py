"""What can be measured of a picture without a network: how bright and how colourful it is, and its main colours."""

from __future__ import annotations

import math

import cv2
import numpy as np

MEASURED_SIDE = 1024  # of larger pictures every n-th pixel is measured: the statistics stay, the time does not grow

# Hue in degrees at which a colour begins; below SATURATED of saturation there is no hue, only black, grey and white.
HUES = ((0, "red"), (15, "orange"), (45, "yellow"), (70, "green"), (165, "cyan"), (195, "blue"), (255, "purple"),
        (300, "pink"), (345, "red"))  # fmt: skip
SATURATED, DARK, LIGHT = 0.2, 0.2, 0.8


def brightness_of(pixels: np.ndarray) -> float:
    """Returns the mean grey of an RGB picture over 255: 0 black, 1 white (an approximation of EmoSet's scale)."""
    return float(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).mean()) / 255


def colorfulness_of(pixels: np.ndarray) -> float:
    """Returns the colorfulness of an RGB picture (Hasler and Suesstrunk, 2003) over 109, their "extremely colorful".

    An approximation of EmoSet's scale; clipped to 1.
    """
    red, green, blue = (pixels[..., channel].astype(np.float32) for channel in range(3))
    rg, yb = red - green, 0.5 * (red + green) - blue
    value = math.hypot(float(rg.std()), float(yb.std())) + 0.3 * math.hypot(float(rg.mean()), float(yb.mean()))
    return min(1.0, value / 109)


def thinned(pixels: np.ndarray) -> np.ndarray:
    """Returns every n-th pixel (H', W', 3) of a picture, no side above ``MEASURED_SIDE``; small pictures as they are.

    Pixels are left out and not averaged: an average is less colourful than what it is made of.
    """
    step = -(-max(pixels.shape[:2]) // MEASURED_SIDE)
    return np.ascontiguousarray(pixels[::step, ::step])


def main_colors(pixels: np.ndarray) -> dict[str, float]:
    """Returns {colour: share of the pixels} of an RGB uint8 picture, largest first; all shares sum to one.

    Eight hues, and black, grey and white where there is no hue to speak of.
    """
    hsv = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2HSV).reshape(-1, 3)
    hue, saturation, value = hsv.T
    starts = np.array([start for start, _ in HUES])
    place = np.searchsorted(starts, hue, side="right") - 1
    names = [name for _, name in HUES] + ["black", "grey", "white"]
    dull = (saturation < SATURATED) | (value < DARK)
    tone = len(HUES) + np.where(value < DARK, 0, np.where(value < LIGHT, 1, 2))
    counts = np.bincount(np.where(dull, tone, place), minlength=len(names))
    shares: dict[str, float] = {}
    for name, count in zip(names, counts):
        if count:
            shares[name] = shares.get(name, 0.0) + float(count) / len(hsv)
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))
