"""Makes a teacher: two towers that agree on image and text. Neither kind is CLIP, and neither is called so.

    python pretrain/align.py configs/pretrain/align_tiny.yaml             # a small open_clip model on drawn scenes
    python pretrain/align.py configs/pretrain/align_dino.yaml             # frozen DINOv2 and MiniLM, a linear map each
    python pretrain/align.py configs/pretrain/align_joined.yaml           # DINOv2 beside EfficientNet-Lite, and MiniLM
    python pretrain/train.py CONFIG teacher.name=runs/align-joined/teacher

Run by the engine as every recipe: a run that was killed goes on with the same command. The teacher's folder is
RUN/teacher, with its recall on the validation sets in config.json.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from vea.distributed import preempt

if __name__ == "__main__":
    preempt.listen()  # before torch is imported: a signal in those seconds must not lose the job

import torch

from vea.config import AlignConfig, config_from_command_line
from vea.data.loading.loader import eval_loader, train_loader
from vea.distributed import runtime as vea_runtime
from vea.errors import VeaError, command
from vea.models.teachers.write import save_teacher
from vea.publish.report.page import write_report
from vea.storage.checkpoint import load_weights
from vea.tasks.align import AlignTask, TowersTask, build_align_task
from vea.training.engine import Summary, fit


def write_teacher(task: AlignTask, config: AlignConfig, summary: Summary) -> None:
    """Writes RUN/teacher from the weights that validation chose, or else the last ones."""
    chosen = "best" if summary.best else "final"
    task.load_state_dict(load_weights(summary.run_dir / chosen)[0], strict=False)
    described, weights, files = task.teacher()
    described["training"] = {"data": [f"{ref.path}, split {ref.split}" for ref in config.data.train],
                             "steps": config.train.steps, "batch_size": config.data.global_batch_size,
                             "base_lr": config.train.base_lr, "seed": config.seed}  # fmt: skip
    measured = [f"{ref.path}, split {ref.split}" for ref in config.data.val]
    described["retrieval"] = {"data": f"{'; '.join(measured)}, first text of each", "caption": summary.metrics}
    save_teacher(summary.run_dir / "teacher", described, weights, files)


@command
def main(argv: list[str]) -> None:
    """Runs the recipe."""
    config = config_from_command_line(__doc__, argv, AlignConfig)
    if config.select_by and not config.data.val:
        raise VeaError("select_by chooses by data.val, which names no set; name one, or set select_by=null")
    runtime = vea_runtime.start(config.runtime, precision=config.train.precision)
    torch.manual_seed(config.seed)  # the same first weights on every rank, and in a run that is started again
    task = build_align_task(config).to(runtime.device)

    place: dict[str, Any] = {"rank": runtime.rank, "world_size": runtime.world_size}
    looked_at = partial(eval_loader, config, batch_size=min(128, config.data.global_batch_size), **place)
    if isinstance(task, TowersTask):
        task.towers.in_precision(runtime.precision)
    if isinstance(task, TowersTask) and config.model.cache:
        task.keep(looked_at(task.item_spec(), refs=[*config.data.train, *config.data.val]))
    summary = fit(
        task,
        config=config,
        runtime=runtime,
        train_batches=lambda start_step, micro_batch: train_loader(
            config, task.item_spec(), start_step=start_step, micro_batch=micro_batch, **place
        ),
        eval_batches=partial(looked_at, task.item_spec(), refs=config.data.val) if config.data.val else None,
    )
    if runtime.is_main:
        write_teacher(task, config, summary)
        print(", ".join(f"{name} {value:.4f}" for name, value in summary.metrics.items()))
        print(f"report: {write_report(summary.run_dir)}; teacher: {summary.run_dir / 'teacher'}")
    vea_runtime.stop()


if __name__ == "__main__":
    sys.exit(main())
