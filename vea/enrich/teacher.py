"""Teacher embeddings as a pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vea.config import PromptConfig, TeacherConfig
from vea.data.prompts import prompt
from vea.data.shards.sidecars import read_rows

if TYPE_CHECKING:
    from vea.models.teachers.base import Teacher
from vea.enrich.run import Pass


class TeacherPass(Pass):
    """Unit vectors of a frozen teacher, float32 (N, D); NaN where the image cannot be decoded."""

    suffix = ".npy"

    def __init__(self, config: TeacherConfig, *, device: str = "cpu") -> None:
        from vea.models.teachers.load import load_teacher
        from vea.storage.identity import teacher_identity

        self.teacher: Teacher = load_teacher(config)
        self.teacher.to(device)
        self.options, self.model = {}, teacher_identity(config)

    def empty(self) -> np.ndarray:
        return np.full(self.teacher.embed_dim, np.nan, dtype=np.float32)


class TeacherImages(TeacherPass):
    """The teacher's embedding of the whole image, not augmented (``teacher.cache: image``, a stated variant)."""

    name, batch_size = "teacher-image", 32

    def prepare(self, image: np.ndarray | None, metadata: dict[str, Any]) -> Any:
        import torch

        assert image is not None
        return self.teacher.preprocess(torch.from_numpy(image).permute(2, 0, 1)[None])

    def rows(self, prepared: list[Any]) -> np.ndarray:
        import torch
        import torch.nn.functional as F

        with torch.inference_mode():
            return F.normalize(self.teacher.image_features(torch.cat(prepared)).float(), dim=-1).cpu().numpy()


class TeacherTexts(TeacherPass):
    """The teacher's embedding of every sample's prompt; equal prompts are embedded once, over all shards and runs."""

    name, needs_image, batch_size = "teacher-text", False, 512

    def __init__(self, config: TeacherConfig, prompts: PromptConfig, *, device: str = "cpu") -> None:
        super().__init__(config, device=device)
        self.prompts = prompts
        self.options = {"prompt": prompts.model_dump()}
        self.embedded = 0  # texts that went through the tower
        self._places: dict[bytes, tuple[Path, int]] = {}  # digest of a prompt: where its row is; rows stay on the disk
        self._read = lru_cache(maxsize=16)(read_rows)

    def prepare(self, image: np.ndarray | None, metadata: dict[str, Any]) -> str:
        return prompt(metadata, config=self.prompts)

    def finished(self, path: Path, records: Callable[[], Iterator[dict[str, Any]]]) -> None:
        for row, metadata in enumerate(records()):
            self._places.setdefault(_digest(self.prepare(None, metadata)), (path, row))

    def rows(self, prepared: list[str]) -> np.ndarray:
        known = {text: self._places.get(_digest(text)) for text in prepared}
        new = [text for text, place in known.items() if place is None]
        self.embedded += len(new)
        made = dict(zip(new, self.teacher.encode_text(new).cpu().numpy())) if new else {}
        made |= {text: self._read(place[0])[place[1]] for text, place in known.items() if place is not None}
        return np.stack([made[text] for text in prepared])


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
