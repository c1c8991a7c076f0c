"""Evaluate a fine-tuned run on a split it has not chosen anything by: table, JSON, report.

python finetune/evaluate.py runs/expression-ship --split test
python finetune/evaluate.py runs/expression-ship --split test --data data/other_faces   # another prepared set
python finetune/evaluate.py runs/expression-ship --split val --weights final   # writes evaluation_val_final.json
python finetune/evaluate.py runs/expression-ship --split test --calibrate --robustness --flip
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from vea.config import DatasetRef, ExplainConfig, RecogniseConfig, TemporalConfig, load_config
from vea.data.loading.loader import eval_loader
from vea.data.shards.index import read_index
from vea.distributed import collectives
from vea.distributed import runtime as vea_runtime
from vea.distributed.runtime import Runtime
from vea.errors import VeaError, command, did_you_mean
from vea.inference.evaluate import bank_use, calibrate, collect, plot_reliability
from vea.metrics.corruptions import CORRUPTIONS, STRENGTHS
from vea.metrics.text_emotion import TextEmotionClassifier
from vea.publish.report.page import write_report
from vea.storage.atomic import write_text
from vea.storage.checkpoint import find_weights, load_weights
from vea.tasks.base import Batch
from vea.tasks.recognise import RecogniseTask
from vea.tasks.recognise_metrics import RecogniseMetrics
from vea.tasks.saved import fields_of
from vea.taxonomy.fields import LabelField, merged_fields
from vea.training.steps import to_device

Record = dict[str, Any]  # of an evaluation, as in its JSON
HEADLINE = (
    "personalized",
    "generalized",
    "ccc_clips",
    "accuracy",
    "accuracy_top3",
    "balanced_accuracy",
    "macro_f1",
    "nll",
    "ece",
    "mAP",
    "ccc",
    "pearson",
    "rmse",
)


def read_run(run_dir: Path) -> RecogniseConfig | ExplainConfig | TemporalConfig:
    """Returns the resolved config of a run folder."""
    if not (run_dir / "config.yaml").is_file():
        raise VeaError(f"no run at {run_dir} (no config.yaml in it); give the folder that finetune/train.py wrote")
    config = load_config(run_dir / "config.yaml")
    if not isinstance(config, RecogniseConfig | ExplainConfig | TemporalConfig):
        raise VeaError(f"{run_dir} is a run of recipe {config.recipe!r}; evaluate.py scores fine-tuned runs")
    return config


def data_to_evaluate(
    config: RecogniseConfig | ExplainConfig | TemporalConfig, *, split: str, data: str | None
) -> list[DatasetRef]:
    """Returns ``split`` of the set at ``data``, or of the run's own validation sets."""
    paths = [data] if data else list(dict.fromkeys(ref.path for ref in config.data.val))
    for path in paths:
        splits = read_index(path).splits
        if split not in splits:
            raise VeaError(f"--split: {path} has no split {split!r}{did_you_mean(split, splits)}")
    return [DatasetRef(path=path, split=split) for path in paths]


def print_tables(target: str, result: dict[str, Any], *, title: str, console: Console) -> None:
    """Prints the headline numbers, and the recall and confusion of every class."""
    headline = Table(title=f"{target}: {title}, {result['samples']} samples", title_justify="left")
    for column in ("metric", "value", "95 % interval"):
        headline.add_column(column, justify="left" if column == "metric" else "right")
    for name in HEADLINE:
        if name in result["metrics"]:
            bounds = result["intervals"].get(name)
            shown = f"{bounds[0]:.4f} - {bounds[1]:.4f}" if bounds else ""
            headline.add_row(name, f"{result['metrics'][name]:.4f}", shown)
    console.print(headline)
    if "classes" not in result:
        return

    classes = result["classes"]
    table = Table(title=f"{target}: rows are the truth, columns the prediction", title_justify="left")
    table.add_column("class")
    for name in ("n", "recall", "95 % interval", *(name[:9] for name in classes)):
        table.add_column(name, justify="right", no_wrap=True)
    for index, name in enumerate(classes):
        recall, bounds = result["metrics"].get(f"recall/{name}"), result["intervals"].get(f"recall/{name}")
        table.add_row(
            name,
            str(result["samples_per_class"][index]),
            "-" if recall is None else f"{recall:.3f}",
            "-" if bounds is None else f"{bounds[0]:.3f}-{bounds[1]:.3f}",
            *(str(count) for count in result["confusion"][index]),
        )
    console.print(table)


def print_against_blind(
    results: dict[str, Any], blind: dict[str, dict[str, Any]], *, title: str, console: Console
) -> None:
    """Prints one line per target: what the model reaches, and what chance and the most frequent class do."""
    table = Table(title=f"{title}: against no look at the picture", title_justify="left")
    for column in ("target", "samples", "metric", "chance", "majority", "model", "95 % interval"):
        table.add_column(column, justify="left" if column in ("target", "metric") else "right")
    for name, result in results.items():
        metric = blind[name]["metric"]
        bounds = result["intervals"].get(metric)
        table.add_row(
            name,
            str(result["samples"]),
            metric,
            *(f"{blind[name][column]:.3f}" for column in ("chance", "majority")),
            f"{result['metrics'][metric]:.3f}",
            f"{bounds[0]:.3f} - {bounds[1]:.3f}" if bounds else "",
        )
    console.print(table)


def print_results(report: dict[str, Any], *, title: str) -> None:
    """Prints every target's tables; of sentences, their scores beside those of sentences on another picture."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    for target, result in report["targets"].items():
        scores = result["metrics"]
        if any(name.startswith("swapped/") for name in scores):
            table = Table(title=f"{title}: {result['samples']} pictures")
            for column in ("score", "the picture", "another picture"):
                table.add_column(column)
            for name, value in scores.items():
                if not name.startswith("swapped/"):
                    other = scores.get(f"swapped/{name}")
                    table.add_row(name, f"{value:.4f}", "-" if other is None else f"{other:.4f}")
            console.print(table)
        else:
            print_tables(target, result, title=title, console=console)
    if "blind" in report:
        print_against_blind(report["targets"], report["blind"], title=title, console=console)
    for name, value in report.get("bank", {}).items():
        console.print(f"bank: {name} {value:.3f}")
    for target, fitted in (report.get("calibration") or {}).items():
        (ece, ece_after), t = fitted["ece"], fitted["temperature"]
        console.print(f"{target}: temperature {t:.3f} from val; ECE {ece:.4f} -> {ece_after:.4f}")
    for target, result in report["targets"].items() if "robustness" in report else ():
        name = next(name for name in ("accuracy", "mAP", "ccc") if name in result["metrics"])
        table = Table(title=f"{target}: {name} of worse images, by strength", title_justify="left")
        for column in ("corruption", *map(str, STRENGTHS)):
            table.add_column(column)
        for kind, rows in report["robustness"].items():
            table.add_row(kind, *(f"{row[f'{target}/{name}']:.4f}" for row in rows))
        console.print(table)


def explanations(given: argparse.Namespace, config: ExplainConfig, refs: list[DatasetRef], runtime: Runtime) -> Record:
    """Returns what a model writes, with and without the right picture before it (the shuffled-image control)."""
    from vea.inference.explain import load_explainer

    folder = find_weights(given.run)
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    task = load_explainer(given.run, device=str(runtime.device))
    task.control = True
    if given.beams is not None:
        task.config.generate.method, task.config.generate.beams = "beam", given.beams
    spec, place = task.item_spec(), {"batch_size": 64, "rank": runtime.rank, "world_size": runtime.world_size}
    metrics, learned = task.new_metrics(), []
    for batch in eval_loader(task.config, spec, refs=task.config.data.train, **place):
        valid = batch["valid"].tolist()
        learned += [pair for pairs, known in zip(task.candidates(batch), valid) if known for pair in pairs]
    learned = sorted(pair for pairs in collectives.gather_objects(learned) for pair in pairs)
    if len({emotion for emotion, _ in learned}) > 1:
        metrics.judge = TextEmotionClassifier([text for _, text in learned], [emotion for emotion, _ in learned])
    for batch in eval_loader(task.config, spec, refs=refs, **place):
        batch = to_device(batch, runtime.device)
        with torch.no_grad():
            metrics.update(task.predict(batch), batch)
    return {
        "weights": {"kind": folder.name, "step": state.get("step"), "best": state.get("best")},
        "generate": task.config.generate.model_dump(mode="json"),
        **metrics.report(),
    }


def open_recogniser(
    given: argparse.Namespace, config: RecogniseConfig, refs: list[DatasetRef]
) -> tuple[RecogniseTask, dict[str, LabelField], dict[str, Any]]:
    """Returns the task with the weights that are asked for, the labels of it that ``refs`` have, and its state."""
    wanted = "best" if given.weights == "best" else "final"
    folder = find_weights(given.run, prefer=wanted)
    if folder.name != wanted:
        raise VeaError(f"{given.run} has no {wanted}/ weights yet (it has {folder.name}); let the run finish")
    weights, state = load_weights(folder, ema=given.weights == "ema")
    # a model of several data sets is scored on the labels that these sets have
    there = merged_fields({ref.path: read_index(ref.path).fields for ref in refs}, used=config.targets)
    scored = {name: there[name] for name in config.targets if name in there}
    if not scored:
        name = next(iter(config.targets))
        near = did_you_mean(name, there)
        raise VeaError(f"{', '.join(ref.path for ref in refs)}: no label {name!r}{near}; nothing to score")
    task = RecogniseTask(config, fields={**fields_of(state["task"]), **scored})
    try:  # the heads' names are the checkpoint's, so data with other names or another order is refused
        task.check_metadata(state["task"])
    except VeaError as error:
        raise VeaError(f"{folder} cannot be evaluated on {', '.join(ref.path for ref in refs)}: {error}") from None
    task.load_state_dict(weights)
    config.targets = {name: config.targets[name] for name in scored}  # what the loader reads
    return task, scored, state


def recognition(given: argparse.Namespace, config: RecogniseConfig, refs: list[DatasetRef], runtime: Runtime) -> Record:
    """Returns every target's numbers and predictions, and what else was asked for."""
    task, scored, state = open_recogniser(given, config, refs)
    task.to(runtime.device)

    def batches(sets: list[DatasetRef]) -> Iterable[Batch]:
        return eval_loader(config, task.item_spec(), refs=sets, batch_size=given.batch_size,
                           rank=runtime.rank, world_size=runtime.world_size)  # fmt: skip

    def pass_over(sets: list[DatasetRef], worse: tuple[str, int] | None = None) -> RecogniseMetrics:
        return collect(task, batches(sets), runtime, RecogniseMetrics(scored), flip=given.flip, worse=worse)

    metrics = pass_over(refs)
    extra: Record = {"flip": given.flip}
    if given.calibrate:
        extra["calibration"] = calibrate(metrics, pass_over(config.data.val))
    if config.model.bank is not None:
        extra["bank"] = bank_use(task, batches(refs), runtime)
    if given.robustness:
        extra["robustness"] = {
            kind: [pass_over(refs, (kind, strength)).compute() for strength in STRENGTHS] for kind in CORRUPTIONS
        }
    weights = {"kind": given.weights, "step": state.get("step"), "best": state.get("best")}
    return {**extra, "weights": weights, **metrics.report()}


def over_time(given: argparse.Namespace, refs: list[DatasetRef], runtime: Runtime) -> Record:
    """Returns how near the series of clips come; the predicted ones go to ``series_SPLIT/``, a CSV a clip."""
    from vea.inference.temporal import evaluate_over_time, load_temporal

    task = load_temporal(given.run, device=str(runtime.device), kind=given.weights)
    folder = given.run / result_name(given).replace("evaluation", "series", 1)
    place = {"rank": runtime.rank, "world_size": runtime.world_size}
    return {"weights": {"kind": given.weights}, **evaluate_over_time(task, refs, folder=folder, **place)}


def parsed(argv: list[str]) -> argparse.Namespace:
    """Returns the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of finetune/train.py")
    parser.add_argument("--split", required=True)
    parser.add_argument("--data", help="a prepared set; default: the run's own validation set")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument(
        "--weights",
        choices=("best", "final", "ema"),
        default="best",
        help="best: chosen by validation; final: the last step's; ema: the last step's average",
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirrored image (test-time augmentation)")
    parser.add_argument("--calibrate", action="store_true", help="temperature fitted on val, reliability plot")
    parser.add_argument("--robustness", action="store_true", help="six corruptions at five strengths: 30 more passes")
    parser.add_argument("--beams", type=int, help="explanations: beam search with this many, not the run's own way")
    given = parser.parse_args(argv)
    if given.batch_size < 1 or (given.beams is not None and given.beams < 1):
        raise VeaError("--batch-size and --beams must be at least 1")
    return given


def result_name(given: argparse.Namespace) -> str:
    """Returns the name of the result: what was scored in another way, or on other data, replaces no other result.

    ``evaluation_SPLIT`` is that of the run's own data, its best weights and one view; others carry what differs.
    """
    parts = [f"evaluation_{given.split}"]
    if given.data:
        parts.append(re.sub(r"[^A-Za-z0-9.-]+", "-", Path(str(given.data)).name) or "data")
    if given.weights not in ("best", None):
        parts.append(given.weights)
    if given.flip:
        parts.append("flip")
    if given.beams is not None:
        parts.append(f"beams{given.beams}")
    return "_".join(parts)


@command
def main(argv: list[str]) -> None:
    """Runs the evaluation."""
    given = parsed(argv)
    config = read_run(given.run)
    if given.beams and not isinstance(config, ExplainConfig):
        raise VeaError(f"--beams is for runs that write; {given.run} is one of {config.recipe}")
    if given.calibrate and given.split == "val" and not given.data:
        raise VeaError("--calibrate fits the temperature on val; score another split with it, e.g. --split test")
    refs = data_to_evaluate(config, split=given.split, data=given.data)
    runtime = vea_runtime.start(config.runtime, precision=config.train.precision)
    if isinstance(config, TemporalConfig):
        found = over_time(given, refs, runtime)
    elif isinstance(config, ExplainConfig):
        found = explanations(given, config, refs, runtime)
    else:
        found = recognition(given, config, refs, runtime)
    if runtime.is_main:
        print_results(found, title=f"{given.run.name}, {given.split} of {', '.join(ref.path for ref in refs)}")
        if found.get("calibration"):
            plot_reliability(found["calibration"], path=given.run / "pictures" / f"reliability_{given.split}.png")
        record = {
            "format": 1,
            "split": given.split,
            "data": [ref.path for ref in refs],
            "synthetic": any(read_index(ref.path).synthetic for ref in refs),
            **found,
        }
        path = given.run / f"{result_name(given)}.json"
        write_text(path, json.dumps(record, ensure_ascii=False, separators=(",", ":")))
        print(f"wrote {path}")
        print(f"report: {write_report(given.run)}")
    vea_runtime.stop()


if __name__ == "__main__":
    sys.exit(main())
