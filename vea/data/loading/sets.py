"""One data set of a mixture: reader, kept samples, sidecars."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from vea.config import DatasetRef, PromptConfig, TeacherConfig
from vea.data.loading.order import Draw, Order, kept_samples
from vea.data.shards.reader import ShardReader
from vea.data.shards.sidecars import Sidecar
from vea.errors import VeaError
from vea.storage.identity import same_teacher, teacher_identity
from vea.taxonomy.fields import LabelField


class ShardSet:
    """One ``DatasetRef``: its reader and the samples that ``part`` and ``fraction`` keep.

    Raises:
        VeaError: no such set or split, or no such sidecar: the person boxes that ``ref`` names, and what ``teacher``
            says is cached, of the same teacher and ``prompts``.
    """

    def __init__(
        self, ref: DatasetRef, *, teacher: TeacherConfig | None = None, prompts: PromptConfig | None = None
    ) -> None:
        self.name = ref.path
        self.reader = ShardReader(ref.path, ref.split)
        self.fields: dict[str, LabelField] = self.reader.index.fields
        self._kept = kept_samples(len(self.reader), fraction=ref.fraction, part=ref.part)
        self._embeddings: dict[str, Sidecar] = {}
        if teacher is not None and teacher.cached("image"):
            self._embeddings["teacher_image"] = teacher_sidecar(self.reader, "image", teacher, {})
        if teacher is not None and teacher.cached("text"):
            options = {"prompt": (prompts or PromptConfig()).model_dump()}
            self._embeddings["teacher_text"] = teacher_sidecar(self.reader, "text", teacher, options)
        self._persons = (
            Sidecar(self.reader, ref.persons, made_by="persons", otherwise="let the config read no persons")
            if ref.persons
            else None
        )
        self._faces, self._saliency = (
            Sidecar(self.reader, name, made_by=made_by, otherwise=f"let the config read no {made_by}") if name else None
            for name, made_by in ((ref.faces, "faces"), (ref.saliency, "saliency"))
        )

    def __len__(self) -> int:
        return len(self.reader) if self._kept is None else len(self._kept)

    @property
    def size(self) -> int | None:
        """Samples for the order; a stream has none."""
        return len(self)

    def found(self, draw: Draw, order: Order) -> Draw:
        """Returns a draw with its sample; of a prepared set the order knows it already."""
        return draw

    def problems(self, i: int) -> dict[str, str]:
        """Returns {key: sentence} of what was left out on the way to kept sample ``i``: nothing in a prepared set."""
        return {}

    def read(self, i: int) -> tuple[str, bytes, dict[str, Any]]:
        """Returns key, encoded image and metadata of kept sample ``i``."""
        return self.reader.read(i if self._kept is None else int(self._kept[i]))

    def person_boxes(self, i: int, metadata: dict[str, Any]) -> list[list[float]]:
        """Returns the boxes that came with kept sample ``i``, or those of the persons sidecar where it has none."""
        own = metadata.get("person_boxes") or []
        if own or self._persons is None:
            return own
        return self._persons.row(i if self._kept is None else int(self._kept[i]))["boxes"]

    def face_boxes(self, i: int) -> list[list[float]]:
        """Returns the boxes of the faces sidecar for kept sample ``i``; none where the set names no such sidecar."""
        return [] if self._faces is None else self._faces.row(i if self._kept is None else int(self._kept[i]))["boxes"]

    def largest_face(self, i: int) -> tuple[list[int], float] | None:
        """Returns the upright box of the largest face of kept sample ``i`` and its turn in degrees; None without one.

        Raises:
            VeaError: the set names no faces sidecar, or one without turns.
        """
        if self._faces is None or not self._faces.meta["options"].get("turns"):
            where = self._faces.folder if self._faces else f"{self.name}: no faces sidecar"
            raise VeaError(f"{where} does not tell how faces are turned: remove it and run `vea enrich faces` again")
        row = self._faces.row(i if self._kept is None else int(self._kept[i]))
        return (row["upright"][0], row["turns"][0]) if row["boxes"] else None

    def saliency(self, i: int) -> np.ndarray | None:
        """Returns the saliency of kept sample ``i``, float32 (G, G) over the whole picture; None without a sidecar."""
        if self._saliency is None:
            return None
        row = self._saliency.row(i if self._kept is None else int(self._kept[i]))
        return row.reshape(round(len(row) ** 0.5), -1)

    def embeddings(self, i: int) -> dict[str, np.ndarray]:
        """Returns the cached teacher embeddings of kept sample ``i`` by their name in a batch, float32 (D,) each."""
        i = i if self._kept is None else int(self._kept[i])
        return {name: sidecar.row(i) for name, sidecar in self._embeddings.items()}


def teacher_sidecar(
    reader: ShardReader, kind: Literal["image", "text"], teacher: TeacherConfig, options: dict[str, Any]
) -> Sidecar:
    """Returns the cached embeddings of ``teacher``; raises ``VeaError`` when another one or other texts made them."""
    otherwise = "set teacher.cache=none"
    sidecar = Sidecar(reader, f"teacher_{kind}", made_by=f"teacher-{kind}", otherwise=otherwise)
    made = sidecar.meta.get("model") or {}
    again = f"remove it and write it again with `vea enrich`, or {otherwise}"
    if not same_teacher(made, teacher_identity(teacher)):
        raise VeaError(
            f"{sidecar.folder} holds embeddings of the teacher {made.get('name')}, not of {teacher.name} "
            f"(or of other weights); {again}"
        )
    if sidecar.meta["options"] != options:
        raise VeaError(f"{sidecar.folder} was made with {sidecar.meta['options']}, the config says {options}; {again}")
    return sidecar
