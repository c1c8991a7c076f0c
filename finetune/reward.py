"""Tune an image-text model on its own answers: trl's GRPO with vea's metrics as rewards.

    pip install 'vea[rl]'
    python finetune/reward.py QWEN2_5_VL_FOLDER statements open-vocabulary --out runs/rewarded \\
        --rewards accuracy=1 wheel=1 format=.5 --grpo learning_rate=1e-6 num_generations=4 beta=.04 bf16=true \\
        per_device_train_batch_size=4 gradient_accumulation_steps=8 num_train_epochs=1          # one GPU of 40 GB
    vea eval runs/rewarded statements

Sources are those of ``vea instructions``, in their training split, and nothing of a test picture. ``--grpo`` sets any
field of trl's GRPOConfig; the loop, its checkpoints and its resuming are trl's. The result is a folder of the merged
model for transformers. EmObserver's figures are lr 1e-6, 4 generations, beta .04, accuracy 1 and format .5.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from vea.data.views.pictures import read_image
from vea.errors import VeaError, command, did_you_mean
from vea.evals.instructions import Lesson, ready_lessons
from vea.evals.rewards import ASKS, REWARDS, read_weights
from vea.storage import atomic


def rows_of(lessons: list[Lesson], asks: str) -> list[dict[str, Any]]:
    """Returns trl's rows: the question as a chat, its picture, and the lesson's number, which the rewards read."""
    from PIL import Image

    rows = []
    for number, lesson in enumerate(lessons):
        row: dict[str, Any] = {
            "prompt": [{"role": "user", "content": lesson.question.prompt + asks}],
            "number": number,
        }
        if lesson.question.picture is not None:
            row["image"] = Image.fromarray(read_image(lesson.question.picture))
        rows.append(row)
    if len({"image" in row for row in rows}) > 1:
        raise VeaError("some questions have a picture and some have none: tune on them in two runs")
    return rows


def scorer(name: str, lessons: list[Lesson]) -> Callable[..., list[float]]:
    """Returns the reward as trl calls it."""

    def score(completions: list[Any], number: list[int], **_: Any) -> list[float]:
        said = [one if isinstance(one, str) else one[0]["content"] for one in completions]
        return [REWARDS[name](text, lessons[place]) for text, place in zip(said, number)]

    score.__name__ = name
    return score


def settings(words: list[str], known: set[str]) -> dict[str, Any]:
    """Returns the fields of ``--grpo``; raises ``VeaError`` where trl has no such field."""
    found = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign:
            raise VeaError(f"--grpo {word}: say FIELD=VALUE, as in max_steps=100")
        if name not in known:
            raise VeaError(f"--grpo {word}: trl's GRPOConfig has no field {name!r}{did_you_mean(name, known)}")
        read = yaml.safe_load(value)
        try:
            found[name] = float(read) if isinstance(read, str) else read  # YAML takes 1e-6 for a text
        except ValueError:
            found[name] = read
    return found


@command
def main(argv: list[str]) -> None:
    """Tunes and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a transformers model")
    parser.add_argument("sources", nargs="+", help="as of vea instructions: statements, open-vocabulary, ...")
    parser.add_argument("--data", type=Path, help="the folder above oasis/ and the others (VEA_DATA)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rewards", nargs="+", default=["accuracy=1", "format=0.5"], metavar="NAME=WEIGHT")
    parser.add_argument("--most", type=int, help="most questions of one task, class and answer")
    parser.add_argument("--lora", type=int, default=16, help="rank of the adapters; 0 trains all weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grpo", nargs="*", default=[], metavar="FIELD=VALUE")
    given = parser.parse_args(argv)
    weights = read_weights(given.rewards)
    if given.out.exists():
        raise VeaError(f"{given.out} is there already; choose another folder")
    if not (given.model / "config.json").is_file():
        raise VeaError(f"{given.model} is no folder of a transformers model: it has no config.json")
    try:
        from peft import LoraConfig
        from trl import GRPOConfig, GRPOTrainer

        tables = import_module("datasets")  # Hugging Face's package, not this repository's folder

    except ImportError as error:
        raise VeaError(f"tuning by reward needs the package {error.name}: pip install 'vea[rl]'") from None
    wanted = settings(given.grpo, {field.name for field in dataclasses.fields(GRPOConfig)})
    lessons = ready_lessons(given.sources, split="train", data=given.data, seed=given.seed, most=given.most)[0]
    asks = "".join(text for name, text in ASKS.items() if name in weights)
    trainer = GRPOTrainer(
        model=str(given.model),
        reward_funcs=[scorer(name, lessons) for name in weights],
        args=GRPOConfig(
            output_dir=f"{given.out}-steps",
            seed=given.seed,
            reward_weights=list(weights.values()),
            report_to="none",
            **wanted,
        ),
        train_dataset=tables.Dataset.from_list(rows_of(lessons, asks)),
        peft_config=LoraConfig(r=given.lora, target_modules="all-linear") if given.lora else None,
    )
    trainer.train(resume_from_checkpoint=any(Path(f"{given.out}-steps").glob("checkpoint-*")))
    model = trainer.model.merge_and_unload() if given.lora else trainer.model
    with atomic.new_folder(given.out) as folder:
        model.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
    print(f"tuned on {len(lessons)} questions, in {given.out}")


if __name__ == "__main__":
    sys.exit(main())
