"""Cross-entropy over soft targets: smoothing, vote distributions, mixing and missing labels in one form.

A target is a row of non-negative masses over the classes; a missing label is a row of zeros, which adds nothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vea.taxonomy.fields import LabelField


def soft_targets(labels: Tensor, *, field: LabelField, smoothing: float = 0.0) -> Tensor:
    """Returns (B, C) float32 rows that sum to 1, or to 0 where the label is missing.

    Args:
        labels: int64 (B,) with -1 for missing (kind ``class``), or float (B, C) votes with NaN rows for missing
            (kind ``distribution``); votes are divided by their sum, and a row without votes is missing too.
        field: what the labels mean.
        smoothing: mass spread evenly over the classes (Szegedy et al. 2016, section 7); votes are soft already and
            stay as they are.
    """
    if field.kind == "distribution":
        votes = labels.float().nan_to_num(0.0).clamp(min=0.0)
        return votes / votes.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    known = labels >= 0
    rows = F.one_hot(labels.clamp(min=0), len(field.classes)).float()
    rows = rows * (1 - smoothing) + smoothing / len(field.classes)
    return rows * known[:, None]


def soft_cross_entropy(
    logits: Tensor, targets: Tensor, *, weights: Tensor | None = None, prior: Tensor | None = None, gamma: float = 0.0
) -> Tensor:
    """Returns the summed cross-entropy of (B, C) logits against (B, C) soft targets, divided by B; fp32 scalar.

    The divisor is the batch, not the number of labelled rows: the mean over micro-batches and ranks is then the loss
    of the global batch, however the missing labels fall.

    Args:
        logits: (B, C).
        targets: (B, C) masses; a row of zeros has no label.
        weights: (C,) of ``vea.losses.affect.class_weights``, for rare classes.
        prior: (C,) tau times log class frequencies, added to the logits (Menon et al. 2021, logit adjustment).
        gamma: of the focal loss (Lin et al. 2017); 0 is off.
    """
    log_p = F.log_softmax(logits.float() if prior is None else logits.float() + prior, dim=1)
    cost = targets * log_p
    if gamma:
        cost = cost * (1 - log_p.exp()) ** gamma
    return -(cost if weights is None else cost * weights).sum() / len(logits)


def imitation(
    logits: Tensor,
    teachers: Tensor,
    *,
    kind: str = "class",
    temperature: float = 1.0,
    rows: Tensor | None = None,
) -> Tensor:
    """Returns how far the student is from its teachers' mean answer, mean over samples; fp32 scalar.

    Classes: KL(teachers || student) of softened probabilities, times temperature squared to keep the gradients' size
    at every temperature (Hinton et al. 2015, section 2). Label sets: cross-entropy with the teachers' probabilities,
    values: squared error, mean over classes or dimensions (arXiv 2502.03979).

    Args:
        logits: (B, C) of the student.
        teachers: (K, B, C) of K teachers; no gradient reaches them.
        kind: of the label, as in ``LabelField``.
        temperature: by which the logits of classes are divided.
        rows: (B,) weight of each sample; None is 1.
    """
    logits, teachers = logits.float(), teachers.detach().float()
    if kind == "value":
        cost = (logits - teachers.mean(0)).square().mean(1)
    elif kind == "multilabel":
        wanted = teachers.sigmoid().mean(0)
        cost = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
    else:
        log_p = F.log_softmax(logits / temperature, dim=1)
        log_q = F.log_softmax(teachers / temperature, dim=2).logsumexp(0) - math.log(len(teachers))
        cost = (log_q.exp() * (log_q - log_p)).sum(1) * temperature**2
    return (cost if rows is None else cost * rows).mean()


def calibrated(targets: Tensor, answer: Tensor) -> Tensor:
    """Returns (B, C) targets in which ``answer`` replaces the rows whose class it disagrees with (arXiv 2410.09865).

    Args:
        targets: (B, C) masses; a row of zeros has no label and stays without.
        answer: (B, C) probabilities, the mean over recognisers.
    """
    differs = (targets.sum(1) > 0) & (targets.argmax(1) != answer.argmax(1))
    return torch.where(differs[:, None], answer.to(targets.dtype), targets)


def mix_images(images: Tensor, *, mixup: float, cutmix: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (mixed images, partner (B,), share (1,)): sample i is ``share`` of i and the rest of ``partner[i]``.

    Mixup (Zhang et al. 2018) with lambda ~ Beta(mixup, mixup), or CutMix (Yun et al. 2019) with Beta(cutmix, cutmix);
    where both are above 0 one of them is drawn evenly, as timm does. Targets mix by ``mix_targets``. Randomness comes
    from torch's CPU generator, which the engine seeds each step.

    Args:
        images: (B, C, H, W) float.
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of cutmix; 0 is off.
    """
    use_cutmix = cutmix > 0 and (mixup <= 0 or torch.rand(()).item() < 0.5)
    alpha = cutmix if use_cutmix else mixup
    share = torch.distributions.Beta(alpha, alpha).sample().item()
    partner = torch.randperm(len(images))
    others = images[partner.to(images.device)]
    if not use_cutmix:
        mixed = share * images + (1 - share) * others
    else:
        height, width = images.shape[2:]
        side = (1 - share) ** 0.5
        cut_h, cut_w = int(height * side), int(width * side)
        center_y, center_x = int(torch.randint(height, ())), int(torch.randint(width, ()))
        top, bottom = max(center_y - cut_h // 2, 0), min(center_y - cut_h // 2 + cut_h, height)
        left, right = max(center_x - cut_w // 2, 0), min(center_x - cut_w // 2 + cut_w, width)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)  # the box may have been cut at the border
    return mixed, partner.to(images.device), torch.tensor(share, device=images.device)


def mix_targets(targets: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Returns (B, C): the targets mixed as ``mix_images`` mixed the images."""
    return share * targets + (1 - share) * targets[partner]
