"""Two towers that learn to agree on image and text: how a teacher is made. Neither kind is CLIP, or called so.

``model.image`` and ``model.text`` are frozen towers with a learned map each; ``model.clip`` is a small open_clip model
from scratch. The loss is symmetric InfoNCE over the global batch, with a learned scale. With ``model.cache`` the frozen
towers see every picture and text once, before the first step (``keep``), and the loader brings features.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vea.config import AlignConfig
from vea.config.align import ImageTowerConfig
from vea.data.loading.sets import ShardSet
from vea.distributed import collectives
from vea.errors import VeaError
from vea.losses.alignment import multi_text_infonce
from vea.metrics import retrieval_recall
from vea.models.feature_cache import KeptFeatures
from vea.models.teachers import two_tower
from vea.models.teachers.clip import WordTokenizer, build_clip
from vea.models.teachers.two_tower import FrozenTowers, SideMap
from vea.storage.identity import file_sha256
from vea.tasks.base import Batch, Task
from vea.tasks.items import AlignItems, place_of, texts_of

TEXT_GROUP = 64  # texts per forward where all are known beforehand
LARGEST_SCALE = 100.0  # CLIP's


class AlignTask(Task):
    """What both kinds share: texts as rows, the loss of the global batch, retrieval as the validation.

    Subclasses turn images and texts into (B, D), and write the teacher.
    """

    relates_samples, constant_rows = True, frozenset({"paired"})

    def __init__(self, config: AlignConfig) -> None:
        super().__init__()
        self.config = config
        self.kept: dict[str, np.ndarray] = {}
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.objective.temperature)))

    def images(self, batch: Batch) -> Tensor:
        """Returns (B, D) of the batch's pictures."""
        raise NotImplementedError  # abstract

    def texts(self, texts: list[str]) -> Tensor:
        """Returns (M, D) of texts."""
        raise NotImplementedError  # abstract

    def teacher(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """Returns config, weights and other files of the teacher's folder."""
        raise NotImplementedError  # abstract

    def item_spec(self) -> AlignItems:
        """Returns how a sample becomes a picture, or its features, and texts."""
        return AlignItems(self.config, self.kept)

    def forward(self, batch: Batch, *, step: int) -> dict[str, Tensor]:
        """Returns ``loss`` and ``scale``; every rank has the loss of the global batch."""
        return self.loss_of(self.rows(batch, step=step))

    def rows(self, batch: Batch, *, step: int) -> dict[str, Tensor]:
        """Returns ``image`` (B, D), ``text`` (B, K, D) and ``paired`` (B,), 0 where a sample has no text."""
        image = self.images(batch)
        text = self.texts([text for texts in batch["texts"] for text in texts])
        paired = torch.tensor([float(any(texts)) for texts in batch["texts"]], device=image.device)
        return {"image": image.float(), "text": text.float().unflatten(0, (len(image), -1)), "paired": paired}

    def loss_of(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the loss of the rows of all ranks."""
        image, text, paired = (collectives.all_gather(rows[name]) for name in ("image", "text", "paired"))
        scale = self.log_scale.exp().clamp(max=LARGEST_SCALE)
        return {"loss": multi_text_infonce(image, text, scale=scale, paired=paired), "scale": scale.detach()}

    def loss_parameters(self) -> list[nn.Parameter]:
        """Returns the scale."""
        return [self.log_scale]

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``image`` (B, D) and ``text`` (B, D), the first text's, with ``paired`` (B,)."""
        first = [texts[0] for texts in batch["texts"]]
        image, text = self.images(batch), self.texts(first)
        return {"image": image, "text": text, "paired": torch.tensor([float(bool(t)) for t in first])}

    def new_metrics(self) -> AlignMetrics:
        """Returns an empty collector."""
        return AlignMetrics()

    def load_pretrained(self, path: str) -> str:
        """Loads the weights of another run of this recipe; all must fit."""
        from vea.storage.checkpoint import load_weights

        weights, _ = load_weights(path)
        own = self.state_to_save()
        wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
        if wrong:
            raise VeaError(f"train.init_from: {path} does not fit: {wrong[0]} is missing there or of another size")
        self.load_state_dict({name: weights[name] for name in own}, strict=False)
        return f"{len(own)} weights"

    def trunk(self) -> nn.Module:
        """Returns what learns."""
        return self

    def metadata(self) -> dict[str, Any]:
        """Returns the teacher's description."""
        return {"teacher": self.teacher()[0]["description"], "image_size": self.config.augment.image_size}

    def check_metadata(self, metadata: dict[str, Any]) -> None:
        """Raises ``VeaError`` when a checkpoint belongs to other towers."""
        if metadata.get("teacher") != self.metadata()["teacher"]:
            raise VeaError(f"the checkpoint is of {metadata.get('teacher')!r}, not of {self.metadata()['teacher']!r}")


class TowersTask(AlignTask):
    """Frozen towers and a learned map each."""

    def __init__(self, config: AlignConfig) -> None:
        super().__init__(config)
        model = config.model
        assert model.text is not None
        self.forms = [tower_form(tower) for tower in model.image]
        self.text_form = {"package": model.text.package} if model.text.package else {"path": model.text.path}
        self.text_form["sha256"] = file_sha256(two_tower.text_folder(self.text_form) / two_tower.WEIGHTS_NAME)
        self.towers = FrozenTowers(
            self.forms, self.text_form, description="frozen towers", standardise=model.standardise
        ).freeze()
        side = self.towers.image_size[0]
        widths = (self.towers.encode_image(torch.zeros(1, 3, side, side, dtype=torch.uint8)).shape[1],
                  self.towers.embed_dim)  # fmt: skip
        self.image_map, self.text_map = (
            SideMap(width, model.dim, hidden=model.hidden, dropout=model.dropout) for width in widths
        )
        self.kept_texts: dict[str, Tensor] = {}

    def images(self, batch: Batch) -> Tensor:
        """Returns (B, D), from kept features where there are some."""
        return self.image_map(batch["features"] if "features" in batch else self._see(batch["image"]))

    @torch.no_grad()
    def _see(self, images: Tensor) -> Tensor:
        pixels = self.towers.preprocess(images)
        with torch.autocast(pixels.device.type, enabled=False):
            return self.towers.joined(pixels.to(self.towers.dtype)).float()  # type: ignore[operator]

    def texts(self, texts: list[str]) -> Tensor:
        """Returns (M, D); the frozen tower reads each distinct text once."""
        missing = [text for text in dict.fromkeys(texts) if text not in self.kept_texts]
        for start in range(0, len(missing), 32):  # always the same shape: bits do not depend on the company
            group = missing[start : start + 32]
            self.kept_texts.update(zip(group, self._read(group + [""] * (32 - len(group)), length=64)))
        return self.text_map(torch.stack([self.kept_texts[text] for text in texts]).to(self.log_scale.device))

    @torch.no_grad()
    def _read(self, texts: list[str], *, length: int | None) -> Tensor:
        device = self.log_scale.device
        with torch.autocast(device.type, enabled=False):
            return self.towers.sentences(texts, length=length).float().cpu()  # type: ignore[operator]

    def keep(self, batches: Iterable[Batch]) -> None:
        """Computes the towers' features of every picture and text of ``batches``, this rank's part of one pass."""
        folder = self.config.model.cache_dir
        rows = KeptFeatures(None if folder is None else Path(folder))
        print_of = hashlib.sha256(json.dumps([self.forms, self.towers.standardise]).encode()).hexdigest()[:16]
        pictures, texts = {}, set()
        for batch in batches:
            keys = [place_of(*pair) for pair in zip(batch["set"], batch["keys"])]
            seen = batch["image"].to(self.log_scale.device)
            names = [f"{print_of}|{key}" for key in keys]
            found = rows.get(names, lambda which, seen=seen: self._see(seen[which]).cpu())  # type: ignore[misc]
            pictures.update({key: row for key, row, ok in zip(keys, found, batch["valid"].tolist()) if ok})
            texts |= {text for entry in batch["texts"] for text in entry}
        for part in collectives.gather_objects(pictures):
            self.kept.update({key: row.numpy() for key, row in part.items()})
        everything = set().union(*collectives.gather_objects(texts), {""}) - set(self.kept_texts)
        ordered = sorted(everything, key=lambda text: (len(text), text))
        groups = [ordered[start : start + TEXT_GROUP] for start in range(0, len(ordered), TEXT_GROUP)]
        mine: dict[str, Tensor] = {}
        for group in groups[collectives.rank() :: collectives.world_size()]:
            print_of = hashlib.sha256(json.dumps(self.text_form).encode()).hexdigest()[:16]
            read = [f"{print_of}|{self.towers.standardise}|{text}" for text in group]
            found = rows.get(read, lambda which, group=group: self._read([group[i] for i in which], length=None))  # type: ignore[misc]
            mine.update(zip(group, found))
        for part in collectives.gather_objects(mine):
            self.kept_texts.update(part)

    def state_to_save(self) -> dict[str, Tensor]:
        """Returns the state dict without the towers."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("towers.")}

    def teacher(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """Returns config and maps of a folder of kind ``two-tower``."""
        names = " and ".join(form["timm"] for form in self.forms)
        text = self.text_form.get("package") or Path(str(self.text_form["path"])).name
        described = f"frozen {names}, and {text}, joined by learned maps; it is not CLIP"
        config = {"format": 2, "kind": "two-tower", "name": self.config.name,
                  "description": self.config.description or described, "image_towers": self.forms,
                  "text_tower": self.text_form, "standardise": self.towers.standardise}  # fmt: skip
        parts = {"image_map": self.image_map, "text_map": self.text_map}
        weights = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
        return config, weights, {}


class ClipTask(AlignTask):
    """A small open_clip model from scratch with a closed vocabulary: the teacher of demo and tests.

    Args:
        config: the resolved config.
        words: of the training texts.
    """

    def __init__(self, config: AlignConfig, words: Iterable[str]) -> None:
        super().__init__(config)
        assert config.model.clip is not None
        self.form = config.model.clip
        text = self.form.model_cfg["text_cfg"]
        self.tokenizer = WordTokenizer(sorted({*words, *self.form.words}), context_length=text["context_length"])
        vocabulary = {"vocab_size": self.tokenizer.vocab_size}
        self.model_cfg = {**self.form.model_cfg, "text_cfg": {**text, **vocabulary}}
        self.clip: Any = build_clip(self.model_cfg, self.form.preprocess_cfg)
        self.clip.logit_scale.requires_grad_(False)  # ours is beside it
        for name in ("mean", "std"):
            values = torch.tensor(self.form.preprocess_cfg[name]).view(1, 3, 1, 1)
            self.register_buffer(f"pixel_{name}", values, persistent=False)

    def images(self, batch: Batch) -> Tensor:
        """Returns (B, D)."""
        mean, std = cast(Tensor, self.pixel_mean), cast(Tensor, self.pixel_std)
        return self.clip.encode_image((batch["image"].float() / 255 - mean) / std)

    def texts(self, texts: list[str]) -> Tensor:
        """Returns (M, D)."""
        return self.clip.encode_text(self.tokenizer(texts).to(self.log_scale.device))

    def teacher(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """Returns config, weights and vocabulary of a folder of kind ``open_clip``."""
        described = "a small CLIP of vea, trained from scratch; it is not OpenAI's"
        config = {"format": 1, "kind": "open_clip", "name": self.config.name,
                  "description": self.config.description or described, "model_cfg": self.model_cfg,
                  "preprocess_cfg": self.form.preprocess_cfg, "vocabulary": "vocabulary.json"}  # fmt: skip
        weights = dict(self.clip.state_dict())
        weights["logit_scale"] = self.log_scale.detach().clamp(max=math.log(LARGEST_SCALE))
        return config, weights, {"vocabulary.json": self.tokenizer.words}


def tower_form(tower: ImageTowerConfig) -> dict[str, Any]:
    """Returns the entry of a teacher's config: what the tower is, its statistics, and the sha256 of its weights."""
    import timm

    known = timm.get_pretrained_cfg(tower.name, allow_unregistered=True)
    if known is None:
        raise VeaError(f"model.image: timm knows no model {tower.name!r}")
    source = {"package": tower.package} if tower.package else {"weights": tower.weights}
    form = {"timm": tower.name, "args": tower.args, **source, "image_size": tower.image_size, "pool": tower.pool,
            "mean": list(known.mean), "std": list(known.std)}  # fmt: skip
    return {**form, "sha256": file_sha256(two_tower.image_tower_file(form))}


def training_words(config: AlignConfig) -> set[str]:
    """Returns the words of every text of the training sets."""
    words: set[str] = set()
    for ref in config.data.train:
        shards = ShardSet(ref)
        for i in range(len(shards)):
            for text in texts_of(shards.read(i)[2], kind=config.objective.texts):
                words.update(WordTokenizer.split(text))
    return words


def build_align_task(config: AlignConfig) -> AlignTask:
    """Returns the task of ``config``; raises ``VeaError`` where a tower is missing."""
    return ClipTask(config, training_words(config)) if config.model.clip else TowersTask(config)


class AlignMetrics:
    """Recall at 1, 5 and 10, both ways, among the samples with a text and the first text of each."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Adds one batch; padding and samples without a text are left out."""
        keep = batch["valid"].cpu() & (outputs["paired"].cpu() > 0)
        image, text = (F.normalize(outputs[name].float().cpu(), dim=-1)[keep] for name in ("image", "text"))
        self._rows.append((image, text))

    def compute(self) -> dict[str, float]:
        """Returns the recalls by name and ``recall``, their mean; collective."""
        rows = [pair for rank in collectives.gather_objects(self._rows) for pair in rank]
        image, text = (torch.cat(part) for part in zip(*rows)) if rows else (torch.empty(0), torch.empty(0))
        if len(image) <= 10:
            raise VeaError("data.val: recall at 10 needs more than ten samples with a text")
        found = retrieval_recall(image, text, torch.arange(len(image)), ranks=(1, 5, 10))
        return {**found, "recall": sum(found.values()) / len(found)}
