"""Boxes of faces, and how far each is turned."""

from __future__ import annotations

from typing import Any

from vea.data.views.decode import Encoded
from vea.enrich.persons import Detection
from vea.faces.detect import Detection as Face
from vea.faces.detect import chosen_backend, face_detector, faces_in


class Faces(Detection):
    """Faces by ``vea.faces.detect``, the largest first, found as ``vea predict`` finds them.

    A row has ``boxes`` and ``scores``; ``turns`` in degrees and the ``upright`` boxes are what its crops are made of.
    """

    name, encoded = "faces", True

    def __init__(self, *, min_score: float = 0.6) -> None:
        # rows of one backend are not mixed with another's, nor with those of before there were turns
        self.options = {"backend": chosen_backend(), "min_score": min_score, "turns": True}
        self.detect = face_detector(min_score=min_score)

    def empty(self) -> dict[str, Any]:
        return {"boxes": [], "scores": [], "turns": [], "upright": []}

    def prepare(self, image: Encoded, metadata: dict[str, Any]) -> list[Face]:
        return faces_in(image, self.detect)  # one at a time, so that no batch of whole pictures is held

    def rows(self, prepared: list[list[Face]]) -> list[dict[str, Any]]:
        return [
            {
                "boxes": [list(face[0]) for face in faces],
                "scores": [round(face[1], 4) for face in faces],
                "turns": [face.turn for face in faces],
                "upright": [list(face.upright) for face in faces],
            }
            for faces in prepared
        ]
