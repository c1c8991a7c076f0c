"""Vision Transformers by timm's names, and the fixed positions of masked autoencoders."""

from __future__ import annotations

import math

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vea.config import EncoderConfig
from vea.errors import VeaError, did_you_mean
from vea.models.weight_files import read_weight_file
from vea.models.weights import load_encoder


def build_encoder(
    config: EncoderConfig, *, image_size: int, channels: int = 3, drop_path: float = 0.0
) -> VisionTransformer:
    """Returns a timm Vision Transformer without a head, for square images of ``image_size``.

    ``config.args`` go to timm (embed_dim, depth, num_heads, patch_size ...). With ``config.pretrained``, a local file,
    its encoder weights are loaded; nothing is ever downloaded.

    Raises:
        VeaError: the name is not a Vision Transformer of timm, the arguments do not fit, or the weights do not.
    """
    if not timm.is_model(config.name):
        near = did_you_mean(config.name, timm.list_models("vit_*"))
        near = near if near.startswith(" (did") else " (a name such as 'vit_base_patch16_224')"
        raise VeaError(f"model.encoder.name: {config.name!r} is not a model of timm{near}")
    try:
        encoder = timm.create_model(
            config.name,
            pretrained=False,
            **{
                "img_size": image_size,
                "in_chans": channels,
                "num_classes": 0,
                "drop_path_rate": drop_path,
                **config.args,
            },
        )
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise VeaError(f"model.encoder: timm cannot build {config.name} with {config.args}: {reason}") from None
    if not isinstance(encoder, VisionTransformer):
        raise VeaError(
            f"model.encoder.name: {config.name} is not a plain Vision Transformer; take a timm name in vit_*"
        )
    patch = patch_side(encoder)
    if image_size % patch:
        raise VeaError(f"augment.image_size ({image_size}) is not a multiple of the encoder's patch size ({patch})")
    if config.pretrained:
        load_encoder(encoder, read_weight_file(config.pretrained), where=config.pretrained)
    return encoder


def patch_side(encoder: VisionTransformer) -> int:
    """Returns the side of a patch in pixels."""
    return int(encoder.patch_embed.patch_size[0])


def sincos_positions(width: int, *, grid: tuple[int, int], num_prefix_tokens: int = 1) -> Tensor:
    """Returns (1, prefix + rows * columns, width) fixed 2-D sine-cosine positions; zeros for the prefix tokens.

    The layout is that of MAE (arXiv 2111.06377): the first half encodes the column, the second the row, each as
    [sin, cos] of the coordinate times 10000 ** (-i / (width / 4)). So MAE's published weights fit.

    Raises:
        VeaError: the width is not a multiple of 4.
    """
    if width % 4:
        raise VeaError(f"sine-cosine positions need a width that is a multiple of 4, not {width}; change the width")
    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [coordinate.flatten()[:, None] * frequencies for coordinate in (columns, rows)]
    table = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1).float()
    return torch.cat([table.new_zeros(num_prefix_tokens, width), table])[None]
