"""Which way is better: a metric's direction belongs to the metric, never to the name of the label it is measured on."""

from __future__ import annotations

from vea.errors import VeaError, did_you_mean

HIGHER = {
    *(
        "accuracy",
        "accuracy_top3",
        "balanced_accuracy",
        "macro_f1",
        "micro_f1",
        "f1",
        "f",
        "recall",
        "precision",
        "mAP",
    ),
    *("auroc", "jaccard", "hit_rate", "ccc", "pearson", "spearman", "kappa", "gamma_rank", "gamma_std", "score"),
    *("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "meteor", "cider", "emotion_accuracy", "ea", "unique"),
}
LOWER = {
    *("loss", "nll", "ece", "brier", "rmse", "mae", "mse", "error", "perplexity"),
    *("reconstruction", "similarity", "contrastive", "person_reconstruction", "infonce", "sigmoid", "distillation"),
}


def higher_is_better(name: str) -> bool:
    """Returns the direction of a metric, named ``METRIC``, ``TARGET/METRIC`` or ``TARGET/METRIC/CLASS``.

    Raises:
        VeaError: no metric of that name has a direction.
    """
    parts = name.split("/")
    metric = parts[-2] if len(parts) > 2 else parts[-1]
    if metric in HIGHER or metric.startswith(("image_to_text_r", "text_to_image_r", "bleu")):
        return True
    if metric in LOWER or parts[0] == "loss":
        return False
    raise VeaError(f"select_by: which way {name!r} is better is not known{did_you_mean(metric, HIGHER | LOWER)}")
