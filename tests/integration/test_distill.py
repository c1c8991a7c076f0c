"""Learning from cached answers: a run that is ended goes on to the same bits, and its model opens like any other."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import vea
from vea.data import synthetic
from vea.data.sample import Sample
from vea.data.shards.plan import write_dataset

CLASSES = synthetic.FIELDS["expression"].classes


@pytest.fixture
def line(tmp_path: Path, repository: Path) -> Callable[[str], list[str]]:
    """The words of a run of four steps on 24 drawn faces, with a kept answer to each."""
    rng, sets = np.random.default_rng(0), {}
    for split, count in (("train", 24), ("val", 12)):
        faces = rng.integers(0, 256, (count, 48, 48), dtype=np.uint8)
        votes = rng.integers(1, 5, (count, len(synthetic.FIELDS["votes"].classes))).tolist()
        sets[split] = [
            Sample(f"{split}{i}", cv2.imencode(".png", face)[1].tobytes(), "png",
                   {"expression": CLASSES[i % 7], "votes": votes[i]}, [], [], "", split)
            for i, face in enumerate(faces)
        ]  # fmt: skip
    fields = {name: synthetic.FIELDS[name] for name in ("expression", "votes")}
    write_dataset(sets, tmp_path / "faces", name="faces", title="", fields=fields, card=None, synthetic=True)
    (tmp_path / "views").mkdir()
    view = rng.integers(0, 256, (24, 48, 48), dtype=np.uint8)
    answers = {"features": rng.normal(size=(24, 5)).astype(np.float16), "logits": rng.normal(size=(24, 7))}
    np.savez(tmp_path / "views/00_000.npz", view=view, index=np.arange(24), partner=rng.permutation(24),
             share=rng.random(24).astype(np.float32), **answers)  # fmt: skip
    words = ["train", str(repository / "configs/finetune/expression_distilled.yaml"), "train.init_from=null"]
    words += [f"data.{part}=[{{path: {tmp_path / 'faces'}, split: {part}}}]" for part in ("train", "val")]
    words += ["distill.models=[expression-nano]", "model.encoder.args={widths: [4, 4, 8, 8, 8], depths: [1, 1, 1, 1]}"]
    words += [
        "train.steps=4",
        "train.warmup_steps=1",
        "train.eval_every=2",
        "data.global_batch_size=8",
        "data.virtual_readers=1",
    ]
    words += ["data.workers=0", "runtime.threads=1"]
    return lambda out: [*words, f"out={tmp_path / out}", "--views", str(tmp_path / "views"), "--decay", "2"]


def test_a_run_that_is_ended_goes_on_to_the_same_bits(line, tmp_path, repository, script, monkeypatch):
    script("finetune/distill.py", *line("whole"))
    found = runpy.run_path(str(repository / "finetune/distill.py"))
    keep = found["Distillation"].keep

    def ended(self, *given) -> None:
        keep(self, *given)
        raise KeyboardInterrupt

    monkeypatch.setattr(found["Distillation"], "keep", ended)
    assert found["main"](line("ended")) == 130
    script("finetune/distill.py", *line("ended"))
    one, other = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "ended"))
    assert one["step"] == other["step"] == 4 and one["best"] == other["best"]
    for part in ("task", "average", "mapped"):
        assert all(torch.equal(value, other[part][name]) for name, value in one[part].items())
    state = json.loads((tmp_path / "whole/best/state.json").read_text())
    assert state["distil"]["decay"] == 2 and state["step"] == one["best"]["step"]
    assert vea.load(str(tmp_path / "whole")).classes


def test_without_views_is_one_sentence(line, tmp_path, repository, capsys):
    (tmp_path / "views/00_000.npz").unlink()
    main = runpy.run_path(str(repository / "finetune/distill.py"))["main"]
    assert main(line("run")) == 2
    assert "holds no views; write them first" in capsys.readouterr().err
