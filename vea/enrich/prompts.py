"""Prompts as a pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vea.config import PromptConfig
from vea.data.prompts import prompt

if TYPE_CHECKING:
    pass
from vea.enrich.run import Pass


class Prompts(Pass):
    """The teacher's text of every sample (``vea.data.prompts``)."""

    name, needs_image = "prompts", False

    def __init__(self, config: PromptConfig) -> None:
        self.config = config
        self.options = {"prompt": config.model_dump()}

    def prepare(self, image: np.ndarray | None, metadata: dict[str, Any]) -> str:
        return prompt(metadata, config=self.config)

    def rows(self, prepared: list[str]) -> list[dict[str, str]]:
        return [{"text": text} for text in prepared]

    def empty(self) -> dict[str, str]:
        return {"text": ""}
