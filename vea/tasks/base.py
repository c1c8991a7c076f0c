"""The Task protocol: model + loss. The engine knows only this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
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

    A task whose loss is no mean over samples (contrast, concordance, a mean over tokens) says ``relates_samples`` and
    divides ``forward`` into ``rows``, what the loss needs of each sample, and ``loss_of`` the rows of many. Where a
    global batch takes several forwards the engine then makes two passes (Gao et al. 2021, arXiv 2101.06983, section
    3.2): ``rows`` of all without gradient, ``loss_of`` the whole, and ``rows`` again, which its gradient goes through.
    """

    relates_samples = False
    constant_rows: frozenset[str] = frozenset()  # rows that no gradient goes through: teachers, labels

    def forward(self, batch: Batch, *, step: int) -> dict[str, Tensor]:
        """Returns ``{"loss": scalar, part: scalar, ...}`` for one micro-batch; scalars are fp32 and on the device.

        A part keeps its gradient: where the loss is a part itself, torch.compile would take a detached one for both.
        """
        raise NotImplementedError  # abstract

    def rows(self, batch: Batch, *, step: int) -> dict[str, Tensor]:
        """Returns what ``loss_of`` needs of each sample, (B, ...) by name, or of the batch, (1, ...).

        In the second pass ``batch["known"]`` holds the ``constant_rows`` of the first: they need not be made again.
        """
        raise NotImplementedError  # abstract

    def loss_of(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns what ``forward`` returns, from the rows of all samples of this rank; it brings the ranks together.

        The mean over ranks is the loss of the global batch. Of the parameters it uses ``loss_parameters`` only.
        """
        raise NotImplementedError  # abstract

    def loss_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters that ``loss_of`` itself uses."""
        return []

    def pull(self, rows: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Tensor]]:
        """Returns ``loss_of`` the rows without gradient, and its gradients: of rows by name, of ``loss_parameters``."""
        with torch.enable_grad():
            moving = [name for name in rows if name not in self.constant_rows and rows[name].is_floating_point()]
            leaves = {name: rows[name].detach().requires_grad_() for name in moving}
            own = self.loss_parameters()
            outputs = type(self).loss_of(self, {**rows, **leaves})
            found = torch.autograd.grad(outputs["loss"], [*leaves.values(), *own], materialize_grads=True)
        detached = {name: value.detach() for name, value in outputs.items()}
        return detached, dict(zip(moving, found)), list(found[len(moving) :])

    def pulled(
        self, batch: Batch, *, step: int, rows: dict[str, Tensor], parameters: list[Tensor]
    ) -> dict[str, Tensor]:
        """Returns ``rows`` of a batch and a ``loss`` that has the gradients that ``pull`` found for them."""
        made = type(self).rows(self, batch, step=step)
        terms = [(made[name] * gradient).sum() for name, gradient in rows.items() if made[name].requires_grad]
        terms += [(own * gradient).sum() for own, gradient in zip(self.loss_parameters(), parameters)]
        return {**made, "loss": torch.stack(terms).sum()}

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
