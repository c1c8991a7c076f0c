"""The bottleneck: the first target is W s + b of the attributes, and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vea.config import AttributesConfig
from vea.errors import VeaError
from vea.models.heads import BottleneckHeads, activations
from vea.tasks.recognise import RecogniseTask
from vea.taxonomy.fields import LabelField

KINDS = {"emotion": "class", "scene": "class", "object": "multilabel", "valence": "value"}
CLASSES = {"emotion": 4, "scene": 3, "object": 5, "valence": 1}


def heads(**changes) -> BottleneckHeads:
    torch.manual_seed(0)
    made = BottleneckHeads(16, kinds=KINDS, classes=CLASSES, **changes)
    torch.nn.init.normal_(made.weights.weight)
    return made.eval()


def test_the_emotion_is_w_times_the_activations():
    """The reference, in float64: softmax of the classes, a sigmoid a member of the set, tanh of the value."""
    made, features = heads(), torch.randn(7, 16)
    logits = made(features)
    assert list(logits) == list(CLASSES), "the order of the targets is kept"
    x = {name: value.detach().double().numpy() for name, value in logits.items()}
    scene = np.exp(x["scene"]) / np.exp(x["scene"]).sum(1, keepdims=True)
    seen = np.concatenate([scene, 1 / (1 + np.exp(-x["object"])), np.tanh(x["valence"])], 1)
    weight, bias = made.weights.weight.double().detach().numpy(), made.weights.bias.double().detach().numpy()
    np.testing.assert_allclose(logits["emotion"].detach().numpy(), seen @ weight.T + bias, rtol=1e-5, atol=1e-6)


def test_an_intervention_moves_the_logits_by_w():
    made, features = heads(), torch.randn(7, 16)
    seen = activations(made.attributes(features), made.kinds)
    for attribute in range(seen.shape[1]):
        by_hand = seen.clone()
        by_hand[:, attribute] = 1.0
        moved = made.explained(by_hand) - made.explained(seen)
        wanted = (1 - seen[:, attribute])[:, None] * made.weights.weight[:, attribute]
        torch.testing.assert_close(moved, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("joint", [False, True])
def test_no_other_path(joint):
    """With W = 0 the picture does not reach the emotion; strict: nor does the emotion's loss reach the attributes."""
    made, features = heads(joint=joint), torch.randn(7, 16, requires_grad=True)
    made(features)["emotion"].square().sum().backward()
    taught = made.attributes.layers["scene"].weight.grad is not None
    assert taught == joint and (features.grad is not None) == joint
    torch.nn.init.zeros_(made.weights.weight)
    emotion = made(features)["emotion"]
    torch.testing.assert_close(emotion, emotion[:1].expand_as(emotion))


def test_the_recipe_has_the_switch_and_says_what_contradicts():
    fields = {"emotion": LabelField("class", ("a", "b")), "object": LabelField("multilabel", ("c", "d", "e"))}

    def task(targets=("emotion", "object"), **model):
        given = {"name": "t", "data": {"global_batch_size": 8, "virtual_readers": 1}, "train": {"steps": 1}}
        given |= {"augment": {"image_size": 32}, "targets": dict.fromkeys(targets, 1.0)}
        encoder = {"name": "vea_face_cnn", "args": {"widths": [8, 8]}}
        config = AttributesConfig.model_validate({**given, "model": {"encoder": encoder, **model}})
        return RecogniseTask(config, fields=fields)

    made = task(bottleneck="strict")
    assert isinstance(made.heads, BottleneckHeads) and not made.heads.joint
    assert made.predict({"image": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)})["emotion"].shape == (2, 2)
    with pytest.raises(VeaError, match="exclude each other"):
        task(bottleneck="joint", attribute_module=True)
    with pytest.raises(VeaError, match=r"model\.bottleneck needs a second target"):
        task(["emotion"], bottleneck="joint")


BANK = {"bank": {"codes": 5, "width": 4}, "encoder": {"name": "vea_face_cnn", "args": {"widths": [8, 8, 16]}}}


def banked(**changes) -> RecogniseTask:
    data = {"name": "test", "data": {"global_batch_size": 6, "virtual_readers": 1}, "train": {"steps": 1},
            "augment": {"image_size": 24}, "targets": {"emotion": 1.0}, "model": {**BANK, **changes}}  # fmt: skip
    torch.manual_seed(0)
    return RecogniseTask(AttributesConfig.model_validate(data), fields={"emotion": LabelField("class", tuple("abcd"))})


def test_a_bank_adds_its_prototype_to_what_the_heads_see():
    task = banked().eval()
    torch.nn.init.normal_(task.heads.bank.up.weight)
    torch.nn.init.normal_(task.heads.layers["emotion"].weight)
    e = torch.randn(7, 16)
    tensors = (e, task.heads.bank.down.weight, task.heads.bank.up.weight, task.heads.bank.codes)
    x, down, up, codes = (value.detach().double().numpy() for value in tensors)
    layer = task.heads.layers["emotion"]
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    k = (((x @ down.T)[:, None] - codes) ** 2).sum(-1).argmin(1)
    np.testing.assert_allclose(
        task.heads(e)["emotion"].detach().numpy(), (x + codes[k] @ up.T) @ weight.T + bias, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(task.heads.affinities("emotion").numpy(), codes @ up.T @ weight.T, rtol=1e-4, atol=1e-5)


def test_a_bank_learns_beside_the_labels():
    task = banked()
    batch = {"image": torch.randint(0, 256, (6, 3, 24, 24), dtype=torch.uint8), "slot": torch.arange(6),
             "labels": {"emotion": torch.arange(6) % 4}}  # fmt: skip
    for step in range(3):
        parts = task(batch, step=step)
    assert parts["loss"].item() == pytest.approx((parts["loss/emotion"] + parts["loss/bank"]).item())
    assert parts["loss/bank"] > 0 and task.heads.bank.use.sum() > 0, "it counted what it saw"
    parts["loss"].backward()
    assert task.heads.bank.down.weight.grad.abs().sum() > 0


def test_a_bank_is_for_plain_heads():
    with pytest.raises(VeaError, match=r"model\.bank goes with plain heads"):
        banked(attribute_module=True)
