"""Sections that every recipe shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from vea.config.base import Section


class DatasetRef(Section):
    """One prepared data set (a folder or URL with ``index.json``) and how much of it to use."""

    path: str
    split: str = "train"
    weight: float = Field(1.0, gt=0, description="share of the draws in a mixture, relative to the other sets")
    fraction: float = Field(1.0, gt=0, le=1, description="keep this share of the samples, chosen by a hash of the key")
    persons: str | None = Field(
        None, description="sidecar of `vea enrich persons` for samples that come without person boxes"
    )


class DataConfig(Section):
    """Where samples come from and how they are ordered."""

    train: list[DatasetRef] = []
    val: list[DatasetRef] = []
    global_batch_size: int = Field(256, ge=1, description="samples per optimizer step over all ranks")
    virtual_readers: int = Field(16, ge=1, description="V: fixed readers that define the order of the data")
    workers: int = Field(2, ge=0, description="loader processes per rank; never changes the order of the data")
    cache_dir: str | None = Field(None, description="where shards from http(s) and s3 are kept")
    cache_gb: float = Field(50.0, gt=0)

    @model_validator(mode="after")
    def _batch_divides(self) -> DataConfig:
        if self.global_batch_size % self.virtual_readers:
            raise ValueError(
                f"global_batch_size ({self.global_batch_size}) must be a multiple of "
                f"virtual_readers ({self.virtual_readers})"
            )
        return self


class AugmentConfig(Section):
    """Training-time changes to a view. Evaluation always resizes and centre-crops."""

    image_size: int = Field(224, ge=8)
    region: Literal["whole", "head"] = Field(
        "whole", description="classification: the whole image, or the head of the most prominent person's box"
    )
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: float = Field(0.5, ge=0, le=1)
    rotate: float = Field(0.0, ge=0, description="largest rotation in degrees")
    color_jitter: float = Field(0.0, ge=0)
    grayscale: float = Field(0.0, ge=0, le=1)
    rand_augment: str | None = Field(None, description="timm policy such as rand-m9-mstd0.5-inc1")
    erase: float = Field(0.0, ge=0, le=1, description="probability of random erasing")
    interpolation: Literal["linear", "cubic", "area"] = "cubic"
    eval_crop: float = Field(0.875, gt=0, le=1, description="side of the centre crop over the resized side")


class TrainConfig(Section):
    """The optimizer, its schedule, and what the engine does every so many steps."""

    steps: int = Field(ge=1)
    max_micro_batch: int | None = Field(
        None, ge=1, description="most samples per rank in one forward; beyond it, gradients accumulate"
    )
    optimizer: Literal["adamw", "sgd", "lamb", "muon"] = "adamw"
    base_lr: float = Field(1e-3, gt=0, description="learning rate at a global batch of 256 (blr of MAE)")
    min_lr: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    layer_decay: float = Field(1.0, gt=0, le=1)
    clip_grad: float | None = Field(None, gt=0)
    ema_decay: float | None = Field(None, gt=0, lt=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = Field(False, description="torch.compile; benchmarks/pretrain_step.py --compile: does it pay?")
    log_every: int = Field(20, ge=1)
    eval_every: int | None = Field(None, ge=1, description="steps between validations; the last step always validates")
    checkpoint_every: int = Field(500, ge=1)
    keep_last: int = Field(2, ge=1)
    keep_every: int | None = Field(None, ge=1, description="checkpoints at multiples of this step are never pruned")
    resume: str = Field("auto", description="auto | never | PATH of a checkpoint of the same run")
    init_from: str | None = Field(None, description="weights that start a NEW run: a run folder or a checkpoint")

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainConfig:
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) is larger than steps ({self.steps})")
        return self


class TrackingConfig(Section):
    """Where curves go beside ``metrics.jsonl``, which is always written."""

    backend: Literal["wandb", "trackio", "none"] = "wandb"
    mode: Literal["offline", "online"] = Field("offline", description="of wandb; `vea sync RUN` sends an offline run")
    project: str = "vea"
    group: str | None = None
    tags: list[str] = []
    artifacts: bool = Field(False, description="the final weights as an artifact: a copy of them on disk or server")
    stall_minutes: float | None = Field(30.0, gt=0, description="silence of a run after which it warns and alerts")


class RuntimeConfig(Section):
    """The machine: device and distributed set-up. Ranks come from torchrun's or srun's environment."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1, description="torch threads per process on a CPU")
    parallel: Literal["ddp", "fsdp"] = Field("ddp", description="fsdp: weights cut over ranks, for large models")
    timeout_s: float = Field(600.0, gt=0, description="a collective that hangs longer ends the job")


class EncoderConfig(Section):
    """A timm Vision Transformer by name; ``args`` override its size (embed_dim, depth, num_heads, patch_size ...)."""

    name: str = "vit_base_patch16_224"
    args: dict[str, Any] = {}
    pretrained: str | None = Field(None, description="a local weight file; nothing is downloaded")


class TeacherConfig(Section):
    """The frozen open_clip teacher.

    ``name`` is an open_clip model name or hub id (then ``pretrained`` names a local file or a tag), or a folder saved
    by ``pretrain/align.py``, or ``tiny-synthetic``: the small teacher that ships with vea, trained on synthetic
    captions, meant for demo and tests. ``cache: image`` reads teacher embeddings of the clean image from the sidecar
    of `vea enrich teacher-image` (a stated variant); ``none`` runs the teacher on the unmasked scene view, as in the
    paper. ``text`` reads those of the prompts (`vea enrich teacher-text`), the same numbers; ``both`` reads both.
    """

    name: str = "ViT-B-16"
    pretrained: str | None = None
    cache: Literal["none", "image", "text", "both"] = "none"

    def cached(self, kind: Literal["image", "text"]) -> bool:
        """Returns whether the embeddings of images, or of prompts, come from a sidecar."""
        return self.cache in (kind, "both")


class PromptConfig(Section):
    """How a sample becomes the teacher's text (UniEmoX, section 1.5 of the facts): captions, or EmoSet attributes."""

    source: Literal["auto", "caption", "attributes"] = "auto"
    emotion: bool = Field(True, description="False leaves the label out of the text")


class RunConfig(Section):
    """What every recipe shares."""

    recipe: str
    name: str
    out: str | None = Field(None, description="run folder; default runs/<name>")
    seed: int = Field(0, ge=0)
    notes: str = ""
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig
    tracking: TrackingConfig = TrackingConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @property
    def run_dir(self) -> Path:
        """The folder of this run."""
        return Path(self.out or f"runs/{self.name}")


class FinetuneConfig(RunConfig):
    """What the recipes of ``finetune/train.py`` share: labels, and the metric that chooses the weights."""

    select_by: str = Field("", description="validation metric that chooses the best checkpoint")

    @property
    def labels(self) -> list[str]:
        """The label fields that the loader delivers."""
        raise NotImplementedError  # abstract: each recipe says

    @property
    def eval_batch_size(self) -> int:
        """Samples a rank evaluates at a time, at most."""
        return 256
