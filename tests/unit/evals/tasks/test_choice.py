"""Choice from a published file and from class folders."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vea
from vea.errors import VeaError


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    entries = {}
    for i, (task, label) in enumerate([("FI-2", "positive"), ("FI-2", "negative"), ("UnbaisedEmo-6", "joy")]):
        picture(tmp_path / "pictures" / f"{i}.png")
        names = ["positive", "negative"] if task == "FI-2" else ["joy", "fear"]
        about = {"task": task, "candidates": names}
        entries[i] = {"image_path": f"{i}.png", "ground_truth": label, "prompt": f"which? {i}", "other_info": about}
    path = tmp_path / "vec.json"
    path.write_text(json.dumps(entries))
    return path


def test_published_file(published: Path, tmp_path: Path):
    record = vea.evaluate("oracle", f"choice:{published}", data=tmp_path / "pictures")["choice"]
    assert record["scores"]["text"]["accuracy"] == 1
    held = vea.evaluate("constant:positive", f"choice:{published}", data=tmp_path / "pictures")["choice"]["scores"]
    assert held["text"]["protocols"]["emobserver"]["FI-2_acc"] == 0.5
    # the unknown answer counts as the first candidate to EmoObserver, and as wrong to the others
    assert [held["text"]["protocols"][p]["UnbiasedEmo-6_acc"] for p in ("emobserver", "emocaliber")] == [1, 0]
    with pytest.raises(VeaError, match="no picture"):
        vea.evaluate("oracle", f"choice:{published}")


def test_class_folders(tmp_path: Path):
    for name in ("anger", "awe"):
        for i in range(3):
            picture(tmp_path / "set" / "test" / name / f"{i}.png")
    record = vea.evaluate("uniform", f"choice:{tmp_path / 'set'}", limit=4)["choice"]
    assert record["questions"] == 4 and list(record["scores"]["text"]["protocols"]["strict"]) == ["set_acc"]


@pytest.mark.parametrize("content", ["[]", "{", '{"a": {}}', '{"a": {"image_path": "x"}}'])
def test_broken_files_are_one_sentence(content: str, tmp_path: Path):
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(VeaError):
        vea.evaluate("oracle", f"choice:{path}")
    with pytest.raises(VeaError, match="needs data"):
        vea.evaluate("oracle", "choice")
