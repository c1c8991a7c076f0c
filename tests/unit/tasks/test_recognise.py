from __future__ import annotations

import pytest
import torch

from vea.config import RecogniseConfig
from vea.errors import VeaError
from vea.losses.classification import mix_images, mix_targets, soft_cross_entropy, soft_targets
from vea.models.cnn import build_network
from vea.models.weights import load_encoder
from vea.storage.checkpoint import save_weights
from vea.tasks.recognise import RecogniseTask
from vea.tasks.recognise_metrics import hard_targets
from vea.taxonomy.fields import LabelField

FER = LabelField("class", ("angry", "disgust", "happy"))
VOTES = LabelField("distribution", ("neutral", "happiness", "sadness", "anger"))
FIELDS = {"expression": FER, "votes": VOTES}
VIT = {"name": "vit_base_patch16_224", "args": {"patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}}


def config(**changes) -> RecogniseConfig:
    data = {
        "name": "test",
        "data": {"global_batch_size": 8, "virtual_readers": 1},
        "augment": {"image_size": 48},
        "train": {"steps": 1},
        "model": {"encoder": {"name": "vea_face_cnn", "args": {"widths": [8, 8, 16]}}, "channels": 1},
        "targets": {"expression": 1.0, "votes": 0.5},
    }
    return RecogniseConfig.model_validate({**data, **changes})


def batch(count: int = 8, channels: int = 1) -> dict:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randint(0, 256, (count, channels, 48, 48), generator=generator, dtype=torch.uint8),
        "labels": {
            "expression": torch.arange(count) % 3,
            "votes": torch.tensor([[1.0, 7.0, 2.0, 0.0]] * (count - 1) + [[float("nan")] * 4]),
        },
        "keys": [f"face-{index}" for index in range(count)],
        "valid": torch.arange(count) < count - 1,
    }


def test_soft_targets_smooth_classes_normalise_votes_and_zero_missing():
    rows = soft_targets(torch.tensor([1, -1]), field=FER, smoothing=0.3)
    torch.testing.assert_close(rows, torch.tensor([[0.1, 0.8, 0.1], [0.0, 0.0, 0.0]]))
    votes = torch.tensor([[1.0, 3.0, 0.0, 0.0], [0.0] * 4, [float("nan")] * 4])
    rows = soft_targets(votes, field=VOTES, smoothing=0.3)
    torch.testing.assert_close(rows, torch.tensor([[0.25, 0.75, 0.0, 0.0], [0.0] * 4, [0.0] * 4]))


def test_loss_agrees_with_torch_and_ignores_missing_labels():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    wanted = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(soft_cross_entropy(logits, soft_targets(labels, field=FER, smoothing=0.1)), wanted)
    labels[3] = -1
    logits.requires_grad_()
    soft_cross_entropy(logits, soft_targets(labels, field=FER)).backward()
    assert logits.grad is not None and logits.grad[3].abs().sum() == 0 and logits.grad[2].abs().sum() > 0


def test_loss_of_halves_averages_to_the_loss_of_the_whole():
    logits, labels = torch.randn(8, 3), torch.tensor([0, -1, -1, -1, 1, 2, 0, -1])
    rows = soft_targets(labels, field=FER)
    halves = (soft_cross_entropy(logits[:4], rows[:4]) + soft_cross_entropy(logits[4:], rows[4:])) / 2
    torch.testing.assert_close(halves, soft_cross_entropy(logits, rows))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_keeps_the_share_of_pixels_and_targets_equal(kind):
    torch.manual_seed(0)
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 16, 16)
    settings = {"mixup": 0.0, "cutmix": 0.0, kind: 1.0}
    mixed, partner, share = mix_images(images, **settings)
    targets = mix_targets(torch.eye(4), partner, share)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), targets @ torch.arange(4.0))
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    torch.manual_seed(0)
    assert torch.equal(mix_images(images, **settings)[0], mixed)


def test_step_gives_loss_and_parts_and_gradients_everywhere():
    torch.manual_seed(0)
    task = RecogniseTask(config(mix={"mixup": 0.2, "cutmix": 1.0, "smoothing": 0.1}), fields=FIELDS)
    out = task(batch(), step=0)
    assert set(out) == {"loss", "loss/expression", "loss/votes"}
    assert out["loss"].item() == pytest.approx((out["loss/expression"] + 0.5 * out["loss/votes"]).item())
    out["loss"].backward()
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_learns_a_tiny_batch():
    torch.manual_seed(0)
    task, data = RecogniseTask(config(), fields=FIELDS), batch()
    data["image"] = data["image"] // 4 + (data["labels"]["expression"] * 60).view(-1, 1, 1, 1).byte()
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-2)
    first = task(data, step=0)["loss/expression"].item()
    for step in range(20):
        optimizer.zero_grad()
        task(data, step=step)["loss"].backward()
        optimizer.step()
    assert task(data, step=20)["loss/expression"].item() < 0.3 * first


def test_metrics_name_targets_and_leave_out_padding():
    task = RecogniseTask(config(), fields=FIELDS).eval()
    metrics = task.new_metrics()
    with torch.no_grad():
        data = batch()
        metrics.update(task.predict(data), data)
    result = metrics.compute()
    assert {"loss", "expression/accuracy", "expression/recall/happy", "votes/macro_f1", "votes/loss"} <= set(result)
    assert result["loss"] == pytest.approx(result["expression/loss"] + result["votes/loss"])
    records = metrics.records()
    assert records["keys"] == [f"face-{index}" for index in range(7)]
    assert records["votes"]["target"] == [1] * 7


def test_hard_targets_need_one_winner():
    rows = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.0, 0.0]])
    assert hard_targets(rows).tolist() == [1, -1, -1]


def test_colour_faces_reach_a_grey_network_and_the_other_way_round():
    task = RecogniseTask(config(), fields=FIELDS).eval()
    grey = batch()["image"]
    torch.testing.assert_close(task.normalise(grey.expand(-1, 3, -1, -1)), task.normalise(grey), atol=1e-5, rtol=1e-5)
    colour = config(model={"encoder": {"name": "vea_face_cnn", "args": {"widths": [8, 8]}}, "channels": 3})
    assert RecogniseTask(colour, fields=FIELDS).normalise(grey).shape == (8, 3, 48, 48)


def test_class_names_travel_and_differences_are_named():
    task = RecogniseTask(config(), fields=FIELDS)
    task.check_metadata(task.metadata())
    swapped = {**FIELDS, "expression": LabelField("class", ("disgust", "angry", "happy"))}
    with pytest.raises(VeaError, match="another order: index 0 is 'angry', expected 'disgust'"):
        task.check_metadata(RecogniseTask(config(), fields=swapped).metadata())
    renamed = {**FIELDS, "expression": LabelField("class", ("anger", "disgust", "happy"))}
    with pytest.raises(VeaError, match=r"lacks 'anger' and has 'angry'"):
        task.check_metadata(RecogniseTask(config(), fields=renamed).metadata())


def test_mistakes_in_the_config_are_sentences():
    with pytest.raises(VeaError, match=r"no label 'expresion'.*did you mean 'expression'"):
        RecogniseTask(config(targets={"expresion": 1.0}), fields=FIELDS)
    with pytest.raises(VeaError, match="second target"):
        helped = {"encoder": {"name": "vea_face_cnn"}, "attribute_module": True}
        RecogniseTask(config(model=helped, targets={"expression": 1.0}), fields=FIELDS)
    with pytest.raises(VeaError, match=r"did you mean 'vea_face_cnn'"):
        RecogniseTask(config(model={"encoder": {"name": "vea_face_cn"}}), fields=FIELDS)
    with pytest.raises(VeaError, match=r"not a model of timm.*resnet18"):
        RecogniseTask(config(model={"encoder": {"name": "resnet_18"}}), fields=FIELDS)
    with pytest.raises(VeaError, match="no class token"):
        cnn = {"encoder": {"name": "vea_face_cnn"}, "pool": "cls"}
        RecogniseTask(config(model=cnn), fields=FIELDS)


@pytest.mark.parametrize("train", ["linear", "last_blocks"])
def test_frozen_parts_get_no_gradient(train):
    task = RecogniseTask(config(model={"encoder": VIT, "channels": 3, "train": train}), fields=FIELDS).train()
    task(batch(channels=3), step=0)["loss"].backward()
    trained = {name for name, parameter in task.named_parameters() if parameter.grad is not None}
    assert {"heads.layers.expression.weight", "heads.layers.votes.bias"} <= trained
    blocks = {name.split(".")[2] for name in trained if name.startswith("encoder.blocks")}
    assert blocks == (set() if train == "linear" else {"1", "2"})
    assert "encoder.patch_embed.proj.weight" not in trained
    assert task.encoder.training == (train != "linear")


def test_starts_from_the_encoder_of_a_pretraining_run(tmp_path):
    settings = config(model={"encoder": VIT, "channels": 3})
    torch.manual_seed(1)
    source = RecogniseTask(settings, fields=FIELDS)
    weights = {f"model.mim.encoder.{name}": value for name, value in source.encoder.state_dict().items()}
    weights["model.fusion.norm1.weight"] = torch.ones(3)
    save_weights(tmp_path / "final", weights, {"task": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}})
    torch.manual_seed(2)
    task = RecogniseTask(settings, fields=FIELDS)
    said = task.load_pretrained(str(tmp_path))
    assert "model.mim.encoder" in said and f"{len(weights) - 1} of {len(weights) - 1}" in said
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(task.encoder.state_dict()[name], value), name
    assert task.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_positions_are_resampled_for_another_grid():
    small = RecogniseTask(config(model={"encoder": VIT, "channels": 3}), fields=FIELDS).encoder
    large_config = config(model={"encoder": VIT, "channels": 3}, augment={"image_size": 64})
    large = RecogniseTask(large_config, fields=FIELDS).encoder
    said = load_encoder(large, small.state_dict(), where="a run")
    assert "resampled from 37 to 65 tokens" in said
    assert torch.equal(large.pos_embed[:, 0], small.pos_embed[:, 0])


def test_weights_that_do_not_fit_are_refused():
    encoder = RecogniseTask(config(model={"encoder": VIT, "channels": 3}), fields=FIELDS).encoder
    with pytest.raises(VeaError, match="none of the encoder's weights"):
        load_encoder(encoder, {"visual.conv1.kernel": torch.zeros(1)}, where="a run")
    part = {f"enc.{name}": value for name, value in encoder.state_dict().items() if "blocks.2" not in name}
    with pytest.raises(VeaError, match=r"blocks\.2\.\S+ is not among them"):
        load_encoder(encoder, part, where="a run")
    wide = {**VIT, "args": {**VIT["args"], "embed_dim": 32}}
    other = RecogniseTask(config(model={"encoder": wide, "channels": 3}), fields=FIELDS).encoder
    with pytest.raises(VeaError, match=r"has shape .* wants"):
        load_encoder(encoder, other.state_dict(), where="a run")


def test_face_cnn_is_small_and_its_layers_have_an_order():
    network = build_network("vea_face_cnn", channels=1)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert 1.5e6 < parameters < 3e6
    assert network(torch.zeros(2, 1, 48, 48)).shape == (2, network.num_features)
    assert network.forward_features(torch.zeros(1, 1, 50, 50)).shape[1] == network.num_features
    with pytest.raises(VeaError, match="do not fit vea_face_cnn"):
        build_network("vea_face_cnn", channels=1, args={"width": 3})


def test_a_teacher_is_imitated_and_never_kept():
    torch.manual_seed(0)
    teacher = RecogniseTask(config(), fields=FIELDS)
    with torch.no_grad():
        for layer in teacher.heads.layers.values():
            layer.weight.normal_()
    nano = {"encoder": {"name": "vea_face_nano", "args": {"widths": [8, 16]}}, "channels": 1}
    student = config(model=nano, distill={"models": ["a run"], "weight": 1.0, "temperature": 4.0}, mix={"mixup": 0.3})
    task = RecogniseTask(student, fields=FIELDS, teachers=[teacher])
    assert not any(name.startswith(("teacher", "_teacher")) for name in task.state_dict())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())

    data = batch()
    data["labels"] = {"expression": torch.full((8,), -1), "votes": torch.full((8, 4), float("nan"))}  # no label helps
    rng = torch.get_rng_state()
    torch.manual_seed(1)
    given = task(data, step=0)
    torch.manual_seed(1)  # the same mixing, by hand, for both
    mixed = mix_images(data["image"].float(), mixup=0.3, cutmix=0)[0] if torch.rand(()).item() < 1 else None
    torch.set_rng_state(rng)
    assert mixed is not None
    for name, part in (("expression", given["loss/expression"]), ("votes", given["loss/votes"])):
        p, q = (t.predict({"image": mixed})[name].double().div(4).log_softmax(1) for t in (task, teacher))
        reference = (q.exp() * (q - p)).sum(1).mean() * 16
        assert part.item() == pytest.approx(reference.item(), rel=1e-5)
    given["loss"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_a_teacher_that_knows_no_target_is_refused():
    teacher = RecogniseTask(config(targets={"votes": 1.0}), fields=FIELDS)
    taught = {"distill": {"models": ["runs/a"]}}
    with pytest.raises(VeaError, match=r"distill\.models: runs/a knows votes"):
        RecogniseTask(config(targets={"expression": 1.0}, **taught), fields=FIELDS, teachers=[teacher])
    other = {**FIELDS, "votes": LabelField("distribution", VOTES.classes[::-1])}
    with pytest.raises(VeaError, match=r"distill\.models \(runs/a\)"):
        RecogniseTask(config(targets={"votes": 1.0}, **taught), fields=other, teachers=[teacher])


def answering(wanted: dict[str, torch.Tensor]) -> RecogniseTask:
    """A recogniser that gives the same logits whatever it sees."""
    teacher = RecogniseTask(config(targets=dict.fromkeys(wanted, 1.0)), fields=FIELDS)
    with torch.no_grad():
        for name, layer in teacher.heads.layers.items():
            layer.weight.zero_()
            layer.bias.copy_(wanted[name])
    return teacher


def test_each_label_is_taught_by_the_mean_of_those_that_know_it_and_where_asked_only_where_it_is_known():
    torch.manual_seed(0)
    first = answering({"expression": torch.tensor([4.0, 0.0, 0.0]), "votes": torch.zeros(4)})
    second = answering({"expression": torch.tensor([0.0, 4.0, 0.0])})
    data = batch()
    data["labels"] = {"expression": torch.tensor([0, 1, 2, -1] * 2), "votes": torch.full((8, 4), float("nan"))}
    for only in (False, True):
        distill = {"models": ["a", "b"], "weight": 1.0, "temperature": 1.0, "only_labelled": only}
        task = RecogniseTask(config(distill=distill), fields=FIELDS, teachers=[first, second]).eval()
        given = task(data, step=0)
        mean = torch.stack([t.heads.layers["expression"].bias.softmax(0) for t in (first, second)]).mean(0).double()
        rows = task.predict(data)["expression"].double().log_softmax(1)
        known = torch.tensor([1.0, 1, 1, 0] * 2) if only else torch.ones(8)
        reference = ((mean * (mean.log() - rows)).sum(1) * known).mean()
        assert given["loss/expression"].item() == pytest.approx(reference.item(), rel=1e-5)
        assert (given["loss/votes"].item() == 0) == only, "no sample has votes"


def test_a_teacher_is_not_asked_about_pictures_of_which_it_knows_no_label():
    torch.manual_seed(0)
    teacher = answering({"expression": torch.tensor([4.0, 0.0, 0.0])})
    asked: list[int] = []
    teacher.encoder.register_forward_pre_hook(lambda module, inputs: asked.append(len(inputs[0])))
    distill = {"models": ["a"], "weight": 1.0, "only_labelled": True}
    task = RecogniseTask(config(targets={"expression": 1.0}, distill=distill), fields=FIELDS, teachers=[teacher])
    data = batch()
    for labels in ([0, -1, 2, -1] * 2, [-1] * 8):
        data["labels"] = {"expression": torch.tensor(labels)}
        assert torch.isfinite(task(data, step=0)["loss"])
    assert asked == [4], "four of eight have the label; with none it is not called"


def test_labels_that_an_ensemble_disagrees_with_become_its_answer():
    torch.manual_seed(0)
    judges = [answering({"expression": torch.tensor(row)}) for row in ([3.0, 0.0, 0.0], [2.0, 1.0, 0.0])]
    distill = {"models": ["a", "b"], "weight": 0.0, "calibrate": True}
    task = RecogniseTask(config(targets={"expression": 1.0}, distill=distill), fields=FIELDS, teachers=judges).eval()
    data = batch()
    labels = torch.tensor([0, 1, 2, -1, 0, 1, 2, -1])
    data["labels"] = {"expression": labels}
    answer = torch.stack([j.heads.layers["expression"].bias.softmax(0) for j in judges]).mean(0)
    rows = torch.stack([torch.eye(3)[0] if y == 0 else torch.zeros(3) if y < 0 else answer for y in labels.tolist()])
    reference = -(rows * task.predict(data)["expression"].log_softmax(1)).sum(1).mean()
    assert task(data, step=0)["loss"].item() == pytest.approx(reference.item(), rel=1e-5)
