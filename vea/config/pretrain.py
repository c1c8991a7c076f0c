"""The config of UniEmoX pretraining."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vea.config.base import Section
from vea.config.sections import EncoderConfig, PromptConfig, RunConfig, TeacherConfig

WITH_TEACHER = (
    "similarity",
    "contrastive",
    "infonce",
    "sigmoid",
    "distillation",
)  # parts that compare with the teacher


class DecoderConfig(Section):
    """The masked autoencoder's decoder (MAE, section 3)."""

    width: int = Field(512, ge=1, description="channels of a token; a multiple of heads")
    depth: int = Field(8, ge=1, description="blocks")
    heads: int = Field(16, ge=1, description="attention heads of a block")


class ObjectiveConfig(Section):
    """Weights of the loss parts; 0 switches a part off. The paper uses the first three at 1 each."""

    reconstruction: float = Field(1.0, ge=0, description="L3: error of the removed patches of the scene")
    similarity: float = Field(
        1.0, ge=0, description="L2: 1 - cosine of the fused embedding and the teacher's of the image"
    )
    contrastive: float = Field(1.0, ge=0, description="L1: contrastive similarity over paired and unpaired samples")
    person_reconstruction: float = Field(0.0, ge=0, description="error of the removed patches of the person view")
    infonce: float = Field(0.0, ge=0, description="symmetric InfoNCE between the fused embedding and the text")
    sigmoid: float = Field(0.0, ge=0, description="pairwise sigmoid loss (SigLIP), with learned scale and bias")
    norm_pix: bool = Field(
        False, description="reconstruct patches normalised by their own mean and deviation; false: pixels"
    )
    temperature: float = Field(0.07, gt=0, description="of infonce and distillation; where the scale of sigmoid starts")
    distillation: float = Field(0.0, ge=0, description="soft labels: gamma's choice among texts against the teacher's")
    false_negative_margin: float = Field(
        0.01, ge=0, description="distillation drops a text whose teacher score is above the own text's minus this"
    )
    hard_negatives: int | None = Field(
        None, ge=1, description="distillation: only so many texts, nearest to gamma; null: all"
    )
    focal: float = Field(
        0.0, ge=0, description="infonce: gamma of (1 - p)^gamma, pairs found already count less; 0: off"
    )
    infonce_block: int | None = Field(4096, ge=1, description="infonce: rows whose logits exist at a time; null: all")

    @property
    def needs_teacher(self) -> bool:
        """Whether any part with a weight compares with the teacher."""
        return any(getattr(self, name) > 0 for name in WITH_TEACHER)


class PretrainModelConfig(Section):
    """UniEmoX: encoder, decoder, masking and fusion (``vea.models.fusion`` lists the formulas)."""

    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of the patches that is removed")
    fusion: Literal["none", "easy", "weighted", "dual", "glu", "lambda"] = Field(
        "easy", description="how the scene's and the person's embeddings become one; none: the scene's alone"
    )
    checkpointing: bool = Field(False, description="recompute activations in the backward pass: less memory, slower")
    variant: Literal["paper", "released"] = Field(
        "paper",
        description="released: as the authors' code computes it, to compare with: one prediction from the class token "
        "for all patches, the whole image as person view, ImageNet statistics for the teacher",
    )


class PretrainConfig(RunConfig):
    """``pretrain/train.py``."""

    recipe: Literal["pretrain"] = "pretrain"
    model: PretrainModelConfig = PretrainModelConfig()
    teacher: TeacherConfig | None = TeacherConfig()
    prompt: PromptConfig = PromptConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
