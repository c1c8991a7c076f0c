"""Fine-tune an encoder to recognise what a scene makes people feel: classes, label sets, valence and arousal.

    python finetune/emotion.py configs/finetune/emotion_synthetic.yaml     # drawn scenes, a minute
    python finetune/emotion.py configs/finetune/emotion_oasis.yaml         # valence and arousal of photographs
    python finetune/evaluate.py runs/emotion-oasis --split test
"""

from __future__ import annotations

import sys

from vea.training import preempt

if __name__ == "__main__":
    preempt.listen()  # before torch is imported: a signal in those seconds must not lose the job

from vea.config import EmotionConfig, config_from_command_line
from vea.errors import command
from vea.recipe import fine_tune, recogniser


@command
def main(argv: list[str]) -> None:
    """Runs the recipe."""
    fine_tune(config_from_command_line(__doc__, argv, EmotionConfig), recogniser)


if __name__ == "__main__":
    sys.exit(main())
