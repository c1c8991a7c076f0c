"""Boxes of faces."""

from __future__ import annotations

from typing import Any

import numpy as np

from vea.enrich.persons import Detection


class Faces(Detection):
    """Faces by ``vea.faces.detect``, the largest first."""

    name = "faces"

    def __init__(self, *, min_score: float = 0.6) -> None:
        from vea.faces.detect import chosen_backend, face_detector

        # rows of one backend are not mixed with another's
        self.options = {"backend": chosen_backend(), "min_score": min_score}
        self.detect = face_detector(min_score=min_score)

    def prepare(self, image: np.ndarray | None, metadata: dict[str, Any]) -> Any:
        assert image is not None
        return self.detect(image)  # one at a time, so that no batch of whole pictures is held

    def rows(self, prepared: list[Any]) -> list[dict[str, Any]]:
        return [
            {"boxes": [list(box) for box, _ in faces], "scores": [round(score, 4) for _, score in faces]}
            for faces in prepared
        ]
