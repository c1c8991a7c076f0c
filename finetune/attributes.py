"""Fine-tune an encoder to recognise emotion and the attributes behind it (EmoSet's six), missing labels masked.

    python finetune/attributes.py configs/finetune/attributes_synthetic.yaml
    python finetune/attributes.py configs/finetune/attributes_synthetic.yaml \\
        model.attribute_module=false name=attributes-synthetic-plain       # the ablation
    python finetune/evaluate.py runs/attributes-synthetic --split test
"""

from __future__ import annotations

import sys

from vea.training import preempt

if __name__ == "__main__":
    preempt.listen()  # before torch is imported: a signal in those seconds must not lose the job

from vea.config import AttributesConfig, config_from_command_line
from vea.errors import command
from vea.recipe import fine_tune, recogniser


@command
def main(argv: list[str]) -> None:
    """Runs the recipe."""
    fine_tune(config_from_command_line(__doc__, argv, AttributesConfig), recogniser)


if __name__ == "__main__":
    sys.exit(main())
