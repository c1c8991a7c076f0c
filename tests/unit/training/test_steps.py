"""The loss and the gradient of a global batch, whatever the micro-batches, the ranks and how parameters are cut."""

from __future__ import annotations

import hashlib
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from vea.config import AttributesConfig, ExplainConfig, PretrainConfig
from vea.distributed.runtime import Runtime
from vea.errors import RunError
from vea.tasks.base import Task
from vea.tasks.pretrain import PretrainTask
from vea.tasks.recognise import RecogniseTask
from vea.taxonomy.fields import LabelField
from vea.training.meter import _Meter
from vea.training.parallel import full, is_sharded, shard
from vea.training.steps import StepMaker

B, SIDE, NAN = 8, 16, float("nan")
RANKS = 2
FUSIONS = ("none", "easy", "weighted", "dual", "glu", "lambda")


class Teacher(nn.Module):
    """Fixed: images by a linear map, texts by a hash."""

    embed_dim, description = 12, "of this test"

    def encode_image(self, images):
        weight = torch.randn(12, 48, generator=torch.Generator().manual_seed(7))
        return F.normalize(F.adaptive_avg_pool2d(images.float() / 255 - 0.5, 4).flatten(1) @ weight.T, dim=-1)

    def encode_text(self, texts):
        seeds = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little") for text in texts]
        rows = [torch.randn(12, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return F.normalize(torch.stack(rows), dim=-1)


ONLY = {"reconstruction": 0, "similarity": 0, "contrastive": 0}
OBJECTIVES = {
    "contrastive": {**ONLY, "contrastive": 1},
    "infonce": {**ONLY, "infonce": 1},
    "infonce, focal, in blocks": {**ONLY, "infonce": 1, "focal": 0.5, "infonce_block": 3},
    "sigmoid": {**ONLY, "sigmoid": 1},
    "distillation": {**ONLY, "distillation": 1, "hard_negatives": 3},
    "everything": {"person_reconstruction": 0.5, "infonce": 0.5, "focal": 0.5, "sigmoid": 0.1, "distillation": 0.5},
}
CASES = [("pretrain", "easy", name) for name in OBJECTIVES]
CASES += [("pretrain", fusion, "everything") for fusion in FUSIONS if fusion != "easy"]
CASES += [("recognise", "", ""), ("explain", "", "")]
LIMITS = (2, 4, B)
CUTS = (("ddp", B), ("ddp", 2), ("fsdp", 2))
SPARING = ("pretrain", "easy", "everything")  # the case for parameters cut, compiled and activations recomputed


def settings(limit: int, parallel: str = "ddp", *, sparing: bool = False) -> dict:
    return {
        "name": "t", "data": {"global_batch_size": B, "virtual_readers": 1}, "augment": {"image_size": SIDE},
        "train": {"steps": 1, "max_micro_batch": limit, "precision": "fp32", "compile": sparing},
        "runtime": {"parallel": parallel},
    }  # fmt: skip


def images(count: int = 1) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, B, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def pretrain(fusion: str, objective: str, config: dict):
    model = {
        "encoder": {"args": {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}},
        "decoder": {"width": 16, "depth": 1, "heads": 2}, "mask_ratio": 0.5, "fusion": fusion,
        "checkpointing": config["train"]["compile"],
    }  # fmt: skip
    config = PretrainConfig.model_validate({**config, "model": model, "objective": OBJECTIVES[objective]})
    task = PretrainTask(config, teacher=Teacher())
    scene, person = images(2)
    texts = [f"picture {i}" if i not in (1, 5, 6) else "" for i in range(B)]  # uneven over ranks and micro-batches
    noise = torch.rand(B, 2, 4, generator=torch.Generator().manual_seed(2))
    return task, {"scene": scene, "person": person, "noise": noise, "text": texts, "slot": torch.arange(B)}


def recognise(fusion: str, objective: str, config: dict):
    fields = {
        "emotion": LabelField("class", ("joy", "fear", "awe")), "valence": LabelField("value", low=1, high=7),
        "object": LabelField("multilabel", ("dog", "car")), "arousal": LabelField("value", low=1, high=7),
    }  # fmt: skip
    encoder = {"name": "vit_tiny_patch16_224", "args": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}}
    config = AttributesConfig.model_validate(
        {**config, "model": {"encoder": encoder}, "targets": dict.fromkeys(fields, 1.0), "mix": {"smoothing": 0.1}}
    )
    labels = {
        "emotion": torch.tensor([0, 1, 2, -1, 1, 2, 0, -1]),
        "object": torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0], [1, 0], [0, 1], [1, 1], [NAN, NAN]]),
        "valence": torch.tensor([1.0, 4, NAN, 2, 3, NAN, 6, NAN]),
        "arousal": torch.tensor([NAN, NAN, NAN, 2, 3, 6, 6, 1.0]),
    }
    return RecogniseTask(config, fields=fields), {"image": images()[0], "labels": labels, "slot": torch.arange(B)}


def explain(fusion: str, objective: str, config: dict):
    from vea.tasks import explain as module

    words = ["the sky is dark", "a happy child in the warm sun", "angry waves", "a quiet lake at night"]
    module.training_texts = lambda config: iter(words)
    encoder = {"name": "vit_tiny_patch16_224", "args": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}}
    decoder = {"width": 16, "depth": 1, "heads": 2, "dropout": 0}
    config = ExplainConfig.model_validate({
        **config, "emotion": {"field": "emotion"}, "objective": {"vad": 1, "contrastive": 1, "emotion": 0.5},
        "model": {"encoder": encoder, "train_encoder": True, "decoder": decoder},
    })  # fmt: skip
    task = module.ExplainTask(config, fields={"emotion": LabelField("class", ("awe", "fear", "joy"))})
    head = task.explainer.emotion_head
    head[1].p = 0.0  # dropout of the head: another mask for each cut
    texts = [
        [f"joy because {words[i % 4]}", f"fear because {words[(i + 1) % 4]}"] if i % 3 else [words[i % 4]]
        for i in range(B)
    ]
    texts[4] = []
    labels = {"emotion": torch.tensor([0, 1, 2, -1, -1, 2, 0, 1])}
    return task, {
        "image": images()[0],
        "texts": texts,
        "labels": labels,
        "slot": torch.arange(B),
        "keys": list("abcdefgh"),
    }


MAKE = {"pretrain": pretrain, "recognise": recognise, "explain": explain}


def part(value, rows):
    if isinstance(value, dict):
        return {name: part(entry, rows) for name, entry in value.items()}
    return value[rows]


def one_step(case, *, limit: int, runtime: Runtime, parallel: str = "ddp", sparing: bool = False):
    """Returns (mean parts over ranks, whole gradients by name) of one step."""
    torch.manual_seed(0)
    recipe, fusion, objective = case
    task, batch = MAKE[recipe](fusion, objective, settings(limit, parallel, sparing=sparing))
    if parallel == "fsdp":
        shard(task)
        assert is_sharded(task)
    maker = StepMaker(task, config=task.config, runtime=runtime, meter=_Meter(B))
    assert maker.two_passes == (limit < B // runtime.world_size)
    first = runtime.rank * B // runtime.world_size
    pieces = [slice(first + i * maker.micro, first + (i + 1) * maker.micro) for i in range(maker.accumulate)]
    done = maker.step(iter([part(batch, piece) for piece in pieces]), step=3)
    parts = {name: value.detach().clone() for name, value in done.parts.items()}
    if runtime.world_size > 1:
        for value in parts.values():
            dist.all_reduce(value)
            value /= runtime.world_size
    gradients = {}
    for name, weight in task.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None, f"{case}: nothing reaches {name}"
            gradients[name] = full(weight.grad).reshape(-1).clone()
    return parts, gradients


def assert_alike(found, wanted, what: str) -> None:
    for expected, got, tolerance in ((wanted[0], found[0], 1e-5), (wanted[1], found[1], 1e-4)):
        assert expected.keys() == got.keys(), what
        for name, value in expected.items():
            scale = max(1e-3, value.abs().max().item())
            assert (got[name] - value.reshape(got[name].shape)).abs().max() <= tolerance * scale, f"{what}: {name}"


ALONE = Runtime(torch.device("cpu"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(filter(None, case)))
def test_micro_batches_have_the_loss_and_the_gradient_of_one_batch(case):
    if case[0] == "explain":
        pytest.importorskip("transformers", reason="needs the extra: pip install 'vea[vlm]'")
    whole = one_step(case, limit=B, runtime=ALONE)
    for limit in LIMITS[:-1]:
        assert_alike(one_step(case, limit=limit, runtime=ALONE), whole, f"micro-batches of {limit}")


def test_one_pass_would_have_another_gradient(monkeypatch):
    case = ("pretrain", "easy", "infonce")
    whole = one_step(case, limit=B, runtime=ALONE)
    monkeypatch.setattr(PretrainTask, "relates_samples", False)
    torch.manual_seed(0)
    task, batch = pretrain("easy", "infonce", settings(2))
    maker = StepMaker(task, config=task.config, runtime=ALONE, meter=_Meter(B))
    maker.step(iter([part(batch, slice(start, start + 2)) for start in range(0, B, 2)]), step=3)
    apart = max((p.grad.reshape(-1) - whole[1][n]).norm() / whole[1][n].norm().clamp(min=1e-6)
                for n, p in task.named_parameters() if p.requires_grad)  # fmt: skip
    assert apart > 0.1


def on_two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS, init_method=f"file://{folder}/meeting")
    runtime = Runtime(torch.device("cpu"), rank, RANKS, rank)
    for case in CASES:
        for parallel, limit in CUTS:
            found = one_step(case, limit=limit, runtime=runtime, parallel=parallel)
            if rank == 0:
                torch.save(found, f"{folder}/{CASES.index(case)}-{parallel}-{limit}.pt")
    torch.compile = partial(torch.compile, backend="aot_eager")  # what inductor gets; its C++ takes a minute
    for limit in (2, B):
        found = one_step(SPARING, limit=limit, runtime=runtime, parallel="fsdp", sparing=True)
        if rank == 0:
            torch.save(found, f"{folder}/sparing-{limit}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_with_ddp_and_with_fsdp_have_the_loss_and_the_gradient_of_one(tmp_path):
    """Every fusion, every loss, one batch a rank and several."""
    pytest.importorskip("transformers", reason="needs the extra: pip install 'vea[vlm]'")
    mp.start_processes(on_two_ranks, args=(str(tmp_path),), nprocs=RANKS, start_method="forkserver")
    for number, case in enumerate(CASES):
        whole = one_step(case, limit=B, runtime=ALONE)
        for parallel, limit in CUTS:
            found = torch.load(tmp_path / f"{number}-{parallel}-{limit}.pt", weights_only=True)
            assert_alike(found, whole, f"{case}, {parallel}, micro-batches of {limit}")
    whole = one_step(SPARING, limit=B, runtime=ALONE)
    for limit in (2, B):
        found = torch.load(tmp_path / f"sparing-{limit}.pt", weights_only=True)
        assert_alike(found, whole, f"cut, compiled and recomputed, micro-batches of {limit}")


# ---------------------------------------------------------------------------------------------------- the two passes


class Pairs(Task):
    """InfoNCE of two linear maps, with dropout and batch norm before them."""

    relates_samples = True
    constant_rows = frozenset({"text"})

    def __init__(self, *, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.BatchNorm1d(6) if norm else nn.Identity(), nn.Linear(6, 4))
        self.layers.double()
        self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.noise = None

    def rows(self, batch, *, step):
        x = batch["x"] if self.noise is None else batch["x"] + torch.from_numpy(self.noise.normal(size=6))
        return {"image": self.layers(x), "text": batch["known"]["text"] if "known" in batch else batch["t"]}

    def loss_of(self, rows):
        logits = self.scale * F.normalize(rows["image"], dim=-1) @ rows["text"].T
        return {"loss": F.cross_entropy(logits, torch.arange(len(logits)))}

    def loss_parameters(self):
        return [self.scale]

    def forward(self, batch, *, step):
        return self.loss_of(self.rows(batch, step=step))


def pairs_batch() -> dict:
    generator = torch.Generator().manual_seed(3)
    x, t = (torch.randn(B, width, dtype=torch.float64, generator=generator) for width in (6, 4))
    return {"x": x, "t": t}


def step_of(task: Pairs, limit: int):
    config = PretrainConfig.model_validate(settings(limit))
    maker = StepMaker(task, config=config, runtime=ALONE, meter=_Meter(B))
    batch = pairs_batch()
    pieces = [part(batch, slice(start, start + maker.micro)) for start in range(0, B, maker.micro)]
    return maker.step(iter(pieces), step=0), {name: p.grad for name, p in task.named_parameters()}


def test_the_gradient_is_that_of_the_formula_in_float64():
    done, gradients = step_of(Pairs(), 2)
    task, batch = Pairs(), pairs_batch()
    weight, bias, scale = task.layers[2].weight, task.layers[2].bias, task.scale
    y = batch["x"] @ weight.T + bias
    logits = scale * (y / y.norm(dim=1, keepdim=True)) @ batch["t"].T
    loss = (logits.exp().sum(1).log() - logits.diagonal()).mean()
    wanted = torch.autograd.grad(loss, [task.scale, weight, bias])
    assert done.parts["loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    for found, expected in zip((gradients["scale"], gradients["layers.2.weight"], gradients["layers.2.bias"]), wanted):
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_both_passes_draw_the_same_dropout():
    _, gradients = step_of(Pairs(dropout=0.5), 2)
    task, batch = Pairs(dropout=0.5), pairs_batch()
    from vea.training.steps import step_seed

    torch.manual_seed(step_seed(0, 0, 0))
    rows = [task.rows(part(batch, slice(start, start + 2)), step=0) for start in range(0, B, 2)]
    task.loss_of({name: torch.cat([row[name] for row in rows]) for name in rows[0]})["loss"].backward()
    for name, weight in task.named_parameters():
        assert torch.allclose(gradients[name], weight.grad, rtol=1e-9, atol=1e-12), name


def test_running_statistics_move_once_a_micro_batch():
    task = Pairs(norm=True)
    step_of(task, 4)
    assert task.layers[1].num_batches_tracked == 2
    again = nn.BatchNorm1d(6).double()
    for start in (0, 4):
        again(pairs_batch()["x"][start : start + 4])
    assert torch.allclose(task.layers[1].running_mean, again.running_mean)


def test_what_is_drawn_elsewhere_is_noticed():
    task = Pairs()
    task.noise = np.random.default_rng(0)
    with pytest.raises(RunError, match=r"max_micro_batch: image is not the same in the two passes.*=null"):
        step_of(task, 2)


def test_constant_rows_are_made_once():
    task, calls = pretrain("easy", "everything", settings(2)), []
    task, batch = task
    encode = task.teacher.encode_text
    task.teacher.encode_text = lambda texts: calls.append(len(texts)) or encode(texts)
    maker = StepMaker(task, config=task.config, runtime=ALONE, meter=_Meter(B))
    maker.step(iter([part(batch, slice(start, start + 2)) for start in range(0, B, 2)]), step=0)
    assert calls == [2] * 4
