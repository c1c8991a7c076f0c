"""A reversed gradient: forward it is nothing, backward minus lambda; and what it does to features."""

import pytest
import torch

from vea.config import RecogniseConfig
from vea.errors import VeaError
from vea.losses.adversarial import reverse_gradient
from vea.tasks.recognise import RecogniseTask
from vea.taxonomy.fields import LabelField


def test_the_gradient_is_turned_round():
    x = torch.randn(3, 4, requires_grad=True)
    assert torch.equal(reverse_gradient(x, 2.0), x)
    (reverse_gradient(x, 2.0) * torch.arange(4.0)).sum().backward()
    assert torch.equal(x.grad, -2 * torch.arange(4.0).expand(3, 4))


def settings(**changes):
    encoder = {"name": "vit_tiny_patch16_224", "args": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}}
    return RecogniseConfig.model_validate({
        "name": "x", "data": {"global_batch_size": 16}, "train": {"steps": 1}, "augment": {"image_size": 16},
        "model": {"encoder": encoder}, **changes,
    })  # fmt: skip


def test_the_encoder_unlearns_drawn_persons_while_their_head_learns_them():
    """Encoder: gradient of the label minus lambda times that of the persons; their head: its own, as ever."""
    fields = {"expression": LabelField("class", ("dark", "light")), "person": LabelField("class", ("a", "b", "c"))}
    generator = torch.Generator().manual_seed(0)
    labels = {"expression": torch.randint(0, 2, (8,), generator=generator)}
    labels["person"] = torch.tensor([0, 1, 2, -1, 0, 1, 2, -1])  # -1: nobody knows
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=generator)
    torch.manual_seed(0)
    task = RecogniseTask(settings(adversarial={"person": 2.0}), fields=fields).train()
    names, parameters = zip(*task.named_parameters())
    output = task({"image": images, "labels": labels}, step=0)
    found = dict(zip(names, torch.autograd.grad(output["loss"], parameters, allow_unused=True)))

    features = task.features(task.normalise(images))
    alone = torch.nn.functional.cross_entropy(task.heads(features)["expression"], labels["expression"])
    persons = torch.nn.functional.cross_entropy(task.adverse(features)["person"], labels["person"], ignore_index=-1,
                                                reduction="sum") / 8  # fmt: skip
    assert torch.allclose(output["loss/person"], persons, atol=1e-6)
    for loss, weights in ((alone, {"encoder": 1.0, "heads": 1.0}), (persons, {"encoder": -2.0, "adverse": 1.0})):
        for name, grad in zip(names, torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)):
            if grad is not None:
                found[name] = found[name] - weights[name.split(".")[0]] * grad
    assert {name.split(".")[0] for name in names} == {"encoder", "heads", "adverse"}
    assert all(rest is None or rest.abs().max() < 1e-5 for rest in found.values())
    assert "person" not in task.metadata()["classes"]  # no head of what is shown to people


def test_without_it_nothing_is_there_and_a_wrong_label_is_named():
    fields = {"expression": LabelField("class", ("dark", "light")), "age": LabelField("value")}
    assert not any(name.startswith("adverse") for name in RecogniseTask(settings(), fields=fields).state_dict())
    for name in ("persn", "age", "expression"):
        with pytest.raises(VeaError, match=f"adversarial: '{name}' is to be a class label"):
            RecogniseTask(settings(adversarial={name: 2.0}), fields=fields)
