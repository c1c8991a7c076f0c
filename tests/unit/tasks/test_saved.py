"""Models that are joined: the mean of their logits, the files of the first one, and what cannot be joined."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vea.config import RecogniseConfig
from vea.errors import VeaError
from vea.inference.readings import Readings
from vea.publish.open import create_model, from_pretrained, list_models
from vea.tasks.recognise import RecogniseTask
from vea.tasks.saved import SavedModel, join, open_model
from vea.taxonomy.fields import LabelField

FIELDS = {"expression": LabelField("class", ("a", "b", "c")), "votes": LabelField("distribution", ("d", "e"))}


def saved(tmp_path, *, seed: int, widths: tuple[int, ...], size: int = 24, **model) -> SavedModel:
    encoder = {"name": "vea_face_nano", "args": {"widths": list(widths)}}
    data = {"name": f"m{seed}", "data": {"global_batch_size": 6, "virtual_readers": 1}, "train": {"steps": 1}}
    data |= {"augment": {"image_size": size}, "targets": dict.fromkeys(FIELDS, 1.0)}
    torch.manual_seed(seed)
    config = RecogniseConfig.model_validate(data | {"model": {"encoder": encoder, "channels": 1, **model}})
    task = RecogniseTask(config, fields=FIELDS).eval()
    for layer in task.heads.layers.values():
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(layer.bias)
    return SavedModel(task, {"best": {"step": seed}}, tmp_path / f"m{seed}")


def test_logits_are_the_mean_by_shares(tmp_path):
    members = [saved(tmp_path, seed=1, widths=(8, 16)), saved(tmp_path, seed=2, widths=(8, 8))]
    pair = join([(members[0], 3.0), (members[1], 1.0)], name="pair")
    images = {"image": torch.randint(0, 256, (5, 1, 24, 24), dtype=torch.uint8)}
    one, two = (member.task.predict(images) for member in members)
    found = pair.task.predict(images)
    for name in FIELDS:
        mean = 0.75 * one[name].detach().double().numpy() + 0.25 * two[name].detach().double().numpy()
        np.testing.assert_allclose(found[name].detach().numpy(), mean, rtol=1e-5, atol=1e-5)
        p, q = (member[name].detach().double().softmax(1).numpy() for member in (one, two))
        product = p**0.75 * q**0.25
        shares = pair.task.answers(found)[name].detach().numpy()
        np.testing.assert_allclose(shares, product / product.sum(1, keepdims=True), rtol=1e-4, atol=1e-6)
    features = pair.task.features(pair.task.normalise(images["image"]))
    torch.testing.assert_close(features[:, :16], members[0].task.features(members[0].task.normalise(images["image"])))
    assert pair.name == "pair" and pair.state["members"]["m1"]["share"] == 0.75


@pytest.mark.parametrize(
    ("other", "sentence"),
    [({"size": 48}, "image_size differ"), ({"bank": {"codes": 4}}, "plain heads"), ({"channels": 3}, "channels")],
)
def test_unlike_models_are_refused(tmp_path, other, sentence):
    first = saved(tmp_path, seed=1, widths=(8, 16))
    with pytest.raises(VeaError, match=rf"m1 and .*m2 cannot be joined: .*{sentence}"):
        join([(first, 1.0), (saved(tmp_path, seed=2, widths=(8, 8), **other), 1.0)], name="pair")


def test_the_pair_of_those_that_ship_reads_what_the_first_one_reads():
    pair, first = open_model("expression-pair"), open_model("expression")
    images = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    told = []
    for model in (pair, first):
        found = model.task.features(model.task.normalise(images))
        told.append(Readings.of(model)(found, model.task.answers(model.task.heads(found))))
    for name in ("units", "intensity"):
        torch.testing.assert_close(told[0][name], told[1][name], rtol=1e-3, atol=1e-4)
    assert "expression-pair" in list_models(pretrained=True)
    assert from_pretrained("expression-pair").image_size == create_model("expression-pair").image_size == 48
