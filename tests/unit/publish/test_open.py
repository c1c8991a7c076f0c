"""Models by name, saved models, and the hub: offline by default, and one sentence where that stops something."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import vea
from vea.errors import RunError, VeaError
from vea.publish import hub
from vea.publish import open as opening
from vea.storage.checkpoint import save_weights
from vea.tasks.saved import Recogniser, shipped_models

TINY_VIT = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
SMALL = {
    "vea_face_cnn": {"image_size": 48, "widths": (8, 16, 16)},
    "vea_face_nano": {"image_size": 48, "widths": (8, 16)},
    "vea_scene_lite": {"image_size": 64, "size": 0},
    "vea_committee": {"image_size": 48, "members": [{"name": "vea_face_nano", "args": {"widths": (8, 16)}}] * 2},
    "tf_efficientnet_lite0": {"image_size": 64},
    "resnet50": {"image_size": 32},
    "vit_base_patch16_224": TINY_VIT,
    "vit_large_patch16_224": TINY_VIT,
    "vit_tiny_patch16_224": TINY_VIT,
    "vit_small_patch14_dinov2": {"image_size": 28, "embed_dim": 24, "depth": 1, "num_heads": 2},
}


def test_the_list_names_what_ships_vea_s_networks_and_the_encoders_of_the_configs(repository):
    names = vea.list_models()
    assert {"expression", "expression-nano", "vea_face_cnn", "vea_face_nano", "vea_scene_lite"} <= set(names)
    text = "\n".join(path.read_text("utf-8") for path in (repository / "configs").rglob("*.yaml"))
    named = set(re.findall(r"(?:encoder: \{name: |encoder:\n +name: )(\w+)", text))
    assert len(named) > 5 and named == {name for name in names if name not in vea.list_models(pretrained=True)} & named
    assert set(opening.ENCODERS) == {name for name in named if not name.startswith("vea_")}
    assert len(names) == len(set(names))


def test_the_list_can_be_filtered():
    assert vea.list_models("vit_*") == [name for name in opening.ENCODERS if name.startswith("vit_")]
    assert set(vea.list_models("face")) == {"vea_face_cnn", "vea_face_nano"}
    assert "vea_face_cnn" not in vea.list_models(pretrained=True)
    assert vea.list_models("no_such*") == []


@pytest.mark.parametrize("name", vea.list_models())
def test_every_listed_model_can_be_made(name):
    if name in vea.list_models(pretrained=True):
        model = vea.create_model(name, pretrained=True).eval()
        size = model.image_size
        logits = model(torch.zeros(2, 3, size, size, dtype=torch.uint8))
        assert set(logits) == set(model.fields) and all(torch.isfinite(rows).all() for rows in logits.values())
        return
    size = SMALL[name]["image_size"]
    for num_classes in (0, 7):
        model = vea.create_model(name, num_classes=num_classes, **SMALL[name]).eval()
        assert model(torch.zeros(2, 3, size, size)).shape == (2, num_classes or model.num_features)


def test_grey_input():
    model = vea.create_model("vea_face_nano", in_chans=1, num_classes=3)
    assert model(torch.zeros(2, 1, 48, 48)).shape == (2, 3)


def test_weights_of_a_file(tmp_path):
    torch.manual_seed(1)
    first = vea.create_model("vea_face_nano", widths=(8, 16))
    save_weights(tmp_path / "w", {f"encoder.{name}": value for name, value in first.state_dict().items()}, {})
    again = vea.create_model("vea_face_nano", pretrained=tmp_path / "w", num_classes=4, widths=(8, 16))
    assert all(torch.equal(value, again.encoder.state_dict()[name]) for name, value in first.state_dict().items())


def test_untrained_is_the_default_and_pretrained_the_shipped_weights():
    trained = vea.create_model("expression-nano", pretrained=True).task.state_dict()
    fresh = vea.create_model("expression-nano").task.state_dict()
    assert trained.keys() == fresh.keys()
    assert not all(torch.equal(trained[name], fresh[name]) for name in trained)
    assert torch.equal(trained["mean"], fresh["mean"])


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("vea_face_cn", {}, "no model 'vea_face_cn'.*vea_face_cnn"),
        ("expresion", {}, "no model 'expresion'.*expression"),
        ("", {}, "no model ''"),
        ("vea_face_cnn", {"pretrained": True}, "no weights of vea_face_cnn"),
        ("vea_face_cnn", {"pretrained": "no/file"}, "no file no/file"),
        ("vea_face_cnn", {"colour": 1}, "do not fit vea_face_cnn"),
        ("vit_tiny_patch16_224", {"checkpoint_path": "x"}, "is refused"),
        ("vit_tiny_patch16_224", {"image_size": 50}, "vit_tiny_patch16_224|multiple"),
        ("vea_face_cnn", {"in_chans": 2}, "in_chans"),
        ("vea_face_cnn", {"num_classes": -1}, "num_classes"),
        ("expression", {"num_classes": 3}, "fixed, num_classes"),
        ("expression", {"depth": 3}, "fixed, depth"),
        ("expression", {"pretrained": "file"}, "fixed, pretrained=file"),
    ],
)
def test_mistakes_are_sentences(name, options, sentence):
    with pytest.raises(VeaError, match=sentence) as error:
        vea.create_model(name, **options)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------- saved


def test_from_pretrained_gives_what_the_predictor_gives(tmp_path):
    model = vea.from_pretrained("expression-nano")
    face = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 50, 3), np.uint8))
    shares = model.probabilities(model.transform(face)[None])
    (result,) = vea.load("expression-nano").predict(face, detect_faces=False)
    name = next(iter(model.fields))
    assert dict(zip(model.fields[name].classes, shares[name][0].tolist())) == pytest.approx(
        result.probabilities, abs=1e-5
    )
    unit = model.probabilities(model.transform(face)[None].float() / 255)
    assert torch.allclose(unit[name], shares[name], atol=1e-5)


def test_a_masked_autoencoder_is_opened_too(tmp_path, repository):
    from vea.config import PretrainConfig, load_config
    from vea.models.mim import MaskedAutoencoder
    from vea.tasks.pretrain import PretrainTask

    config = load_config(
        repository / "configs/pretrain/smoke.yaml", ["objective.similarity=0", "objective.contrastive=0"]
    )
    assert isinstance(config, PretrainConfig)
    task = PretrainTask(config, teacher=None)
    state = {"recipe": "pretrain", "config": config.model_dump(mode="json"), "task": task.metadata(), "step": 1}
    save_weights(tmp_path / "run" / "final", task.state_to_save(), state)
    model = vea.from_pretrained(tmp_path / "run")
    assert isinstance(model, MaskedAutoencoder) and not model.training


FILES = ["README.md", "config.json", "intensity.safetensors", "model.safetensors", "units.safetensors"]


def test_a_pushed_folder_offline_is_a_dry_run_with_the_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.is_offline()
    model = vea.from_pretrained("expression-nano")
    folder = vea.push_to_hub(model, "someone/faces")
    assert Path(folder) == Path("hub/faces")
    assert sorted(path.name for path in Path(folder).iterdir()) == FILES
    assert "library_name: vea" in Path(folder, "README.md").read_text("utf-8")
    again = vea.from_pretrained(folder)
    assert isinstance(again, Recogniser)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    with pytest.raises(VeaError, match="exists"):
        vea.push_to_hub("expression-nano", "someone/faces")
    assert vea.push_to_hub("expression-nano", "someone/faces", out=tmp_path / "other") == str(tmp_path / "other")


@pytest.mark.parametrize("name", ["someone/faces", "openai/clip"])
def test_a_hub_id_offline_is_one_sentence(name):
    with pytest.raises(VeaError, match=f"fetching {name}.*offline by default.*HF_HUB_OFFLINE=0"):
        vea.from_pretrained(name)


@pytest.mark.parametrize("name", ["expresion", "no/such/folder", "../x/y", "https://huggingface.co/a/b"])
def test_what_is_no_model_is_one_sentence(name):
    with pytest.raises(VeaError, match="no model at"):
        vea.from_pretrained(name)


@pytest.mark.parametrize("repo", ["faces", "a/b/c", "", "/faces", "some one/faces", "someone/../x"])
def test_a_repository_is_owner_and_name(repo, tmp_path):
    with pytest.raises(VeaError, match="OWNER/NAME"):
        vea.push_to_hub("expression-nano", repo, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


class FakeHub:
    """What is asked of huggingface_hub, and its answers."""

    def __init__(self, folder: Path, fail: bool = False) -> None:
        self.folder, self.fail, self.calls = folder, fail, []

    def snapshot_download(self, repo_id, *, revision, allow_patterns):
        self.calls.append(("download", repo_id, revision))
        if self.fail:
            raise OSError("404: no such repository\nsee the hub")
        return str(self.folder)

    def HfApi(self, *, token):
        def create_repo(repo_id, *, private, exist_ok):
            if self.fail:
                raise OSError("403")
            self.calls.append(("create", repo_id, private, token))
            return f"https://hub/{repo_id}"

        def upload_folder(*, repo_id, folder_path, commit_message):
            self.calls.append(("upload", repo_id, sorted(path.name for path in Path(folder_path).iterdir())))

        return SimpleNamespace(create_repo=create_repo, upload_folder=upload_folder)


def test_online_the_hub_is_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path(vea.push_to_hub("expression-nano", "someone/faces"))
    fake = FakeHub(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", fake)
    assert isinstance(vea.from_pretrained("someone/faces", revision="v1"), Recogniser)
    assert vea.push_to_hub(folder, "someone/other", private=False, token="t") == "https://hub/someone/other"
    assert fake.calls == [
        ("download", "someone/faces", "v1"),
        ("create", "someone/other", False, "t"),
        ("upload", "someone/other", FILES),
    ]
    fake.fail = True
    with pytest.raises(RunError, match="someone/faces cannot be fetched") as error:
        vea.from_pretrained("someone/faces")
    assert "\n" not in str(error.value)
    with pytest.raises(RunError, match="did not take the model"):
        vea.push_to_hub(folder, "someone/other")
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(VeaError, match="pip install huggingface_hub"):
        vea.from_pretrained("someone/faces")


def test_what_others_import_stays():
    from vea.metrics import caption_scores
    from vea.models.mim import MaskedAutoencoder

    assert callable(vea.load) and callable(caption_scores) and callable(MaskedAutoencoder.from_pretrained)
    assert caption_scores({"a": ["a red dog runs"]}, {"a": "a red dog runs"})["bleu_1"] == pytest.approx(1)


def test_the_shipped_states_say_how_they_were_made():
    for folder in shipped_models().values():
        state = json.loads((folder / "state.json").read_text("utf-8"))
        assert state["recipe"] in ("expression", "emotion", "attributes")
