"""Configs of the recognition recipes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vea.config.base import Section
from vea.config.sections import BankConfig, EncoderConfig, FinetuneConfig


class ClassifierConfig(Section):
    """A backbone with a head: a timm model by name, a vea run (``init_from`` in ``train``), or a vea network."""

    encoder: EncoderConfig = EncoderConfig()
    pool: Literal["default", "avg", "cls"] = Field(
        "default",
        description="what the head sees; default: as the model has it; avg: mean of patch tokens; cls: class token",
    )
    drop_rate: float = Field(0.0, ge=0, lt=1, description="dropout before the heads; 0: none")
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="stochastic depth: largest probability to skip a block; 0: none"
    )
    train: Literal["full", "linear", "last_blocks"] = Field(
        "full", description="which weights learn: all, the heads, or the heads and the last two blocks"
    )
    channels: Literal[1, 3] = Field(3, description="of the input: 1 is grey, 3 is RGB")
    attribute_module: bool = Field(
        False, description="the first target's head also sees what the heads of the other targets predict"
    )
    bottleneck: Literal["off", "strict", "joint"] = Field(
        "off",
        description="the first target is a linear function of what is predicted for the others, by no other path; "
        "strict: its loss teaches that function alone, attributes stay what they are named; joint: the attributes too",
    )
    bank: BankConfig | None = Field(
        None, description="prototypes on the features that the heads see (DICE-Talk's emotion bank); null: none"
    )


class ImbalanceConfig(Section):
    """What is done about rare classes while training; evaluation never changes."""

    weights: Literal["none", "balanced", "sqrt", "effective"] = Field(
        "none",
        description="class weights in the loss; none: all alike; balanced equals sampling every class equally often",
    )
    logit_adjustment: float = Field(0.0, ge=0, description="tau of Menon et al. 2021; 1 is theirs, 0 is off")
    focal: float = Field(0.0, ge=0, description="gamma of the focal loss; 0 is off")
    asymmetric: bool = Field(
        False, description="multi-label targets: timm's asymmetric loss in place of binary cross-entropy"
    )


class MixConfig(Section):
    """Mixing of samples and smoothing of targets (timm's implementation)."""

    mixup: float = Field(0.0, ge=0, description="alpha of mixup; 0: off")
    cutmix: float = Field(0.0, ge=0, description="alpha of CutMix; 0: off")
    probability: float = Field(1.0, ge=0, le=1, description="share of the batches that are mixed, if any are")
    smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing; 0: off")


class DistillConfig(Section):
    """Trained recognisers that the new one imitates, beside the labels (Hinton et al. 2015); one or an ensemble.

    They see what the student sees, after augmentation and mixing (Beyer et al. 2022): only then are their answers about
    that picture. A label is taught by the mean of those that know it; what none knows is learned from the data alone.
    """

    models: list[str] = Field([], description="runs, hub folders, or models that ship; none: labels only")
    weight: float = Field(0.5, ge=0, le=1, description="the teachers' share of each loss; the rest is the labels'")
    temperature: float = Field(2.0, gt=0, description="of classes; values and label sets are imitated as they are")
    only_labelled: bool = Field(
        False,
        description="a label's teachers speak only of samples that have the label: with several data sets, each set's "
        "own teacher teaches that set (arXiv 2502.03979)",
    )
    calibrate: bool = Field(
        False,
        description="a class that the models' mean answer disagrees with is replaced by that answer (SynFER, arXiv "
        "2410.09865: noisy labels); with weight 0 that is all they do",
    )


class RecogniseConfig(FinetuneConfig):
    """``finetune/train.py``: one or several expression labels learned by one network.

    ``targets`` maps a label field of the shards to its loss weight, for instance ``{expression: 1.0}`` for FER2013's
    seven classes or ``{expression: 1.0, votes: 1.0}`` to learn the FER+ vote distribution beside it.
    """

    recipe: Literal["expression"] = "expression"
    model: ClassifierConfig = ClassifierConfig()
    mix: MixConfig = MixConfig()
    imbalance: ImbalanceConfig = ImbalanceConfig()
    distill: DistillConfig = DistillConfig()
    targets: dict[str, float] = Field({"expression": 1.0}, description="label field of the shards: weight of its loss")
    adversarial: dict[str, float] = Field(
        {},
        description="class label that the features shall not tell, such as person: lambda of its reversed gradient "
        "(FMAE-IAT, arXiv 2407.11243, takes 2); none by default",
    )
    select_by: str = Field("expression/accuracy", description="validation metric that chooses the best checkpoint")

    @property
    def labels(self) -> list[str]:
        """The label fields that the loader delivers."""
        return [*self.targets, *self.adversarial]

    @property
    def reads_faces(self) -> bool:
        """True where the model is one of faces, which ``predict`` finds, and not of whole pictures."""
        return self.recipe == "expression" or self.augment.region == "face"


class EmotionConfig(RecogniseConfig):
    """``finetune/train.py``: emotion of whole scenes: classes, label sets, distributions, valence and arousal."""

    recipe: Literal["emotion"] = "emotion"  # type: ignore[assignment]
    targets: dict[str, float] = Field({"emotion": 1.0}, description="label field of the shards: weight of its loss")
    select_by: str = Field("emotion/accuracy", description="validation metric that chooses the best checkpoint")


class AttributesConfig(EmotionConfig):
    """``finetune/train.py``: emotion and the attributes behind it (EmoSet's six), the emotion named first."""

    recipe: Literal["attributes"] = "attributes"  # type: ignore[assignment]
