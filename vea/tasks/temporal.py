"""A number at every frame of a clip: a frozen recogniser looks at the frames, a small head over time decides.

Loss: 1 - CCC + squared error over the frames of a micro-batch (``vea.losses.affect.ccc_loss``). Embeddings are kept by
content, frame and mirror, so that each is computed once (``vea.models.feature_cache``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vea.config import DatasetRef
from vea.config.temporal import TemporalConfig
from vea.data.loading.collate import Item
from vea.data.loading.items import Drawn, ItemMaker, Place, Unusable
from vea.data.loading.sets import ShardSet
from vea.data.views.clips import ClipViews
from vea.data.views.decode import CorruptImage, Encoded
from vea.distributed import collectives
from vea.errors import RunError, VeaError, did_you_mean
from vea.losses.affect import ccc_loss
from vea.metrics.empathy import NAME, ccc, empathy_scores
from vea.models.feature_cache import KeptFeatures
from vea.models.temporal import TemporalHead
from vea.storage.identity import file_sha256
from vea.tasks.base import Batch, Task
from vea.tasks.recognise_metrics import scale_value, unscale_value
from vea.tasks.saved import open_model
from vea.taxonomy.fields import LabelField


class ClipItems:
    """Items of clips: views ``frame_0000`` ..., ``numbers`` (T,), ``mirrored``, ``series`` (T,), ``whole`` (lists).

    ``content`` is a checksum of the video and its tracks: clips of two sets may have one key.
    """

    def __init__(self, config: TemporalConfig, *, image_size: int) -> None:
        self.config, self.image_size = config, image_size

    def open_set(self, ref: DatasetRef) -> ShardSet:
        """Returns a set."""
        return ShardSet(ref)

    def maker(self, sets: Sequence[ShardSet], *, train: bool) -> ItemMaker:
        """Returns the maker; raises ``VeaError`` where the sets hold no such value."""
        target = self.config.target
        for shards in sets:
            field = shards.fields.get(target)
            if field is None or field.kind != "value":
                raise VeaError(f"{shards.name} has no value {target!r}{did_you_mean(target, shards.fields)}")
        return _ClipMaker(self.config, image_size=self.image_size, train=train)


class _ClipMaker(ItemMaker):
    def __init__(self, config: TemporalConfig, *, image_size: int, train: bool) -> None:
        frames = config.clip.frames if train else config.clip.eval_frames or config.clip.frames
        augment = config.augment.model_copy(update={"image_size": image_size})
        views = ClipViews(augment, frames=frames, stride=config.clip.stride, seed=config.seed, train=train)
        super().__init__(views, num_views=frames)  # type: ignore[arg-type]
        self.clips, self.target = views, config.target

    def make(self, shards: ShardSet, i: int, *, pass_number: int, place: Place) -> Item:
        key, data, metadata = shards.read(i)
        if not metadata.get("clip"):
            raise VeaError(f"{shards.name}: sample {key!r} is a picture; recipe temporal learns from clips")
        encoded = Encoded.__new__(Encoded)  # bytes of a video: nothing of a picture is read
        encoded.data = data
        try:
            return self.item(Drawn(shards, i, key, encoded, metadata, pass_number, place))
        except CorruptImage as error:
            raise Unusable(key, shards.name, str(error)) from None

    def item(self, drawn: Drawn) -> Item:
        clip = drawn.metadata["clip"]
        views, numbers, mirrored = self.clips.cut(
            drawn.encoded.data, clip, key=drawn.key, pass_number=drawn.pass_number
        )
        given = clip.get("series", {}).get(self.target) or [None] * len(clip["times"])
        whole = np.array([np.nan if value is None else value for value in given], np.float32)
        series = whole[numbers].copy()
        series[1:][np.diff(numbers) == 0] = np.nan  # the last frame, standing again
        arrays = {"numbers": numbers, "mirrored": np.array(mirrored), "series": series}
        seen = drawn.encoded.data + json.dumps(clip.get("tracks") or {}).encode()  # what decides the pixels
        content = hashlib.blake2b(seen, digest_size=16).hexdigest()
        return Item(drawn.key, drawn.place[1], _named(views), arrays, {"whole": whole.tolist(), "content": content})

    def empty(self, shards: ShardSet, image: np.ndarray, *, key: str, place: Place) -> Item:
        count = self.num_views
        arrays = {
            "numbers": np.arange(count),
            "mirrored": np.array(False),
            "series": np.full(count, np.nan, np.float32),
        }
        return Item(key, place[1], _named([image] * count), arrays, {"whole": [], "content": ""})


def _named(views: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"frame_{number:05d}": view for number, view in enumerate(views)}


class TemporalTask(Task):
    """Learns ``config.target`` at every frame.

    Args:
        config: the resolved config.
        fields: the label fields of the data.

    Raises:
        VeaError: the target is no value of the data, or there is no such recogniser.
    """

    def __init__(self, config: TemporalConfig, *, fields: dict[str, LabelField]) -> None:
        super().__init__()
        field = fields.get(config.target)
        if field is None or field.kind != "value" or field.low is None or field.high is None:
            raise VeaError(
                f"target: the data has no value {config.target!r} with a scale{did_you_mean(config.target, fields)}"
            )
        self.config, self.field = config, field
        saved = open_model(config.model.encoder)
        recogniser = saved.task.eval().requires_grad_(False)
        # outside the modules: neither checkpoints nor averages nor DDP shall find it
        self._encoder = (recogniser,)
        self.image_size = recogniser.config.augment.image_size
        self.head = TemporalHead(config.model, features=int(recogniser.encoder.num_features))  # type: ignore[arg-type]
        self._kept = KeptFeatures(Path(config.model.features) if config.model.features else None)
        weights = saved.folder / "model.safetensors"
        self._made_by = f"{file_sha256(weights) if weights.is_file() else config.model.encoder}:{self.image_size}"

    def embeddings(self, batch: Batch) -> Tensor:
        """Returns the recogniser's embeddings (B, T, F) of the frames of a batch."""
        numbers, mirrored = batch["numbers"].tolist(), batch["mirrored"].tolist()
        names = sorted(name for name in batch if name.startswith("frame_"))
        device = batch[names[0]].device
        keys = [
            f"{self._made_by}:{content}:{number}:{int(mirror)}"
            for content, row, mirror in zip(batch["content"], numbers, mirrored, strict=True)
            for number in row
        ]

        def make(missing: list[int]) -> Tensor:
            frames = torch.stack([batch[names[i % len(names)]][i // len(names)] for i in missing])
            return self._look(frames).cpu()[:, None]

        rows = self._kept.get(keys, make)
        return rows.reshape(len(numbers), len(names), -1).to(device)

    @torch.no_grad()
    def _look(self, frames: Tensor) -> Tensor:
        (recogniser,) = self._encoder
        encoder = recogniser.encoder.to(frames.device).eval()
        rows = [encoder(recogniser.to(frames.device).normalise(part)).float() for part in frames.split(256)]
        return torch.cat([row.flatten(1) if row.ndim == 2 else row.mean(1) for row in rows])

    def forward(self, batch: Batch, *, step: int) -> dict[str, Tensor]:
        """Returns the loss of a micro-batch: every frame that has a number counts once."""
        predicted = self.head(self.embeddings(batch))
        loss = ccc_loss(predicted.flatten(), scale_value(batch["series"].float(), field=self.field).flatten())
        return {"loss": loss}

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``series`` (B, T) on the raters' scale."""
        return {"series": unscale_value(self.head(self.embeddings(batch)), field=self.field)}

    def item_spec(self) -> ClipItems:
        """Returns how a clip becomes T views with a number each."""
        return ClipItems(self.config, image_size=self.image_size)

    def new_metrics(self) -> TemporalMetrics:
        """Returns an empty collector."""
        return TemporalMetrics(self.config.target)

    def load_pretrained(self, path: str) -> str:
        """Loads a head from another run of this recipe; raises ``VeaError`` where it does not fit."""
        from vea.storage.checkpoint import load_weights

        weights, _ = load_weights(path)
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            raise VeaError(f"train.init_from: {path} is no head of this form ({str(error).splitlines()[0]})") from None
        return f"all {len(weights)} tensors of the head"

    def trunk(self) -> nn.Module:
        """Returns the head: what is below it is frozen."""
        return self.head

    def metadata(self) -> dict[str, Any]:
        """Returns the target, its scale, and what the embeddings are of."""
        return {"target": self.config.target, "range": [self.field.low, self.field.high], "embeddings": self._made_by}

    def check_metadata(self, metadata: dict[str, Any]) -> None:
        """Raises ``VeaError`` where a checkpoint read embeddings of another recogniser, or has another target."""
        for name, value in self.metadata().items():
            if metadata.get(name, value) != value:
                raise VeaError(
                    f"the checkpoint has {name} {json.dumps(metadata[name])}, the config gives {json.dumps(value)}"
                )


class TemporalMetrics:
    """Collects series by clip; a clip is scored over all of its rows, between looks in a straight line.

    ``ccc`` is over all frames of all clips together, ``ccc_clips`` the mean over clips; with keys of OMG-Empathy's form
    also ``personalized`` and ``generalized`` (``vea.metrics.empathy``).
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._clips: list[tuple[str, list[float], list[float]]] = []

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Adds one batch."""
        for row, key in enumerate(batch["keys"]):
            if not batch["valid"][row]:
                continue
            numbers, whole = batch["numbers"][row].cpu().numpy(), batch["whole"][row]
            found = outputs["series"][row].float().cpu().numpy()
            if not np.isfinite(found).all():
                raise RunError(
                    f"the series of {key} is not a number: the weights are broken; take an earlier checkpoint"
                )
            rows = np.interp(np.arange(len(whole)), numbers, found)
            self._clips.append((key, rows.tolist(), whole))

    def series(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Returns {key: (prediction (N,), truth (N,) with NaN)} of every clip, by key; collective."""
        rows = sorted(row for rank in collectives.gather_objects(self._clips) for row in rank)
        return {key: (np.array(found), np.array(truth, float)) for key, found, truth in rows}

    def compute(self) -> dict[str, float]:
        """Returns the scores; collective."""
        known = {
            key: (found[there], truth[there])
            for key, (found, truth) in self.series().items()
            if (there := np.isfinite(truth)).any()
        }
        if not known:
            return {}
        together = [np.concatenate(part) for part in zip(*known.values())]
        scores = {"ccc": ccc(*together), "rmse": float(np.sqrt(np.mean((together[0] - together[1]) ** 2)))}
        scores["ccc_clips"] = float(np.mean([ccc(*pair) for pair in known.values()]))
        names = {key: NAME.fullmatch(f"{key}.csv") for key in known}
        if all(names.values()):
            pairs = {key: (int(match[1]), int(match[2])) for key, match in names.items() if match}
            by_pair = [{pairs[key]: known[key][part] for key in known} for part in (0, 1)]
            found = empathy_scores(*by_pair)
            scores |= {name: found[name] for name in ("personalized", "generalized")}
        return scores
