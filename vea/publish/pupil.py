"""A pupil for others: adapters merged into the language model, beside it the vision side and a card."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from vea.errors import VeaError
from vea.storage import atomic
from vea.storage.checkpoint import load_weights
from vea.tasks.instruct import InstructTask
from vea.tasks.instruct_saved import EXPORTED, open_pupil
from vea.tasks.instruct_whole import InstructWholeTask

CARD = """---
library_name: {library}
tags: [emotion, affect, instructions, vea]
---
# {name}

{what}

- Base: `{base}`, LoRA rank {rank}, merged. Learned by `recipe: instruct` of vea, step {step}, seed {seed}.
- Lessons: {data}
- Validation at that step: {scores}
- {use}
- For research on what people say that pictures evoke. It knows nothing of the person in front of a camera.
"""


def export_pupil(run: Path, out: Path) -> float:
    """Writes the folder ``out`` and returns the largest difference of the merged model's logits to the run's.

    Of a pupil with vea's vision side: ``language/`` for transformers, ``vision.safetensors``, ``pupil.json``. Of a
    whole image-text model: one folder that transformers and vLLM load.

    Raises:
        VeaError: ``run`` is no pupil, ``out`` is there already, or the base was read from a gguf file.
    """
    if out.exists():
        raise VeaError(f"{out} is there already; choose another folder")
    task = open_pupil(run)
    if task.config.model.gguf:
        raise VeaError(
            "a model read from a gguf file cannot be saved merged; convert it to safetensors and train on that"
        )
    _, state = load_weights(run)
    with atomic.new_folder(out) as folder:
        if isinstance(task, InstructWholeTask):
            difference = _export_whole(task, folder)
        else:
            difference = _export_prefix(task, folder, state)
        (folder / "README.md").write_text(_card(task, state), encoding="utf-8")
    return difference


def _export_prefix(task: InstructTask, folder: Path, state: dict) -> float:  # type: ignore[type-arg]
    ids = torch.arange(5, 25)[None] % len(task.tokenizer)
    with torch.inference_mode():
        before = task.pupil.base(ids).logits
    merged = task.pupil.language.merge_and_unload()
    with torch.inference_mode():
        after = merged(ids).logits
    merged.save_pretrained(folder / "language")
    task.tokenizer.save_pretrained(folder / "language")
    if task.pupil.vision is not None:
        save_file({k: v.contiguous() for k, v in task.pupil.vision.state_dict().items()}, folder / "vision.safetensors")
    kept = {name: state.get(name) for name in ("recipe", "step", "config", "task", "best", "versions", "seed")}
    (folder / EXPORTED).write_text(json.dumps(kept, indent=1), encoding="utf-8")
    return float((before - after).abs().max())


def _export_whole(task: InstructWholeTask, folder: Path) -> float:
    ids = torch.arange(5, 25)[None] % len(task.tokenizer)
    with torch.inference_mode():
        before = task.model(input_ids=ids).logits
    merged = task.model.merge_and_unload()
    with torch.inference_mode():
        after = merged(input_ids=ids).logits
    merged.save_pretrained(folder)
    task.processor.save_pretrained(folder)
    return float((before - after).abs().max())


def _card(task: InstructTask, state: dict) -> str:  # type: ignore[type-arg]
    config, whole = task.config, isinstance(task, InstructWholeTask)
    best = state.get("best") or {}
    return CARD.format(
        library="transformers" if whole else "vea",
        name=config.name,
        what="An image-text model that answers questions about what a picture evokes." if whole
        else f"A language model with image tokens of vea's frozen models {config.model.vision.scene} and "
        f"{config.model.vision.face}, entering before block {config.model.vision.layer}.",
        base=Path(config.model.path).name, rank=config.model.lora.rank, step=state.get("step"), seed=config.seed,
        data=", ".join(f"{Path(ref.path).name} ({ref.weight:g})" for ref in config.data.train),
        scores=f"{best['metric']} {best['value']:.3f}" if best else "none",
        use="Loads with AutoModelForImageTextToText and `vllm serve`." if whole
        else "`vea eval THIS_FOLDER affect`; `language/` alone loads with AutoModelForCausalLM.",
    )  # fmt: skip
