"""Fine-tune an encoder to recognise facial expressions.

    python finetune/expression.py configs/finetune/expression_faces_vit.yaml        # from scratch
    python finetune/expression.py configs/finetune/expression_faces_vit.yaml \\
        train.init_from=runs/faces name=expression-faces-vit-pretrained             # from a pretraining run
    python finetune/evaluate.py runs/expression-faces-vit --split test              # what it learned
"""

from __future__ import annotations

import sys
from functools import partial

import torch

from vea import runtime as vea_runtime
from vea.config import ExpressionConfig, config_from_command_line
from vea.data.loaders import eval_loader, train_loader
from vea.data.shards import read_index
from vea.errors import VeaError, command
from vea.labels import check_same_classes
from vea.report import write_report
from vea.tasks.expression import ExpressionTask
from vea.training.engine import fit


def label_fields(config: ExpressionConfig) -> dict:
    """Returns the label fields of the training data; every other set must have the same classes in the same order."""
    if not config.data.train or not config.data.val:
        raise VeaError("name a set in data.train and one in data.val, e.g. [{path: data/fer2013plus, split: val}]")
    first, *others = dict.fromkeys(ref.path for ref in [*config.data.train, *config.data.val])
    fields = read_index(first).fields
    for other in others:
        for name in config.targets:
            theirs = read_index(other).fields.get(name)
            if theirs is not None and name in fields:
                check_same_classes(fields[name].classes, theirs.classes, f"{other} beside {first}, label {name!r}")
    return fields


@command
def main(argv: list[str]) -> None:
    """Runs the recipe."""
    config = config_from_command_line(__doc__, argv, ExpressionConfig)
    runtime = vea_runtime.start(config.runtime, precision=config.train.precision)
    fields = label_fields(config)

    torch.manual_seed(config.seed)  # the same first weights on every rank, and in a run that is started again
    task = ExpressionTask(config, fields=fields)
    if config.train.init_from:
        loaded = task.load_pretrained(config.train.init_from)
        if runtime.is_main:
            print(f"init_from {config.train.init_from}: {loaded}", flush=True)

    place = {"rank": runtime.rank, "world_size": runtime.world_size}
    summary = fit(
        task,
        config=config,
        runtime=runtime,
        train_batches=lambda start_step, micro_batch: train_loader(
            config, views="classify", start_step=start_step, micro_batch=micro_batch, **place
        ),
        eval_batches=partial(
            eval_loader,
            config,
            views="classify",
            refs=config.data.val,
            batch_size=min(256, 2 * config.data.global_batch_size),
            **place,
        ),
    )

    if runtime.is_main:
        best = summary.best
        assert best is not None  # the last step always validates
        print(f"best: {best['metric']} {best['value']:.4f} at step {best['step']}, in {summary.run_dir / 'best'}")
        print(f"report: {write_report(summary.run_dir)}")
    vea_runtime.stop()


if __name__ == "__main__":
    sys.exit(main())
