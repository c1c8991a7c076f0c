"""Sections that every recipe shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from vea.config.base import Arguments, Section


class DatasetRef(Section):
    """One data set and how much of it to use: prepared (a folder or URL with ``index.json``), or a stream of tars."""

    path: str = Field(
        description="folder or URL of a prepared data set, the place of its index.json; or tars as they are, for "
        "data.train: DIR/{00000..41455}.tar, s3://, https:// or pipe: of pictures with txt, json or cls"
    )
    split: str = Field("train", description="name of a split in the index")
    weight: float = Field(
        1.0, gt=0, description="share of the draws in a mixture, relative to the other sets; equal by default"
    )
    fraction: float = Field(
        1.0, gt=0, le=1, description="keep this share of the samples, chosen by a hash of the key; 1: all"
    )
    part: tuple[float, float] | None = Field(
        None,
        description="from and to, 0 to 1, of the samples in the order of a hash: [0, 0.9] and [0.9, 1] of one split "
        "share nothing, so that a set without a validation split can be trained and validated on; null: all",
    )
    persons: str | None = Field(
        None,
        description="sidecar of `vea enrich persons` for samples without person boxes; null: the boxes of the set",
    )
    faces: str | None = Field(
        None,
        description="sidecar of `vea enrich faces`, whose boxes are salient for model.salient, and what "
        "augment.region=face sees; null: none, or `faces` where the region asks for it",
    )
    saliency: str | None = Field(None, description="sidecar of `vea enrich saliency`, for model.salient; null: none")

    classes: dict[str, list[str]] = Field(
        {}, description="a stream's labels: the classes of a key of KEY.json, or of KEY.cls where one label is named"
    )
    shuffle: int = Field(256, ge=1, description="a stream's samples per virtual reader that are shuffled together")
    missing_shards: int = Field(
        0, ge=0, description="so many missing or damaged shards of a stream (a process) are passed over, not an error"
    )

    @field_validator("part")
    @classmethod
    def _part_is_a_range(cls, part: tuple[float, float] | None) -> tuple[float, float] | None:
        if part is not None and not 0 <= part[0] < part[1] <= 1:
            raise ValueError("part goes from a smaller to a larger number, both 0 to 1, such as [0.9, 1]")
        return part


class DataConfig(Section):
    """Where samples come from and how they are ordered."""

    train: list[DatasetRef] = Field([], description="data sets to train on; several are a mixture")
    val: list[DatasetRef] = Field([], description="data sets to validate on; none: no validation")
    global_batch_size: int = Field(
        256, ge=1, description="samples per optimizer step over all ranks; a multiple of virtual_readers"
    )
    virtual_readers: int = Field(
        16, ge=1, description="V: fixed readers that define the order of the data; changing it changes the order"
    )
    workers: int = Field(2, ge=0, description="loader processes per rank, 0: none; never changes the order of the data")
    cache_dir: str | None = Field(
        None, description="folder for shards from http(s) and s3; null: VEA_CACHE_DIR or .cache/shards"
    )
    cache_gb: float = Field(
        50.0, gt=0, description="GB that the cache may take; the shards unused for longest go first"
    )

    epoch_samples: int | None = Field(
        None,
        ge=1,
        description="samples that count as an epoch where nobody knows the size of the data, such as a stream; "
        "training lines then say which epoch it is; null: they do not",
    )

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

    image_size: int = Field(224, ge=8, description="side of a view in pixels")
    region: Literal["whole", "head", "face"] = Field(
        "whole",
        description="what a model of labels sees: the whole image, the head of the most prominent person's box, or the "
        "largest face as `vea predict` cuts it out, by the sidecar of `vea enrich faces`; samples without a face are "
        "left out",
    )
    scale: tuple[float, float] = Field((0.2, 1.0), description="random crop: smallest and largest share of the area")
    ratio: tuple[float, float] = Field((0.75, 4 / 3), description="random crop: smallest and largest width / height")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    rotate: float = Field(0.0, ge=0, description="largest rotation in degrees; 0: none")
    color_jitter: float = Field(
        0.0, ge=0, description="brightness, contrast and saturation change by a factor of 1 +- this; 0: none"
    )
    grayscale: float = Field(0.0, ge=0, le=1, description="probability that a view loses its colour")
    rand_augment: str | None = Field(None, description="timm policy such as rand-m9-mstd0.5-inc1; null: none")
    erase: float = Field(0.0, ge=0, le=1, description="probability of random erasing")
    interpolation: Literal["linear", "cubic", "area"] = Field("cubic", description="how a view is resized")
    eval_crop: float = Field(0.875, gt=0, le=1, description="side of the centre crop over the resized side")


class TrainConfig(Section):
    """The optimizer, its schedule, and what the engine does every so many steps."""

    steps: int = Field(ge=1, description="optimizer steps of the whole run")
    max_micro_batch: int | None = Field(
        None,
        ge=1,
        description="most samples per rank in one forward; beyond it, gradients accumulate; null: all at once",
    )
    optimizer: Literal["adamw", "sgd", "lamb", "muon"] = Field(
        "adamw", description="of torch (adamw, and sgd with Nesterov momentum) or timm (lamb, muon)"
    )
    base_lr: float = Field(1e-3, gt=0, description="learning rate at a global batch of 256 (blr of MAE)")
    min_lr: float = Field(0.0, ge=0, description="learning rate at the end of the cosine, not scaled with the batch")
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up; 0: none")
    weight_decay: float = Field(0.05, ge=0, description="of matrices; biases, norms and positions have none")
    betas: tuple[float, float] = Field((0.9, 0.95), description="of adamw; sgd takes the first as its momentum")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="learning rate of a layer over that of the layer above it; 1: all alike"
    )
    trunk_scale: float = Field(
        1.0, gt=0, le=1, description="learning rate of the encoder over that of what is new beside it; 1: the same"
    )
    clip_grad: float | None = Field(None, gt=0, description="largest norm of all gradients together; null: no clipping")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="keep an average of the weights with this factor a step; null: none"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of the forward pass; auto: bf16 where the device multiplies it, else fp32"
    )
    compile: bool = Field(
        False, description="torch.compile; benchmarks/pretrain_step.py --compile measures whether it pays"
    )
    log_every: int = Field(20, ge=1, description="steps between lines of metrics.jsonl")
    eval_every: int | None = Field(
        None, ge=1, description="steps between validations; the last step always validates; null: only that"
    )
    patience: int | None = Field(
        None, ge=1, description="validations without a better select_by after which the run ends; null: all steps"
    )
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints; the last step always writes one")
    keep_last: int = Field(2, ge=1, description="so many newest checkpoints are kept")
    keep_every: int | None = Field(
        None, ge=1, description="checkpoints at multiples of this step are never pruned; null: all but the newest are"
    )
    resume: str = Field(
        "auto",
        description="auto: from the newest checkpoint of the run folder; never; or PATH of a checkpoint of this run: "
        "later ones are set aside, and the same command again goes on with the new branch",
    )
    init_from: str | None = Field(
        None,
        description="weights that start a NEW run: a run folder, a checkpoint, a weight file, or for recognisers the "
        "name of a model that ships; null: none",
    )

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainConfig:
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) is larger than steps ({self.steps})")
        return self


class TrackingConfig(Section):
    """Where curves go beside ``metrics.jsonl``, which is always written."""

    backend: Literal["wandb", "trackio", "none"] = Field(
        "wandb", description="which tracker shows the curves; none: none"
    )
    mode: Literal["offline", "online"] = Field("offline", description="of wandb; `vea sync RUN` sends an offline run")
    project: str = Field("vea", description="name of the project in the tracker")
    group: str | None = Field(None, description="runs of one group are shown together; null: no group")
    tags: list[str] = Field([], description="words to find the run by")
    artifacts: bool = Field(
        False, description="keep the final weights as an artifact: a copy of them on disk or server"
    )
    stall_minutes: float | None = Field(
        30.0, gt=0, description="minutes of silence after which a run warns and alerts; null: never"
    )


class RuntimeConfig(Section):
    """The machine: device and distributed set-up. Ranks come from torchrun's or srun's environment."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one, else the CPU")
    threads: int | None = Field(None, ge=1, description="torch threads per process on a CPU; null: torch decides")
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="ddp: each rank has the model; fsdp: weights cut over ranks, for large models"
    )
    timeout_s: float = Field(600.0, gt=0, description="seconds; a collective that hangs longer ends the job")


# parts of the names of arguments by which timm reads files or takes functions
NOT_OF_A_FORM = {
    "pretrained",
    "checkpoint",
    "cache",
    "file",
    "url",
    "hub",
    "filter",
    "jit",
    "cfg",
    "scriptable",
    "weight",
}


class EncoderConfig(Section):
    """A timm Vision Transformer by name; ``args`` override its size (embed_dim, depth, num_heads, patch_size ...)."""

    name: str = Field("vit_base_patch16_224", description="a timm model, or a network of vea such as vea_face_cnn")
    args: Arguments = Field({}, description="arguments of the model that replace its own; none by default")
    pretrained: str | None = Field(
        None,
        description="a local weight file, nothing is downloaded; null: random weights, or those of train.init_from",
    )

    @field_validator("args")
    @classmethod
    def _sizes_only(cls, given: dict[str, Any]) -> dict[str, Any]:
        """A config may come with somebody's weights: what would read files or run code does not pass."""
        for name in given:
            if NOT_OF_A_FORM & set(name.lower().split("_")):
                raise ValueError(f"{name!r} does not change a model's form and is refused; weights go to pretrained")
        return given


class TeacherConfig(Section):
    """The frozen open_clip teacher.

    ``name`` is an open_clip model name or hub id (then ``pretrained`` names a local file or a tag), or a folder saved
    by ``pretrain/align.py``, or ``tiny-synthetic``: the small teacher that ships with vea, trained on synthetic
    captions, meant for demo and tests; or ``sentence:PACKAGE``, the sentence encoder inside a Python package, for
    objectives that read texts alone. ``cache: image`` reads teacher embeddings of the clean image from the sidecar
    of `vea enrich teacher-image` (a stated variant); ``none`` runs the teacher on the unmasked scene view, as in the
    paper. ``text`` reads those of the prompts (`vea enrich teacher-text`), the same numbers; ``both`` reads both.
    """

    name: str = Field(
        "ViT-B-16",
        description="open_clip model, hub id, folder of pretrain/align.py, tiny-synthetic, sentence:PACKAGE",
    )
    pretrained: str | None = Field(
        None, description="local file, or tag of open_clip; null: the name brings its weights"
    )
    cache: Literal["none", "image", "text", "both"] = Field(
        "none", description="which embeddings are read from sidecars; none: the teacher runs on each batch"
    )

    def cached(self, kind: Literal["image", "text"]) -> bool:
        """Returns whether the embeddings of images, or of prompts, come from a sidecar."""
        return self.cache in (kind, "both")


class PromptConfig(Section):
    """How a sample becomes the teacher's text (UniEmoX, section 1.5 of the facts): captions, or EmoSet attributes."""

    source: Literal["auto", "caption", "attributes"] = Field(
        "auto", description="auto: a caption where a sample has one, else the sentences of its attributes"
    )
    emotion: bool = Field(
        True, description="whether the last sentence names the emotion; false keeps the label out of the text"
    )


class RunConfig(Section):
    """What every recipe shares."""

    recipe: str = Field(description="what is trained; it decides which keys there are")
    name: str = Field(description="name of the run")
    out: str | None = Field(None, description="run folder; null: runs/<name>")
    seed: int = Field(0, ge=0, description="of weights, order of data, augmentation and masks")
    notes: str = Field("", description="free text that the tracker and the report show")
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


class BankConfig(Section):
    """A bank of prototypes: an embedding plus its nearest prototype (vector quantisation)."""

    codes: int = Field(48, ge=2, description="number of prototypes")
    width: int = Field(64, ge=1, description="channels of a prototype")
    commitment: float = Field(0.25, ge=0, description="weight that holds embeddings near their prototypes")
    decay: float = Field(0.95, gt=0, lt=1, description="of the average that moves prototypes, a step")
    restart: float = Field(
        0.05, ge=0, lt=1, description="a prototype used less than this share of the mean use starts again; 0: never"
    )
