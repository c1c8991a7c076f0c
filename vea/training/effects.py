"""Settings that were given and change nothing: refused or said when a run starts, and by the doctor."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from vea.config import FinetuneConfig, RecogniseConfig, RunConfig
from vea.config.findings import Finding
from vea.errors import VeaError

_log = logging.getLogger("vea.training")
BY_GIVEN_BETAS = ("adamw", "sgd")  # optimizers that read train.betas


def without_effect(config: RunConfig) -> Iterator[Finding]:
    """Yields the settings that were given and change nothing: ``missing`` where weights would not be taken."""
    train, model, data = config.train, getattr(config, "model", None), config.data
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, str):  # a model that ships, with weights and settings of its own (recipe temporal)
        encoder = None
    named = encoder.name if encoder is not None else ""
    if train.optimizer not in BY_GIVEN_BETAS and "betas" in train.model_fields_set:
        text = f"train.betas has no effect with train.optimizer={train.optimizer}"
        yield Finding("warning", "settings", text, "remove it, or take adamw")
    if encoder is not None and encoder.pretrained and named.startswith("vea_"):
        todo = "name a run in train.init_from, or remove it"
        yield Finding("missing", "settings", f"model.encoder.pretrained has no effect on {named}", todo)
    elif encoder is not None and encoder.pretrained and train.init_from:
        text = "model.encoder.pretrained has no effect beside train.init_from, which replaces the encoder"
        yield Finding("warning", "settings", text, "keep one of them")
    elif encoder is not None and encoder.pretrained and config.recipe != "pretrain":
        text = f"{encoder.pretrained}: ImageNet's mean and standard deviation are assumed"
        todo = "weights that learned with others (CLIP, SigLIP): `vea import-weights`, then train.init_from"
        yield Finding("warning", "settings", text, todo)
    if named.startswith("vea_") and getattr(model, "drop_path", 0):
        yield Finding("warning", "settings", f"model.drop_path has no effect on {named}", "remove it")
    if named and not named.startswith("vit_") and getattr(model, "pool", "default") != "default":
        text = f"model.pool={model.pool} has no effect on {named}, which has no tokens"  # type: ignore[union-attr]
        yield Finding("warning", "settings", text, "remove it")
    region = config.augment.region
    if region != "whole" and not isinstance(config, RecogniseConfig if region == "face" else FinetuneConfig):
        text = f"augment.region={region} has no effect with recipe {config.recipe}"
        yield Finding("missing", "settings", text, "remove it; models of labels (expression, emotion) look there")
    yield from _cache(config)
    if train.patience and not (train.eval_every and data.val):
        todo = "set train.eval_every and data.val, or remove it"
        yield Finding("warning", "settings", "train.patience has no effect without validations", todo)


def _cache(config: RunConfig) -> Iterator[Finding]:
    refs = [*config.data.train, *config.data.val]
    if refs and not any("://" in ref.path for ref in refs):
        for name in ("cache_dir", "cache_gb"):
            if name in config.data.model_fields_set and getattr(config.data, name) is not None:
                text = f"data.{name} has no effect: no data set is at an address"
                yield Finding("warning", "settings", text, "remove it")


def say_what_has_no_effect(config: RunConfig, *, aloud: bool) -> None:
    """Logs the settings that change nothing (``aloud``: on one rank).

    Raises:
        VeaError: on every rank, where weights that the config names would not be taken.
    """
    for finding in without_effect(config):
        if finding.state == "missing":
            raise VeaError(f"{finding.text}; {finding.todo}")
        if aloud:
            _log.warning("%s; %s", finding.text, finding.todo)
