"""``vea doctor``: each thing that a job would miss has its line, all at once, and nothing is asked of a network."""

from __future__ import annotations

import json
import socket
from collections import namedtuple
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from vea.commands import doctor
from vea.commands.main import main
from vea.config import RECIPES
from vea.data.sample import Sample
from vea.data.shards.plan import write_dataset
from vea.storage import check as storage_check
from vea.storage import checkpoint
from vea.taxonomy.fields import LabelField
from vea.training import machine, meta
from vea.training.optim import build_optimizer

FACES = LabelField("class", ("happy", "sad", "fear"))
ENCODER = {"name": "vit_tiny_patch16_224", "args": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}}
PNG = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()


@pytest.fixture(autouse=True)
def no_network_and_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("the doctor asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "WORLD_SIZE", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


def write(folder: Path, *, classes: tuple[str, ...] = FACES.classes) -> str:
    samples = {
        split: [Sample(f"{split}{n}", PNG, "png", {"expression": classes[n % 3]}, ["a face"]) for n in range(count)]
        for split, count in (("train", 12), ("val", 6))
    }
    fields = {"expression": LabelField("class", classes)}
    write_dataset(samples, folder, name=folder.name, title="", fields=fields, card=None, synthetic=True, shard_size=4)
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write(tmp_path / "set")


def settings(data: str, recipe: str = "expression") -> dict[str, Any]:
    """A config in which nothing is missing."""
    model: dict[str, Any] = {"encoder": ENCODER}
    if recipe == "pretrain":
        model["decoder"] = {"width": 32, "depth": 1, "heads": 2}
    return {
        "recipe": recipe,
        "name": "toy",
        "out": str(Path(data).parent / "runs/toy"),
        "data": {
            "train": [{"path": data}],
            "val": [{"path": data, "split": "val"}],
            "global_batch_size": 32,
            "virtual_readers": 4,
        },
        "augment": {"image_size": 32},
        "model": model,
        "train": {"steps": 4},
        "tracking": {"backend": "none"},
        "runtime": {"device": "cpu"},
        **({"teacher": {"name": "tiny-synthetic"}} if recipe == "pretrain" else {}),
    }


def config_of(plain: dict[str, Any]) -> Any:
    return RECIPES[plain["recipe"]].model_validate(plain)


def findings(plain: dict[str, Any], *states: str) -> dict[str, str]:
    """{what: text and advice} of the findings in one of the states."""
    found: dict[str, str] = {}
    for item in doctor.examine(config_of(plain)):
        if item.state in (states or ("missing", "warning")) and item.what != "git":
            found[item.what] = found.get(item.what, "") + f"{item.text} -> {item.todo}\n"
    return found


@pytest.mark.parametrize("recipe", sorted(set(RECIPES) - {"align", "instruct", "temporal"}))  # have other models
def test_a_whole_config_misses_nothing(recipe: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plain = settings(data, recipe)
    if recipe in ("emotion", "attributes"):
        plain |= {"targets": {"expression": 1.0}, "select_by": "expression/accuracy"}
    if recipe == "explain":
        plain |= {"emotion": {"field": "expression"}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(plain))
    assert main(["doctor", str(tmp_path / "a.yaml"), "train.keep_last=3"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.startswith("0 missing, ")
    assert {line.split()[0] for line in lines} <= {"ok", "warning"}
    assert any("12 samples in 3 shards" in line for line in lines)
    assert any("for 4 checkpoints" in line for line in lines)
    assert not any("could not be looked at" in line for line in lines)
    assert not (tmp_path / "runs").exists()  # it leaves nothing behind


def test_everything_that_is_missing_is_said_at_once(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shard = Path(data) / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    (tmp_path / "file").write_text("")
    plain = settings(data, "pretrain")
    plain["data"]["train"].append({"path": str(tmp_path / "none")})
    plain["data"]["val"] = [{"path": data, "split": "vall"}]
    plain["teacher"] = {"name": "ViT-B-16", "pretrained": str(tmp_path / "clip.safetensors"), "cache": "image"}
    plain["train"]["init_from"] = str(tmp_path / "runs/other")
    plain["out"] = str(tmp_path / "file/run")
    plain["tracking"] = {"backend": "wandb", "mode": "online"}
    if not torch.cuda.is_available():
        plain["runtime"] = {"device": "cuda"}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(plain))
    assert main(["doctor", str(tmp_path / "a.yaml")]) == 2
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    text = {what: rest for state, what, rest in lines if state == "missing"}
    wanted = {"data.train", "data.val", "sidecars", "teacher", "init_from", "output", "tracking"}
    assert set(text) - {"device"} == wanted
    assert "did you mean 'val'?" in text["data.val"]
    assert "no prepared data set" in text["data.train"]
    assert any("train-000001.tar has" in rest for _, what, rest in lines if what == "data.train")
    assert all(" -> " in rest or "did you mean" in rest for state, _, rest in lines if state == "missing"), lines


def test_models_that_are_imitated_must_be_there(data: str):
    plain = settings(data, "expression") | {"distill": {"models": ["expression", "runs/nothing"]}}
    assert "no model at runs/nothing" in findings(plain, "missing")["distill"]
    plain["distill"]["models"] = ["expression"]
    assert findings(plain, "ok")["distill"].startswith("expression knows expression, votes")


def test_labels_must_be_there_and_agree(data: str, tmp_path: Path):
    plain = settings(data) | {"targets": {"expresion": 1.0}}
    assert "did you mean 'expression'?" in findings(plain)["targets"]
    plain = settings(data)
    plain["data"]["val"] = [{"path": write(tmp_path / "other", classes=("sad", "happy", "fear")), "split": "val"}]
    assert "other" in findings(plain, "missing")["targets"]


def test_sidecars_are_asked_for_one_by_one(data: str):
    plain = settings(data, "pretrain")
    plain["teacher"]["cache"] = "image"
    folder = Path(data) / "sidecars/teacher_image"
    folder.mkdir(parents=True)
    for name in ("train-000000", "train-000002", "val-000000", "val-000001"):
        np.save(folder / f"{name}.npy", np.zeros((4, 8), np.float32))
    found = findings(plain, "missing")
    assert list(found) == ["sidecars"]
    assert "has no sidecar teacher_image: run `vea enrich teacher-image" in found["sidecars"]


@pytest.mark.parametrize(
    ("teacher", "what", "words"),
    [
        ({"name": "ViT-B-16"}, "teacher", "has no weights -> set teacher.pretrained to a local file or a tag"),
        ({"name": "ViT-B-17"}, "teacher", "neither a model of open_clip nor a folder"),
        ({"name": "ViT-B-16", "pretrained": "laion2b_s34b_b88k"}, "teacher", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"),
        ({"name": "ViT-B-16-SigLIP", "pretrained": "FILE"}, "tokenizer", "timm/ViT-B-16-SigLIP is not in the local"),
        ({"name": "hf-hub:me/mine"}, "teacher", "me/mine is not in the local cache"),
    ],
)
def test_teachers_that_are_not_here(teacher: dict[str, str], what: str, words: str, data: str, tmp_path: Path):
    (tmp_path / "weights.bin").write_bytes(b"x")
    plain = settings(data, "pretrain")
    plain["teacher"] = {key: str(tmp_path / "weights.bin") if v == "FILE" else v for key, v in teacher.items()}
    found = findings(plain, "missing")
    assert words in found[what]


def test_a_broken_weight_file_and_a_local_tokenizer(data: str, tmp_path: Path):
    plain = settings(data, "pretrain")
    (tmp_path / "clip.safetensors").write_bytes(b"not weights at all")
    plain["teacher"] = {"name": "ViT-B-16", "pretrained": str(tmp_path / "clip.safetensors")}
    assert "clip.safetensors is broken" in findings(plain, "missing")["teacher"]
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "open_clip_model.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")
    text = {"text_cfg": {"hf_tokenizer_name": "me/words"}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": text}))
    plain["teacher"] = {"name": str(folder)}
    assert "me/words" in findings(plain, "missing")["tokenizer"]
    (folder / "tokenizer.json").write_text("{}")
    assert findings(plain, "missing") == {}
    assert "tokenizer.json" in findings(plain, "ok")["tokenizer"]


def save_run(folder: Path, plain: dict[str, Any], *, ema: bool = False) -> Path:
    """A checkpoint as the engine writes it, after one step of the optimizer."""
    config = config_of(plain)
    task = meta.build(config)
    optimizer = build_optimizer(task, config.train)
    for parameter in task.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    state = {"task": task.metadata(), "config": config.model_dump(mode="json")}
    weights = {"model": task.state_to_save()} | ({"ema": task.state_to_save()} if ema else {})
    return checkpoint.save_checkpoint(folder, step=1, weights=weights, optimizer=optimizer.state_dict(), state=state,
                                keep_last=1, keep_every=None)  # fmt: skip


def test_init_from_must_fit_and_other_classes_are_said(data: str, tmp_path: Path):
    plain = settings(data)
    save_run(tmp_path / "first", plain)
    plain["train"]["init_from"] = str(tmp_path / "first")
    assert findings(plain) == {}
    assert "encoder weights" in findings(plain, "ok")["init_from"]

    other = settings(write(tmp_path / "other", classes=("sad", "happy", "fear")))
    other["train"]["init_from"] = str(tmp_path / "first")
    assert "only its encoder is taken" in findings(other, "warning")["init_from"]

    plain["model"]["encoder"] = {**ENCODER, "args": {**ENCODER["args"], "embed_dim": 64}}
    assert "does not fit" in findings(plain, "missing")["init_from"]


@pytest.mark.parametrize("recipe", ["pretrain", "expression"])
def test_a_run_with_other_settings_is_in_the_way(recipe: str, data: str):
    plain = settings(data, recipe)
    save_run(Path(plain["out"]), plain)
    assert findings(plain) == {}
    assert "goes on from" in findings(plain, "ok")["resume"]
    plain["train"]["steps"] = 5  # a longer run of the same name goes on
    assert "goes on from" in findings(plain, "ok")["resume"]
    plain["seed"] = 5
    assert "seed was 0 and is 5 now" in findings(plain, "missing")["resume"]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("train", ["full", "linear"])
def test_the_checkpoint_is_as_large_as_estimated(optimizer: str, train: str, data: str, tmp_path: Path):
    plain = settings(data)
    plain["model"] |= {"train": train, "encoder": {**ENCODER, "args": {**ENCODER["args"], "embed_dim": 128}}}
    plain["train"] |= {"optimizer": optimizer, "ema_decay": 0.99}
    folder = save_run(tmp_path / "run", plain, ema=True)
    real = sum(path.stat().st_size for path in folder.iterdir())
    assert meta.sizes(config_of(plain)).checkpoint == pytest.approx(real, rel=0.05)


def test_activations_are_counted_as_a_real_forward_keeps_them(data: str):
    config = config_of(settings(data))
    task = meta.build(config).train()
    own = {parameter.data_ptr() for parameter in task.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = task.trunk().forward_features(torch.zeros(4, 3, 32, 32))
        real = sum(kept.values()) / 4
    assert outputs.shape[0] == 4
    assert meta.sizes(config).activations == pytest.approx(real, rel=0.3)


def test_disk_and_memory(data: str, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", "total used free")
    plain = settings(data)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    monkeypatch.setattr(machine, "_available_memory", lambda: 10**6)
    found = findings(plain)
    assert "0.0 GB free" in found["disk"] and "lower train.keep_last" in found["disk"]
    assert "set train.max_micro_batch to" in found["memory"]


def test_memory_and_time_of_a_published_recipe_are_said_where_there_is_no_gpu(data: str, monkeypatch):
    """ViT-B/16 at 224 pixels has 17.6 G multiplications and additions a picture (DeiT, table 1): 35 GFLOP forward."""
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    plain = settings(data) | {"augment": {"image_size": 224}, "runtime": {"device": "cuda"},
                              "model": {"encoder": {"name": "vit_base_patch16_224"}},
                              "train": {"steps": 1000}}  # fmt: skip
    config = RECIPES["expression"].model_validate(plain)
    assert meta.sizes(config).flops == pytest.approx(35.1e9, rel=0.05)
    found = findings(plain, "ok")
    assert "3.37 TFLOP a step" in found["time"] and "17 s at 200 TFLOP/s a GPU" in found["time"]
    weights = 4 * 85.8e6 / 1e9  # GB: weights, gradients, two moments, and activations in bf16 beside them
    total = 4 * weights + 32 * 0.6 * meta.sizes(config).activations / 1e9
    assert f"about {total:.1f} GB for 32 samples" in found["memory"]
    monkeypatch.setattr(machine, "matrix_speed", lambda device, dtype: 1e12)
    assert "at 0.5 TFLOP/s" in findings(settings(data), "ok")["time"]


def test_a_slurm_job_shares_the_batch_among_its_ranks(data: str, monkeypatch: pytest.MonkeyPatch):
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "4(x2)"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    found = findings(settings(data), "ok")
    assert "job 7: 2 nodes, 8 ranks" in found["slurm"]
    assert "32 = 8 ranks x 1 x 4 samples" in found["batch"]
    monkeypatch.setenv("SLURM_NTASKS", "6")
    assert "not a multiple of the 6 ranks" in findings(settings(data), "missing")["model"]


def test_a_mistake_of_the_doctor_keeps_no_job_from_starting(data: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage_check, "git_state", lambda: 1 / 0)
    (finding,) = [item for item in doctor.examine(config_of(settings(data))) if item.what == "git"]
    assert finding.state == "warning" and "ZeroDivisionError" in finding.text


def test_versions_tracking_and_keys(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = settings(data)
    plain["tracking"] = {"backend": "wandb", "mode": "online"}
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 123\n")
    assert "tracking" not in findings(plain)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert "wandb login" in findings(plain, "missing")["tracking"]
    real = storage_check.metadata.version
    old = {"timm": "0.9.1", "torch": "2.14.1+cpu"}
    monkeypatch.setattr(storage_check.metadata, "version", lambda name: old.get(name) or real(name))
    versions = findings(plain, "missing")["versions"]
    assert "timm 0.9.1, not >=" in versions and "torch 2.14.1" not in versions


@pytest.mark.parametrize(
    ("section", "values", "wanted"),
    [
        ("train", {"optimizer": "lamb", "betas": [0.9, 0.99]}, "betas has no effect with train.optimizer=lamb"),
        ("train", {"optimizer": "muon", "betas": [0.9, 0.95]}, "betas has no effect with train.optimizer=muon"),
    ],
)
@pytest.mark.parametrize("recipe", ["pretrain", "expression"])
def test_settings_without_effect_are_said(data, recipe, section, values, wanted):
    plain = settings(data, recipe)
    plain[section] = {**plain[section], **values}
    assert wanted in findings(plain)["settings"]
    plain[section].pop("betas")
    assert "settings" not in findings(plain)


def test_drop_path_on_a_network_without_is_said(data: str):
    plain = settings(data)
    plain["model"] = {"encoder": {"name": "vea_face_cnn"}, "drop_path": 0.1}
    assert "model.drop_path has no effect on vea_face_cnn" in findings(plain)["settings"]
