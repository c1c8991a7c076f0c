"""Pretrain an encoder with UniEmoX: masked reconstruction, fusion of scene and person, and a frozen teacher.

python pretrain/train.py configs/pretrain/smoke.yaml                             # a minute on two CPU cores
python pretrain/train.py configs/pretrain/faces_cpu.yaml train.steps=500         # any key can be replaced
torchrun --nproc-per-node 8 pretrain/train.py configs/pretrain/emoset_vitb16.yaml
"""

from __future__ import annotations

import sys
from functools import partial

from vea.distributed import preempt

if __name__ == "__main__":
    preempt.listen()  # before torch is imported: a signal in those seconds must not lose the job

import torch

from vea.config import PretrainConfig, config_from_command_line
from vea.data.loading.loader import eval_loader, train_loader
from vea.distributed import runtime as vea_runtime
from vea.errors import command
from vea.models.teachers.load import load_teacher
from vea.publish.report.page import write_report
from vea.tasks.pretrain import PretrainTask
from vea.training.engine import fit


@command
def main(argv: list[str]) -> None:
    """Runs the recipe."""
    config = config_from_command_line(__doc__, argv, PretrainConfig)
    runtime = vea_runtime.start(config.runtime, precision=config.train.precision)

    teacher = None
    if config.teacher and config.objective.needs_teacher:
        teacher = load_teacher(config.teacher).in_precision(runtime.precision)
    if runtime.is_main:
        print(f"teacher: {teacher.description if teacher else 'none'}", flush=True)

    torch.manual_seed(config.seed)  # the same first weights on every rank, and in a run that is started again
    task = PretrainTask(config, teacher=teacher)

    place = {"rank": runtime.rank, "world_size": runtime.world_size}
    validation = partial(
        eval_loader,
        config,
        task.item_spec(),
        refs=config.data.val,
        batch_size=min(128, config.data.global_batch_size),
        **place,
    )
    summary = fit(
        task,
        config=config,
        runtime=runtime,
        train_batches=lambda start_step, micro_batch: train_loader(
            config, task.item_spec(), start_step=start_step, micro_batch=micro_batch, **place
        ),
        eval_batches=validation if config.data.val else None,
    )

    if runtime.is_main:
        losses = ", ".join(f"{name} {value:.4f}" for name, value in summary.metrics.items())
        print(f"validation: {losses or 'no data.val'}; weights in {summary.run_dir / 'final'}")
        print(f"report: {write_report(summary.run_dir)}")
    vea_runtime.stop()


if __name__ == "__main__":
    sys.exit(main())
