"""Metrics of label sets."""

from __future__ import annotations

import torch
from torch import Tensor

from vea.distributed import collectives
from vea.errors import VeaError
from vea.metrics.captions import caption_scores as caption_scores  # one place to find metrics
from vea.metrics.classification import ClassificationMetrics, refuse_broken


class MultilabelMetrics(ClassificationMetrics):
    """Collects label sets: scores (B, C) in [0, 1] and multi-hot targets (B, C), rows of NaN without a label."""

    def update(self, scores: Tensor, target: Tensor, *, valid: Tensor | None = None) -> None:
        """Adds a batch."""
        keep = ~target.isnan().any(1)
        keep = keep if valid is None else keep & valid
        self._probabilities.append(scores.detach()[keep].float().cpu())
        self._targets.append(target.detach()[keep].long().cpu())
        self._gathered = None

    def gather(self) -> tuple[Tensor, Tensor]:
        """Returns (N, C) scores and (N, C) targets of all ranks; collective."""
        if self._gathered is None:
            empty = torch.zeros(0, len(self.classes))
            parts = collectives.gather_objects(
                (torch.cat([empty, *self._probabilities]), torch.cat([empty.long(), *self._targets]))
            )
            self._gathered = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
            refuse_broken(self._gathered[0])
        return self._gathered

    def compute(self) -> dict[str, float]:
        """Returns mAP over the classes that occur, macro_f1 at 0.5 over them, and ap/CLASS; collective."""
        scores, targets = self.gather()
        if len(targets) == 0:
            raise VeaError(f"no sample has a label among {', '.join(self.classes)}; choose another split or target")
        from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

        found = targets.any(0)
        if not found.any():
            raise VeaError(f"no sample has any of {', '.join(self.classes)}: there is nothing to find; choose another "
                           "split or target")  # fmt: skip
        each = multilabel_average_precision(scores, targets, num_labels=len(self.classes), average="none")
        f1 = multilabel_f1_score(scores, targets, num_labels=len(self.classes), average="none")
        result = {"mAP": float(each[found].mean()), "macro_f1": float(f1[found].mean())}
        return result | {f"ap/{name}": float(each[i]) for i, name in enumerate(self.classes) if found[i]}
