"""UniEmoX (arXiv 2409.18877): a masked autoencoder whose class tokens of scene and person are fused into gamma."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vea.config import ObjectiveConfig, PretrainModelConfig
from vea.errors import VeaError
from vea.models.bank import PrototypeBank
from vea.models.fusion import build_fusion
from vea.models.mim import MaskedAutoencoder


class UniEmoXOutput(NamedTuple):
    """What the losses need; None where the objective does not ask for it."""

    reconstruction: Tensor | None  # (B,) fp32, error of each scene
    person_reconstruction: Tensor | None  # (B,) fp32, error of each person view
    gamma: Tensor | None  # (B, teacher width), the fused embedding
    alpha: Tensor | None = None  # (B, decoder width), the scene's, for stage two
    patches: Tensor | None = None  # (B, K, D), the scene's visible patches, for phrases
    commitment: Tensor | None = None  # (B,) fp32, of the bank
    codes: Tensor | None = None  # int64 (B,), of the bank


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
            predicted=config.predicted,
            frozen_blocks=config.frozen_blocks,
        )
        self.person_size = config.person_size
        if config.person_size is not None:
            if config.person_size % self.mim.patch or config.person_size > image_size:
                raise VeaError(
                    f"model.person_size ({config.person_size}) is not a multiple of the patch size ({self.mim.patch}) "
                    f"up to augment.image_size ({image_size})"
                )
            if objective.person_reconstruction:
                raise VeaError(
                    "model.person_size: a smaller person view is not reconstructed; set it to null, or "
                    "objective.person_reconstruction=0"
                )
        self.reconstruct_scene = objective.reconstruction > 0
        self.reconstruct_person = objective.person_reconstruction > 0
        if not (self.reconstruct_scene or self.reconstruct_person):
            self.mim.freeze_decoder()
        self.fusion: nn.Module | None = None
        self.projection: nn.Module | None = None
        if teacher_width is not None and objective.needs_gamma:
            self.fusion = build_fusion(config.fusion, width=config.decoder.width)
            if teacher_width != config.decoder.width:
                self.projection = nn.Linear(config.decoder.width, teacher_width)
        self.needs_alpha = teacher_width is not None and objective.caption_scene > 0
        self.needs_patches = teacher_width is not None and objective.caption_phrases > 0
        self.bank = None
        if config.bank is not None and (self.needs_alpha or self.fusion is not None):
            self.bank = PrototypeBank(config.bank, width=config.decoder.width)
        if self.fusion is None and not (self.needs_alpha or self.reconstruct_scene or self.reconstruct_person):
            self.mim.decoder_embed.requires_grad_(False)  # phrases alone: nothing is projected
        self.needs_person = self.reconstruct_person or (self.fusion is not None and config.fusion != "none")

    def forward(
        self,
        scene: Tensor,
        person: Tensor | None,
        noise: Tensor,
        *,
        step: int | None = None,
        slot: Tensor | None = None,
        batch_size: int = 1,
    ) -> UniEmoXOutput:
        """Returns reconstruction errors and embeddings.

        Args:
            scene: (B, 3, H, W), normalised.
            person: (B, 3, H, W), normalised; None unless ``needs_person``.
            noise: (B, 2, N): of the scene's mask and of the person's.
            step: of training, for the bank; None: it counts nothing.
            slot: int (B,), places in the global batch, for the bank.
            batch_size: of the global batch, for the bank.
        """
        mim, count = self.mim, len(scene)
        beta_token = None
        if self.needs_person and self.person_size is not None:
            assert person is not None
            small = F.interpolate(person, size=self.person_size, mode="area")
            cells = (self.person_size // mim.patch) ** 2
            beta_token = mim.encode(small, noise[:, 1, :cells]).latent[:, 0]
            encoded = mim.encode(scene, noise[:, 0])
        elif self.needs_person:
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
        patches = encoded.latent[:count, 1:] if self.needs_patches else None
        if self.fusion is None and not self.needs_alpha:
            return UniEmoXOutput(errors["scene"], errors["person"], None, patches=patches)
        tokens = encoded.latent[:, 0]
        embeddings = mim.project(tokens if beta_token is None else torch.cat([tokens, beta_token]))
        alpha, beta = embeddings[:count], embeddings[-count:]
        commitment = codes = None
        if self.bank is not None:
            alpha, commitment, codes = self.bank(alpha, step=step, slot=slot, batch_size=batch_size)
            beta = beta if self.needs_person else alpha
        gamma = None
        if self.fusion is not None:
            gamma = self.fusion(alpha, beta)
            gamma = gamma if self.projection is None else self.projection(gamma)
        return UniEmoXOutput(errors["scene"], errors["person"], gamma, alpha, patches, commitment, codes)
