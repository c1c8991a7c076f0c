"""The config of UniEmoX pretraining."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vea.config.base import Section
from vea.config.sections import BankConfig, EncoderConfig, PromptConfig, RunConfig, TeacherConfig

WITH_TEACHER = (
    "similarity",
    "contrastive",
    "infonce",
    "sigmoid",
    "distillation",
    "caption_scene",
    "caption_fused",
    "caption_phrases",
)  # parts that compare with the teacher
WITH_GAMMA = ("similarity", "contrastive", "infonce", "sigmoid", "distillation", "caption_fused")  # the fused embedding


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
    caption_scene: float = Field(0.0, ge=0, description="stage two: InfoNCE of the scene's class token and the caption")
    caption_fused: float = Field(
        0.0, ge=0, description="stage two: InfoNCE of the fused scene and person and the caption"
    )
    caption_phrases: float = Field(
        0.0, ge=0, description="stage two: InfoNCE of visible patches and the caption's phrases (mean of best cosines)"
    )

    @property
    def needs_teacher(self) -> bool:
        """Whether any part with a weight compares with the teacher."""
        return any(getattr(self, name) > 0 for name in WITH_TEACHER)

    @property
    def needs_gamma(self) -> bool:
        """Whether any part with a weight reads the fused embedding."""
        return any(getattr(self, name) > 0 for name in WITH_GAMMA)


class CaptionsConfig(Section):
    """Stage two: how the three ``objective.caption_*`` parts compare pictures with captions."""

    temperature: float = Field(0.07, gt=0, description="where the temperature of each part starts")
    learn_temperature: bool = Field(True, description="whether it is learned (never below 0.01); false: it stays")
    positives: Literal["own", "soft"] = Field(
        "own",
        description="own: only a picture's own caption is right; soft: every caption counts by its likeness to the own "
        "one, compared both ways (the soft form of UniME-V2)",
    )
    soft_temperature: float = Field(0.07, gt=0, description="soft: of the likeness of captions")
    affect: float = Field(
        0.0, ge=0, description="soft: weight of the likeness of the captions' valence and arousal beside their cosine"
    )
    lexicon: str | None = Field(
        None, description="NRC-VAD or Warriner file that rates a caption's words; null: vea's coarse emotion names"
    )
    template: bool = Field(
        False,
        description="whether the text tower reads 'a photo that evokes mild pleasure: CAPTION', rated by the caption's "
        "own words and by no label",
    )
    vary: bool = Field(False, description="another of a picture's captions in each pass; false: always the same one")
    share: float = Field(
        1.0, gt=0, le=1, description="of the samples that keep their text, by a hash of their key: for ablations"
    )
    shuffled: bool = Field(
        False, description="a control: each sample has the caption of another one, always the same; nothing to gain"
    )
    mix: Literal["none", "pair", "list"] = Field(
        "none", description="negatives made of a picture's hardest captions: of two (pair) or of all of them (list)"
    )
    mix_hard: int = Field(8, ge=2, description="mix: how many hardest captions are mixed")
    mix_count: int = Field(4, ge=1, description="mix: how many mixed negatives a picture gets; list makes one")
    mix_margin: float = Field(
        0.05, ge=0, description="mix: captions whose cosine with the own one is above 1 minus this are no negatives"
    )


class SceneBankConfig(BankConfig):
    """The bank of pretraining, on the scene's embedding."""

    field: str | None = Field(
        None, description="label of data.val whose information in the codes is logged, never learned; null: none"
    )


class SalientConfig(Section):
    """Masks that look where emotion is: salient patches go more often, the ratio stays."""

    probability: float = Field(0.9, ge=0, le=1, description="with which a salient patch is removed")
    persons: bool = Field(True, description="whether the boxes of people are salient")
    share: float = Field(
        0.25, gt=0, lt=1, description="of the patches that are salient where the sets have a saliency sidecar"
    )


class PretrainModelConfig(Section):
    """UniEmoX: encoder, decoder, masking and fusion (``vea.models.fusion`` lists the formulas)."""

    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of the patches that is removed")
    fusion: Literal["none", "easy", "weighted", "dual", "glu", "lambda"] = Field(
        "easy", description="how the scene's and the person's embeddings become one; none: the scene's alone"
    )
    checkpointing: bool = Field(False, description="recompute activations in the backward pass: less memory, slower")
    predicted: float = Field(
        1.0, gt=0, le=1, description="share of the removed patches that is predicted, the same for all; less is cheaper"
    )
    person_size: int | None = Field(
        None, ge=1, description="side of a smaller, cheaper person view in pixels, whole patches; null: the scene's"
    )
    frozen_blocks: int = Field(
        0, ge=0, description="the embedding and so many first blocks of the encoder do not learn; 0: all learn"
    )
    bank: SceneBankConfig | None = Field(None, description="a bank of prototypes on the scene's embedding; null: none")
    salient: SalientConfig | None = Field(
        None, description="masks that remove salient patches more often; null: uniform masks"
    )
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
    captions: CaptionsConfig = CaptionsConfig()
