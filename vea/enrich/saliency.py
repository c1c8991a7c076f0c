"""Where a Vision Transformer looks: a map of saliency for masks (``model.salient``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vea.enrich.run import Pass

LARGEST = 224  # pixels a side: masks have a grid of about 16 patches at most


class Saliency(Pass):
    """The attention of the class token to the patches in the last block, mean over heads: float32 (G * G,).

    DINO's self-supervised networks attend to what a picture is about (arXiv 2104.14294, section 4). The picture is
    squeezed to a square of the network's side, at most ``LARGEST`` pixels, so the map covers all of it.

    Args:
        weights: file of a Vision Transformer with timm's names and a class token.
        device: cpu or cuda.
    """

    name, suffix, batch_size = "saliency", ".npy", 16

    def __init__(self, weights: str | Path, *, device: str = "cpu") -> None:
        import torch
        from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

        from vea.config import EncoderConfig
        from vea.errors import VeaError
        from vea.models.vit import build_encoder
        from vea.models.weight_files import read_weight_file
        from vea.models.weights import encoder_form, encoder_part, load_encoder
        from vea.storage.identity import file_sha256

        found = read_weight_file(weights)
        found = encoder_part(found) or found
        form, self.side = encoder_form(found, where=str(weights))
        patch = found["patch_embed.proj.weight"].shape[-1]
        self.side = min(self.side, LARGEST // patch * patch)
        self.encoder: Any = build_encoder(EncoderConfig(**form), image_size=self.side)
        load_encoder(self.encoder, found, where=str(weights))
        self.encoder.requires_grad_(False).eval().to(device)
        if self.encoder.cls_token is None:
            raise VeaError(f"--weights: {weights} has no class token, whose attention is the saliency")
        self.device = device
        self.mean, self.deviation = (
            torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        )
        path = Path(weights)
        self.options, self.model = {"side": self.side}, None
        if path.is_file():
            self.model = {"name": path.name, "sha256": file_sha256(path)}

    def prepare(self, image: np.ndarray | None, metadata: dict[str, Any]) -> Any:
        assert image is not None
        return cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_AREA)

    def rows(self, prepared: list[Any]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2).to(self.device).float() / 255
            return self.attention((pixels - self.mean) / self.deviation).cpu().numpy()

    def attention(self, images: Any) -> Any:
        """Returns (B, G * G): how much of the class token's attention each patch has, of normalised images."""
        encoder = self.encoder
        tokens = encoder.norm_pre(encoder._pos_embed(encoder.patch_embed(images)))
        *blocks, last = encoder.blocks
        for block in blocks:
            tokens = block(tokens)
        attention, normed = last.attn, last.norm1(tokens)
        queries, keys, _ = attention.qkv(normed).chunk(3, dim=-1)
        heads = [part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in (queries[:, :1], keys)]
        query, key = attention.q_norm(heads[0]), attention.k_norm(heads[1])
        weights = (query @ key.transpose(-2, -1) * attention.scale).softmax(-1).mean(1)[:, 0]
        return weights[:, encoder.num_prefix_tokens :]

    def empty(self) -> np.ndarray:
        grid = self.encoder.patch_embed.grid_size
        return np.full(grid[0] * grid[1], np.nan, dtype=np.float32)
