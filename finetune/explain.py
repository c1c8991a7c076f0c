"""Learn to say which emotion a picture evokes and why, in words: SEVLM, or image tokens before any language model.

    python finetune/explain.py configs/finetune/explain_synthetic.yaml      # drawn scenes, a few minutes
    python finetune/evaluate.py runs/explain-synthetic --split test         # with the shuffled-image control
    vea explain photo.jpg --model runs/explain-synthetic --emotion fear
"""

from __future__ import annotations

import sys
from functools import partial

from vea.training import preempt

if __name__ == "__main__":
    preempt.listen()  # before torch is imported: a signal in those seconds must not lose the job

import torch

from vea import runtime as vea_runtime
from vea.config import ExplainConfig, config_from_command_line
from vea.data.loaders import eval_loader, train_loader
from vea.errors import command
from vea.recipe import label_fields
from vea.report import write_report
from vea.tasks.explain import ExplainTask
from vea.training.engine import fit


@command
def main(argv: list[str]) -> None:
    """Runs the recipe."""
    config = config_from_command_line(__doc__, argv, ExplainConfig)
    runtime = vea_runtime.start(config.runtime, precision=config.train.precision)

    fields = label_fields(config)
    torch.manual_seed(config.seed)  # the same first weights on every rank, and in a run that is started again
    task = ExplainTask(config, fields=fields)
    if config.train.init_from:
        loaded = task.load_pretrained(config.train.init_from)
        if runtime.is_main:
            print(f"init_from {config.train.init_from}: {loaded}", flush=True)

    place = {"rank": runtime.rank, "world_size": runtime.world_size}
    size = min(64, config.data.global_batch_size)
    summary = fit(
        task,
        config=config,
        runtime=runtime,
        train_batches=lambda start_step, micro_batch: train_loader(
            config, views="classify", start_step=start_step, micro_batch=micro_batch, **place
        ),
        eval_batches=partial(eval_loader, config, views="classify", refs=config.data.val, batch_size=size, **place),
    )

    if runtime.is_main:
        best = summary.best
        assert best is not None  # the last step always validates
        print(f"best: {best['metric']} {best['value']:.4f} at step {best['step']}, in {summary.run_dir / 'best'}")
        print(f"report: {write_report(summary.run_dir)}")
    vea_runtime.stop()


if __name__ == "__main__":
    sys.exit(main())
