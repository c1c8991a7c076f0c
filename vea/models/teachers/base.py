"""What every teacher does: texts in groups, a cache of texts, frozen weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEXT_CACHE_SIZE = 50_000  # prompts; at 512 floats each about 100 MB
TEXT_GROUP = 32  # texts per forward of a text tower


class Teacher(nn.Module):
    """Frozen towers that put images and texts on one unit sphere of ``embed_dim`` dimensions.

    Subclasses turn pixels and strings into features; resizing, statistics, normalisation and the text cache are here.
    ``image_size`` is (height, width); ``mean`` and ``std`` are the towers' own, for pixels from 0 to 1.
    """

    embed_dim: int
    description: str

    mean: Tensor
    std: Tensor

    def __init__(
        self, *, description: str, image_size: tuple[int, int], mean: Sequence[float], std: Sequence[float], resize: str
    ) -> None:
        super().__init__()
        self.description = description
        self.image_size = image_size
        self.resize = resize  # "shortest" keeps the ratio and crops the centre, "squash" does not
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.dtype = torch.float32
        self._text_cache: dict[str, Tensor] = {}

    def freeze(self) -> Teacher:
        """Returns self with no parameter that learns, in evaluation mode for good; sets ``embed_dim``."""
        self.requires_grad_(False).eval()
        self.embed_dim = self.encode_text(["a photo"]).shape[1]
        return self

    def in_precision(self, dtype: torch.dtype) -> Teacher:
        """Returns self with towers in ``dtype``; pixels are prepared and embeddings are normalised in fp32.

        Autocast would cast the frozen weights again at every step (it remembers only those that learn), and on a CPU it
        makes a CLIP slower than fp32 where its own bf16 is 2.6 times as fast.
        """
        mean, std = self.mean, self.std
        self.to(dtype)
        self.dtype, self.mean, self.std = dtype, mean, std
        self._text_cache.clear()
        return self

    def train(self, mode: bool = True) -> Teacher:
        """Returns self, still in evaluation mode: a teacher does not follow its student's ``train()``."""
        return cast(Teacher, super().train(False))

    def preprocess(self, images: Tensor, *, statistics: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Returns (B, 3, *image_size) fp32 from uint8 (B, 3, H, W).

        Normalised by the teacher's own mean and deviation, or by ``statistics``, (1, 3, 1, 1) each.
        """
        if images.dtype != torch.uint8:
            raise ValueError(f"a teacher takes uint8 images, got {images.dtype}")
        mean, std = statistics or (self.mean, self.std)
        pixels = images.to(mean.device).float() / 255
        height, width = self.image_size
        if self.resize == "shortest" and images.shape[2] * width != images.shape[3] * height:
            scale = max(height / images.shape[2], width / images.shape[3])
            size = [max(height, round(images.shape[2] * scale)), max(width, round(images.shape[3] * scale))]
            top, left = (size[0] - height) // 2, (size[1] - width) // 2
        else:
            size, top, left = [height, width], 0, 0
        if list(images.shape[2:]) != size:
            pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp_(0, 1)
        return (pixels[:, :, top : top + height, left : left + width] - mean) / std

    @torch.no_grad()
    def encode_image(self, images: Tensor, *, statistics: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Returns (B, D) L2-normalised fp32 embeddings of uint8 images (B, 3, H, W) of any size.

        ``statistics`` (mean, deviation) stand in for the teacher's own only where a defect is to be repeated.
        """
        pixels = self.preprocess(images, statistics=statistics)
        with torch.autocast(pixels.device.type, enabled=False):
            features = self.image_features(pixels.to(self.dtype))
        return F.normalize(features.float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Returns (B, D) L2-normalised fp32 embeddings; each distinct text goes through the tower once.

        A text always goes through in a group of the same shape: its bits must not depend on what was asked for
        beside it, or a run that resumes with an empty cache would leave the path of one that was never stopped.
        """
        missing = [text for text in dict.fromkeys(texts) if text not in self._text_cache]
        if len(self._text_cache) + len(missing) > TEXT_CACHE_SIZE:
            self._text_cache.clear()
            missing = list(dict.fromkeys(texts))
        device = self.mean.device
        for start in range(0, len(missing), TEXT_GROUP):
            group = missing[start : start + TEXT_GROUP]
            padded = group + [""] * (TEXT_GROUP - len(group))
            with torch.autocast(device.type, enabled=False):
                features = self.text_features(padded)
            self._text_cache.update(zip(group, F.normalize(features.float(), dim=-1).cpu()))
        return torch.stack([self._text_cache[text] for text in texts]).to(device)

    def image_features(self, pixels: Tensor) -> Tensor:
        """Returns (B, D) features of preprocessed pixels."""
        raise NotImplementedError  # abstract

    def text_features(self, texts: list[str]) -> Tensor:
        """Returns (B, D) features of texts."""
        raise NotImplementedError  # abstract
