"""Probes against closed forms, the choice on validation, and the whole command on synthetic scenes."""

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
from vea.models.vit import build_encoder
from vea.storage.checkpoint import save_weights
from vea.taxonomy.fields import LabelField


@pytest.fixture(scope="module")
def probe(repository):
    spec = importlib.util.spec_from_file_location("vea_probe_script", repository / "pretrain" / "probe.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rows(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ridge_is_the_minimum_of_its_objective(probe):
    x, y, ridge = rows(0, 40, 6), rows(1, 40), 0.3
    weights = probe.fit_ridge(x, y, ridge=ridge).requires_grad_()
    error = x.double() @ weights[:-1] + weights[-1] - y.double()
    (error.square().mean() + ridge * weights[:-1].square().sum()).backward()
    assert weights.grad.abs().max() < 1e-9


def test_the_linear_probe_is_at_the_minimum_of_its_objective(probe):
    x, y = rows(0, 90, 5), torch.arange(90) % 3
    weights = probe.fit_linear(x, y, classes=3, decay=0.1).requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weights[:-1] + weights[-1], y)
    (loss + 0.05 * weights[:-1].square().sum()).backward()
    assert weights.grad.abs().max() < 1e-4


def test_ccc_is_lins(probe):
    a, b = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.0, 2.0, 4.0, 6.0])
    # covariance 1.75, variances 1.25 and 2.75, difference of the means 1
    assert probe.ccc(a, b) == pytest.approx(2 * 1.75 / (1.25 + 2.75 + 1))
    assert probe.ccc(a, a) == pytest.approx(1)


def test_the_nearest_rows_vote(probe):
    train = (torch.eye(3), torch.tensor([0, 1, 2]))
    votes = probe.neighbours(train, torch.tensor([[0.1, 0.9, 0.0]]), k=2, classes=3)
    assert votes.argmax().item() == 1 and votes[0, 2] == 0 and votes.sum().item() == pytest.approx(1)
    values = (train[0], torch.tensor([5.0, 7.0, 9.0]))
    value = probe.neighbours(values, torch.tensor([[0.0, 1.0, 0.0]]), k=1, classes=None)
    assert value.item() == 7


def test_the_penalty_is_chosen_on_validation(probe):
    field = LabelField("class", ("a", "b"))
    x, noise = rows(0, 60, 40), rows(2, 60)
    train = (x, ((x[:, 0] + noise) > 0).long())
    x_val = rows(1, 400, 40)
    val = (x_val, (x_val[:, 0] > 0).long())
    chosen = probe.linear_probe(train, val, field=field)
    assert chosen.validation == pytest.approx(probe.score(chosen.answer(x_val), val[1], field=field))
    mean, deviation = x.mean(0), x.std(0)
    for decay in probe.DECAYS:
        weights = probe.fit_linear((x - mean) / deviation, train[1], classes=2, decay=decay)
        other = probe.score((x_val - mean) / deviation @ weights[:-1] + weights[-1], val[1], field=field)
        assert chosen.validation >= other - 0.01


def test_a_share_of_the_labels_has_every_class(probe):
    labels = torch.cat([torch.zeros(200), torch.ones(20), torch.full((1,), 2)]).long()
    chosen = labels[probe.subset(labels, share=0.05, seed=0, field=LabelField("class", ("a", "b", "c")))]
    assert torch.bincount(chosen).tolist() == [10, 1, 1]


def test_the_command_writes_every_row_and_reads_its_features_again(probe, tmp_path, monkeypatch, capsys):
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
    assert probe.main(words) == 0
    first = json.loads((tmp_path / "run" / "probe_data.json").read_text())
    assert list(first["rows"]) == ["last", "ema", "untrained", "colour"]
    cell = first["rows"]["ema"]["valence"]["linear 10%"]
    assert -1 <= cell["test"] <= 1 and cell["test_sd"] is not None
    assert set(first["rows"]["last"]["emotion"]) == {"linear", "knn", "linear 1%", "linear 5%", "linear 10%"}
    monkeypatch.setattr(probe, "features", None)  # a second time nothing is computed
    assert probe.main(words) == 0
    assert json.loads((tmp_path / "run" / "probe_data.json").read_text()) == first


def test_colour_is_hasler_and_suesstrunks(probe):
    images = torch.randint(0, 256, (3, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for image, found in zip(images.numpy().astype(float), probe.colour(images).numpy()):
        rg, yb = image[0] - image[1], (image[0] + image[1]) / 2 - image[2]
        vivid = (rg.var() + yb.var()) ** 0.5 + 0.3 * (rg.mean() ** 2 + yb.mean() ** 2) ** 0.5
        assert found == pytest.approx([image.mean(), vivid], rel=1e-5)
    gray = torch.full((1, 3, 4, 4), 90, dtype=torch.uint8)
    assert probe.colour(gray).tolist() == [[90, 0]]


def test_a_constant_answer_is_what_the_training_labels_say(probe):
    value, classes = LabelField("value", low=1, high=7), LabelField("class", ("a", "b", "c"))
    found = probe.constant(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0, 0.0]), field=value)
    assert found["test"] == 0 and found["rmse"] == pytest.approx((8 / 3) ** 0.5)
    assert probe.constant(torch.tensor([0, 1, 1]), torch.tensor([1, 1, 2, 0]), field=classes)["test"] == 0.5


def test_any_model_of_timm_is_probed_by_name_and_file(probe, tmp_path):
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


def test_what_cannot_be_probed_is_told_in_a_sentence(probe, tmp_path):
    save_weights(tmp_path / "run" / "final", {"a": torch.zeros(1)}, {})
    with pytest.raises(VeaError, match="no Vision Transformer"):
        probe.open_source(str(tmp_path / "run"))
