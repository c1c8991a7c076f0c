"""Explanation of emotion: which one a picture evokes and why, in words (SEVLM, arXiv 2403.11150).

A text of the form ``EMOTION because WORDS`` brings its own emotion, so that a picture may have several (ArtEmis); any
other text explains the emotion that the picture is labelled with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vea.config import ClassifierConfig, ExplainConfig
from vea.data.loading.sets import ShardSet
from vea.data.streams.urls import is_stream
from vea.distributed import collectives
from vea.errors import VeaError, did_you_mean
from vea.losses.contrastive import nt_xent
from vea.losses.language import answer_costs, span_mean, vad_costs
from vea.models.feature_cache import KeptFeatures, pool_patches
from vea.models.language.tokens import HubTokens, Sentences, Tokens, WordTokens, make_sentences
from vea.models.language.vad import read_lexicon, vad_table
from vea.models.trunk import build_trunk
from vea.models.weights import load_encoder
from vea.tasks.base import Batch, Task
from vea.tasks.explain_draw import contrast, draw
from vea.tasks.explain_metrics import ExplainMetrics, Pair, draw_page, pairs_of
from vea.tasks.items import LabelItems
from vea.tasks.recognise import STATISTICS
from vea.tasks.recognise_metrics import hard_targets
from vea.taxonomy.fields import LabelField, check_same_classes

# Valence and arousal high and high, high and low, low and high, low and low: coarse, as quadrants are.
QUADRANTS = ("excitement", "contentment", "fear", "sadness")


def emotion_names(config: ExplainConfig, fields: dict[str, LabelField]) -> tuple[str, ...]:
    """Returns the words of the emotions in index order.

    Raises:
        VeaError: the data has no such label, or it names no classes.
    """
    for name in config.labels:
        if name not in fields:
            raise VeaError(f"emotion: the data has no label {name!r}{did_you_mean(name, fields)}")
    if config.emotion.quadrant:
        return QUADRANTS
    field = fields[config.emotion.field]
    if field.kind not in ("class", "distribution"):
        raise VeaError(
            f"emotion.field: {config.emotion.field!r} is a {field.kind}; give a label with classes, or emotion.quadrant"
        )
    return tuple(name.replace("_", " ").lower() for name in field.classes)


def training_texts(config: ExplainConfig) -> Iterator[str]:
    """Yields the texts of the training sets, from which a vocabulary is learned."""
    for ref in config.data.train:
        if is_stream(ref.path):
            raise VeaError(f"{ref.path} is a stream: set model.decoder.path, a vocabulary needs a prepared set")
        shards = ShardSet(ref)
        for i in range(len(shards)):
            yield from shards.read(i)[2].get("text") or []


def make_tokens(config: ExplainConfig, emotions: Sequence[str], *, described: dict[str, Any] | None = None) -> Tokens:
    """Returns the tokens of a checkpoint (``described``), of ``model.decoder.path``, or of the training texts."""
    decoder = config.model.decoder
    if config.model.kind == "hf":
        return HubTokens(config.model.hf.path or "", setting="model.hf.path")
    if decoder.path:
        return HubTokens(decoder.path, gguf=decoder.gguf)
    if described:
        return WordTokens(described["vocabulary"])
    return WordTokens.learn(training_texts(config), emotions=emotions, size=decoder.vocabulary_size)


class ExplainTask(Task):
    """Learns sentences ``the emotion is E because WORDS`` of pictures.

    Args:
        config: the resolved config.
        fields: label fields of the data.
        described: ``metadata()`` of a checkpoint whose weights follow; None starts a new model.

    Raises:
        VeaError: data, decoder and config do not fit.
    """

    mean: Tensor
    std: Tensor
    relates_samples = True  # means over tokens, and the contrast
    constant_rows = frozenset({"language/counts", "vad/counts", "emotion/counts", "contrast/said", "contrast/named"})

    def __init__(
        self, config: ExplainConfig, *, fields: dict[str, LabelField], described: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.emotions = tuple(described["emotions"]) if described else emotion_names(config, fields)
        self.tokens = make_tokens(config, self.emotions, described=described)
        model = config.model
        if model.kind == "hf":
            from vea.models.language.chat import ChatExplainer

            self.encoder: nn.Module = nn.Identity()
            self.lexicon = read_lexicon(None)
            self.explainer: Any = ChatExplainer(model.hf)
        else:
            self._build(config, described=described is not None)
        mean, std = STATISTICS[3]
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.control = False  # evaluation also explains each picture while looking at another one
        self._kept: KeptFeatures | None = None

    def _build(self, config: ExplainConfig, *, described: bool) -> None:
        """Makes encoder and decoder of the kinds sevlm and prefix; ``described``: weights follow."""
        from vea.models.language.sevlm import Explainer

        model = config.model
        self.encoder = build_trunk(ClassifierConfig(encoder=model.encoder), image_size=config.augment.image_size)
        self.encoder.requires_grad_(model.train_encoder)
        # a checkpoint carries the ratings it needs; only the score of VAD distance asks for the file again
        known = model.lexicon if not described or Path(model.lexicon or "").is_file() else None
        self.lexicon = read_lexicon(known)
        objective = config.objective
        if model.encoder_blocks and not isinstance(self.encoder, VisionTransformer):
            raise VeaError(f"model.encoder_blocks: {model.encoder.name} has no transformer blocks; leave it out")
        if model.encoder_blocks and not set(model.encoder_blocks) <= set(range(1, len(self.encoder.blocks) + 1)):  # type: ignore[arg-type]
            raise VeaError(f"model.encoder_blocks: {model.encoder.name} has blocks 1 to {len(self.encoder.blocks)}")  # type: ignore[arg-type]
        self.explainer = Explainer(
            model,
            tokens=self.tokens,
            features=self.num_features,
            token_vad=vad_table(self.tokens.words(), self.lexicon),
            heads=tuple(name for name in ("vad", "contrastive", "emotion") if getattr(objective, name)),
            emotions=len(self.emotions),
            weights=not described,
        )

    @property
    def num_features(self) -> int:
        """Width F of the image features."""
        return int(self.encoder.num_features) * len(self.config.model.encoder_blocks or [0])  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> ExplainTask:
        """Returns self in training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if not self.config.model.train_encoder:
            self.encoder.eval()
        return self

    def load_pretrained(self, path: str) -> str:
        """Loads the encoder of the run or weight file at ``path`` and its statistics; returns what was loaded."""
        from vea.storage.checkpoint import load_weights

        if self.config.model.kind == "hf":
            raise VeaError("train.init_from: model.kind=hf starts from the folder model.hf.path; leave init_from out")
        weights, metadata = load_weights(path)
        loaded = load_encoder(self.encoder, weights, where=f"train.init_from: {path}")
        found = metadata.get("task", {})
        if len(found.get("mean", ())) == 3:
            self.mean.copy_(torch.tensor(found["mean"]).view(1, -1, 1, 1))
            self.std.copy_(torch.tensor(found["std"]).view(1, -1, 1, 1))
        return loaded

    # ------------------------------------------------------------------------------------------------------- the model

    def encode(self, images: Tensor) -> Tensor:
        """Returns patch features (B, N, F) of uint8 images (B, 3, H, W), pooled to ``model.image_tokens``.

        Models of the kind hf take the images themselves.
        """
        if self.config.model.kind == "hf":
            return images
        if self.config.model.blind:
            return images.new_zeros((len(images), 1, self.num_features), dtype=self.mean.dtype)
        blocks = self.config.model.encoder_blocks
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.model.train_encoder):
            x = (images.float() / 255 - self.mean) / self.std
            if blocks:
                parts = self.encoder.forward_intermediates(  # type: ignore[operator]
                    x, indices=[block - 1 for block in blocks], norm=True, output_fmt="NLC", intermediates_only=True
                )
                found = torch.cat(parts, dim=-1)
            elif isinstance(self.encoder, VisionTransformer):
                found = self.encoder.forward_features(x)[:, self.encoder.num_prefix_tokens :]
            else:
                found = self.encoder.forward_features(x).flatten(2).transpose(1, 2)  # type: ignore[operator]
        return pool_patches(found, self.config.model.image_tokens)

    def features(self, batch: Batch) -> Tensor:
        """Returns ``encode`` of the batch's images, (B, N, F); those of a frozen encoder may be kept."""
        images = batch["image"]
        if not self.config.model.cache_features:
            return self.encode(images)
        if self._kept is None:
            folder = self.config.model.cache_features
            self._kept = KeptFeatures(Path(folder) / self._identity() if isinstance(folder, str) else None)
        # by the pixels: two data sets may give two pictures one key, and the views of training and evaluation differ
        keys = [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in images.cpu().numpy()]
        found = self._kept.get(keys, lambda new: self.encode(images[new]).float().cpu())
        return found.to(images.device)

    def _identity(self) -> str:
        """Returns a name that changes with anything that the features of a picture depend on."""
        model, view = self.config.model, self.config.augment
        parts = [model.encoder.model_dump(), model.encoder_blocks, model.image_tokens, model.blind, view.model_dump()]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
        for name, weight in sorted(self.encoder.state_dict().items()):
            digest.update(name.encode() + weight.float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def true_emotions(self, batch: Batch) -> list[str]:
        """Returns each picture's labelled emotion, empty where it has none."""
        labels = batch["labels"]
        if self.config.emotion.quadrant:
            valence, arousal = self.config.emotion.quadrant
            known = ~(labels["valence"].isnan() | labels["arousal"].isnan())
            index = 2 * (labels["valence"] < valence).long() + (labels["arousal"] < arousal).long()
            index = torch.where(known, index, -1)
        else:
            index = labels[self.config.emotion.field]
            index = hard_targets(index.nan_to_num()) if index.ndim == 2 else index
        return [self.emotions[i] if i >= 0 else "" for i in index.tolist()]

    def candidates(self, batch: Batch) -> list[list[Pair]]:
        """Returns each picture's (emotion, explanation) pairs; captions without an emotion teach and are not scored."""
        labelled = zip(batch["texts"], self.true_emotions(batch))
        words = self.training and self.config.emotion.unlabelled == "words"
        return [pairs_of(texts, emotion, self.emotions, unlabelled=words) for texts, emotion in labelled]

    def sentences(self, pairs: Sequence[Pair], device: torch.device) -> Sentences:
        """Returns the sentences of pairs."""
        return make_sentences(pairs, self.tokens, max_tokens=self.config.model.max_tokens, device=device)

    def forward(self, batch: Batch, *, step: int) -> dict[str, Tensor]:
        """Returns ``loss_of`` the rows of the batch; the mean of a part over ranks is that of the global batch."""
        return self.loss_of(self.rows(batch, step=step))

    def rows(self, batch: Batch, *, step: int) -> dict[str, Tensor]:
        """Returns by picture (B,) summed costs and their counts, and what the contrast compares, (B, 2, D)."""
        objective, device = self.config.objective, batch["image"].device
        slots = batch["slot"].tolist() if "slot" in batch else range(len(batch["image"]))
        drawn = draw(
            self.candidates(batch), paired=objective.contrastive > 0, seed=self.config.seed, step=step, slots=slots
        )
        made = self.sentences(drawn.pairs, device)
        features = self.features(batch)[torch.tensor(drawn.image, device=device)]
        memory = self.explainer.memory(features)
        logits, hidden = self.explainer(memory, made)
        sums = {"language": answer_costs(logits, made.ids, made.answer)}
        if objective.vad:
            rated = self.explainer.token_vad[made.ids]
            sums["vad"] = vad_costs(self.explainer.vad_head(hidden), rated, made.explanation)
        index = [self.emotions.index(emotion) if emotion else -1 for emotion, _ in drawn.pairs]
        named = torch.tensor(index, device=device)
        if objective.emotion:
            costs = cross_entropy(self.explainer.emotion_logits(features), named, ignore_index=-1, reduction="none")
            sums["emotion"] = (costs, named >= 0)
        place = partial(drawn.by_picture, pictures=len(batch["image"]))
        rows = {}
        for name, (costs, counts) in sums.items():
            rows[f"{name}/costs"], rows[f"{name}/counts"] = place(costs).sum(1), place(counts.float()).sum(1)
        if objective.contrastive:
            complete = torch.tensor([all(pair) for pair in drawn.pairs], device=device)
            rows |= {
                "contrast/image": place(self.explainer.seen(memory).mean(1)),
                "contrast/said": place(complete.long(), empty=-1),
            }
            rows["contrast/emotion"] = place(span_mean(hidden, made.emotion))
        if objective.contrastive or objective.nt_xent:
            rows["contrast/words"] = place(span_mean(hidden, made.explanation))
        if objective.nt_xent:
            rows["contrast/named"] = place(named, empty=-1)
        return rows

    def loss_of(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the loss and its parts: ``language``, ``vad``, ``emotion``, ``contrastive``, ``nt_xent``."""
        whole = {name: collectives.all_gather(value) for name, value in rows.items()}
        weights = {"language": 1.0, "vad": self.config.objective.vad, "emotion": self.config.objective.emotion}
        parts = {
            name: weight * whole[f"{name}/costs"].sum() / whole[f"{name}/counts"].sum().clamp(min=1)
            for name, weight in weights.items()
            if weight
        }
        if self.config.objective.contrastive:
            compared = [whole[f"contrast/{name}"] for name in ("image", "emotion", "words", "said")]
            parts["contrastive"] = self.config.objective.contrastive * contrast(self.explainer.score, *compared)
        if self.config.objective.nt_xent:
            words, named = (whole[f"contrast/{name}"].flatten(0, 1) for name in ("words", "named"))
            parts["nt_xent"] = self.config.objective.nt_xent * nt_xent(words, named)
        loss = torch.stack(list(parts.values())).sum()
        return {"loss": loss, **{f"loss/{name}": part for name, part in parts.items()}}

    def loss_parameters(self) -> list[nn.Parameter]:
        """Returns those of the contrastive head."""
        return list(self.explainer.contrast_head.parameters()) if self.config.objective.contrastive else []

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``written`` (B, T) tokens, ``costs`` and ``counts`` (B,) of a reference; ``swapped`` (B, T)."""
        made = self.sentences([(pairs or [("", "")])[0] for pairs in self.candidates(batch)], batch["image"].device)
        features = self.features(batch)
        costs, counts = answer_costs(self.explainer(self.explainer.memory(features), made)[0], made.ids, made.answer)
        outputs = {"written": self.write(features), "costs": costs, "counts": counts}
        if self.control:
            # half a batch away: neighbours are often pictures of one theme
            outputs["swapped"] = self.write(features.roll(max(1, len(features) // 2), dims=0))
        return outputs

    def write(self, features: Tensor, *, emotion: str | None = None, count: int = 1) -> Tensor:
        """Returns tokens (B * count, T) by ``config.generate`` from image features (B, N, F).

        They explain the emotion that is given, or that the emotion head names, or that the language model begins with.
        """
        named: str | list[str] | None = emotion
        if named is None and self.config.objective.emotion:
            named = [self.emotions[i] for i in self.explainer.emotion_logits(features).argmax(1).tolist()]
        return self.explainer.write(
            self.explainer.memory(features), tokens=self.tokens, settings=self.config.generate,
            emotions=list(self.emotions), emotion=named, count=count,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------- what the engine asks

    def item_spec(self) -> LabelItems:
        """Returns how a sample becomes a view with its labels and texts."""
        return LabelItems(self.config)

    def new_metrics(self) -> ExplainMetrics:
        """Returns an empty collector."""
        return ExplainMetrics(self)

    def state_to_save(self) -> dict[str, Tensor]:
        """Returns the weights; of a model of the kind hf its adapters, for the base stays in its folder."""
        state = self.state_dict()
        return {k: v for k, v in state.items() if "lora_" in k} if self.config.model.kind == "hf" else state

    def trunk(self) -> nn.Module:
        """Returns the image encoder."""
        return self.encoder

    def metadata(self) -> dict[str, Any]:
        """Returns emotions, vocabulary and how images reach the model: enough to rebuild the task."""
        return {
            "emotions": list(self.emotions),
            **self.tokens.describe(),
            "image_size": self.config.augment.image_size,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
        }

    def check_metadata(self, metadata: dict[str, Any]) -> None:
        """Raises ``VeaError`` where a checkpoint has other emotions or another vocabulary."""
        check_same_classes(metadata.get("emotions", []), self.emotions, "emotions of the data")
        own = self.tokens.describe().get("vocabulary")
        if own is not None and metadata.get("vocabulary") != own:
            raise VeaError("the training texts have other words than those of the checkpoint; start a new run")

    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        """Returns ``explanations``: pictures with what the model writes and what people wrote."""
        few = [i for i, pairs in enumerate(self.candidates(batch)) if pairs][:8]
        if not few:
            return {}
        batch = {
            **batch, "image": batch["image"][few], "keys": [batch["keys"][i] for i in few],
            "texts": [batch["texts"][i] for i in few],
            "labels": {name: rows[few] for name, rows in batch["labels"].items()},
        }  # fmt: skip
        written = [self.tokens.text(row) for row in self.write(self.features(batch))]
        truth = [" because ".join(pairs[0]) for pairs in self.candidates(batch)]
        return {"explanations": draw_page(batch["image"].cpu().numpy(), written, truth)}
