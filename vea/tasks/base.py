"""The Task protocol: model + loss. The engine knows only this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor, nn

if TYPE_CHECKING:  # the engine imports this module, and no data
    from vea.data.loading.items import ItemSpec

Batch = dict[str, Any]


class Metrics(Protocol):
    """Collects predictions of an evaluation over all ranks and sums them up."""

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Adds one batch; rows with ``batch["valid"] == False`` are padding and are left out."""

    def compute(self) -> dict[str, float]:
        """Returns scalar metrics by name, the same on every rank."""

    # Fine-tuned tasks, for finetune/evaluate.py, also have ``report() -> {"targets", "predictions", ...}``.


class Task(nn.Module):
    """Model + loss. ``forward`` is the training step, so that DDP can wrap a task.

    Subclasses keep everything they need for a step in ``self`` and never see ranks except through
    ``vea.distributed``.
    """

    def forward(self, batch: Batch, *, step: int) -> dict[str, Tensor]:
        """Returns ``{"loss": scalar, part: scalar, ...}`` for one micro-batch; scalars are fp32 and on the device.

        A part keeps its gradient: where the loss is a part itself, torch.compile would take a detached one for both.
        """
        raise NotImplementedError  # abstract

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns per-sample outputs (B, ...) for evaluation, without gradients."""
        raise NotImplementedError  # abstract

    def item_spec(self) -> ItemSpec:
        """Returns how a sample becomes an item of this task's batches, and what stands where there is none."""
        raise NotImplementedError  # abstract

    def new_metrics(self) -> Metrics:
        """Returns an empty collector for one pass over a validation set."""
        raise NotImplementedError  # abstract

    def load_pretrained(self, path: str) -> str:
        """Loads the weights that ``train.init_from`` names, and returns in words what was loaded."""
        raise NotImplementedError  # abstract

    def trunk(self) -> nn.Module:
        """Returns the module with timm's ``group_matcher``, used for layer-wise learning-rate decay."""
        raise NotImplementedError  # abstract

    def metadata(self) -> dict[str, Any]:
        """Returns what a checkpoint must carry beside weights: class names by target, input size and statistics."""
        return {}

    def check_metadata(self, metadata: dict[str, Any]) -> None:
        """Raises ``VeaError`` when a checkpoint's metadata contradicts this task, e.g. other class names or order."""

    def state_to_save(self) -> dict[str, Tensor]:
        """Returns the state dict without frozen teachers."""
        return self.state_dict()

    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        """Returns uint8 pictures (H, W, 3) by name for the report, made from one fixed batch."""
        return {}
