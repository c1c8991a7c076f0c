"""Pretraining: UniEmoX and its objectives against a frozen image-text teacher (facts: arXiv 2409.18877, section 3).

The parts, each with its weight in ``objective``, each computed only where its weight is not 0:

- ``reconstruction`` (L3) and ``person_reconstruction``: error of the removed patches of a view;
- ``similarity`` (L2): gamma against the teacher's embedding of the unmasked scene view;
- ``contrastive`` (L1): relations of gamma to all texts of the global batch against those of the teacher's image;
- ``infonce`` and ``sigmoid``: gamma against the text itself;
- ``distillation``: gamma's choice among the texts against the teacher's choice for the image;
- ``caption_scene``, ``caption_fused``, ``caption_phrases``: stage two, see ``vea.tasks.captions``;
- ``bank``, wherever ``model.bank`` is set: what holds embeddings near their prototypes.

A sample without a text (empty, or the stand-in ``vea.data.prompts.NO_TEXT``) takes part only in what reads no text.

``model.variant: released`` computes what the authors' released code does where that can be compared (facts 1.8).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from vea.config import PretrainConfig
from vea.config.pretrain import WITH_TEACHER
from vea.data.prompts import NO_TEXT
from vea.distributed import collectives
from vea.errors import VeaError
from vea.losses import contrastive
from vea.losses.similarity import collapse_signs, similarity
from vea.metrics.codes import perplexity
from vea.models.teachers.base import Teacher
from vea.models.uniemox import UniEmoX
from vea.tasks.base import Batch, Task
from vea.tasks.captions import PATHS, CaptionPaths
from vea.tasks.items import PretrainItems
from vea.tasks.pretrain_metrics import PretrainMetrics

WITH_TEXT = ("contrastive", "infonce", "sigmoid", "distillation")
WITH_IMAGE = ("similarity", "contrastive", "distillation")
PICTURE_ROWS, PICTURE_SIDE = 8, 112  # of the reconstruction grid: rows and the least side of a cell in pixels
MATRIX_SIDE = 320  # least side of a similarity matrix in pixels


class PretrainTask(Task):
    """UniEmoX with its losses.

    Args:
        config: the resolved config.
        teacher: from ``load_teacher``; None where the objective needs none. It is frozen and never saved.

    Raises:
        VeaError: no part has a weight, a part needs a teacher and there is none, or the sizes do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: PretrainConfig, *, teacher: Teacher | None) -> None:
        super().__init__()
        self.config, objective = config, config.objective
        names = ("reconstruction", "person_reconstruction", *WITH_TEACHER)
        self.weights: dict[str, float] = {name: getattr(objective, name) for name in names if getattr(objective, name)}
        if not self.weights:
            raise VeaError("objective: every part has weight 0, nothing is learned; set objective.reconstruction=1")
        asked = [name for name in WITH_TEACHER if name in self.weights]
        if asked and teacher is None:
            raise VeaError(
                f"objective.{asked[0]} compares with a teacher and teacher is null; name one "
                f"(teacher.name=tiny-synthetic for a trial) or set {' '.join(f'objective.{name}=0' for name in asked)}"
            )
        self.teacher = teacher if asked else None
        paths = [name for name in PATHS if name in self.weights]
        if "caption_fused" in paths and config.model.fusion == "none":
            raise VeaError("objective.caption_fused needs scene and person together; set model.fusion=easy")
        if asked and config.teacher is not None and config.teacher.cached("text"):
            for key in ("template", "vary", "shuffled"):
                if getattr(config.captions, key):
                    raise VeaError(f"captions.{key} makes texts that no sidecar holds; set teacher.cache=none")
        self.released = config.model.variant == "released"
        if self.released and asked and config.teacher is not None and config.teacher.cached("image"):
            raise VeaError(
                "model.variant=released shows the teacher each scene view, and teacher.cache keeps embeddings of the "
                "clean image; set teacher.cache=none"
            )
        self.model = UniEmoX(
            config.model,
            image_size=config.augment.image_size,
            objective=objective,
            teacher_width=self.teacher.embed_dim if self.teacher is not None else None,
        )
        if self.model.bank is not None:
            self.weights["bank"] = 1.0
        self.captions: CaptionPaths | None = None
        if paths:
            self.captions = CaptionPaths(
                config.captions,
                paths=paths,
                width=config.model.decoder.width,
                patch_width=self.model.mim.encoder.embed_dim,
                text_width=self.teacher.embed_dim,  # type: ignore[union-attr]
            )
        if "sigmoid" in self.weights:  # SigLIP starts from temperature 0.1 and bias -10
            self.log_scale = nn.Parameter(torch.tensor(-math.log(objective.temperature)))
            self.bias = nn.Parameter(torch.tensor(-10.0))
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD).view(1, 3, 1, 1), persistent=False)

    def item_spec(self) -> PretrainItems:
        """Returns how a sample becomes two views with the noise of their masks, and a text."""
        return PretrainItems(self.config, num_patches=self.model.mim.num_patches)

    def load_pretrained(self, path: str) -> str:
        """Loads another pretraining run, or a folder of ``vea import-weights``; its whole encoder must fit.

        Raises:
            VeaError: nothing at ``path``, or an encoder of another size.
        """
        from vea.storage.checkpoint import load_weights

        weights, _ = load_weights(path)
        if not any(name.startswith("model.") for name in weights):
            weights = {f"model.mim.{name}": value for name, value in weights.items()}
        own = self.state_to_save()
        fitting = {name: weights[name] for name in own if name in weights and weights[name].shape == own[name].shape}
        for name in own:
            if name.startswith("model.mim.encoder.") and name not in fitting:
                raise VeaError(
                    f"train.init_from: {path} does not fit: {name} is "
                    f"{'of another size' if name in weights else 'missing'} there; use the model.encoder of that run"
                )
        self.load_state_dict(fitting, strict=False)
        return f"{len(fitting)} of {len(own)} weights"

    # ----------------------------------------------------------------------------------------------------------- a step

    def normalise(self, images: Tensor) -> Tensor:
        """Returns float images by ImageNet's statistics, from uint8 (B, 3, H, W)."""
        return (images.float() / 255 - self.mean) / self.std

    def _embed(self, batch: Batch, *, step: int | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns (errors by part, (B,) each; what the losses over samples compare, a row a sample).

        With ``step``, of training, the bank counts what it sees.
        """
        scene = self.normalise(batch["scene"])
        person = None
        if self.model.needs_person:
            person = scene if self.released else self.normalise(batch["person"])
        place = {"step": step, "slot": batch.get("slot"), "batch_size": self.config.data.global_batch_size}
        output = self.model(scene, person, batch["noise"], **place)
        named = {
            "reconstruction": output.reconstruction,
            "person_reconstruction": output.person_reconstruction,
            "bank": output.commitment,
        }
        errors = {name: rows for name, rows in named.items() if rows is not None}
        if self.teacher is None:
            return errors, {}
        compared = self._targets(batch)
        if output.gamma is not None:
            compared["gamma"] = output.gamma.float()
        if output.codes is not None:
            compared["codes"] = output.codes
        if self.captions is not None:
            compared |= self.captions.embeddings(alpha=output.alpha, patches=output.patches)
            if "mix" in batch:
                compared["mix"] = batch["mix"]
        if "similarity" in self.weights:
            errors["similarity"] = similarity(compared["gamma"], compared["image"])
        return errors, compared

    @torch.compiler.disable
    @torch.no_grad()
    def _targets(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the teacher's embeddings of the unmasked scenes and, where a loss uses them, of the texts."""
        config = self.config.teacher
        assert self.teacher is not None
        targets = {}
        if any(name in self.weights for name in WITH_IMAGE):
            cached = config is not None and config.cached("image")
            if self.released:  # with the statistics of the data set, as every other image there
                image = self.teacher.encode_image(batch["scene"], statistics=(self.mean, self.std))
            else:
                image = batch["teacher_image"] if cached else self.teacher.encode_image(batch["scene"])
            targets["image"] = F.normalize(image.float(), dim=-1)
        if any(name in self.weights for name in (*WITH_TEXT, *PATHS)):
            cached = config is not None and config.cached("text")
            words = batch["text"] if self.captions is None else self.captions.worded(batch["text"])
            text = batch["teacher_text"] if cached else self.teacher.encode_text(words)
            targets["text"] = text.to(batch["scene"].device)
            has_text = [text not in ("", NO_TEXT) for text in batch["text"]]
            targets["paired"] = torch.tensor(has_text, device=batch["scene"].device).float()
        if self.captions is not None:
            targets |= self.captions.targets(batch["text"], self.teacher, device=batch["scene"].device)
        return targets

    def _over_samples(self, here: dict[str, Tensor], everywhere: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns the losses that relate samples to each other.

        Args:
            here: what is compared of this rank's samples.
            everywhere: the same of all ranks' samples, without the images; None where ``here`` is all there is. Each
                rank then returns the part of its own rows, W times: the mean over ranks is the loss of the global
                batch. InfoNCE and stage two, which need all rows, are that loss itself.
        """
        if "text" not in here:
            return {}
        found = {} if self.captions is None else self.captions.losses(everywhere or here)
        if "gamma" not in here:
            return found
        gamma, image, objective = here["gamma"], here.get("image", here["gamma"]), self.config.objective
        world_size, own = 1, None
        if everywhere is not None:
            world_size = len(everywhere["gamma"]) // len(gamma)
            own = collectives.rank() * len(gamma) + torch.arange(len(gamma), device=gamma.device)
        all_gamma, text, paired = ((everywhere or here)[name] for name in ("gamma", "text", "paired"))
        rows: dict[str, Any] = {"paired": paired, "own": own}
        losses: dict[str, Callable[[], Tensor]] = {
            "contrastive": lambda: world_size * contrastive.contrastive_similarity(gamma, image, text, **rows),
            "infonce": lambda: contrastive.infonce(
                all_gamma,
                text,
                temperature=objective.temperature,
                paired=paired,
                focal=objective.focal,
                block=objective.infonce_block,
            ),
            "distillation": lambda: (
                world_size
                * contrastive.distillation(
                    gamma,
                    image,
                    text,
                    temperature=objective.temperature,
                    margin=objective.false_negative_margin,
                    hard=objective.hard_negatives,
                    **rows,
                )
            ),
            "sigmoid": lambda: (
                world_size * contrastive.sigmoid(gamma, text, log_scale=self.log_scale, bias=self.bias, **rows)
            ),
        }
        return found | {name: losses[name]() for name in WITH_TEXT if name in self.weights}

    def _gathered(self, compared: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns what is compared, of all ranks; with its gradient only where a loss needs other ranks' rows."""
        alone = "infonce" not in self.weights and self.captions is None
        names = [name for name in compared if name != "image"]
        return {name: collectives.all_gather(compared[name].detach() if alone else compared[name]) for name in names}

    def forward(self, batch: Batch, *, step: int) -> dict[str, Tensor]:
        """Returns ``loss``, its parts without their weights, and ``gamma_std``, ``gamma_rank``: signs of collapse.

        The mean of a part over ranks is that of the global batch.
        """
        errors, compared = self._embed(batch, step=step if self.training else None)
        parts = {name: rows.mean() for name, rows in errors.items()}
        signs: dict[str, Tensor] = {}
        if compared:
            everywhere = self._gathered(compared) if collectives.world_size() > 1 else None
            parts |= self._over_samples(compared, everywhere)
            signs = self._signs(everywhere or compared)
        loss = sum((self.weights[name] * part for name, part in parts.items()), start=batch["noise"].new_zeros(()))
        return {"loss": loss, **parts, **signs}

    def _signs(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns signs of collapse: of the fused embedding, or the scene's where there is none, and of the bank."""
        signs: dict[str, Tensor] = {}
        embedding = rows.get("gamma", rows.get("scene_text"))
        if embedding is not None:
            signs |= collapse_signs(embedding.detach())
        if self.model.bank is not None:
            signs["bank_perplexity"] = perplexity(rows["codes"], count=len(self.model.bank.codes))
        for name, scale in ({} if self.captions is None else self.captions.log_scales).items():
            signs[f"{name}_temperature"] = (-scale.detach()).exp()
        return signs

    # -------------------------------------------------------------------------------------------- what the engine asks

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns each sample's errors (B,), and ``gamma``, ``image``, ``text`` (B, D) with ``paired`` (B,)."""
        errors, compared = self._embed(batch)
        return {**errors, **compared}

    def new_metrics(self) -> PretrainMetrics:
        """Returns an empty collector."""
        return PretrainMetrics(self)

    def trunk(self) -> nn.Module:
        """Returns the timm encoder."""
        return self.model.mim.encoder

    def state_to_save(self) -> dict[str, Tensor]:
        """Returns the state dict without the teacher."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("teacher.")}

    def metadata(self) -> dict[str, Any]:
        """Returns how images reach the encoder, what the encoder is, and which teacher and prompts were used."""
        config = self.config
        prompt = None
        if any(name in self.weights for name in (*WITH_TEXT, *PATHS)):
            label = "with" if config.prompt.emotion else "without"
            prompt = f"{config.prompt.source}, attributes {label} the label"
        teacher_sees = None
        if self.teacher is not None and config.teacher is not None:
            teacher_sees = "image" if config.teacher.cached("image") else "none"
        return {
            "image_size": config.augment.image_size,
            "channels": 3,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "encoder": {"name": config.model.encoder.name, "args": config.model.encoder.args},
            "variant": config.model.variant,
            "fusion": config.model.fusion if self.model.fusion is not None else None,
            "objective": self.weights,
            "teacher": self.teacher.description if self.teacher is not None else None,
            "teacher_sees": teacher_sees,
            "prompt": prompt,
        }

    def check_metadata(self, metadata: dict[str, Any]) -> None:
        """Raises ``VeaError`` when a checkpoint was trained with another teacher."""
        own = self.metadata()["teacher"]
        if metadata.get("teacher") != own:
            raise VeaError(f"the checkpoint was trained with teacher {metadata.get('teacher')!r}, this run has {own!r}")

    # --------------------------------------------------------------------------------------------------------- pictures

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        """Returns ``reconstruction`` (rows of image | masked | reconstruction) and the similarity matrices.

        ``similarity_student`` is A and ``similarity_teacher`` is C of the batch's samples with a text; rows have unit
        length, which is what the loss compares, and both have the same colour scale.
        """
        made: dict[str, np.ndarray] = {}
        if "reconstruction" in self.weights:
            rows = batch["scene"][:PICTURE_ROWS]
            masked, filled = self.model.mim.reconstruct(self.normalise(rows), noise=batch["noise"][:PICTURE_ROWS, 0])
            made["reconstruction"] = _grid([rows.cpu(), self._to_uint8(masked), self._to_uint8(filled)])
        if "contrastive" in self.weights:
            _, compared = self._embed(batch)
            paired = compared["paired"] > 0
            if paired.any():
                gamma, image, text = (compared[name][paired] for name in ("gamma", "image", "text"))
                a, c = (F.normalize(m, dim=-1).cpu() for m in contrastive.similarity_matrices(gamma, image, text))
                limit = float(torch.stack([a, c]).abs().max())
                made["similarity_student"], made["similarity_teacher"] = (_heat_map(m, limit=limit) for m in (a, c))
        return made

    def _to_uint8(self, images: Tensor) -> Tensor:
        return ((images * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8).cpu()


def _enlarge(picture: np.ndarray, *, least: int) -> np.ndarray:
    factor = max(1, math.ceil(least / picture.shape[1]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _grid(columns: list[Tensor], *, gap: int = 4) -> np.ndarray:
    """Returns one uint8 picture (H, W, 3): samples as rows, ``columns`` (B, 3, h, w) side by side."""
    cells = [
        [_enlarge(image.permute(1, 2, 0).numpy(), least=PICTURE_SIDE) for image in samples] for samples in zip(*columns)
    ]
    side = cells[0][0].shape[0]
    canvas = np.full((len(cells) * (side + gap) - gap, len(columns) * (side + gap) - gap, 3), 255, dtype=np.uint8)
    for row, line in enumerate(cells):
        for column, cell in enumerate(line):
            top, left = row * (side + gap), column * (side + gap)
            canvas[top : top + side, left : left + side] = cell
    return canvas


def _heat_map(matrix: Tensor, *, limit: float) -> np.ndarray:
    """Returns a uint8 picture (H, W, 3) of values from -limit (blue) over 0 (white) to limit (red)."""
    import matplotlib

    scaled = matrix.float().numpy() / (2 * max(limit, 1e-12)) + 0.5
    colours = matplotlib.colormaps["RdBu_r"](scaled, bytes=True)[..., :3]
    return _enlarge(np.ascontiguousarray(colours), least=MATRIX_SIDE)
