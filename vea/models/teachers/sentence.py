"""A teacher of texts alone: a frozen sentence encoder out of a Python package."""

from __future__ import annotations

from torch import Tensor

from vea.errors import VeaError
from vea.models.teachers.base import Teacher
from vea.models.teachers.two_tower import sentence_features, text_tower

PREFIX = "sentence:"


class SentenceTeacher(Teacher):
    """The text tower of ``PREFIX`` + package name, as it comes: for objectives that compare with texts only."""

    def __init__(self, package: str) -> None:
        size = (224, 224)  # of no use: there is no image tower
        super().__init__(description=f"sentence encoder {package}", image_size=size, mean=(0.5,) * 3, std=(0.5,) * 3,
                         resize="squash")  # fmt: skip
        self.tokenizer, self.text_tower = text_tower({"package": package})

    def image_features(self, pixels: Tensor) -> Tensor:
        raise VeaError(
            f"teacher.name={PREFIX}... has no image tower: set objective.similarity, contrastive and distillation to 0"
        )

    def text_features(self, texts: list[str]) -> Tensor:
        return sentence_features(self.tokenizer, self.text_tower, texts, length=64)
