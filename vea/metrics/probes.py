"""Probes of frozen features: linear, ridge and nearest neighbours, each chosen on a validation split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vea.metrics.bootstrap import bootstrap_interval
from vea.metrics.classification import refuse_broken
from vea.metrics.values import concordance, rmse
from vea.taxonomy.fields import LabelField

DECAYS = [10.0**power for power in range(-5, 3)]  # on standardised features, for the mean loss
RIDGES = [10.0**power for power in range(-4, 5)]  # per sample, times the number of samples
NEIGHBOURS = (1, 5, 10, 20, 50, 100)
SHARES = (0.01, 0.05, 0.10)
Split = tuple[Tensor, Tensor]  # features (N, D) fp32, labels (N,)


def fit_linear(x: Tensor, y: Tensor, *, classes: int, decay: float, start: Tensor | None = None) -> Tensor:
    """Returns (D + 1, C): multinomial logistic regression by L-BFGS, mean cross-entropy + decay / 2 |W|^2.

    Args:
        x: (N, D), standardised.
        y: int64 (N,).
        classes: C.
        decay: of the weights; the bias, the last row, has none.
        start: weights to start from.
    """
    weights = (torch.zeros(x.shape[1] + 1, classes) if start is None else start.clone()).requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weights[:-1] + weights[-1], y) + decay / 2 * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return weights.detach()


def fit_ridge(x: Tensor, y: Tensor, *, ridge: float) -> Tensor:
    """Returns (D + 1,): ridge regression in closed form, the penalty ``ridge`` times the number of rows; float64."""
    x, y = x.double(), y.double()
    centre, middle = x.mean(0), y.mean()
    gram = (x - centre).T @ (x - centre) + ridge * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    slope = torch.linalg.solve(gram, (x - centre).T @ (y - middle))
    return torch.cat([slope, (middle - centre @ slope)[None]])


def grouped_ridge(x: Tensor, y: Tensor, groups: Tensor, *, folds: int = 5) -> tuple[Tensor, list[float]]:
    """Returns ((D + 1, T) weights for rows as given, T penalties): ridge whose penalty suits groups left out.

    Features are standardised by their own rows. For each target the penalty of ``RIDGES`` is taken whose predictions
    for left-out groups have the best CCC; groups never cross the ``folds``. One eigendecomposition a fold serves all
    penalties and targets; float64.

    Args:
        x: (N, D).
        y: (N, T).
        groups: int (N,), equal where pictures belong together.
        folds: how many parts of the groups are left out in turn.
    """
    names, numbers = groups.unique(return_inverse=True)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))
    fold = order[numbers] % folds
    left_out = torch.empty(len(RIDGES), *y.shape, dtype=torch.float64)
    for k in range(folds):
        weights = _ridges(x[fold != k], y[fold != k])
        left_out[:, fold == k] = x[fold == k].double() @ weights[:, :-1] + weights[:, -1:]
    targets = range(y.shape[1])
    best = [max(range(len(RIDGES)), key=lambda i: ccc(left_out[i, :, t], y[:, t])) for t in targets]
    weights = _ridges(x, y)
    return torch.stack([weights[best[t], :, t] for t in targets], 1), [RIDGES[i] for i in best]


def _ridges(x: Tensor, y: Tensor) -> Tensor:
    """Returns (R, D + 1, T) float64: the ridge of each penalty of ``RIDGES`` on standardised features, for raw ones."""
    x, y = x.double(), y.double()
    centre, deviation, middle = x.mean(0), x.std(0).clamp(min=1e-6), y.mean(0)
    z = (x - centre) / deviation
    values, vectors = torch.linalg.eigh(z.T @ z)
    turned = vectors.T @ (z.T @ (y - middle))  # (D, T)
    penalties = torch.tensor(RIDGES, dtype=torch.float64) * len(x)
    slopes = vectors @ (turned / (values + penalties[:, None])[..., None]) / deviation[:, None]  # (R, D, T)
    return torch.cat([slopes, (middle - centre @ slopes)[:, None]], 1)


def ccc(prediction: Tensor, target: Tensor) -> float:
    """Returns the concordance correlation coefficient (Lin 1989) of two (N,) vectors."""
    return float(concordance(torch.stack([prediction, target], 1).double().numpy()[None])[0])


def neighbours(train: Split, x: Tensor, *, k: int, classes: int | None) -> Tensor:
    """Returns the votes (N, C) of the k nearest rows by cosine, weighted by exp(cos / 0.07); their mean for values."""
    rows, labels = F.normalize(train[0], dim=1), train[1]
    answers = []
    for block in F.normalize(x, dim=1).split(512):
        near, index = (block @ rows.T).topk(min(k, len(rows)), dim=1)
        weight = (near / 0.07).softmax(1)
        if classes is None:
            answers.append((weight * labels[index]).sum(1))
        else:
            answers.append(torch.zeros(len(block), classes).scatter_add_(1, labels[index], weight))
    return torch.cat(answers)


@dataclass(frozen=True)
class Chosen:
    """A probe with everything chosen on validation: what was chosen, its score there, and how it answers."""

    setting: float
    validation: float
    answer: Callable[[Tensor], Tensor]


def metric(answers: Tensor, labels: Tensor, *, field: LabelField) -> float:
    """Returns accuracy for classes, CCC for values; -inf, which nothing chooses, where an answer is not a number."""
    if not answers.isfinite().all():
        return float("-inf")
    return ccc(answers, labels) if field.kind == "value" else float((answers.argmax(1) == labels).double().mean())


def report(answers: Tensor, labels: Tensor, *, field: LabelField) -> dict[str, Any]:
    """Returns ``test`` as ``metric`` does, its 95 % bootstrap ``interval`` and, for values, ``rmse``."""
    refuse_broken(answers)
    if field.kind == "value":
        pairs = torch.stack([answers, labels], 1).double().numpy()
        found = {"interval": bootstrap_interval(pairs, concordance), "rmse": float(rmse(pairs[None])[0])}
    else:
        found = {"interval": bootstrap_interval((answers.argmax(1) == labels).double().numpy())}
    return {"test": metric(answers, labels, field=field), **found}


def constant(train: Tensor, test: Tensor, *, field: LabelField) -> dict[str, Any]:
    """Returns the scores of always answering the training mean, or the most frequent training class."""
    if field.kind == "value":
        answers = train.mean().expand(len(test))
    else:
        answers = torch.bincount(train, minlength=len(field.classes)).expand(len(test), -1)
    return report(answers, test, field=field)


def linear_probe(train: Split, val: Split, *, field: LabelField) -> Chosen:
    """Returns the linear probe (ridge for values) whose penalty does best on ``val``."""
    mean, deviation = train[0].mean(0), train[0].std(0).clamp(min=1e-6)
    x, x_val = ((rows - mean) / deviation for rows in (train[0], val[0]))
    best: Chosen | None = None
    start = None
    for penalty in reversed(RIDGES if field.kind == "value" else DECAYS):  # strong first: each starts the next
        if field.kind == "value":
            weights = fit_ridge(x, train[1], ridge=penalty).float()
        else:
            start = weights = fit_linear(x, train[1], classes=len(field.classes), decay=penalty, start=start)

        def answer(rows: Tensor, weights: Tensor = weights) -> Tensor:
            return (rows - mean) / deviation @ weights[:-1] + weights[-1]

        found = metric(x_val @ weights[:-1] + weights[-1], val[1], field=field)
        if best is None or found > best.validation:
            best = Chosen(penalty, found, answer)
    assert best is not None
    return best


def nearest_probe(train: Split, val: Split, *, field: LabelField) -> Chosen:
    """Returns the nearest-neighbour probe whose k does best on ``val``."""
    classes = None if field.kind == "value" else len(field.classes)
    scores = {k: metric(neighbours(train, val[0], k=k, classes=classes), val[1], field=field) for k in NEIGHBOURS}
    k = max(scores, key=lambda count: scores[count])
    return Chosen(k, scores[k], lambda rows: neighbours(train, rows, k=k, classes=classes))


def subset(labels: Tensor, *, share: float, seed: int, field: LabelField) -> Tensor:
    """Returns the numbers of a share of the rows, drawn within each class, at least one of each (values: of all)."""
    generator = torch.Generator().manual_seed(seed)
    groups = [torch.arange(len(labels))] if field.kind == "value" else [
        (labels == c).nonzero()[:, 0] for c in labels.unique()
    ]  # fmt: skip
    least = 2 if field.kind == "value" else 1
    return torch.cat([g[torch.randperm(len(g), generator=generator)[: max(least, round(share * len(g)))]]
                      for g in groups])  # fmt: skip


def choose(train: Split, val: Split, *, field: LabelField, seeds: int) -> dict[str, list[Chosen]]:
    """Returns the probes by name, one for all labels and one for each draw of a share of them."""
    probes = {"linear": [linear_probe(train, val, field=field)], "knn": [nearest_probe(train, val, field=field)]}
    for share in SHARES:
        draws = [subset(train[1], share=share, seed=seed, field=field) for seed in range(seeds)]
        probes[f"linear {share:.0%}"] = [
            linear_probe((train[0][rows], train[1][rows]), val, field=field) for rows in draws
        ]
    return probes
