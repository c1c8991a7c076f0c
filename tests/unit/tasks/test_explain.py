"""The explanation task: features of several blocks, and the head that names the emotion."""

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra: pip install 'vea[vlm]'")

from vea.config import ExplainConfig
from vea.errors import VeaError
from vea.tasks.explain import ExplainTask
from vea.taxonomy.fields import LabelField

EMOTIONS = ("awe", "fear", "joy")
FIELDS = {"emotion": LabelField("class", EMOTIONS)}
TEXTS = ["the sky is dark and a dog runs", "a happy child in the sun", "angry waves at sea", "a quiet lake"]


def build(monkeypatch, **model):
    monkeypatch.setattr("vea.tasks.explain.training_texts", lambda config: iter(TEXTS))
    encoder = {"name": "vit_tiny_patch16_224", "args": {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}}
    config = ExplainConfig.model_validate({
        "name": "x", "data": {}, "train": {"steps": 1}, "augment": {"image_size": 16}, "emotion": {"field": "emotion"},
        "objective": {"vad": 0, "contrastive": 0, "emotion": 0.5},
        "generate": {"method": "beam", "beams": 2, "max_new_tokens": 8},
        "model": {"encoder": encoder, "decoder": {"width": 16, "depth": 1, "heads": 2, "dropout": 0}, **model},
    })  # fmt: skip
    torch.manual_seed(0)
    return ExplainTask(config, fields=FIELDS).eval()


@pytest.fixture
def batch():
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels = {"emotion": torch.tensor([2, -1, 0, 1])}
    return {"image": images, "texts": [[text] for text in TEXTS], "labels": labels, "keys": list("abcd")}


def test_features_of_several_blocks_stand_side_by_side(monkeypatch, batch):
    task = build(monkeypatch, encoder_blocks=[1, 3])
    found = task.features(batch)
    x = (batch["image"] / 255 - task.mean) / task.std
    last = task.encoder.forward_features(x)[:, 1:]
    assert found.shape == (4, 4, 48) and torch.allclose(found[..., 24:], last, atol=1e-5)
    assert not torch.allclose(found[..., :24], last, atol=1e-2)
    blind = build(monkeypatch, encoder_blocks=[1, 3], blind=True)
    assert blind.features(batch).shape == (4, 1, 48) and not blind.features(batch).any()


def test_the_emotion_loss_is_cross_entropy_where_an_emotion_is_known(monkeypatch, batch):
    task = build(monkeypatch, encoder_blocks=[2, 3])
    outputs = task(batch, step=0)
    known, truth = [0, 2, 3], torch.tensor([2, 0, 1])
    log = task.explainer.emotion_head(task.features(batch).mean(1))[known].log_softmax(1)
    expected = -0.5 * sum(log[i, truth[i]] for i in range(3)) / 3
    assert outputs["loss/emotion"].item() == pytest.approx(expected.item(), rel=1e-5)
    batch["labels"]["emotion"] = torch.full((4,), -1)
    batch["texts"] = [[], [], [], []]
    assert task(batch, step=0)["loss/emotion"] == 0, "nothing is known: no loss, and no NaN"


def test_the_head_has_its_own_way_and_names_what_is_explained(monkeypatch, batch):
    task = build(monkeypatch)
    task(batch, step=0)["loss"].backward()
    learned = {name.split(".")[0] for name, p in task.explainer.named_parameters() if p.grad is not None}
    assert {"emotion_head", "decoder", "project"} <= learned
    task.zero_grad()
    task.explainer.emotion_logits(task.features(batch)).sum().backward()
    assert {n.split(".")[0] for n, p in task.explainer.named_parameters() if p.grad is not None and p.grad.any()} == {
        "emotion_head"
    }
    for index, name in enumerate(EMOTIONS):
        with torch.no_grad():
            task.explainer.emotion_head[2].weight.zero_()
            task.explainer.emotion_head[2].bias.copy_(10.0 * torch.eye(3)[index])
        rows = task.write(task.features(batch))
        assert all(task.tokens.text(row).startswith(f"{name} because") for row in rows)
        several = task.write(task.features(batch), count=2)
        assert len(several) == 8 and all(task.tokens.text(row).startswith(f"{name} because") for row in several)
    told = task.write(task.features(batch), emotion="awe")
    assert all(task.tokens.text(row).startswith("awe because") for row in told), "who asks for one gets it"


def test_blocks_that_are_not_there_are_told(monkeypatch):
    with pytest.raises(VeaError, match="blocks 1 to 3"):
        build(monkeypatch, encoder_blocks=[3, 4])
    with pytest.raises(VeaError, match="no transformer blocks"):
        build(monkeypatch, encoder_blocks=[1], encoder={"name": "vea_face_cnn", "args": {"widths": [8, 8, 8, 8]}})


# ----------------------------------------------------------------------------------------------- the decoder's switches

SWITCHES = {"emotion_vector": True, "carries_emotion": True}


def wild(task):
    """Gives the parts that start at zero some weights."""
    torch.manual_seed(3)
    for name, parameter in task.explainer.named_parameters():
        if name in ("vector", "marks.weight", "decoder.marks.weight"):
            torch.nn.init.normal_(parameter, std=0.5)
    return task


def test_the_switches_start_as_the_model_without_them(monkeypatch, batch):
    plain, switched = build(monkeypatch, vad=False), build(monkeypatch, vad=False, **SWITCHES)
    extra = switched.load_state_dict(plain.state_dict(), strict=False)
    assert set(extra.missing_keys) == {"explainer.vector", "explainer.marks.weight", "explainer.decoder.marks.weight"}
    assert not extra.unexpected_keys, "and without them there is nothing more to save"
    torch.manual_seed(5)
    one = plain(batch, step=0)
    torch.manual_seed(5)
    other = switched(batch, step=0)
    torch.testing.assert_close(one["loss"], other["loss"])
    other["loss"].backward()
    for name in ("vector", "marks.weight", "decoder.marks.weight"):
        assert switched.explainer.get_parameter(name).grad.abs().sum() > 0, f"{name} learns"


def test_the_vector_is_added_to_every_input_embedding(monkeypatch, batch):
    """The reference: the head's probabilities times the table, added to the embeddings of a model without it."""
    task = wild(build(monkeypatch, vad=False, emotion_vector=True))
    plain = build(monkeypatch, vad=False)
    plain.load_state_dict({k: v for k, v in task.state_dict().items() if k != "explainer.vector"})
    found = task.features(batch)
    shares = task.explainer.emotion_logits(found).softmax(1)
    made = task.sentences([("awe", text) for text in TEXTS], found.device)
    logits, _ = task.explainer(task.explainer.memory(found), made)
    vector = shares.double() @ task.explainer.vector.double()
    for row in range(4):
        decoder = plain.explainer.decoder
        kept = decoder.transformer.wte.weight.clone()
        with torch.no_grad():
            decoder.transformer.wte.weight.add_(vector[row].float())
            one = decoder(made.ids[row : row + 1], encoder_hidden_states=plain.explainer.memory(found[row : row + 1]))
            decoder.transformer.wte.weight.copy_(kept)
            hidden = one.hidden_states[0] @ kept.T  # the output layer shares the embeddings
        torch.testing.assert_close(logits[row], hidden[0], rtol=1e-4, atol=1e-4)


def test_with_the_switches_the_cache_changes_nothing(monkeypatch, batch):
    task = wild(build(monkeypatch, **SWITCHES))
    memory = task.explainer.memory(task.features(batch))
    options = {"tokens": task.tokens, "settings": task.config.generate, "emotions": list(EMOTIONS)}
    cached = task.explainer.write(memory, **options)
    assert torch.equal(cached, task.explainer.write(memory, **options, use_cache=False))
    alone = [task.explainer.write(memory[i : i + 1], **options)[0] for i in range(4)]
    assert [task.tokens.text(row) for row in cached] == [task.tokens.text(row) for row in alone]


def test_switches_that_have_nothing_to_ask_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"model\.emotion_vector is a part of kind sevlm"):
        build(monkeypatch, kind="prefix", emotion_vector=True)
    config = build(monkeypatch, carries_emotion=True).config.model_dump()
    config["objective"]["emotion"] = 0
    with pytest.raises(ValueError, match=r"model\.carries_emotion asks the emotion head"):
        ExplainConfig.model_validate(config)


def test_words_that_carry_emotion_are_those_with_strong_ratings():
    from vea.models.language.decoder import carrying_words

    ratings = torch.tensor([[0.0, 0, 0], [0.3, 0.2, 1], [0.5, 0, 0], [-0.3, 0.3, 0], [0, -0.4, 0]])
    assert carrying_words(ratings).tolist() == [False, False, True, True, True]
