"""Fine-tune: recognise expressions, emotion and attributes, or say in words what a picture evokes. ``recipe:`` decides.

    python finetune/train.py configs/finetune/expression_faces_vit.yaml                 # facial expression
    python finetune/train.py configs/finetune/emotion_oasis.yaml                        # emotion of whole scenes
    python finetune/train.py configs/finetune/attributes_synthetic.yaml                 # emotion and six attributes
    python finetune/train.py configs/finetune/explain_synthetic.yaml                    # which emotion and why
    python finetune/train.py configs/finetune/expression_faces_vit.yaml \\
        train.init_from=runs/faces name=expression-faces-vit-pretrained                 # from a pretraining run
    python finetune/evaluate.py runs/expression-faces-vit --split test                  # what it learned
    python finetune/train.py --folder own/ [--out RUN] [--region face]    # your class folders in, a tested model out
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from vea.distributed import preempt

if __name__ == "__main__":
    preempt.listen()  # before torch is imported: a signal in those seconds must not lose the job

from vea.config import FinetuneConfig, config_from_command_line
from vea.distributed import runtime as vea_runtime
from vea.errors import command
from vea.inference.folder import train_on_folder
from vea.publish.report.page import write_report
from vea.training.finetune import fine_tune


def own_folder(argv: list[str]) -> None:
    """Trains on ``--folder`` and ends with the line to try."""
    parser = argparse.ArgumentParser(description="class folders of photographs in, a tested model out")
    parser.add_argument(
        "--folder", type=Path, required=True, help="one folder of pictures per class, three and more in each"
    )
    parser.add_argument("--out", type=Path, metavar="RUN", help="run folder (runs/<name of the folder>)")
    parser.add_argument("--region", choices=("auto", "face", "scene"), default="auto",
                        help="what is looked at; auto: faces where most pictures have one")  # fmt: skip
    arguments = parser.parse_args(argv)
    result = train_on_folder(arguments.folder, arguments.out, region=arguments.region)
    print(f"report: {write_report(result.run)}")
    print(f"try: vea predict --model {shlex.quote(str(result.run))} PICTURE")


@command
def main(argv: list[str]) -> None:
    """Runs the recipe."""
    if any(argument.split("=")[0] == "--folder" for argument in argv):
        own_folder(argv)
        return
    config = config_from_command_line(__doc__, argv, FinetuneConfig)
    runtime = vea_runtime.start(config.runtime, precision=config.train.precision)
    summary = fine_tune(config, runtime)
    if runtime.is_main:
        best = summary.best
        assert best is not None  # the last step always validates
        print(f"best: {best['metric']} {best['value']:.4f} at step {best['step']}, in {summary.run_dir / 'best'}")
        print(f"report: {write_report(summary.run_dir)}")
    vea_runtime.stop()


if __name__ == "__main__":
    sys.exit(main())
