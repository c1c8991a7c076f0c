"""The config of recognition over time."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vea.config.base import Section
from vea.config.sections import FinetuneConfig


class ClipConfig(Section):
    """The frames of a clip that a batch holds."""

    frames: int = Field(48, ge=2, description="frames of a clip that are learned from at once")
    stride: int = Field(1, ge=1, description="frames of the video from one of these to the next")
    eval_frames: int | None = Field(
        None, ge=2, description="frames that evaluation sees, from the first on; null: as many as training"
    )


class TemporalHeadConfig(Section):
    """A recogniser that is frozen, and a small head over its embeddings of the frames."""

    encoder: str = Field(
        "expression-nano", description="recogniser whose embeddings are read: a name that ships, a run, a hub folder"
    )
    head: Literal["gru", "conv", "frame"] = Field(
        "gru",
        description="over time: a recurrent network both ways, convolutions, or none: each frame alone",
    )
    width: int = Field(32, ge=1, description="units of the head, each way")
    layers: int = Field(1, ge=1, description="layers of the head")
    kernel: int = Field(9, ge=1, description="conv: frames that a layer sees; odd")
    drop_rate: float = Field(0.2, ge=0, lt=1, description="dropout of embeddings and of the head's output")
    features: str | None = Field(
        None, description="folder in which embeddings are kept, so that a frame is encoded once; null: in memory"
    )

    @model_validator(mode="after")
    def _odd(self) -> TemporalHeadConfig:
        if not self.kernel % 2:
            raise ValueError(f"kernel ({self.kernel}) must be odd, or the frame has no middle")
        return self


class TemporalConfig(FinetuneConfig):
    """``finetune/train.py``: a number at every frame of a clip, such as valence over time."""

    recipe: Literal["temporal"] = "temporal"
    model: TemporalHeadConfig = TemporalHeadConfig()
    clip: ClipConfig = ClipConfig()
    target: str = Field("valence", description="label of kind value that has a series in the clips")
    select_by: str = Field("ccc", description="validation metric that chooses the best checkpoint")

    @property
    def labels(self) -> list[str]:
        """The label fields that the loader delivers."""
        return [self.target]

    @property
    def eval_batch_size(self) -> int:
        """Clips a rank evaluates at a time, at most."""
        return 8
