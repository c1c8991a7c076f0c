"""A small explanation model through the real recipe, its evaluation, and vea explain."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from vea.commands.main import main as vea_main
from vea.data import synthetic
from vea.storage.checkpoint import load_weights
from vea.training.tracking import predictions_table

pytest.importorskip("transformers", reason="needs the extra: pip install 'vea[vlm]'")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["sevlm", "prefix"])
def run(request, tmp_path_factory, script) -> Path:
    """A run of each kind of model, six steps on drawn scenes."""
    folder = tmp_path_factory.mktemp(request.param)
    options = ["--count", "60", "--size", "48", "--out", str(folder / "data")]
    script("datasets/prepare.py", "synthetic", *options)
    small = [
        "train.steps=6",
        "train.base_lr=5.0e-2",
        "train.warmup_steps=1",
        "train.eval_every=6",
        "train.log_every=2",
        "data.workers=0",
    ]
    small += ["augment.image_size=32", "model.decoder.width=32", "model.decoder.depth=2", "model.decoder.heads=2"]
    small += ["data.global_batch_size=8", "runtime.device=cpu", "tracking.backend=none", f"model.kind={request.param}"]
    small += [f"data.train.0.path={folder / 'data'}", f"data.val.0.path={folder / 'data'}", f"out={folder / 'run'}"]
    script("finetune/train.py", "configs/finetune/explain_synthetic.yaml", *small)
    return folder / "run"


def test_the_run_learns_and_is_scored_with_a_control(run, script, capsys):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss/language"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < losses[0]
    script("finetune/evaluate.py", run, "--split", "test")
    record = json.loads((run / "evaluation_test.json").read_text())
    assert record["synthetic"] and len(record["predictions"]["keys"]) == 6
    scores = record["targets"]["explanation"]["metrics"]
    assert {"cider", "bleu_4", "emotion_accuracy", "swapped/cider", "loss"} <= scores.keys()
    page = (run / "report.html").read_text(encoding="utf-8")
    assert record["predictions"]["explanation"][0]["key"] in page and "people: " in page and "data:image/jpeg" in page
    script("finetune/train.py", run / "config.yaml", f"out={run}")
    capsys.readouterr()
    assert vea_main(["leaderboard", str(run)]) == 0 and f"{scores['cider']:.4f}" in capsys.readouterr().out
    columns, rows = predictions_table(record, target="explanation")
    assert columns == ["key", "emotion", "references", "text"] and len(rows) == 6


def test_vea_explain_writes_a_sentence(run, tmp_path, capsys):
    Image.open(io.BytesIO(synthetic.scene(5, size=64).image)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    known = load_weights(run)[1]["task"]["emotions"]
    assert vea_main(["explain", str(tmp_path / "a.png"), "--model", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["emotion"] in known, "the first word is held to the emotions"
    assert vea_main(["explain", str(tmp_path / "a.png"), "--model", str(run), "--json", "--emotion", known[2]]) == 0
    assert json.loads(capsys.readouterr().out)["emotion"] == known[2]
    assert vea_main(["explain", str(tmp_path), "--model", str(run)]) == 1, "one of two cannot be read"
    out = capsys.readouterr()
    assert "a.png: " in out.out and "skipped: " in out.err and "b.png" in out.err
    assert vea_main(["explain", str(tmp_path / "a.png"), "--model", str(run), "--emotion", "fera"]) == 2
    assert vea_main(["explain", str(tmp_path / "a.png"), "--model", str(tmp_path / "none")]) == 2


def test_the_page_explains_a_picture(run, tmp_path):
    pytest.importorskip("gradio", reason="needs the extra: pip install 'vea[serve]'")
    from fastapi.testclient import TestClient

    from vea.inference.explain import load_explainer
    from vea.inference.page import OWN_CHOICE, answer_why, application
    from vea.inference.predict import load

    explainer = load_explainer(run)
    Image.open(io.BytesIO(synthetic.scene(5, size=64).image)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    named = explainer.emotions[2]
    assert answer_why(explainer, str(tmp_path / "a.png"), named).startswith(f"**{named}**")
    assert answer_why(explainer, str(tmp_path / "a.png"), OWN_CHOICE).split("**")[1] in explainer.emotions
    assert "not an image" in answer_why(explainer, str(tmp_path / "b.png"), OWN_CHOICE)
    assert answer_why(explainer, None, OWN_CHOICE) == "Choose a picture."
    with TestClient(application(load("expression"), max_mb=1, explainer=explainer)) as client:
        assert "/explain" in client.get("/gradio_api/info").json()["named_endpoints"]
