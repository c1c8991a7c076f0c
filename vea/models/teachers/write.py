"""Write a teacher's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from vea.models.teachers.two_tower import WEIGHTS_NAME
from vea.storage import atomic


def save_teacher(
    out: Path, config: dict[str, Any], weights: dict[str, Tensor], extra: dict[str, Any] | None = None
) -> None:
    """Writes ``config.json``, the weights in fp16 and ``extra`` {file: content} whole or not at all."""
    stored = {
        name: (tensor.detach().cpu().half() if tensor.is_floating_point() else tensor.cpu()).contiguous()
        for name, tensor in weights.items()
    }
    with atomic.new_folder(out, marker="config.json") as partial:
        save_file(stored, partial / WEIGHTS_NAME)
        (partial / WEIGHTS_NAME).chmod(0o644)  # safetensors writes for the owner only
        for name, content in {"config.json": config, **(extra or {})}.items():
            (partial / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
