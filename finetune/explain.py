"""Learn to say which emotion a picture evokes and why, in words: SEVLM, or image tokens before any language model.

    python finetune/explain.py configs/finetune/explain_synthetic.yaml      # drawn scenes, a few minutes
    python finetune/evaluate.py runs/explain-synthetic --split test         # with the shuffled-image control
    vea explain photo.jpg --model runs/explain-synthetic --emotion fear
"""

from __future__ import annotations

import sys

from vea.training import preempt

if __name__ == "__main__":
    preempt.listen()  # before torch is imported: a signal in those seconds must not lose the job

from vea.config import ExplainConfig, config_from_command_line
from vea.errors import command
from vea.recipe import fine_tune
from vea.tasks.explain import ExplainTask


@command
def main(argv: list[str]) -> None:
    """Runs the recipe."""
    config = config_from_command_line(__doc__, argv, ExplainConfig)
    fine_tune(config, lambda config, fields: ExplainTask(config, fields=fields), eval_batch_size=64)


if __name__ == "__main__":
    sys.exit(main())
