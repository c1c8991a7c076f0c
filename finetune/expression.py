"""Fine-tune an encoder to recognise facial expressions.

    python finetune/expression.py configs/finetune/expression_faces_vit.yaml        # from scratch
    python finetune/expression.py configs/finetune/expression_faces_vit.yaml \\
        train.init_from=runs/faces name=expression-faces-vit-pretrained             # from a pretraining run
    python finetune/evaluate.py runs/expression-faces-vit --split test              # what it learned
"""

from __future__ import annotations

import sys

from vea.training import preempt

if __name__ == "__main__":
    preempt.listen()  # before torch is imported: a signal in those seconds must not lose the job

from vea.config import ExpressionConfig, config_from_command_line
from vea.errors import command
from vea.recipe import fine_tune, recogniser


@command
def main(argv: list[str]) -> None:
    """Runs the recipe."""
    fine_tune(config_from_command_line(__doc__, argv, ExpressionConfig), recogniser)


if __name__ == "__main__":
    sys.exit(main())
