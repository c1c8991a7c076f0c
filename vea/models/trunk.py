"""The encoder of a config, without a head."""

from __future__ import annotations

import timm
from torch import nn

from vea.config import ClassifierConfig
from vea.errors import VeaError, did_you_mean
from vea.models.cnn import build_network


def build_trunk(config: ClassifierConfig, *, image_size: int) -> nn.Module:
    """Returns the encoder without a head: a vea network (``vea_...``), a timm ViT or another timm model.

    Raises:
        VeaError: the name is not known or the arguments do not fit.
    """
    encoder = config.encoder
    if encoder.name.startswith("vea_"):
        return build_network(encoder.name, channels=config.channels, args=encoder.args)
    if encoder.name.startswith("vit_"):
        from vea.models.vit import build_encoder

        return build_encoder(encoder, image_size=image_size, channels=config.channels, drop_path=config.drop_path)
    if not timm.is_model(encoder.name):
        nearest = did_you_mean(encoder.name, timm.list_models())
        raise VeaError(f"model.encoder.name: {encoder.name!r} is not a model of timm{nearest}")
    arguments = {"drop_path_rate": config.drop_path} if config.drop_path else {}
    overlay = {"file": encoder.pretrained} if encoder.pretrained else None  # timm adapts channels and drops its head
    try:
        return timm.create_model(
            encoder.name,
            pretrained=overlay is not None,
            pretrained_cfg_overlay=overlay,
            in_chans=config.channels,
            num_classes=0,
            **{**arguments, **encoder.args},
        )
    except (TypeError, RuntimeError, OSError) as error:
        raise VeaError(f"model.encoder {encoder.name}: {str(error).splitlines()[0]}") from None
