"""Landmarks, blendshapes and head poses of faces."""

from __future__ import annotations

from typing import Any

from vea.data.views.decode import Encoded, at_scale
from vea.enrich.faces import Faces
from vea.enrich.persons import Detection, _identity
from vea.faces.detect import faces_in
from vea.faces.landmarks import BLENDSHAPES, Landmarker


class FaceLandmarks(Detection):
    """What ``vea.faces.landmarks`` reads of every face, the largest first; ``options`` names the blendshapes.

    Args:
        min_score: of the detector; faces below it are left out.
        whole: the pictures are face crops: each is one face, and nothing is searched for.
        points: keep the 478 points as well, some 12 kB a face.
        threads: of the CPU.
    """

    name, encoded = "landmarks", True

    def __init__(self, *, min_score: float = 0.6, whole: bool = False, points: bool = False, threads: int = 1) -> None:
        self.reader = Landmarker(threads=threads)
        assert self.reader.path is not None
        self.model = _identity(self.reader.path)
        self.points = points
        finder = {"backend": "whole"} if whole else {}
        self.detect = None
        if not whole:
            found = Faces(min_score=min_score)
            self.detect, finder = found.detect, found.options
        self.options = {**finder, "points": points, "blendshapes": list(BLENDSHAPES)}

    def empty(self) -> dict[str, Any]:
        return self._row([], [])

    def prepare(self, image: Encoded, metadata: dict[str, Any]) -> Any:
        whole = [((0, 0, image.width, image.height), 1.0)]
        faces: Any = whole if self.detect is None else faces_in(image, self.detect)
        return self._row(faces, self.reader(at_scale(image, least=1.0), faces))

    def rows(self, prepared: list[Any]) -> list[Any]:
        return prepared

    def _row(self, faces: Any, found: Any) -> dict[str, Any]:
        told = [face.record(points=self.points) for face in found]
        row: dict[str, Any] = {
            "boxes": [list(box) for box, _ in faces],
            "scores": [round(score, 4) for _, score in faces],
            "presence": [face["presence"] for face in told],
            "pose": [list(face["pose"].values()) for face in told],
            "blendshapes": [list(face["blendshapes"].values()) for face in told],
        }
        return row | ({"points": [face["points"] for face in told]} if self.points else {})
