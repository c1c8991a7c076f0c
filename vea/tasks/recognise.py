"""Recognition of emotion: one encoder, one linear head per label, and the loss that the label's kind asks for.

Classes and distributions: cross-entropy. Label sets: binary cross-entropy. Values: 1 - CCC + squared error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import group_parameters
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vea.config import RecogniseConfig
from vea.distributed import collectives
from vea.errors import VeaError, did_you_mean
from vea.losses.adversarial import reverse_gradient
from vea.losses.affect import ccc_loss, class_weights, multilabel_loss
from vea.losses.classification import calibrated, imitation, mix_images, mix_targets, soft_cross_entropy, soft_targets
from vea.models.heads import BankedHeads, LinearHeads, build_heads, pool_tokens
from vea.models.trunk import build_trunk
from vea.models.weights import load_encoder
from vea.tasks.base import Batch, Task
from vea.tasks.items import LabelItems
from vea.tasks.recognise_metrics import RecogniseMetrics, scale_value, unscale_value
from vea.taxonomy.fields import LabelField, check_same_classes

# Statistics of a network that starts from scratch; weights that come with their own (init_from) bring them along.
STATISTICS = {1: ([0.508], [0.255]), 3: (list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))}  # 1: FER2013 train
LAST_BLOCKS = 2  # what `model.train: last_blocks` trains, beside the heads


class RecogniseTask(Task):
    """Learns the label fields in ``config.targets`` from images: faces, or whole scenes.

    Args:
        config: the resolved config.
        fields: the label fields of the data, from the shard index; class names and their order are kept with the
            heads and travel with the weights.
        counts: {target: samples per class} of the training data, for ``config.imbalance``.
        teachers: the recognisers of ``config.distill``, needed for training only; they are frozen and never saved.

    Raises:
        VeaError: a target is not among the fields, the config contradicts itself, or a teacher knows none of the
            targets.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: RecogniseConfig,
        *,
        fields: dict[str, LabelField],
        counts: Mapping[str, Sequence[float]] | None = None,
        teachers: Sequence[RecogniseTask] = (),
    ) -> None:
        super().__init__()
        self.config = config
        self.fields: dict[str, LabelField] = {}
        for name in config.targets:
            if name not in fields:
                raise VeaError(f"targets: the data has no label {name!r}{did_you_mean(name, fields)}")
            self.fields[name] = fields[name]
        if not self.fields:
            raise VeaError("targets: name at least one label to learn, e.g. {expression: 1.0}")

        model = config.model
        self.encoder = build_trunk(model, image_size=config.augment.image_size)
        self.is_transformer = isinstance(self.encoder, VisionTransformer)
        if not self.is_transformer:  # as its inputs; also gives gradients the strides of DDP's buckets
            self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if model.pool == "cls" and not (self.is_transformer and getattr(self.encoder, "cls_token", None) is not None):
            raise VeaError(f"model.pool is cls and {model.encoder.name} has no class token; set model.pool=avg")
        outputs = {name: len(field.classes) or 1 for name, field in self.fields.items()}
        features: int = self.encoder.num_features  # type: ignore[assignment]
        kinds = {name: field.kind for name, field in self.fields.items()}
        self.heads = build_heads(model, features, kinds=kinds, classes=outputs)
        self.unlearned = {name: self._unlearned(name, fields) for name in config.adversarial}
        if self.unlearned:
            classes = {name: len(field.classes) for name, field in self.unlearned.items()}
            self.adverse = LinearHeads(features, classes=classes, drop_rate=0.0)
        self._balance(counts or {})
        # Buffers, so that the statistics travel with the weights and a resume or an evaluation cannot mistake them.
        mean, std = STATISTICS[model.channels]
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self._freeze(model.train)
        self._taught(teachers)

    def _unlearned(self, name: str, fields: dict[str, LabelField]) -> LabelField:
        if name not in fields or fields[name].kind != "class" or name in self.config.targets:
            raise VeaError(
                f"adversarial: {name!r} is to be a class label of the data, and no target{did_you_mean(name, fields)}"
            )
        return fields[name]

    def _taught(self, teachers: Sequence[RecogniseTask]) -> None:
        """Keeps the teachers outside the modules: neither checkpoints nor averages nor DDP shall find them."""
        self._teachers = tuple(teachers)
        self._imitated: list[tuple[str, ...]] = []  # of each teacher, the targets that it knows
        for where, teacher in zip(self.config.distill.models, teachers):
            teacher.eval().requires_grad_(False)
            shared = tuple(name for name in self.fields if name in teacher.fields)
            if not shared:
                raise VeaError(
                    f"distill.models: {where} knows {', '.join(teacher.fields)}, and of these nothing is among the "
                    f"targets {', '.join(self.fields)}"
                )
            for name in shared:
                theirs, ours = teacher.fields[name], self.fields[name]
                what = f"label {name!r} of distill.models ({where}) beside the data's"
                if (theirs.kind, theirs.low, theirs.high) != (ours.kind, ours.low, ours.high):
                    raise VeaError(f"{what}: another kind or scale")
                check_same_classes(theirs.classes, ours.classes, what)
            self._imitated.append(shared)

    def _balance(self, counts: Mapping[str, Sequence[float]]) -> None:
        """Keeps class weights and log frequencies as buffers that no checkpoint holds: they belong to the data."""
        wanted = self.config.imbalance
        for name, field in self.fields.items():
            if field.kind not in ("class", "distribution") or name not in counts:
                continue
            number = torch.tensor(counts[name], dtype=torch.float32)
            if wanted.weights != "none":
                weights = class_weights(number, method=wanted.weights)
                self.register_buffer(f"class_weights_{name}", weights, persistent=False)
            if wanted.logit_adjustment:
                prior = wanted.logit_adjustment * (number.clamp(min=0.5) / number.sum()).log()
                self.register_buffer(f"prior_{name}", prior, persistent=False)

    def _freeze(self, train: str) -> None:
        if train == "full":
            return
        trained: set[str] = set()
        if train == "last_blocks":
            layers = group_parameters(self.encoder, self.encoder.group_matcher(), reverse=True)  # type: ignore[operator]
            last = max(layers.values())
            trained = {name for name, layer in layers.items() if layer > last - LAST_BLOCKS}
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(name in trained)

    def train(self, mode: bool = True) -> RecogniseTask:
        """Returns self in training mode; a frozen encoder keeps its evaluation mode (batch norm, drop path)."""
        super().train(mode)
        if self.config.model.train == "linear":
            self.encoder.eval()
        return self

    def load_pretrained(self, path: str) -> str:
        """Loads an encoder and its image statistics from a run, a weight file or a model that ships; says what.

        Raises:
            VeaError: nothing there fits this encoder.
        """
        from vea.storage.checkpoint import load_weights
        from vea.tasks.saved import shipped_models

        weights, metadata = load_weights(path if Path(path).exists() else shipped_models().get(path, path))
        loaded = load_encoder(self.encoder, weights, where=f"train.init_from: {path}")
        statistics = metadata.get("task", {})
        mean, std = statistics.get("mean"), statistics.get("std")
        if mean is not None and std is not None and len(mean) == self.config.model.channels:
            self.mean.copy_(torch.tensor(mean).view(1, -1, 1, 1))
            self.std.copy_(torch.tensor(std).view(1, -1, 1, 1))
        return loaded

    # ------------------------------------------------------------------------------------------------------- the model

    def normalise(self, images: Tensor) -> Tensor:
        """Returns float images (B, C, H, W) of uint8 ones (B, 1 or 3, H, W): channels, scale and statistics."""
        x = images.float() / 255
        channels = self.config.model.channels
        if x.shape[1] == 3 and channels == 1:  # ITU-R 601 luma, as in PIL's "L"
            x = (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        x = (x.expand(-1, channels, -1, -1) - self.mean) / self.std
        return x if self.is_transformer else x.contiguous(memory_format=torch.channels_last)

    def features(self, x: Tensor) -> Tensor:
        """Returns the encoder's pooled features (B, F) of normalised images (B, C, H, W)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.model.train != "linear"):
            if self.is_transformer:
                pool = "avg" if self.config.model.pool == "default" else self.config.model.pool
                tokens = self.encoder.forward_features(x)  # type: ignore[operator]
                return pool_tokens(tokens, pool=pool, num_prefix_tokens=self.encoder.num_prefix_tokens)  # type: ignore[arg-type]
            return self.encoder(x)

    def logits(self, x: Tensor) -> dict[str, Tensor]:
        """Returns {target: logits (B, C) fp32} of normalised images (B, C, H, W)."""
        return self.heads(self.features(x))

    def _target(self, labels: Tensor, *, field: LabelField) -> Tensor:
        """Returns what a head learns: class masses, a label set, or a value with its scale mapped to [-1, 1]."""
        if field.kind == "value":
            return scale_value(labels.float(), field=field)
        if field.kind == "multilabel":
            return labels.float()
        return soft_targets(labels, field=field, smoothing=self.config.mix.smoothing)

    def _loss(self, name: str, logits: Tensor, target: Tensor) -> Tensor:
        kind, imbalance = self.fields[name].kind, self.config.imbalance
        if kind == "multilabel":
            return multilabel_loss(logits, target, asymmetric=imbalance.asymmetric)
        weights, prior = (getattr(self, f"{what}_{name}", None) for what in ("class_weights", "prior"))
        return soft_cross_entropy(logits, target, weights=weights, prior=prior, gamma=imbalance.focal)

    @property
    def relates_samples(self) -> bool:  # type: ignore[override]
        """Whether a target is a value: its concordance is of the global batch."""
        return any(field.kind == "value" for field in self.fields.values())

    @property
    def constant_rows(self) -> frozenset[str]:  # type: ignore[override]
        """The targets of values."""
        return frozenset(f"{name}/target" for name in self.fields)

    def forward(self, batch: Batch, *, step: int) -> dict[str, Tensor]:
        """Returns the weighted loss and the loss of each target; the mean over ranks is that of the global batch."""
        return self.loss_of(self.rows(batch, step=step))

    def rows(self, batch: Batch, *, step: int) -> dict[str, Tensor]:
        """Returns by target ``mean`` and ``alike``, one row each, the mean costs of the batch.

        Of values ``value`` and ``target``, (B,). Batches of one step are equally large: means of them can be averaged.
        """
        mix, distill = self.config.mix, self.config.distill
        images = batch["image"]
        learned = {**self.fields, **self.unlearned}
        targets = {name: self._target(batch["labels"][name], field=field) for name, field in learned.items()}
        answers: dict[str, Tensor] | None = None
        if distill.calibrate:
            answers = self._answers(images)
            for name, theirs in answers.items():
                if self.fields[name].kind == "class":
                    targets[name] = calibrated(targets[name], theirs.float().softmax(2).mean(0))
        if (mix.mixup or mix.cutmix) and len(images) > 1 and torch.rand(()).item() < mix.probability:
            images, partner, share = mix_images(images.float(), mixup=mix.mixup, cutmix=mix.cutmix)
            answers = None  # of other pictures
            targets = {name: mix_targets(rows, partner, share) for name, rows in targets.items()}
        features = self.features(self.normalise(images))
        rows: dict[str, Tensor] = {}
        if isinstance(self.heads, BankedHeads):
            size = self.config.data.global_batch_size
            logits, rows["bank/cost"] = self.heads.learn(features, step=step, slot=batch["slot"], batch_size=size)
        else:
            logits = self.heads(features)
        for name, field in self.fields.items():
            if field.kind == "value":
                rows |= {f"{name}/value": logits[name][:, 0].float(), f"{name}/target": targets[name].float()}
            else:
                rows[f"{name}/mean"] = self._loss(name, logits[name], targets[name])[None]
        for name, factor in self.config.adversarial.items():
            guess = self.adverse(reverse_gradient(features, factor))[name]
            rows[f"{name}/adverse"] = soft_cross_entropy(guess, targets[name])[None]
        known: dict[str, Tensor] = {}
        if distill.only_labelled:
            known = {name: self._labelled(targets[name], field.kind) for name, field in self.fields.items()}
        if distill.weight and answers is None:
            answers = self._answers(images, known)
        for name, theirs in answers.items() if answers and distill.weight else ():
            kind, rows_of = self.fields[name].kind, known.get(name)
            alike = imitation(logits[name], theirs, kind=kind, temperature=distill.temperature, rows=rows_of)
            rows[f"{name}/alike"] = alike[None]
        return rows

    def loss_of(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the weighted loss and the loss of each target."""
        weight = self.config.distill.weight
        parts: dict[str, Tensor] = {}
        for name, field in self.fields.items():
            if field.kind == "value":
                parts[name] = ccc_loss(
                    *(collectives.all_gather(rows[f"{name}/{what}"]) for what in ("value", "target"))
                )
            else:
                parts[name] = rows[f"{name}/mean"].mean()
            if f"{name}/alike" in rows:
                parts[name] = (1 - weight) * parts[name] + weight * rows[f"{name}/alike"].mean()
        zero = next(iter(rows.values())).new_zeros((), dtype=torch.float32)
        loss = sum((self.config.targets[name] * part for name, part in parts.items()), start=zero)
        for name, row in [*((name, f"{name}/adverse") for name in self.unlearned), ("bank", "bank/cost")]:
            if row in rows:
                parts[name] = rows[row].mean()
                loss = loss + parts[name]
        return {"loss": loss, **{f"loss/{name}": part for name, part in parts.items()}}

    @staticmethod
    def _labelled(targets: Tensor, kind: str) -> Tensor:
        """Returns (B,) 1 where a target is known, 0 where it is missing, between where the two were mixed."""
        if kind in ("class", "distribution"):
            return targets.sum(1)
        missing = targets.isnan()
        return (~(missing if missing.ndim == 1 else missing.any(1))).float()

    @torch.no_grad()
    def _answers(self, images: Tensor, known: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns {target: logits (K, B, C)} of the K teachers that know it; nothing where none does.

        ``known`` is {target: (B,) above 0 where the answer counts}: a teacher is asked where one of its answers does,
        the rest is 0.
        """
        found: dict[str, list[Tensor]] = {}
        for teacher, names in zip(self._teachers, self._imitated):
            asked = slice(None) if not known else torch.stack([known[name] for name in names]).amax(0).nonzero()[:, 0]
            size, seen = teacher.config.augment.image_size, images[asked]
            if seen.shape[-1] != size:
                seen = nn.functional.interpolate(seen.float(), (size, size), mode="bilinear", antialias=True)
            logits = teacher.to(images.device).predict({"image": seen}) if len(seen) else {}
            for name in names:
                classes = len(self.fields[name].classes) or 1
                rows = torch.zeros(len(images), classes, device=images.device)
                if len(seen):
                    rows[asked] = logits[name].float()
                found.setdefault(name, []).append(rows)
        return {name: torch.stack(rows) for name, rows in found.items()}

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns {target: logits (B, C)}; of a value (B, 1), its scale mapped to [-1, 1]."""
        return self.logits(self.normalise(batch["image"]))

    def answers(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns {target: probabilities (B, C)} of ``predict``'s logits; of a value (B,) on the raters' scale.

        Classes and distributions sum to one over a row, each class of a label set has a probability of its own.
        """
        shares: dict[str, Tensor] = {}
        for name, field in self.fields.items():
            if field.kind == "value":
                shares[name] = unscale_value(logits[name][:, 0], field=field)
            else:
                shares[name] = logits[name].sigmoid() if field.kind == "multilabel" else logits[name].softmax(1)
        return shares

    # ------------------------------------------------------------------------------------------- what the engine asks

    def item_spec(self) -> LabelItems:
        """Returns how a sample becomes a view with its labels and texts."""
        return LabelItems(self.config, channels=self.config.model.channels)

    def new_metrics(self) -> RecogniseMetrics:
        """Returns an empty collector."""
        return RecogniseMetrics(self.fields)

    def trunk(self) -> nn.Module:
        """Returns the encoder."""
        return self.encoder

    def metadata(self) -> dict[str, Any]:
        """Returns class names and kinds by target, the model and how images reach it: enough to rebuild the task."""
        return {
            "classes": {name: list(field.classes) for name, field in self.fields.items()},
            "kinds": {name: field.kind for name, field in self.fields.items()},
            "ranges": {name: [field.low, field.high] for name, field in self.fields.items() if field.kind == "value"},
            "image_size": self.config.augment.image_size,
            "channels": self.config.model.channels,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
        }

    def check_metadata(self, metadata: dict[str, Any]) -> None:
        """Raises ``VeaError`` where class names or their order differ from this task's, naming the first difference."""
        theirs = metadata.get("classes", {})
        for name, field in self.fields.items():
            if name not in theirs:
                raise VeaError(f"the checkpoint has no head for {name!r}; it has {', '.join(theirs) or 'none'}")
            check_same_classes(theirs[name], field.classes, f"label {name!r} of the data")
