"""Exports give what the run gives: on real faces where they are there, and from runs of the real recipes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

import vea
from vea.commands import predict
from vea.commands.main import main
from vea.config import EmotionConfig, load_config
from vea.data import synthetic
from vea.data.views.decode import decode
from vea.publish import onnx
from vea.publish.verify import check_images, outputs
from vea.storage.checkpoint import load_weights, save_weights
from vea.tasks.recognise import RecogniseTask
from vea.tasks.saved import open_model
from vea.taxonomy.fields import LabelField

FIELDS = {
    "emotion": LabelField("class", ("awe", "fear", "sadness")),
    "object": LabelField("multilabel", ("dog", "tree")),
    "valence": LabelField("value", (), 1.0, 7.0),
}


def run_of(recipe: str, folder: Path, targets: tuple[str, ...], repository: Path) -> Path:
    """A run folder as the engine writes it, from the recipe's own config, untrained: its heads are made to differ."""
    path = repository / f"configs/finetune/{recipe}_synthetic.yaml"
    config = load_config(path, ["augment.image_size=32", "augment.eval_crop=0.9", f"out={folder}"])
    assert isinstance(config, EmotionConfig)
    config.targets = dict.fromkeys(targets, 1.0)
    torch.manual_seed(0)
    task = RecogniseTask(config, fields=FIELDS)
    with torch.no_grad():
        for layer in task.heads.layers.values():
            layer.weight.normal_()
    state = {"recipe": recipe, "config": config.model_dump(mode="json"), "task": task.metadata(), "step": 3}
    save_weights(folder / "best", task.state_to_save(), state)
    return folder


@pytest.fixture(scope="module")
def attributes_run(tmp_path_factory, request) -> Path:
    root = request.config.rootpath
    return run_of("attributes", tmp_path_factory.mktemp("attributes"), ("emotion", "object", "valence"), root)


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "scene.png"
    Image.fromarray(decode(next(synthetic.samples(1, size=100)).image)).save(path)
    return path


def test_whole_pictures_get_emotion_attributes_and_values(attributes_run, photo, capsys):
    predictor = vea.load(str(attributes_run))
    (result,) = predictor.predict(photo)  # detect_faces is True, and no detector is asked
    assert result.expression is None and result.faces == []
    assert result.emotion == max(result.probabilities, key=result.probabilities.get)
    assert set(result.attributes) == set(FIELDS)
    assert set(result.attributes["object"].value) <= {"dog", "tree"}
    assert result.values == {"valence": result.valence} and result.arousal is None

    # the same pixels as in evaluation: centre square of 0.9, and the raters' scale
    task = open_model(attributes_run).task
    from vea.data.views.views import Views

    view = Views(task.config.augment, seed=0, train=False).one(np.asarray(Image.open(photo)), key="")
    with torch.inference_mode():
        logits = task.predict({"image": torch.from_numpy(view).permute(2, 0, 1)[None]})
    assert result.valence == pytest.approx(4 + 3 * float(logits["valence"]), abs=1e-4)
    assert list(result.attributes["object"].probabilities.values()) == pytest.approx(
        logits["object"].sigmoid()[0].tolist(), abs=1e-5
    )

    assert predict.main([str(photo), "--model", str(attributes_run), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["emotion"] == result.emotion and said["attributes"]["valence"]["value"] == round(result.valence, 4)
    assert predict.main([str(photo), "--model", str(attributes_run), "--csv"]) == 0
    head, row = (line.split(",") for line in capsys.readouterr().out.splitlines())
    assert dict(zip(head, row))["valence"] == f"{result.valence:.4f}" and dict(zip(head, row))["object"] is not None
    assert predict.main([str(photo.parent / "*.png"), "--model", str(attributes_run)]) == 0
    assert f"{result.emotion} {result.probabilities[result.emotion]:.0%}, object" in capsys.readouterr().out


def test_a_model_of_values_alone_has_no_emotion(tmp_path, repository, photo, capsys):
    run = run_of("emotion", tmp_path / "run", ("valence",), repository)
    (result,) = vea.load(str(run)).predict(photo)
    assert result.emotion is None and result.probabilities == {} and isinstance(result.valence, float)
    assert predict.main([str(photo), "--model", str(run)]) == 0
    assert f"valence {result.valence:.4f}" in capsys.readouterr().out


def test_a_stream_goes_on_after_what_cannot_be_read(attributes_run, photo):
    predictor = vea.load(str(attributes_run))
    images = [photo, b"text", *[photo] * 5]
    results = list(predictor.stream(images, batch_size=2))
    assert [isinstance(result, vea.errors.VeaError) for result in results] == [False, True, *[False] * 5]
    assert results[6].probabilities == pytest.approx(results[0].probabilities, abs=1e-5)


def test_a_hub_folder_opens_with_the_same_probabilities(attributes_run, tmp_path, photo, capsys):
    record = {"data": ["data/synthetic"], "synthetic": True, "targets": {"emotion": {
        "classes": ["awe", "fear", "sadness"], "samples": 30, "samples_per_class": [20, 8, 2], "intervals": {},
        "metrics": {"accuracy": 0.5, "recall/awe": 0.75, "recall/fear": 0.25, "recall/sadness": 0.0}}}}  # fmt: skip
    (attributes_run / "evaluation_test.json").write_text(json.dumps(record))
    out = tmp_path / "hub"
    assert main(["export", str(attributes_run / "best"), "--to", "hub", "--out", str(out)]) == 0
    assert "emotion: 0.00e+00" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    ours, theirs = (vea.load(str(folder)).predict(photo)[0] for folder in (attributes_run, out))
    assert ours == theirs
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {"0": "awe", "1": "fear", "2": "sadness"}
    assert config["preprocessing"]["size"] == [32, 32] and str(tmp_path) not in (out / "config.json").read_text()
    _, front, card = (out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5
    assert "recall from 0.00 (sadness) to 0.75 (awe)" in card and "drawn (synthetic)" in card
    assert main(["export", str(attributes_run), "--to", "hub", "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err


def test_onnx_equals_torch_on_faces(tmp_path, monkeypatch, capsys):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = open_model("expression")
    images, where = check_images(model)  # the faces of FER2013's validation split where they are, else drawn scenes
    out = tmp_path / "e.onnx"
    found = onnx.export_onnx(model, out, images=images)
    assert max(found.values()) < 1e-4, where
    session = runtime.InferenceSession(out)
    assert session.get_inputs()[0].type == "tensor(uint8)"
    texts = session.get_modelmeta().custom_metadata_map
    assert json.loads(texts["classes"])["expression"][3] == "happy"
    assert json.loads(texts["preprocessing"])["size"] == [48, 48]
    (shares,) = session.run(["expression"], {"images": images[:5].numpy()})
    assert shares == pytest.approx(outputs(model.task, images[:5])["expression"].numpy(), abs=1e-4)
    assert shares.sum(1) == pytest.approx(1, abs=1e-5)
    monkeypatch.setattr("vea.publish.verify.TOLERANCE", -1.0)
    small = ["export", "expression", "--to", "onnx", "--out", str(tmp_path / "other.onnx"), "--input", "float"]
    assert main(small) == 1
    assert "not kept" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["e.onnx"]


def test_onnx_equals_torch_on_scenes(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = open_model("scene")
    images, where = check_images(model)  # OASIS's validation split where it is, else drawn scenes
    out = tmp_path / "scene.onnx"
    assert max(onnx.export_onnx(model, out, images=images[:8]).values()) < 1e-4, where
    session = runtime.InferenceSession(out)
    values = session.run(["valence", "arousal"], {"images": images[8:11].numpy()})  # on the raters' scale
    for name, found in zip(("valence", "arousal"), values):
        assert found == pytest.approx(outputs(model.task, images[8:11])[name].numpy(), abs=1e-4)
    texts = session.get_modelmeta().custom_metadata_map
    assert json.loads(texts["ranges"])["valence"] == [1.0, 7.0]
    assert json.loads(texts["preprocessing"])["region"] == "image"


def test_timm_gives_the_features_of_a_pretraining_run(tmp_path, repository, capsys, monkeypatch):
    from vea.tasks.pretrain import PretrainTask

    config = load_config(repository / "configs/pretrain/smoke.yaml", ["augment.image_size=32", "teacher=null"])
    config.objective.similarity = config.objective.contrastive = 0.0
    config.model.fusion = "none"
    torch.manual_seed(0)
    task = PretrainTask(config, teacher=None).eval()
    state = {"recipe": "pretrain", "config": config.model_dump(mode="json"), "task": task.metadata(), "step": 1}
    run = tmp_path / "run"
    save_weights(run / "final", task.state_to_save(), state)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = task.trunk().forward_features(images)
    for out in (tmp_path / "folder", tmp_path / "encoder.safetensors"):
        assert main(["export", str(run), "--to", "timm", "--out", str(out)]) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        loaded = eval(line, {"timm": timm}).eval()
        with torch.inference_mode():
            assert torch.equal(loaded.forward_features(images), expected)
    monkeypatch.setattr("vea.publish.verify.TOLERANCE", -1.0)
    assert main(["export", str(run), "--to", "timm", "--out", str(tmp_path / "bad")]) == 1
    assert not (tmp_path / "bad").exists()
    assert load_weights(run)[1]["step"] == 1


def test_what_cannot_be_exported_is_told(tmp_path, capsys):
    assert main(["export", "expression", "--to", "onx", "--out", str(tmp_path / "a")]) == 2
    assert "did you mean 'onnx'" in capsys.readouterr().err
    assert main(["export", "expression", "--to", "timm", "--out", str(tmp_path / "a")]) == 2
    capsys.readouterr()
    assert main(["export", str(tmp_path / "none"), "--to", "hub", "--out", str(tmp_path / "a")]) == 2
    assert "no model at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
