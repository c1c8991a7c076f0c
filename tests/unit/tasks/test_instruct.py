"""Instructions: items, packed lessons, a run, bad inputs."""

import io
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "evals"))
import tiny

from vea.config import InstructConfig
from vea.data.loading.loader import eval_loader, train_loader
from vea.data.sample import Sample
from vea.data.shards.plan import write_dataset
from vea.distributed import runtime
from vea.errors import Preempted, VeaError
from vea.storage import checkpoint
from vea.tasks.instruct import InstructTask, dealt
from vea.training.finetune import build_task, fine_tune

DIGITS = list("0123456789")


def picture(level: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((48, 48, 3), level, np.uint8)).save(out, "PNG")
    return out.getvalue()


def lessons(level: int) -> list[str]:
    bright = level > 127
    rows = [
        {"task": "affect", "class": "V-reg", "q": "how bright, digit:", "a": str(round(9 * level / 255)),
         "choices": DIGITS, "value": level / 255},
        {"task": "statements", "class": "light", "q": "claim joy", "a": "Correct" if bright else "Incorrect",
         "choices": ["Correct", "Incorrect"]},
    ]  # fmt: skip
    return [json.dumps(row) for row in rows]


def write_set(folder: Path, *, text: list[str] | None = None, count: int = 16) -> Path:
    rng = np.random.default_rng(0)
    made = {}
    for split in ("train", "val"):
        levels = [int(v) for v in rng.integers(0, 256, count)]
        made[split] = [
            Sample(f"{split}{i}", picture(v), "png", text=text or lessons(v), source="drawn", split=split)
            for i, v in enumerate(levels)
        ]
        note = {"task": "E-c, text", "class": "E-c", "q": "people laughs", "a": "joy"}
        made[split].append(
            Sample(f"{split}text", picture(0), "png", text=[json.dumps(note)], source="texts:x", split=split)
        )
    write_dataset(made, folder, name="lessons", title="lessons", fields={}, card=None)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "lessons")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.language_model(tmp_path_factory.mktemp("lm") / "tiny-lm")


def config_of(data: Path, folder: Path, out: Path, **changes) -> InstructConfig:
    given = {
        "name": "tiny",
        "out": str(out),
        "recipe": "instruct",
        "data": {
            "train": [{"path": str(data)}], "val": [{"path": str(data), "split": "val"}],
            "global_batch_size": 4, "virtual_readers": 2, "workers": 0,
        },
        "augment": {"image_size": 64, "eval_crop": 1.0},
        "model": {
            "path": str(folder), "max_tokens": 120,
            "vision": {"scene": "expression-nano", "face": None, "layer": 1, "width": 16, "tokens": 2},
        },
        "train": {"steps": 4, "base_lr": 0.1, "precision": "fp32", "log_every": 1},
        "tracking": {"backend": "none"},
        "conversations": 2,
    }  # fmt: skip
    given["model"]["vision"] |= changes.pop("vision", {})
    for key, value in changes.items():
        given[key] = {**given[key], **value} if isinstance(value, dict) else value
    return InstructConfig.model_validate(given)


def first_batch(config: InstructConfig, task: InstructTask):
    return next(iter(train_loader(config, task.item_spec(), start_step=0, micro_batch=4, rank=0, world_size=1)))


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("most", [1, 2, 4])
@pytest.mark.parametrize("sizes", [[3], [1, 1, 1], [3, 2, 1], [1, 4], [5, 5, 5], []])
def test_conversations_are_filled_class_after_class_and_none_has_a_class_twice(sizes, turns, most):
    classes = [[(name, number) for number in range(size)] for name, size in enumerate(sizes)]
    talks = dealt(classes, turns=turns, most=most)
    assert len(talks) <= most and all(1 <= len(talk) <= turns for talk in talks)
    assert all(len({name for name, _ in talk}) == len(talk) for talk in talks)
    taken = [lesson for talk in talks for lesson in talk]
    assert len(set(taken)) == len(taken)
    assert len(taken) >= min(most, sum(sizes)), "a conversation stays empty only where lessons are used up"
    assert sum(name == 0 for name, _ in taken) == min(most, *sizes[:1]) if sizes else not taken


def test_a_class_with_more_lessons_is_taught_more_often(data: Path, model: Path, tmp_path: Path):
    row = {"task": "statements", "q": "claim joy", "a": "Correct", "choices": ["Correct", "Incorrect"]}
    text = [json.dumps({**row, "class": "many" if number else "one"}) for number in range(10)]
    config = config_of(write_set(tmp_path / "set", text=text, count=64), model, tmp_path, conversations=1)
    items = InstructTask(config).item_spec()
    batches = zip(range(16), train_loader(config, items, start_step=0, micro_batch=4, rank=0, world_size=1))
    taught = [talk[0]["class"] for _, batch in batches for talks in batch["lessons"] for talk in talks]
    assert len(taught) >= 48 and 0.8 < taught.count("many") / len(taught) < 1


def test_packed_lessons_cost_what_they_cost_alone(data: Path, model: Path, tmp_path: Path):
    config = config_of(data, model, tmp_path)
    task = InstructTask(config).eval()
    batch = first_batch(config, task)
    packed = task(batch, step=0)["loss"]
    alone = []
    for i, talks in enumerate(batch["lessons"]):
        one = {**batch, **{n: batch[n][[i]] for n in ("image", "picture", "whole_face")}, "keys": [batch["keys"][i]]}
        alone.append(torch.stack([task({**one, "lessons": [[talk]]}, step=0)["loss"] for talk in talks]).mean())
    assert any(len(talks) == 2 for talks in batch["lessons"])
    assert packed.item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-4)


def test_image_tokens_at_the_input_are_a_prefix_of_the_whole_model(data: Path, model: Path, tmp_path: Path):
    config = config_of(data, model, tmp_path, vision={"layer": 0}, conversations=1)
    task = InstructTask(config).eval()
    batch = first_batch(config, task)
    where = next(i for i, talks in enumerate(batch["lessons"]) if batch["picture"][i] and talks)
    talk = task.encoded(batch["lessons"][where][0], picture=True, answered=True)
    row, states = task.pupil.joined([talk])
    features = task.features(batch)[[where]]
    ours = task.pupil([row], [states], features)
    tokens, _ = task.pupil.vision(features)
    words = task.pupil.base.get_input_embeddings()(torch.tensor([talk.ids])).clone()
    words[0, torch.tensor(talk.image)] = tokens[0]
    theirs = task.pupil.base.model(inputs_embeds=words).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_picture_is_not_seen_below_its_block(data: Path, model: Path, tmp_path: Path, monkeypatch):
    config = config_of(data, model, tmp_path, vision={"cache": str(tmp_path / "kept")})
    task = InstructTask(config).eval()
    names = [name for name, _ in task.named_parameters() if "lora_" in name]
    assert names and all(".layers.1." in name for name in names)
    talk = task.encoded([json.loads(lessons(200)[1])], picture=True, answered=True)
    kept, other = task.pupil.below(talk), InstructTask(config)
    with monkeypatch.context() as patch:
        patch.setattr(type(task.pupil), "_through", None)  # not read twice, nor by another run with the same folder
        torch.testing.assert_close(task.pupil.below(talk), kept, rtol=0, atol=0)
        torch.testing.assert_close(other.pupil.below(talk), kept, rtol=0, atol=0)
        other.pupil.base.model.layers[0].mlp.up_proj.weight.data[0] += 1
        assert other.pupil.identity() != task.pupil.identity()


@pytest.mark.parametrize(
    "vision", [{"face": "expression-nano"}, {"face": "expression-nano", "fusion": "concat"}, {"face": None}]
)
def test_every_trained_parameter_gets_a_gradient(data: Path, model: Path, tmp_path: Path, vision):
    config = config_of(data, model, tmp_path, vision=vision)
    task = InstructTask(config).train()
    batch = first_batch(config, task)
    task(batch, step=0)["loss"].backward()
    trained = {name: p for name, p in task.named_parameters() if p.requires_grad}
    assert all(p.grad is not None for p in trained.values())
    moved = {name for name, p in trained.items() if p.grad.abs().sum() > 0}
    assert any("lora_B" in name for name in moved) and any("vision" in name for name in moved)
    task.zero_grad()
    texts = {**batch, "picture": torch.zeros(4, dtype=torch.bool), "whole_face": torch.zeros(4, dtype=torch.bool)}
    task(texts, step=0)["loss"].backward()  # a batch of texts alone: DDP wants the same parameters
    assert all(p.grad is not None for p in trained.values())


def test_the_gate_is_a_softmax_that_leaves_out_a_missing_face(data: Path, model: Path, tmp_path: Path):
    task = InstructTask(config_of(data, model, tmp_path, vision={"face": "expression-nano"}))
    vision = task.pupil.vision
    v, f = torch.randn(3, 16), torch.randn(3, 16)
    weights = vision.weights(v, f, torch.tensor([[1.0], [0.0], [1.0]]))
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert weights[1].tolist() == [1.0, 0.0] and 0 < weights[0, 1] < 1


def test_a_run_learns_stops_and_goes_on_with_the_same_bits(data: Path, model: Path, tmp_path: Path, monkeypatch):
    def run(config: InstructConfig):
        return fine_tune(config, runtime.start(config.runtime, precision="fp32"))

    whole = run(config_of(data, model, tmp_path / "whole"))
    assert {"score", "V-reg/pearson", "statements/accuracy", "statements/cost"} <= whole.metrics.keys()
    plain = InstructTask.forward

    def interrupted(self, batch, *, step):
        if step == 1:
            os.kill(os.getpid(), signal.SIGUSR2)
        return plain(self, batch, step=step)

    parts = config_of(data, model, tmp_path / "parts")
    with monkeypatch.context() as patch:
        patch.setattr(InstructTask, "forward", interrupted)
        with pytest.raises(Preempted):
            run(parts)
    run(parts)
    a, _ = checkpoint.load_weights(tmp_path / "whole" / "final")
    b, _ = checkpoint.load_weights(tmp_path / "parts" / "final")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert not any("embed_tokens" in name for name in a)


def test_a_whole_image_text_model_learns(data: Path, tmp_path: Path):
    vlm = tiny.vision_language_model(tmp_path / "vlm")
    config = config_of(data, vlm, tmp_path / "run", model={"path": str(vlm), "kind": "hf", "max_tokens": 200})
    task = build_task(config, {})
    batch = first_batch(config, task)
    loss = task(batch, step=0)["loss"]
    loss.backward()
    assert torch.isfinite(loss) and set(task.state_to_save()) == {
        n for n, p in task.named_parameters() if p.requires_grad
    }
    evaluated = next(
        iter(eval_loader(config, task.item_spec(), refs=config.data.val, batch_size=4, rank=0, world_size=1))
    )
    rows = task.eval().predict(evaluated)["rows"]
    assert rows and all(0 <= row["value"] <= 1 for row in rows if "value" in row)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (["a caption"], "holds no lessons"),
        ([json.dumps({"task": "t", "class": "c", "q": "claim"})], "holds no lessons"),
        ([json.dumps({"task": "t", "class": "c", "q": "claim", "a": " "})], "has no answer"),
        ([json.dumps({"task": "t", "class": "c", "q": "claim " * 200, "a": "joy"})], "model.max_tokens is 120"),
    ],
)
def test_bad_lessons_are_one_sentence(model: Path, tmp_path: Path, text, said):
    data = write_set(tmp_path / "bad", text=text, count=4)
    config = config_of(data, model, tmp_path / "run")
    task = InstructTask(config)
    with pytest.raises(VeaError, match=said):
        batch = first_batch(config, task)
        task(batch, step=0)


def test_bad_models_are_one_sentence(data: Path, model: Path, tmp_path: Path):
    with pytest.raises(VeaError, match="no folder"):
        InstructTask(config_of(data, tmp_path / "nothing", tmp_path))
    with pytest.raises(VeaError, match="blocks 0 to 1"):
        InstructTask(config_of(data, model, tmp_path, vision={"layer": 2, "scene": "expression-nano"}))
    with pytest.raises(VeaError, match="no layer is called"):
        InstructTask(config_of(data, model, tmp_path, model={"path": str(model), "lora": {"target_modules": "none"}}))


def test_a_tokenizer_without_a_pad_is_given_its_end(data: Path, model: Path, tmp_path: Path):
    import shutil

    bare = Path(shutil.copytree(model, tmp_path / "bare"))
    known = json.loads((bare / "tokenizer_config.json").read_text())
    known.pop("pad_token")
    (bare / "tokenizer_config.json").write_text(json.dumps(known))
    task = InstructTask(config_of(data, bare, tmp_path))
    assert task.tokenizer.pad_token == task.tokenizer.eos_token
