"""UniEmoX (arXiv 2409.18877): a masked autoencoder whose class tokens of scene and person are fused into gamma."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vea.config import ObjectiveConfig, PretrainModelConfig
from vea.models.fusion import build_fusion
from vea.models.mim import MaskedAutoencoder


class UniEmoXOutput(NamedTuple):
    """What the losses need; None where the objective does not ask for it."""

    reconstruction: Tensor | None  # (B,) fp32, error of each scene
    person_reconstruction: Tensor | None  # (B,) fp32, error of each person view
    gamma: Tensor | None  # (B, teacher width), the fused embedding


class UniEmoX(nn.Module):
    """Both views go through one encoder call; the decoder runs for those whose reconstruction has a weight.

    What the objective does not use is not built (fusion and projection without a teacher) or frozen (the decoder
    without a reconstruction), and the person view is not computed when nothing depends on it.

    Args:
        config: encoder, decoder, masking, fusion.
        image_size: side of the square views.
        objective: which parts of the loss have a weight.
        teacher_width: width of the teacher's embeddings, which gamma is projected to where the decoder's is another;
            None when no loss compares with a teacher.
    """

    def __init__(
        self, config: PretrainModelConfig, *, image_size: int, objective: ObjectiveConfig, teacher_width: int | None
    ) -> None:
        super().__init__()
        self.mim = MaskedAutoencoder(
            config.encoder,
            decoder=config.decoder,
            image_size=image_size,
            mask_ratio=config.mask_ratio,
            norm_pix=objective.norm_pix,
            checkpointing=config.checkpointing,
            class_token_only=config.variant == "released",
        )
        self.reconstruct_scene = objective.reconstruction > 0
        self.reconstruct_person = objective.person_reconstruction > 0
        if not (self.reconstruct_scene or self.reconstruct_person):
            self.mim.freeze_decoder()
        self.fusion: nn.Module | None = None
        self.projection: nn.Module | None = None
        if teacher_width is not None:
            self.fusion = build_fusion(config.fusion, width=config.decoder.width)
            if teacher_width != config.decoder.width:
                self.projection = nn.Linear(config.decoder.width, teacher_width)
        self.needs_person = self.reconstruct_person or (self.fusion is not None and config.fusion != "none")

    def forward(self, scene: Tensor, person: Tensor | None, noise: Tensor) -> UniEmoXOutput:
        """Returns reconstruction errors and gamma.

        Args:
            scene: (B, 3, H, W), normalised.
            person: (B, 3, H, W), normalised; None unless ``needs_person``.
            noise: (B, 2, N): of the scene's mask and of the person's.
        """
        mim, count = self.mim, len(scene)
        if self.needs_person:
            assert person is not None
            encoded = mim.encode(torch.cat([scene, person]), noise.transpose(0, 1).flatten(0, 1))
        else:
            encoded = mim.encode(scene, noise[:, 0])
        # the decoder's input for the views that it reconstructs, only the class token for the rest
        first = 0 if self.reconstruct_scene else count
        last = len(encoded.latent) if self.reconstruct_person else count
        errors: dict[str, Tensor | None] = {"scene": None, "person": None}
        if first < last:
            views = type(encoded)(*(part[first:last] for part in encoded))
            losses = mim.sample_losses(views, mim.decode(mim.project(views.latent), views.order))
            if self.reconstruct_scene:
                errors["scene"] = losses[:count]
            if self.reconstruct_person:
                errors["person"] = losses[-count:]
        return UniEmoXOutput(errors["scene"], errors["person"], self._fused(encoded.latent[:, 0], count))

    def _fused(self, class_tokens: Tensor, count: int) -> Tensor | None:
        if self.fusion is None:
            return None
        embeddings = self.mim.project(class_tokens)
        gamma = self.fusion(embeddings[:count], embeddings[-count:])
        return gamma if self.projection is None else self.projection(gamma)
