"""Encoders that can be probed, and the whole command on synthetic scenes."""

import importlib.util
import json
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from vea.config import EncoderConfig
from vea.data.shards.plan import write_dataset
from vea.data.synthetic import FIELDS, samples
from vea.errors import VeaError
from vea.inference import probe
from vea.models.vit import build_encoder
from vea.storage.checkpoint import save_weights


@pytest.fixture(scope="module")
def script(repository):
    spec = importlib.util.spec_from_file_location("vea_probe_script", repository / "pretrain" / "probe.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_command_writes_every_row_and_reads_its_features_again(script, tmp_path, monkeypatch, capsys):
    splits = {split: list(samples(count, split=split, size=32)) for split, count in
              {"train": 60, "val": 24, "test": 24}.items()}  # fmt: skip
    write_dataset(splits, tmp_path / "data", name="drawn", title="", fields=FIELDS, card=None, synthetic=True)
    form = EncoderConfig(args={"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2})
    weights = {f"model.mim.encoder.{k}": v for k, v in build_encoder(form, image_size=32).state_dict().items()}
    task = {"encoder": form.model_dump(), "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    averaged = {name: value * 0.9 for name, value in weights.items()}
    save_weights(tmp_path / "run" / "final", weights, {"task": task}, ema=averaged)
    words = [str(tmp_path / "run"), "--data", str(tmp_path / "data"), "--target", "emotion", "valence"]
    words += ["--cache", str(tmp_path / "cache"), "--workers", "0", "--seeds", "2"]
    assert script.main(words) == 0
    first = json.loads((tmp_path / "run" / "probe_data.json").read_text())
    assert list(first["rows"]) == ["last", "ema", "untrained", "colour"]
    cell = first["rows"]["ema"]["valence"]["linear 10%"]
    assert -1 <= cell["test"] <= 1 and cell["test_sd"] is not None
    assert set(first["rows"]["last"]["emotion"]) == {"linear", "knn", "linear 1%", "linear 5%", "linear 10%"}
    monkeypatch.setattr(probe, "features", None)  # a second time nothing is computed
    assert script.main(words) == 0
    assert json.loads((tmp_path / "run" / "probe_data.json").read_text()) == first


def test_colour_is_hasler_and_suesstrunks():
    images = torch.randint(0, 256, (3, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for image, found in zip(images.numpy().astype(float), probe.colour(images).numpy()):
        rg, yb = image[0] - image[1], (image[0] + image[1]) / 2 - image[2]
        vivid = (rg.var() + yb.var()) ** 0.5 + 0.3 * (rg.mean() ** 2 + yb.mean() ** 2) ** 0.5
        assert found == pytest.approx([image.mean(), vivid], rel=1e-5)
    gray = torch.full((1, 3, 4, 4), 90, dtype=torch.uint8)
    assert probe.colour(gray).tolist() == [[90, 0]]


def test_any_model_of_timm_is_probed_by_name_and_file(tmp_path):
    network = timm.create_model("test_efficientnet.r160_in1k")
    save_file(network.state_dict(), tmp_path / "network.safetensors")
    source = probe.open_source(f"test_efficientnet.r160_in1k={tmp_path / 'network.safetensors'}")
    assert (source.image_size, list(source.weights)) == (160, ["file", "untrained"])
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in (source.mean, source.std))
    with torch.no_grad():
        want = network.eval().forward_head(network.forward_features((images / 255 - mean) / std), pre_logits=True)
    assert torch.allclose(source.encode("file", image_size=64)(images), want, atol=1e-5)
    assert not torch.allclose(source.encode("untrained", image_size=64)(images), want, atol=1e-2)


def test_what_cannot_be_probed_is_told_in_a_sentence(tmp_path):
    save_weights(tmp_path / "run" / "final", {"a": torch.zeros(1)}, {})
    with pytest.raises(VeaError, match="no Vision Transformer"):
        probe.open_source(str(tmp_path / "run"))
