from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from vea.commands.compare import compare, leaderboard, mcnemar
from vea.config import AttributesConfig
from vea.errors import VeaError
from vea.losses.affect import ccc_loss, class_weights, concordance, multilabel_loss
from vea.losses.classification import soft_cross_entropy
from vea.metrics import MultilabelMetrics, ValueMetrics
from vea.metrics.calibration import fit_temperature, reliability
from vea.metrics.corruptions import CORRUPTIONS, corrupt
from vea.tasks.recognise import RecogniseTask
from vea.tasks.recognise_metrics import scale_value, unscale_value
from vea.taxonomy.fields import LabelField

FIELDS = {
    "emotion": LabelField("class", ("joy", "fear", "awe")),
    "object": LabelField("multilabel", ("Dog", "Car")),
    "valence": LabelField("value", low=1, high=7),
}
NAN = float("nan")


def task(module: bool = True, **changes) -> RecogniseTask:
    encoder = {"name": "vea_face_cnn", "args": {"widths": [8, 8, 16]}}
    settings = {
        "name": "t",
        "data": {"global_batch_size": 8, "virtual_readers": 1},
        "augment": {"image_size": 32},
        "train": {"steps": 1},
        "model": {"encoder": encoder, "attribute_module": module},
        "targets": dict.fromkeys(FIELDS, 1.0),
        **changes,
    }
    torch.manual_seed(0)
    return RecogniseTask(AttributesConfig.model_validate(settings), fields=FIELDS, counts={"emotion": [80, 10, 10]})


def batch() -> dict:
    generator = torch.Generator().manual_seed(0)
    labels = {
        "emotion": torch.tensor([0, 1, 2, 0, 1, 2, 0, -1]),
        "object": torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0], [1, 0], [0, 1], [1, 1], [NAN, NAN]]),
        "valence": torch.tensor([1.0, 4, 7, 2, 3, 5, 6, NAN]),
    }
    images = torch.randint(0, 256, (8, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return {"image": images, "labels": labels, "keys": [f"k{i}" for i in range(8)]}


def test_ccc_is_the_definition_and_missing_values_add_nothing():
    x, y = torch.tensor([1.0, 2, 3, 4]), torch.tensor([1.5, 2, 2.5, 5])
    sxy, sx, sy = np.cov(x, y, bias=True)[0, 1], np.var(x.numpy()), np.var(y.numpy())
    wanted = 2 * sxy / (sx + sy + float(x.mean() - y.mean()) ** 2)
    assert concordance(x, y).item() == pytest.approx(wanted, abs=1e-6)
    x.requires_grad_()
    loss = ccc_loss(x, torch.tensor([1.5, 2, NAN, 5]))
    loss.backward()
    assert x.grad is not None and x.grad[2] == 0 and x.grad.isfinite().all()
    assert ccc_loss(torch.ones(2), torch.tensor([NAN, NAN])).isfinite()
    metrics = ValueMetrics()
    metrics.update(torch.tensor([1.0, 2, 3, 4]), y)
    assert metrics.compute()["ccc"] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_label_sets_mask_missing_rows(asymmetric):
    logits = torch.randn(3, 2, requires_grad=True)
    multilabel_loss(logits, torch.tensor([[1.0, 0], [NAN, NAN], [0, 1]]), asymmetric=asymmetric).backward()
    assert logits.grad is not None and logits.grad[1].abs().sum() == 0 and logits.grad[0].abs().sum() > 0
    metrics = MultilabelMetrics(("Dog", "Car"))
    metrics.update(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[1.0, 0], [0, 1]]))
    assert metrics.compute()["mAP"] == 1.0


def test_imbalance_options_do_what_they_say():
    logits, rows = torch.randn(6, 3), torch.eye(3).repeat(2, 1)
    plain = soft_cross_entropy(logits, rows)
    torch.testing.assert_close(soft_cross_entropy(logits, rows), plain)
    assert soft_cross_entropy(logits, rows, gamma=2.0) < plain
    counts = torch.tensor([80.0, 10, 0])
    weights = class_weights(counts, method="balanced")
    assert weights[1] / weights[0] == pytest.approx(8) and weights[2] == 0
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    adjusted = task(imbalance={"weights": "balanced", "logit_adjustment": 1.0, "focal": 1.0, "asymmetric": True})
    assert adjusted(batch(), step=0)["loss"].isfinite()
    assert set(adjusted.state_dict()) == set(task().state_dict())  # they belong to the data, not to the weights


def test_attribute_module_starts_as_its_ablation_and_learns_through_the_attributes():
    with_module, without = task(), task(module=False)
    without.load_state_dict({k: v for k, v in with_module.state_dict().items() if "module" not in k})
    with_module.eval(), without.eval()
    for name, value in without.predict(batch()).items():
        torch.testing.assert_close(value, with_module.predict(batch())[name])
    optimizer = torch.optim.AdamW(with_module.train().parameters(), lr=1e-2)
    losses = []
    for step in range(15):
        optimizer.zero_grad()
        out = with_module(batch(), step=step)
        out["loss"].backward()
        optimizer.step()
        losses.append(out["loss"].item())
    assert losses[-1] < 0.7 * losses[0]
    assert with_module.heads.module[-1].weight.abs().sum() > 0
    metrics = with_module.eval().new_metrics()
    with torch.no_grad():
        metrics.update(with_module.predict(batch()), batch())
    assert {"emotion/accuracy", "object/mAP", "valence/ccc", "valence/rmse"} <= set(metrics.compute())
    records = json.loads(json.dumps(metrics.records(), allow_nan=False))
    assert records["valence"]["target"][-1] is None and records["object"]["target"][2] == [0, 1]


def test_values_keep_their_scale():
    field = FIELDS["valence"]
    assert scale_value(torch.tensor([1.0, 4, 7]), field=field).tolist() == [-1, 0, 1]
    assert unscale_value(torch.tensor([-1.0, 0, 1]), field=field).tolist() == [1, 4, 7]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_grow_with_strength_and_repeat(kind):
    image = np.kron(np.random.default_rng(0).integers(60, 190, (8, 8, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    far = [np.abs(corrupt(image, kind=kind, strength=s, seed=3).astype(int) - image).mean() for s in (1, 3, 5)]
    assert 0 < far[0] < far[1] < far[2]
    assert np.array_equal(corrupt(image, kind=kind, strength=2, seed=3), corrupt(image, kind=kind, strength=2, seed=3))


def test_temperature_undoes_overconfidence():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 3, generator=generator)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature((3 * logits).softmax(1), targets) == pytest.approx(3, rel=0.15)
    assert sum(row["samples"] for row in reliability(logits.softmax(1), targets)) == 4000


def test_predictions_that_say_nothing_have_no_temperature():
    generator = torch.Generator().manual_seed(0)
    confident = (5 * torch.randn(2000, 4, generator=generator)).softmax(1)
    assert fit_temperature(confident, torch.randint(0, 4, (2000,), generator=generator)) is None


def test_compare_and_leaderboard_read_records(tmp_path, capsys):
    truth = [0, 1] * 50
    for name, wrong in (("a", 40), ("b", 10)):
        said = [1 - t if i < wrong else t for i, t in enumerate(truth)]
        column = {"target": truth, "prediction": said, "confidence": [1.0] * 100}
        target = {"classes": ["x", "y"], "samples": 100, "metrics": {"accuracy": 1 - wrong / 100}}
        record = {
            "data": ["d"],
            "targets": {"e": target},
            "predictions": {"keys": [str(i) for i in range(100)], "e": column},
        }
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation_test.json").write_text(json.dumps(record))
    compare([str(tmp_path / "a"), str(tmp_path / "b")])
    said = capsys.readouterr().out
    assert "B - A: +0.3000" in said and "only A right 0, only B 30" in said
    leaderboard([str(tmp_path)])
    said = capsys.readouterr().out
    assert said.index("0.9000") < said.index("0.6000")
    assert mcnemar(5, 5) == 1.0 and mcnemar(0, 10) == pytest.approx(2 / 1024)
    with pytest.raises(VeaError, match=r"no .*evaluation_val\.json"):
        compare([str(tmp_path / "a"), str(tmp_path / "b"), "--split", "val"])
