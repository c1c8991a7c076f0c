"""The loop: exact resume, preemption, non-finite stop, EMA, accumulation, and what a broken checkpoint says."""

import json
import os
import signal
import time

import pytest
import torch
from torch import nn

from vea.config import RecogniseConfig
from vea.distributed import preempt, runtime
from vea.errors import Preempted, RunError, VeaError
from vea.storage import checkpoint
from vea.tasks.base import Task
from vea.training.engine import evaluate, fit, micro_batch_size
from vea.training.optim import parameter_groups
from vea.training.schedule import learning_rate


class ToyMetrics:
    def __init__(self):
        self.errors = []

    def update(self, outputs, batch):
        self.errors += (outputs["y"] - batch["y"]).abs()[batch["valid"]].tolist()

    def compute(self):
        return {"toy/accuracy": 1 / (1 + sum(self.errors) / len(self.errors))}


class ToyTask(Task):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.model = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 1))
        self.poison_step = None
        self.signal_step = None

    def forward(self, batch, *, step):
        if step == self.signal_step:
            os.kill(os.getpid(), signal.SIGUSR2)
        y = self.model(batch["x"])[:, 0]
        loss = (y - batch["y"]).square().mean()
        return {"loss": loss * float("nan") if step == self.poison_step else loss}

    def predict(self, batch):
        return {"y": self.model(batch["x"])[:, 0]}

    def new_metrics(self):
        return ToyMetrics()

    def trunk(self):
        return self.model


def batch_at(step, rows, part=0):
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(step))[part * rows : (part + 1) * rows]
    return {
        "x": x,
        "y": x.sum(1),
        "keys": [f"{step}-{i}" for i in range(rows)],
        "valid": torch.ones(rows, dtype=torch.bool),
    }


def train_batches(start, micro):
    step = start
    while True:
        for part in range(32 // micro):
            yield batch_at(step, micro, part)
        step += 1


def config(out, **train):
    settings = dict(steps=12, base_lr=0.05, warmup_steps=2, checkpoint_every=5, log_every=1, ema_decay=0.9) | train
    return RecogniseConfig.model_validate(
        dict(
            name="toy",
            out=str(out),
            data=dict(global_batch_size=32),
            train=settings,
            tracking=dict(backend="none"),
            select_by="toy/accuracy",
        )
    )


def run(out, task=None, **train):
    cfg = config(out, **train)
    return fit(
        task or ToyTask(),
        config=cfg,
        runtime=runtime.start(cfg.runtime),
        train_batches=train_batches,
        eval_batches=lambda **_: [batch_at(999, 32)],
    )


def final_bytes(folder):
    return (folder / "final" / "model.safetensors").read_bytes(), (folder / "final" / "ema.safetensors").read_bytes()


def steps_logged(folder):
    return [
        json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines() if '"train"' in line
    ]


def test_resume_after_preemption_is_bit_identical(tmp_path):
    run(tmp_path / "a")
    interrupted = ToyTask()
    interrupted.signal_step = 6
    with pytest.raises(Preempted, match="SIGUSR2 at step 7"):
        run(tmp_path / "b", interrupted)
    assert json.loads((tmp_path / "b" / "state.json").read_text())["state"] == "preempted"
    summary = run(tmp_path / "b")
    assert summary.step == 12
    assert final_bytes(tmp_path / "a") == final_bytes(tmp_path / "b")
    assert steps_logged(tmp_path / "b") == list(range(1, 13))


def test_a_signal_while_the_run_opens_stops_before_the_first_step(tmp_path, monkeypatch):
    cfg = config(tmp_path / "a")
    here = runtime.start(cfg.runtime)
    monkeypatch.setattr(preempt, "_early", ["SIGTERM"])
    for refused in (
        lambda: runtime.start(cfg.runtime),
        lambda: fit(ToyTask(), config=cfg, runtime=here, train_batches=train_batches),
    ):
        with pytest.raises(Preempted, match=r"stopped by SIGTERM before .*run the same command"):
            refused()
    assert checkpoint.list_checkpoints(tmp_path / "a") == []
    assert json.loads((tmp_path / "a" / "state.json").read_text())["state"] == "preempted"


def validations(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["toy/accuracy"]) for record in records if record["kind"] == "val"]


@pytest.mark.parametrize("signalled", [5, 11])  # the step before a validation, and the last step
def test_a_signal_at_a_validating_step_loses_no_validation(tmp_path, signalled):
    run(tmp_path / "a", eval_every=3)
    interrupted = ToyTask()
    interrupted.signal_step = signalled
    with pytest.raises(Preempted, match=f"at step {signalled + 1}"):
        run(tmp_path / "b", interrupted, eval_every=3)
    summary = run(tmp_path / "b", eval_every=3)
    assert [step for step, _ in validations(tmp_path / "b")] == [3, 6, 9, 12]
    assert validations(tmp_path / "a") == validations(tmp_path / "b")
    assert summary.best == json.loads((tmp_path / "a" / "state.json").read_text())["best"]
    best = [folder / "best" / "model.safetensors" for folder in (tmp_path / "a", tmp_path / "b")]
    assert best[0].read_bytes() == best[1].read_bytes()


def test_resume_after_a_crash_repeats_the_lost_steps_once(tmp_path):
    run(tmp_path / "a")

    def dying(start, micro):
        for count, batch in enumerate(train_batches(start, micro)):
            if start + count == 8:
                raise OSError("power cut")
            yield batch

    cfg = config(tmp_path / "b")
    with pytest.raises(OSError, match="power cut"):
        fit(
            ToyTask(),
            config=cfg,
            runtime=runtime.start(cfg.runtime),
            train_batches=dying,
            eval_batches=lambda **_: [batch_at(999, 32)],
        )
    assert [c.step for c in checkpoint.list_checkpoints(tmp_path / "b")] == [5]
    run(tmp_path / "b")
    assert final_bytes(tmp_path / "a") == final_bytes(tmp_path / "b")
    assert steps_logged(tmp_path / "b") == list(range(1, 13))


def test_a_finished_run_is_left_alone(tmp_path):
    run(tmp_path / "a")
    before = final_bytes(tmp_path / "a")
    assert run(tmp_path / "a").step == 12
    assert final_bytes(tmp_path / "a") == before


def test_non_finite_loss_stops_before_the_step_and_keeps_the_checkpoint(tmp_path):
    task = ToyTask()
    task.poison_step = 7
    with pytest.raises(RunError, match=r"not finite at step 7 on rank 0, samples 7-0, 7-1"):
        run(tmp_path / "a", task)
    weights, *_ = checkpoint.read_checkpoint(checkpoint.list_checkpoints(tmp_path / "a")[-1].path)
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_other_settings_are_refused_in_the_same_folder(tmp_path):
    run(tmp_path / "a")
    with pytest.raises(VeaError, match=r"train.base_lr was 0.05 and is 0.1 now"):
        run(tmp_path / "a", base_lr=0.1)
    run(tmp_path / "a", base_lr=0.1, resume="never")
    assert (tmp_path / "a.1" / "final").is_dir()


def test_accumulation_keeps_the_global_batch(tmp_path):
    assert micro_batch_size(config(tmp_path), 1) == (32, 1)
    assert micro_batch_size(config(tmp_path, max_micro_batch=10), 1) == (8, 4)
    assert micro_batch_size(config(tmp_path, max_micro_batch=10), 2) == (8, 2)
    with pytest.raises(VeaError, match="not a multiple of the 3 ranks"):
        micro_batch_size(config(tmp_path), 3)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json"])
def test_a_broken_checkpoint_is_one_sentence(tmp_path, name):
    run(tmp_path / "a")
    path = checkpoint.list_checkpoints(tmp_path / "a")[-1].path / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RunError, match=f"{name}.*broken") as error:
        run(tmp_path / "a")
    assert error.value.exit_code == 1


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    real = checkpoint.save_file
    calls = []

    def full(tensors, path):
        calls.append(path)
        if "step_00000010" in str(path):
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RunError, match="no space left"):
        run(tmp_path / "a")
    assert [c.step for c in checkpoint.list_checkpoints(tmp_path / "a")] == [5]
    assert sorted(p.name for p in (tmp_path / "a" / "checkpoints").iterdir()) == ["step_00000005"]
    monkeypatch.undo()
    assert run(tmp_path / "a").step == 12


def test_a_checkpoint_is_written_behind_the_training_and_holds_the_state_of_its_step(tmp_path, monkeypatch):
    run(tmp_path / "a", keep_last=9, log_every=1)
    real = checkpoint.save_checkpoint
    seen_meanwhile = []

    def slow(run_dir, *, step, **content):
        deadline = time.monotonic() + 20
        while step == 5 and time.monotonic() < deadline and len(seen_meanwhile) == 0:
            seen_meanwhile.extend(line for line in (run_dir / "metrics.jsonl").open() if '"step": 8' in line)
            time.sleep(0.01)
        return real(run_dir, step=step, **content)

    monkeypatch.setattr(checkpoint, "save_checkpoint", slow)
    run(tmp_path / "b", keep_last=9, log_every=1)
    assert seen_meanwhile, "the training did not go on while the checkpoint of step 5 was being written"
    for name in ("model.safetensors", "optimizer.pt"):
        first, second = ((tmp_path / part / "checkpoints/step_00000005" / name).read_bytes() for part in "ab")
        assert first == second, name


def test_best_weights_are_those_validation_chose(tmp_path):
    summary = run(tmp_path / "a", eval_every=3)
    values = {
        r["step"]: r["toy/accuracy"]
        for r in map(json.loads, (tmp_path / "a" / "metrics.jsonl").open())
        if r["kind"] == "val"
    }
    assert sorted(values) == [3, 6, 9, 12]
    assert summary.best["value"] == max(values.values()) == values[summary.best["step"]]
    weights, metadata = checkpoint.load_weights(tmp_path / "a")
    assert metadata["step"] == summary.best["step"]
    task = ToyTask()
    task.load_state_dict(weights)
    assert (
        evaluate(task, [batch_at(999, 32)], runtime.Runtime(torch.device("cpu")))["toy/accuracy"]
        == summary.best["value"]
    )


def test_learning_rate_warms_up_then_falls_to_the_minimum(tmp_path):
    settings = config(tmp_path, steps=100, warmup_steps=10, min_lr=1e-6, base_lr=0.1).train
    rates = [learning_rate(step, settings, global_batch_size=512) for step in range(101)]
    assert rates[0] == pytest.approx(0.02) and max(rates) == rates[9] == pytest.approx(0.2)
    assert rates[100] == pytest.approx(1e-6) and rates[55] == pytest.approx((0.2 + 1e-6) / 2)


def test_parameter_groups_cover_every_parameter_once(tmp_path):
    import timm

    class VitTask(ToyTask):
        def __init__(self):
            super().__init__()
            self.model = timm.create_model(
                "vit_tiny_patch16_224", img_size=32, depth=3, embed_dim=24, num_heads=2, num_classes=0
            )
            self.head = nn.Linear(24, 3)

        def trunk(self):
            return self.model

    task = VitTask()
    for decay, trunk in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.1), (0.5, 0.1)):
        groups = parameter_groups(task, config(tmp_path, layer_decay=decay, trunk_scale=trunk).train)
        seen = [id(p) for group in groups for p in group["params"]]
        assert sorted(seen) == sorted(id(p) for p in task.parameters())
        scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
        weight_decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        assert scale[id(task.head.weight)] == 1.0
        assert weight_decay[id(task.head.bias)] == weight_decay[id(task.model.pos_embed)] == 0.0
        first, last = task.model.blocks[0].mlp.fc1.weight, task.model.blocks[2].mlp.fc1.weight
        if decay < 1 or trunk < 1:
            assert scale[id(task.model.norm.weight)] == pytest.approx(trunk)
            assert scale[id(first)] == pytest.approx(scale[id(last)] * decay**2)
