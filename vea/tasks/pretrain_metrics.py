"""What a pretraining run measures on its validation sets."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vea.distributed import collectives
from vea.errors import VeaError
from vea.losses.similarity import collapse_signs
from vea.metrics.codes import information, perplexity
from vea.tasks.base import Batch

if TYPE_CHECKING:
    from vea.tasks.pretrain import PretrainTask


LABEL = "label of the bank's field"


class PretrainMetrics:
    """Mean parts of the loss over a validation set, and the signs of collapse of the whole set.

    Parts over samples are computed on blocks of about ``data.global_batch_size`` samples, so that they compare with the
    training curve, in an order by a hash of the key: neither ranks nor the evaluation's batch size change them.
    """

    def __init__(self, task: PretrainTask) -> None:
        self._task = task
        self._rows: list[tuple[list[str], dict[str, Tensor]]] = []
        bank = task.config.model.bank
        self._field = bank.field if bank is not None and task.model.bank is not None else None

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Adds one batch; padding is left out."""
        valid = batch.get("valid")
        keep = torch.ones(len(batch["keys"]), dtype=torch.bool) if valid is None else valid.cpu().bool()
        keys = [key for key, kept in zip(batch["keys"], keep.tolist()) if kept]
        if keys:
            found = {name: rows.float().cpu()[keep] for name, rows in outputs.items()}
            if self._field is not None:
                found[LABEL] = batch["labels"][self._field].cpu()[keep]
            self._rows.append((keys, found))

    def compute(self) -> dict[str, float]:
        """Returns ``loss`` (weighted), its parts, ``gamma_std`` and ``gamma_rank``; collective.

        With a bank also ``bank_perplexity`` and, of its ``field``, ``bank_information`` in bits.
        """
        batches = [part for rank in collectives.gather_objects(self._rows) for part in rank]
        if not batches:
            raise VeaError("data.val: no sample of the validation sets can be used; check them with `vea shards check`")
        keys = [key for names, _ in batches for key in names]
        order = torch.tensor(sorted(range(len(keys)), key=lambda i: (_hash(keys[i]), keys[i])))
        rows = {name: torch.cat([part[name] for _, part in batches])[order] for name in batches[0][1]}
        task = self._task
        result = {name: float(rows[name].double().mean()) for name in task.weights if name in rows}
        label = rows.pop(LABEL, None)
        rows = {name: value for name, value in rows.items() if name not in result}
        signs: dict[str, float] = {}
        if "paired" in rows:
            result |= self._over_blocks(rows)
        embedding = rows.get("gamma", rows.get("scene_text"))
        if embedding is not None:
            signs = {name: float(value) for name, value in collapse_signs(embedding).items()}
        if task.model.bank is not None:
            codes = rows["codes"].long()
            signs["bank_perplexity"] = float(perplexity(codes, count=len(task.model.bank.codes)))
            if label is not None and (label >= 0).any():
                signs["bank_information"] = information(codes[label >= 0], label[label >= 0])
        return {"loss": sum(task.weights[name] * result[name] for name in task.weights), **result, **signs}

    @torch.no_grad()
    def _over_blocks(self, rows: dict[str, Tensor]) -> dict[str, float]:
        """Returns each part over samples: the mean of the blocks, weighted by their samples with a text."""
        task, device = self._task, self._task.mean.device
        count = len(rows["paired"])
        num_blocks = max(1, round(count / task.config.data.global_batch_size))
        sums: dict[str, float] = {}
        paired = 0.0
        for block in torch.arange(count).tensor_split(num_blocks):
            compared = {name: value[block].to(device) for name, value in rows.items()}
            weight = float(compared["paired"].sum())
            paired += weight
            for name, value in task._over_samples(compared).items():
                sums[name] = sums.get(name, 0.0) + weight * float(value)
        return {name: value / max(paired, 1.0) for name, value in sums.items()}


def _hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8).digest()
