"""Tuning by reward on tiny models: trl's loop, vea's rewards, a folder that the judge opens."""

import json
import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "finetune"), str(REPOSITORY / "tests" / "unit" / "evals")]

pytest.importorskip("trl", reason="needs the extra: pip install 'vea[rl]'")
if not os.environ.get("VEA_DATA"):
    pytest.skip("VEA_DATA names the folder of the raw data, which is not here", allow_module_level=True)

import reward  # noqa: E402
import tiny  # noqa: E402

from vea.evals import rewards  # noqa: E402
from vea.evals.backends.base import open_backend  # noqa: E402
from vea.evals.question import Question  # noqa: E402

SHORT = ["per_device_train_batch_size=8", "num_generations=8", "max_completion_length=8", "use_cpu=true", "bf16=false",
         "disable_tqdm=true"]  # fmt: skip


def test_the_reward_rises_and_the_folder_is_a_model(tmp_path, monkeypatch):
    monkeypatch.setitem(rewards.REWARDS, "accuracy", lambda reply, lesson: min(1.0, reply.count("e") / 4))
    model, out = tiny.language_model(tmp_path / "model"), tmp_path / "out"
    words = [
        *SHORT,
        "max_steps=24",
        "save_steps=24",
        "logging_steps=1",
        "learning_rate=5e-2",
        "lr_scheduler_type=constant",
    ]
    command = [
        str(model),
        "texts:emobank",
        "--data",
        os.environ["VEA_DATA"],
        "--out",
        str(out),
        "--most",
        "4",
        "--lora",
        "8",
    ]
    assert reward.main([*command, "--rewards", "accuracy=1", "--grpo", *words]) == 0
    (kept,) = Path(f"{out}-steps").glob("checkpoint-24/trainer_state.json")
    earned = [row["reward"] for row in json.loads(kept.read_text())["log_history"] if "reward" in row]
    assert sum(earned[-6:]) / 6 > sum(earned[:6]) / 6 + 0.3, earned
    assert reward.main([*command, "--grpo", *words]) != 0, "the folder is there"


def test_pictures_are_shown(tmp_path):
    model, out = tiny.vision_language_model(tmp_path / "model"), tmp_path / "out"
    command = [
        str(model),
        "statements",
        "--data",
        os.environ["VEA_DATA"],
        "--out",
        str(out),
        "--most",
        "1",
        "--lora",
        "4",
    ]
    assert reward.main([*command, "--rewards", "accuracy=1", "format=.5", "--grpo", *SHORT, "max_steps=1"]) == 0
    backend = open_backend(str(out))
    ((_, answer),) = backend.ask([Question("q", "Is it joy?", choices=("Correct", "Incorrect"))], ["probability"])
    assert answer.probabilities is not None and abs(sum(answer.probabilities.values()) - 1) < 1e-6


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["--grpo", "learning_rat=1"], "no field 'learning_rat'"), (["--rewards", "glory=1"], "no reward 'glory'"),
     (["--grpo", "max_steps"], "say FIELD=VALUE")],
)  # fmt: skip
def test_what_does_not_exist_is_named(words, sentence, tmp_path, capsys):
    model = tiny.language_model(tmp_path / "model")
    assert reward.main([str(model), "texts:emobank", "--data", ".", "--out", str(tmp_path / "out"), *words]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "out").exists()
