"""Recipe temporal: items, embeddings that are kept, scores over whole clips, and a run with its evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vea.config import load_config
from vea.data.cards import find_card
from vea.data.loading.loader import eval_loader, train_loader
from vea.data.shards.index import read_index
from vea.data.shards.plan import write_dataset
from vea.data.sources import make_source
from vea.errors import VeaError
from vea.metrics.empathy import ccc, score_folders
from vea.tasks.temporal import TemporalMetrics, TemporalTask

pytest.importorskip("av", reason="needs the extra: pip install 'vea[video]'")
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("moving") / "set"
    card = find_card("moving", REPOSITORY / "datasets" / "cards")
    card = card.model_copy(update={"options": {"subjects": 5, "stories": 2, "frames": 12, "size": 64}})
    source = make_source(card)
    rows = {split: list(source.samples("", split)) for split in ("train", "val", "test")}
    write_dataset(rows, folder, name="moving", title="", card=None, fields=source.fields(folder), synthetic=True)
    return folder


def config_of(clips: Path, *words: str):
    given = [
        f"data.train.0.path={clips}",
        f"data.val.0.path={clips}",
        "clip={frames: 6, eval_frames: 8}",
        "data.workers=0",
    ]
    small = ["data.global_batch_size=4", "data.virtual_readers=2", "model.width=4"]
    return load_config(REPOSITORY / "configs" / "finetune" / "temporal_moving.yaml", [*given, *small, *words])


def task_of(clips: Path, *words: str) -> TemporalTask:
    return TemporalTask(config_of(clips, *words), fields=read_index(clips).fields)


def first_batches(task: TemporalTask, *, world: int = 1, steps: int = 3):
    place = {"start_step": 0, "stop_step": steps, "micro_batch": 4, "world_size": world}
    return [list(train_loader(task.config, task.item_spec(), rank=rank, **place)) for rank in range(world)]


def test_ranks_change_neither_frames_nor_crops(clips):
    task = task_of(clips)
    (alone,), ranks = first_batches(task), first_batches(task, world=2)
    for step, batch in enumerate(alone):
        both = [part[step] for part in ranks]
        assert batch["keys"] == [key for part in both for key in part["keys"]]
        for name in ("numbers", "series", "frame_00000", "frame_00005"):
            assert torch.equal(batch[name], torch.cat([part[name] for part in both]))
    rows = torch.stack([batch["numbers"][:, 0] for batch in alone])
    assert rows.unique().numel() > 2, "clips start anywhere"


@pytest.mark.parametrize("head", ["gru", "conv", "frame"])
def test_a_step_lowers_the_loss_and_a_frame_is_encoded_once(clips, head, tmp_path, monkeypatch):
    task = task_of(clips, f"model.head={head}", f"model.features={tmp_path}", "model.drop_rate=0")
    looked: list[int] = []
    look = task._look
    monkeypatch.setattr(task, "_look", lambda frames: looked.append(len(frames)) or look(frames))
    ((batch, *_),) = first_batches(task)
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    losses = []
    for step in range(30):
        loss = task(batch, step=step)["loss"]
        losses.append(float(loss))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    other = {**batch, "content": [f"{content}x" for content in batch["content"]]}
    task.embeddings(other)
    assert len(looked) == 2, "another set's clip of the same key is another clip"
    assert losses[-1] < 0.8 * losses[0]
    again = task_of(clips, f"model.features={tmp_path}")
    monkeypatch.setattr(again, "_look", lambda frames: pytest.fail("kept in the folder"))
    again.embeddings(batch)
    assert not any(name.startswith("_encoder") for name in task.state_dict())


def test_scores_are_over_all_rows_of_a_clip():
    metrics = TemporalMetrics("valence")
    truth = np.linspace(-1, 1, 9)
    batch = {"keys": ["Subject_1_Story_1", ""], "valid": torch.tensor([True, False])}
    batch |= {"numbers": torch.tensor([[0, 4, 8], [0, 1, 2]]), "whole": [truth.tolist(), []]}
    metrics.update({"series": torch.tensor([[-1.0, 0.5, 1.0], [0, 0, 0]])}, batch)
    between = np.interp(np.arange(9), [0, 4, 8], [-1, 0.5, 1])
    found = metrics.compute()
    assert found["ccc"] == pytest.approx(ccc(between, truth)) == found["personalized"] == found["generalized"]


def test_pictures_are_refused(tmp_path, clips):
    from vea.data import synthetic

    write_dataset({"train": synthetic.samples(4, size=48)}, tmp_path / "p", name="p", title="", card=None,
                  fields=synthetic.FIELDS, synthetic=True)  # fmt: skip
    task = task_of(clips)
    config = config_of(tmp_path / "p")
    with pytest.raises(VeaError, match="recipe temporal learns from clips"):
        next(train_loader(config, task.item_spec(), start_step=0, micro_batch=4, rank=0, world_size=1))


def test_a_run_and_its_evaluation(clips, tmp_path, script):
    run = tmp_path / "run"
    words = [
        f"data.train.0.path={clips}",
        f"data.val.0.path={clips}",
        "clip={frames: 6, eval_frames: 12}",
        f"out={run}",
    ]
    words += [
        "train.steps=4",
        "train.warmup_steps=0",
        "data.global_batch_size=4",
        "tracking.backend=none",
        "data.workers=0",
    ]
    script("finetune/train.py", "configs/finetune/temporal_moving.yaml", *words)
    script("finetune/evaluate.py", run, "--split", "test")
    record = json.loads((run / "evaluation_test.json").read_text())
    scores = record["targets"]["valence"]["metrics"]
    from vea.config import DatasetRef
    from vea.inference.temporal import write_series

    config = config_of(clips, "clip={frames: 6, eval_frames: 12}")
    task = TemporalTask(config, fields=read_index(clips).fields)
    refs = [DatasetRef(path=str(clips), split="test")]
    truth = {}
    for batch in eval_loader(config, task.item_spec(), refs=refs, batch_size=4, rank=0, world_size=1):
        truth |= {key: np.array(row) for key, row in zip(batch["keys"], batch["whole"]) if key}
    write_series(tmp_path / "truth", truth)
    found = score_folders(run / "series_test", tmp_path / "truth")
    assert found["personalized"] == pytest.approx(scores["personalized"], abs=1e-4)
    assert found["generalized"] == pytest.approx(scores["generalized"], abs=1e-4)
