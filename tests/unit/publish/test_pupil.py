"""A pupil's run, exported and judged: the same answers as the run's."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "evals"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
import tiny
from test_instruct import config_of, write_set

import vea
from vea.distributed import runtime
from vea.errors import VeaError
from vea.evals.backends.base import open_backend
from vea.evals.backends.pupil import PupilBackend
from vea.publish.pupil import export_pupil
from vea.tasks.instruct_saved import is_pupil, open_pupil
from vea.training.finetune import fine_tune


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    top = tmp_path_factory.mktemp("pupil")
    config = config_of(write_set(top / "set"), tiny.language_model(top / "lm"), top / "run")
    fine_tune(config, runtime.start(config.runtime, precision="fp32"))
    return top / "run"


@pytest.fixture(scope="module")
def statements(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mvei")
    entries = []
    for i in range(3):
        Image.fromarray(np.full((56, 56, 3), 40 + 80 * i, np.uint8)).save(folder / f"{i}.png")
        rows = [{"statement": f"claim {j}", "label": "correct", "class": "scene context"} for j in range(2)]
        entries.append({"image_id": f"{i}.png", "statement_list": rows})
    (folder / "s.json").write_text(json.dumps(entries))
    return folder / "s.json"


def test_an_export_answers_as_the_run(run: Path, statements: Path, tmp_path: Path):
    assert export_pupil(run, tmp_path / "out") < 1e-4
    assert is_pupil(tmp_path / "out") and (tmp_path / "out" / "README.md").is_file()
    found = {}
    for name, folder in (("run", run), ("export", tmp_path / "out")):
        vea.evaluate(str(folder), f"statements:{statements}", out=tmp_path / name)
        lines = (tmp_path / name / "judged_statements.jsonl").read_text().splitlines()
        found[name] = [json.loads(line) for line in lines]
    for ours, theirs in zip(found["run"], found["export"], strict=True):
        assert ours["text"] == theirs["text"]
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-5)
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "language")
    with pytest.raises(VeaError, match="there already"):
        export_pupil(run, tmp_path / "out")


def test_pictures_matter_unless_they_are_withheld(run: Path, statements: Path):
    sees, blind = open_backend(str(run)), open_backend(f"blind:{run}")
    assert isinstance(sees, PupilBackend) and isinstance(blind, PupilBackend)
    from vea.evals.tasks.base import open_task

    asked = open_task(f"statements:{statements}").questions("test")
    shares = []
    for backend in (sees, blind):
        told = dict(backend.ask(asked, ["probability"]))
        shares.append([told[place].probabilities["Correct"] for place in range(len(asked))])
    assert len({round(share, 5) for share in shares[1]}) <= 2  # the claims differ, the pictures do not count
    assert max(abs(a - b) for a, b in zip(*shares)) > 1e-6


def test_a_whole_model_is_exported_for_transformers(tmp_path: Path, statements: Path):
    vlm = tiny.vision_language_model(tmp_path / "vlm")
    data = write_set(tmp_path / "set", count=4)
    config = config_of(data, vlm, tmp_path / "run", model={"kind": "hf", "max_tokens": 200}, train={"steps": 1})
    fine_tune(config, runtime.start(config.runtime, precision="fp32"))
    assert export_pupil(tmp_path / "run", tmp_path / "out") < 1e-4
    task = open_pupil(tmp_path / "run")
    assert any(p.abs().sum() > 0 for n, p in task.named_parameters() if "lora_B" in n)
    records = vea.evaluate(str(tmp_path / "out"), f"statements:{statements}", readouts=["probability"])
    assert records["statements"]["scores"]["probability"]
    with pytest.raises(VeaError, match="vea export"):
        open_backend(str(tmp_path / "run"))


def test_what_is_no_pupil_is_said(tmp_path: Path):
    assert not is_pupil(tmp_path)
    (tmp_path / "pupil.json").write_text(json.dumps({"recipe": "expression"}))
    with pytest.raises(VeaError, match="is no pupil"):
        open_pupil(tmp_path)
