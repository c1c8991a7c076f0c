"""The model card: data, use, limits as measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

import vea
from vea.data.shards.index import read_index
from vea.errors import VeaError
from vea.tasks.saved import SavedModel, preprocessing


def read_evaluations(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns {split: record} of the ``evaluation_*.json`` beside a model: in its folder, or in its run's."""
    for place in (folder, folder.parent) if folder.name in ("best", "final") else (folder,):
        found = sorted(place.glob("evaluation_*.json"))
        if found:
            read = {path.stem.removeprefix("evaluation_"): json.loads(path.read_text("utf-8")) for path in found}
            return {split: record for split, record in read.items() if isinstance(record, dict) and "targets" in record}
    return {}


_HEADLINE = ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece", "mAP", "ccc", "pearson", "rmse")
_USES = {
    "face": "names the expression of faces in pictures. An expression is not an emotion",
    "image": "names the emotion that viewers report of a picture as a whole. It says nothing of the people in it",
}


def model_card(model: SavedModel) -> str:
    """Returns README.md: front matter, data and its terms, use, and limits as the run's evaluations measured them."""
    evaluations = {} if "members" in model.state else read_evaluations(model.folder)  # those there are of one member
    config, described, pixels = model.task.config, model.task.metadata(), preprocessing(model)
    sets = list(dict.fromkeys(ref.path for ref in config.data.train))
    rows, limits, index = [], [], []
    for split, record in evaluations.items():
        names = ", ".join(Path(path).name for path in record["data"])
        for target, result in record["targets"].items():
            metrics, intervals = result["metrics"], result.get("intervals", {})
            for metric in (name for name in _HEADLINE if name in metrics):
                bounds = intervals.get(metric)
                between = f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else ""
                rows.append(f"| {names}, {split} | {target} | {result['samples']} | {metric} | {metrics[metric]:.3f} "
                            f"| {between} |")  # fmt: skip
            index.append({"task": {"type": "image-classification"}, "dataset": {"name": names, "type": names,
                          "split": split}, "metrics": [{"type": name, "name": f"{target} {name}",
                          "value": round(metrics[name], 4)} for name in _HEADLINE if name in metrics]})  # fmt: skip
            limits += _limits(target, result, f"{names}, {split}")
        for target, fitted in (record.get("calibration") or {}).items():
            before, after = fitted["ece"]
            limits.append(f"{target}: at the temperature {fitted['temperature']:.2f}, fitted on the validation split, "
                          f"not applied here, the calibration error goes from {before:.3f} to {after:.3f}")  # fmt: skip
    if any(record.get("synthetic") for record in evaluations.values()):
        limits.append("the figures above were measured on drawn (synthetic) pictures, not on photographs")
    front = {
        "library_name": "vea",
        "license": "other",
        "license_name": "terms-of-the-training-data",
        "pipeline_tag": "image-classification",
        "tags": ["vea", "emotion-recognition", config.recipe],
        "datasets": [Path(path).name for path in sets],
        "model-index": [{"name": config.name, "results": index}],
    }
    if not index:
        del front["model-index"]
    none = "No evaluation was found beside the weights: nothing is known of how well this model works."
    head = "| data | label | samples | metric | value | 95 % interval |\n|---|---|---|---|---|---|\n"
    classes = [f"- `{name}` ({described['kinds'][name]}): {', '.join(values) or _range(described, name)}"
               for name, values in described["classes"].items()]  # fmt: skip
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n# {config.name}",
        f"A model of recipe `{config.recipe}`, trained and exported with vea {vea.__version__}; encoder "
        f"`{config.model.encoder.name}`, {sum(p.numel() for p in model.task.parameters()) / 1e6:.2f} M parameters, "
        f"step {model.state.get('step', 'unknown')} of {config.train.steps}.",
        "```python\nimport vea\n(result,) = vea.load(\"DIR\").predict(\"photo.jpg\")\n```",
        "## Labels\n" + "\n".join(classes),
        f"## Input\n{pixels['crop']}, {pixels['size'][0]} x {pixels['size'][1]} pixels, {pixels['color']}.",
        "## Data and licence\n" + "\n".join(_data_line(path) for path in sets) + "\n\nThe weights come with no more "
        "rights than that data gives.",
        f"## Intended use\nResearch and teaching: it {_USES[pixels['region']]}. Not for decisions about people.",
        f"## Measured\n{head + chr(10).join(rows) if rows else none}",
        "## Limits and bias\n" + "\n".join(f"- {line}." for line in [*limits, "No evaluation here is broken down by "
        "age, sex, skin tone or culture of the people shown: differences between them are not known"]),
    ]  # fmt: skip
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _range(described: dict[str, Any], name: str) -> str:
    low, high = described["ranges"].get(name, (None, None))
    return "a number" if low is None else f"a number from {low:g} to {high:g}"


def _data_line(path: str) -> str:
    name = Path(path).name
    try:
        index = read_index(path)
    except VeaError:
        return f"- **{name}**: not on the machine that exported this; its terms are in datasets/cards of vea."
    terms, citation = index.raw.get("terms") or "Terms not stated.", index.raw.get("citation") or ""
    return f"- **{index.title}** (`{name}`). {terms} {citation}"


def _limits(target: str, result: dict[str, Any], where: str) -> list[str]:
    """Returns what an evaluation says of the classes a model is worst at, and of how unequal they are."""
    recalls = {name.removeprefix("recall/"): value for name, value in result["metrics"].items() if "recall/" in name}
    if not recalls:
        return []
    low, high = min(recalls, key=lambda n: recalls[n]), max(recalls, key=lambda n: recalls[n])
    lines = [f"{target} ({where}): recall from {recalls[low]:.2f} ({low}) to {recalls[high]:.2f} ({high})"]
    counts = dict(zip(result.get("classes", []), result.get("samples_per_class", [])))
    if counts:
        few, many = min(counts, key=lambda n: counts[n]), max(counts, key=lambda n: counts[n])
        lines.append(f"{target} ({where}): {counts[few]} samples of {few}, {counts[many]} of {many}; the figures of "
                     "rare classes are uncertain")  # fmt: skip
    return lines
