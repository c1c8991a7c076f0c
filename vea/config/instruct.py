"""The config of pupils: small language models that learn affective instructions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vea.config.base import Section
from vea.config.sections import FinetuneConfig


class LoraConfig(Section):
    """LoRA adapters (arXiv 2106.09685)."""

    rank: int = Field(8, ge=1, description="rank of an adapter")
    alpha: int = Field(16, gt=0, description="an adapter is scaled by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="dropout before an adapter")
    target_modules: str = Field(
        r".*\.(q|k|v|o)_proj", description="regular expression of the layers of the language model to adapt"
    )


class VisionConfig(Section):
    """The frozen vision side of a pupil of the kind prefix: towers of vea's recognisers, and how they become tokens."""

    scene: str = Field(
        "scene", description="recogniser whose encoder reads the whole picture: one that ships, or a run"
    )
    face: str | None = Field(
        "expression", description="recogniser whose encoder reads the largest face; null: no face tower"
    )
    face_pixels: int = Field(64, ge=0, description="a picture whose shorter side is at most this is a face itself")
    fusion: Literal["gate", "concat"] = Field(
        "gate",
        description="gate: scene and face are added, weighted by a softmax over the two (AffectGPT's pre-fusion, whose "
        "released code has no softmax); concat: half of the image tokens each",
    )
    tokens: int = Field(4, ge=2, description="image tokens in front of the first question; even for concat")
    layer: int = Field(
        0,
        ge=0,
        description="image tokens enter before this block of the language model; the blocks below have no adapters, "
        "and what they make of a text is computed once; 0: in front of the input",
    )
    width: int = Field(256, ge=8, description="hidden channels of the projector")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout on the features of the towers")
    cache: bool | str = Field(
        True,
        description="look at each picture and read each text below layer once; a folder keeps both for other runs",
    )


class InstructModelConfig(Section):
    """``prefix``: a causal language model with vea's vision side; ``hf``: any image-text model of transformers."""

    kind: Literal["prefix", "hf"] = Field("prefix", description="whose vision side: vea's, or the model's own")
    path: str = Field(
        description="folder of the model, of transformers' own form; nothing is downloaded; tiny: two random blocks "
        "made on the spot, to see that everything works"
    )
    gguf: str | None = Field(None, description="prefix: name of a .gguf file in that folder; null: its safetensors")
    lora: LoraConfig = LoraConfig()
    vision: VisionConfig = VisionConfig()
    image_splitting: bool = Field(False, description="hf, SmolVLM: a picture as tiles and whole; false: whole")
    system: str | None = Field(None, description="what the system turn says; null: the chat template's own")
    blind: bool = Field(False, description="a control: the same model, but it is shown no picture")
    max_tokens: int = Field(
        256, ge=16, description="of a conversation; later turns that do not fit are left out, image tokens never"
    )
    buckets: int = Field(4, ge=1, description="a batch goes through in so many parts of like length, for less padding")

    @model_validator(mode="after")
    def _supported(self) -> InstructModelConfig:
        if self.vision.fusion == "concat" and self.vision.tokens % 2:
            raise ValueError("vision.fusion=concat needs an even number of vision.tokens")
        if self.kind == "hf" and self.gguf:
            raise ValueError("kind hf reads no gguf file: leave gguf out")
        return self


class InstructConfig(FinetuneConfig):
    """``finetune/train.py``: questions about pictures and texts with their answers, for a small language model."""

    recipe: Literal["instruct"] = "instruct"
    model: InstructModelConfig
    turns: int = Field(1, ge=1, description="questions about one picture in a training conversation, at most")
    conversations: int = Field(
        1, ge=1, description="conversations about one picture that go through together, each as if it were alone"
    )
    soft_numbers: bool = Field(
        True,
        description="a digit is learned as the two digits next to the true number, by nearness, so that the expected "
        "value is that number; false: the nearest digit alone",
    )
    eval_lessons: int = Field(6, ge=1, description="questions with named answers that are asked of a picture in val")
    select_by: str = Field("score", description="validation metric that chooses the best checkpoint")

    @property
    def labels(self) -> list[str]:
        """No label fields: the lessons are texts."""
        return []

    @property
    def eval_batch_size(self) -> int:
        """Pictures a rank is asked about at a time, at most."""
        return 16
