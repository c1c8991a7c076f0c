"""The frozen eyes of a pupil: the encoders of two recognisers, one for the picture and one for its largest face."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vea.config import AugmentConfig, VisionConfig
from vea.data.views.views import Views
from vea.models.feature_cache import KeptFeatures
from vea.tasks.recognise import RecogniseTask
from vea.tasks.saved import open_model


class Towers:
    """Sees a picture once and gives its features; no module, so that no checkpoint holds it.

    Args:
        config: the ``vision`` section.
        augment: how a view is made, for the name of what is kept.

    Raises:
        VeaError: a recogniser is not there, or the finder of faces.
    """

    def __init__(self, config: VisionConfig, augment: AugmentConfig) -> None:
        self.config, self.augment = config, augment
        self.scene = open_model(config.scene).task.eval().requires_grad_(False)
        self.face = open_model(config.face).task.eval().requires_grad_(False) if config.face else None
        self._detect: Callable[[np.ndarray], list[Any]] | None = None
        self._kept: KeptFeatures | None = None
        self._views = Views(augment, seed=0, train=False)

    @property
    def widths(self) -> tuple[int, int]:
        """Widths of the scene's and the face's features; the second 0 without a face tower."""
        return int(self.scene.encoder.num_features), int(self.face.encoder.num_features) if self.face else 0  # type: ignore[arg-type]

    def features(self, keys: list[str], images: Tensor, whole_face: Tensor) -> Tensor:
        """Returns (B, S + F + 1): scene, face, and 1 where there is a face; kept by key where the config says so.

        Args:
            keys: of the pictures.
            images: uint8 (B, 3, H, W).
            whole_face: bool (B,), True where the picture is a face itself.
        """
        if not self.config.cache:
            return self.look(images, whole_face)
        if self._kept is None:
            folder = self.config.cache
            self._kept = KeptFeatures(Path(folder) / self.identity() if isinstance(folder, str) else None)
        # one at a time: what is kept does not depend on what else is in a batch
        rows = self._kept.get(
            keys, lambda new: torch.cat([self.look(images[[i]], whole_face[[i]]) for i in new])[:, None].cpu()
        )
        return rows[:, 0].to(images.device)

    @torch.no_grad()
    def look(self, images: Tensor, whole_face: Tensor) -> Tensor:
        """Returns what ``features`` returns, without keeping it."""
        device = images.device
        with torch.autocast(device.type, enabled=False):
            scene = self._encoded(self.scene, images)
            if self.face is None:
                return torch.cat([scene, torch.zeros(len(scene), 1, device=device)], 1)
            crops, there = [], []
            for image, whole in zip(images, whole_face.tolist()):
                crop = image if whole else self._largest_face(image)
                there.append(crop is not None)
                crops.append(image if crop is None else crop)
            found = torch.tensor(there, device=device)[:, None].float()
            return torch.cat([scene, self._encoded(self.face, torch.stack(crops)) * found, found], 1)

    @staticmethod
    def _encoded(task: RecogniseTask, images: Tensor) -> Tensor:
        size = task.config.augment.image_size
        if images.shape[-1] != size:
            images = interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
        return task.to(images.device).features(task.normalise(images)).float()

    def _largest_face(self, image: Tensor) -> Tensor | None:
        if self._detect is None:
            from vea.faces.detect import face_detector

            self._detect = face_detector()
        array = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        faces = self._detect(array)
        if not faces:
            return None
        view = self._views.face(array, faces[0].upright, turn=faces[0].turn)
        return torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1))).to(image.device)

    def identity(self) -> str:
        """Returns a name that changes with whatever the features depend on."""
        digest = hashlib.sha256(self.augment.model_dump_json().encode())
        for task in (self.scene, self.face):
            for name, weight in sorted(task.encoder.state_dict().items()) if task is not None else ():
                digest.update(name.encode() + weight.float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]
