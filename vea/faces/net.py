"""Faces by the network that ships, or another that finetune/face_net.py trained: runs wherever torch does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from vea.models.face_net import FaceNet

CELL = 32  # sides of what the network sees are multiples of it
LEAST, SAME = 0.1, 0.3  # score below which a cell's answer is not looked at; overlap from which two are one face
MOST = 1000  # answers of one picture that are looked at


def net_search(weights: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a search of the weights in a folder (``RUN/best``).

    A function from BGR uint8 (H, W, 3) to rows (N, 16) as ``vea.faces.detect.face_search`` describes.

    Raises:
        VeaError: the weights cannot be read.
    """
    return rows_of(network_of(weights))


def rows_of(network: FaceNet) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the search of a network; see ``net_search``."""
    import torch

    from vea.models.face_net import decode

    @torch.inference_mode()
    def rows(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        padded = np.zeros((-(-height // CELL) * CELL, -(-width // CELL) * CELL, 3), np.uint8)
        padded[:height, :width] = image[:, :, ::-1]
        # NHWC in memory, which is how the network computes
        cells = decode(network(torch.from_numpy(padded)[None].permute(0, 3, 1, 2).float()))[0]
        cells = cells[cells[:, 0] > float(np.log(LEAST / (1 - LEAST)))]
        cells = cells[cells[:, 0].argsort(descending=True)[:MOST]]
        answers = cells.numpy().astype(np.float64)
        scores = 100 / (1 + np.exp(-answers[:, 0]))
        sizes = np.concatenate([answers[:, 1:3], answers[:, 3:5] - answers[:, 1:3]], 1)
        kept = np.array(cv2.dnn.NMSBoxes(sizes.tolist(), scores.tolist(), 0.0, SAME), int).reshape(-1)
        return np.concatenate([scores[:, None], sizes, answers[:, 5:], np.zeros((len(scores), 1))], 1)[kept]

    return rows


@cache
def network_of(weights: Path) -> FaceNet:
    """Returns the network of the weights in a folder, in evaluation mode."""
    import torch

    from vea.models.face_net import FaceNet
    from vea.storage.checkpoint import load_weights

    model = FaceNet().eval()
    model.load_state_dict(load_weights(weights)[0])
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
