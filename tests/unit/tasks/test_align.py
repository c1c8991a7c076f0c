"""The align task: texts drawn by key, kept features, the loss of all ranks, a run that goes on, its teacher."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vea.config import AlignConfig, TeacherConfig
from vea.data.loading.loader import eval_loader, train_loader
from vea.distributed import collectives
from vea.models.teachers import two_tower
from vea.models.teachers.load import load_teacher
from vea.models.teachers.two_tower import SideMap, _map
from vea.models.teachers.write import save_teacher
from vea.tasks.align import ClipTask, TowersTask, build_align_task
from vea.tasks.items import texts_of

ROOT = Path(__file__).resolve().parents[3]
CLIP = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4, "head_width": 16},
        "text_cfg": {"context_length": 40, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"size": 32, "mode": "RGB", "mean": [0.5] * 3, "std": [0.25] * 3,
                       "interpolation": "bicubic", "resize_mode": "shortest"},
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    out = tmp_path_factory.mktemp("align") / "synthetic"
    command = [sys.executable, "datasets/prepare.py", "synthetic", "--count", "48", "--size", "40", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return str(out)


def settings(data, model=None, **changes):
    return AlignConfig.model_validate({
        "name": "align",
        "data": {"train": [{"path": data}], "val": [{"path": data}], "global_batch_size": 8, "virtual_readers": 2,
                 "workers": 0},
        "augment": {"image_size": 32}, "train": {"steps": 4}, "model": model or {"clip": CLIP},
        "tracking": {"backend": "none"}, "runtime": {"device": "cpu", "threads": 1}, **changes,
    })  # fmt: skip


class Width(nn.Module):
    """A stand-in for a timm tower: a linear map of 4x4 pixels."""

    def __init__(self, width):
        super().__init__()
        self.map = nn.Linear(48, width)

    def forward(self, pixels):
        return self.map(nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1))


@pytest.fixture
def fake_towers(monkeypatch, tmp_path):
    def tower(form):
        torch.manual_seed(form["image_size"])
        return Width(form["image_size"] // 4).requires_grad_(False).eval()

    def read(tokenizer, model, texts, *, length=None):
        rows = [torch.randn(6, generator=torch.Generator().manual_seed(len(text))) for text in texts]
        return nn.functional.normalize(torch.stack(rows), dim=-1)

    for name in ("a.safetensors", "model.safetensors"):
        save_file({"x": torch.zeros(1)}, tmp_path / name)
    monkeypatch.setenv("VEA_DATA", str(tmp_path))
    monkeypatch.setattr(two_tower, "image_tower", tower)
    monkeypatch.setattr(two_tower, "text_tower", lambda form: (None, nn.Linear(1, 1)))
    monkeypatch.setattr(two_tower, "sentence_features", read)
    towers = [{"name": "vit_small_patch14_dinov2", "weights": "a.safetensors", "image_size": 32},
              {"name": "tf_efficientnet_lite0", "weights": "a.safetensors", "image_size": 24}]  # fmt: skip
    return {"image": towers, "text": {"path": "."}, "dim": 5, "dropout": 0.0}


def test_texts_are_drawn_by_key_pass_and_number(prepared):
    config = settings(prepared, objective={"captions": 3, "texts": "all"})
    task = build_align_task(config)
    assert isinstance(task, ClipTask) and task.tokenizer.vocab_size > 20
    where = {"rank": 0, "world_size": 1, "micro_batch": 8}
    first, second = (
        [next(train_loader(config, task.item_spec(), start_step=step, **where))["texts"] for step in (1, 1)]
        for _ in range(2)
    )
    assert first == second and all(len(texts) == 3 for texts in first[0])
    assert texts_of({"text": [" a dog ", ""]}, kind="captions") == ["a dog"]
    assert "emotion" in " ".join(texts_of({"text": [], "labels": {"emotion": "awe"}}, kind="all"))


def test_kept_features_are_those_of_the_live_towers(prepared, fake_towers):
    live, kept = (
        TowersTask(settings(prepared, {**fake_towers, "cache": cache, "standardise": True})) for cache in (False, True)
    )
    kept.load_state_dict(live.state_to_save(), strict=False)
    assert kept.image_map.linear.in_features == 8 + 6 and not any(n.startswith("towers") for n in kept.state_to_save())
    refs, where = kept.config.data.train, {"batch_size": 7, "rank": 0, "world_size": 1}
    kept.keep(eval_loader(kept.config, kept.item_spec(), refs=refs, **where))
    for one, two in zip(*(eval_loader(t.config, t.item_spec(), refs=refs, **where) for t in (live, kept))):
        assert two["image"].shape[-1] == 1 and one["keys"] == two["keys"]
        given = [task.eval().predict(batch) for task, batch in ((live, one), (kept, two))]
        ok = one["valid"]
        assert torch.allclose(given[0]["image"][ok], given[1]["image"][ok], atol=2e-3)  # kept in half precision
        assert torch.allclose(given[0]["text"][ok], given[1]["text"][ok], atol=2e-3)


def test_two_ranks_have_the_gradient_of_one_process(prepared, fake_towers, monkeypatch):
    task = TowersTask(settings(prepared, {**fake_towers, "hidden": 4}))
    torch.nn.init.normal_(task.image_map.second.weight)
    batch = next(train_loader(task.config, task.item_spec(), start_step=0, micro_batch=8, rank=0, world_size=1))
    task(batch, step=0)["loss"].backward()
    whole = {name: value.grad.clone() for name, value in task.named_parameters() if value.grad is not None}
    rows = {"image": task.images(batch), "text": task.texts([t[0] for t in batch["texts"]])[:, None]}
    summed = dict.fromkeys(whole, 0)
    for rank in range(2):
        own = slice(4 * rank, 4 * rank + 4)

        def gather(part, own=own):
            known = rows["image"] if part.ndim == 2 else rows["text"] if part.ndim == 3 else torch.ones(8)
            known = known.detach().clone()
            known[own] = part
            return known

        monkeypatch.setattr(collectives, "all_gather", gather)
        task.zero_grad()
        local = {"image": batch["image"][own], "texts": batch["texts"][own]}
        task(local, step=0)["loss"].backward()
        for name, value in task.named_parameters():
            if name in summed:  # the scale is on both ranks: its mean is its gradient
                summed[name] = summed[name] + value.grad / (2 if name == "log_scale" else 1)
    assert {"image_map.first.weight", "text_map.linear.weight", "log_scale"} <= set(whole)
    for name, gradient in whole.items():
        assert torch.allclose(summed[name], gradient, atol=1e-6), name


def test_teacher_of_towers_is_read_back(prepared, fake_towers, tmp_path):
    torch.manual_seed(0)
    task = TowersTask(settings(prepared, {**fake_towers, "hidden": 4})).eval()
    torch.nn.init.normal_(task.image_map.second.weight)
    save_teacher(tmp_path / "teacher", *task.teacher())
    teacher = load_teacher(TeacherConfig(name=str(tmp_path / "teacher")))
    assert "not CLIP" in teacher.description and teacher.embed_dim == 5
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    own = nn.functional.normalize(task.images({"image": images}), dim=-1)
    assert torch.allclose(teacher.encode_image(images), own, atol=5e-3)


def test_old_maps_are_read():
    old = {"image_map.weight": torch.randn(3, 4), "image_map.bias": torch.randn(3)}
    rows = torch.randn(2, 4)
    assert torch.allclose(_map(old, "image_map")(rows), rows @ old["image_map.weight"].T + old["image_map.bias"])
    fresh = SideMap(4, 3, hidden=8)
    assert torch.equal(fresh(rows), fresh.linear(rows))  # the hidden layer begins as nothing


def test_a_run_that_was_cut_ends_with_the_same_bits(prepared, tmp_path):
    from vea.distributed import runtime as vea_runtime
    from vea.training.engine import fit

    def train(out, stop):
        config = settings(prepared, out=str(out))
        config.train.checkpoint_every = 2
        torch.manual_seed(0)
        task = build_align_task(config)
        place = {"rank": 0, "world_size": 1}

        def batches(start, micro):
            for step, batch in enumerate(train_loader(config, task.item_spec(), start_step=start, micro_batch=micro,
                                                      **place), start):  # fmt: skip
                if step == stop:
                    raise KeyboardInterrupt
                yield batch

        runtime = vea_runtime.start(config.runtime, precision="fp32")
        fit(task, config=config, runtime=runtime, train_batches=batches,
            eval_batches=lambda in_turn=False: eval_loader(config, task.item_spec(), refs=config.data.val,
                                                           batch_size=16, **place))  # fmt: skip

    train(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", 3)
    train(tmp_path / "cut", None)
    whole, cut = (load_file(tmp_path / name / "final/model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    lines = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert {"recall", "image_to_text_r10"} <= set(next(line for line in lines if line["kind"] == "val"))
