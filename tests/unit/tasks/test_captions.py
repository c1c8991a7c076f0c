"""Stage two as a task: each path alone, its texts, and gradients that ranks and micro-batches do not change."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_pretrain import B, FakeTeacher, make_batch, make_config, part
from torch.nn.parallel import DistributedDataParallel

from vea.data.prompts import NO_TEXT
from vea.errors import VeaError
from vea.losses.captions import caption_infonce, cosines
from vea.tasks.captions import affect_of, evoking, phrases_of
from vea.tasks.pretrain import PretrainTask

OFF = {"similarity": 0, "contrastive": 0}
PATHS = ("caption_scene", "caption_fused", "caption_phrases")
EVERYTHING = {
    "objective": {**OFF, **dict.fromkeys(PATHS, 0.5)},
    "captions": {"positives": "soft", "affect": 0.5, "mix": "pair", "mix_count": 3},
    "bank": {"codes": 4, "width": 6},
}


def make(objective, *, captions=None, bank=None, fusion="easy", salient=None, **changes):
    torch.manual_seed(0)
    config = make_config(objective=objective, fusion=fusion, captions=captions or {}, **changes)
    config.model.bank = None if bank is None else type(config.model).model_validate({"bank": bank}).bank
    return PretrainTask(config, teacher=FakeTeacher())


def captioned(count=B):
    words = ["a happy dog in the grass", "a sad man with a gun", "two people, smiling", "snow", "a cat on a bed"]
    batch = make_batch(count)
    batch["text"] = [f"{words[i % 5]} and number {i}" for i in range(count)]
    batch["mix"] = torch.rand(count, 3, 5, generator=torch.Generator().manual_seed(9))
    return batch


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("reconstruction", [0, 1])
def test_each_path_alone_is_learned_and_trains_all_that_it_has(path, reconstruction):
    fusion = "easy" if path == "caption_fused" else "none"
    task = make({**OFF, "reconstruction": reconstruction, path: 1}, fusion=fusion)
    outputs = task(captioned(), step=0)
    outputs["loss"].backward()
    assert set(PATHS) & outputs.keys() == {path} and outputs[path] > 0
    unused = [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused, "DDP wants a gradient of all"
    assert (task.model.fusion is not None) == task.model.needs_person == (path == "caption_fused")


def test_the_parts_are_the_formulas_of_alpha_and_of_gamma():
    task = make({**OFF, "caption_scene": 0.5, "caption_fused": 0.25, "reconstruction": 1}).eval()
    batch = captioned()
    outputs = task(batch, step=0)
    model = task.model(task.normalise(batch["scene"]), task.normalise(batch["person"]), batch["noise"])
    text = FakeTeacher().encode_text(batch["text"])
    scale, paired = torch.tensor(1 / 0.07), torch.ones(B)
    scene = caption_infonce(cosines(task.captions.scene(model.alpha), text), scale=scale, paired=paired)
    fused = caption_infonce(cosines(model.gamma, text), scale=scale, paired=paired)
    assert outputs["caption_scene"].item() == pytest.approx(scene.item(), rel=1e-5)
    assert outputs["caption_fused"].item() == pytest.approx(fused.item(), rel=1e-5)
    expected = outputs["reconstruction"] + 0.5 * scene + 0.25 * fused
    assert outputs["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_temperature_is_learned_unless_it_is_to_stay():
    for learned in (True, False):
        task = make({**OFF, "caption_scene": 1}, captions={"learn_temperature": learned}, fusion="none")
        outputs = task(captioned(), step=0)
        outputs["loss"].backward()
        assert (task.captions.log_scales["caption_scene"].grad is not None) == learned
        assert outputs["caption_scene_temperature"].item() == pytest.approx(0.07)


def test_a_sample_without_a_caption_takes_part_in_the_reconstruction_alone():
    task = make({**OFF, "caption_scene": 1, "caption_phrases": 1}, fusion="none").eval()
    batch = captioned()
    batch["text"][3] = NO_TEXT
    rows = torch.arange(B) != 3
    without = {name: [v for v, keep in zip(value, rows) if keep] if isinstance(value, list) else value[rows]
               for name, value in batch.items()}  # fmt: skip
    found, expected = task(batch, step=0), task(without, step=0)
    for name in ("caption_scene", "caption_phrases"):
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-5)
    assert found["reconstruction"].item() != pytest.approx(expected["reconstruction"].item(), rel=1e-5)


def test_objectives_that_do_not_fit_are_told_in_a_sentence():
    with pytest.raises(VeaError, match=r"caption_fused.*model.fusion"):
        make({**OFF, "caption_fused": 1}, fusion="none")
    cached = {"teacher": {"name": "x", "cache": "text"}}
    with pytest.raises(VeaError, match=r"captions.template.*teacher.cache=none"):
        make({**OFF, "caption_scene": 1}, captions={"template": True}, **cached)
    with pytest.raises(VeaError, match=r"captions.lexicon: no file"):
        make({**OFF, "caption_scene": 1}, captions={"template": True, "lexicon": "/nowhere"})
    with pytest.raises(VeaError, match=r"model.frozen_blocks \(9\)"):
        config = make_config(objective={**OFF, "caption_scene": 1})
        config.model.frozen_blocks = 9
        PretrainTask(config, teacher=FakeTeacher())


# ------------------------------------------------------------------------------------------------------------- texts


def test_phrases_stand_between_commas_ands_and_prepositions():
    assert phrases_of("A man in a red shirt, smiling and holding a dog.") == [
        "a man",
        "a red shirt",
        "smiling",
        "holding a dog",
    ]
    assert len(phrases_of(", ".join(f"thing {i}" for i in range(20)))) == 6


def test_a_template_is_rated_by_the_captions_own_words():
    lexicon = {"happy": (0.9, 0.5, 0.2), "gun": (-0.3, 0.6, 0.1), "dog": (0.5, 0.1, 0.0)}
    assert affect_of("A happy dog", lexicon) == pytest.approx((0.7, 0.3))
    assert evoking("a happy dog", lexicon) == "a photo that evokes strong pleasure: a happy dog"
    assert evoking("a gun", lexicon) == "a photo that evokes moderate displeasure: a gun"
    assert evoking("a table", lexicon) == "a table"


def test_no_label_of_a_picture_reaches_its_text():
    """Items whose labels are what is judged: the text tower reads the same words whatever they are."""
    task = make({**OFF, "caption_scene": 1}, captions={"template": True, "positives": "soft", "affect": 1.0})
    batch = captioned()
    read = []
    task.teacher.encode_text = lambda texts: (read.append(list(texts)), FakeTeacher().encode_text(texts))[1]
    for valence in (1.0, 7.0):
        task({**batch, "labels": {"valence": torch.full((B,), valence)}}, step=0)
    assert read[0] == read[1] and read[0][0].startswith("a photo that evokes")


# ------------------------------------------------------------------------------------------------------------- ranks


def sparse():
    batch = captioned()
    for row in (1, 4, 5):
        batch["text"][row] = ""
    return batch


def rank_step(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world, init_method=f"file://{folder}/rendezvous")
    task = make(**EVERYTHING)
    model, local = DistributedDataParallel(task), B // world
    for step in range(2):  # the second uses prototypes that the first has moved
        task.zero_grad()
        outputs = model(part(sparse(), slice(rank * local, (rank + 1) * local)), step=step)
        outputs["loss"].backward()
    torch.save(
        {
            "outputs": {name: value.item() for name, value in outputs.items()},
            "gradients": {name: p.grad for name, p in task.named_parameters() if p.grad is not None},
            "bank": task.model.bank.state_dict(),
        },
        f"{folder}/rank{rank}.pt",
    )
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_have_the_loss_the_gradients_and_the_prototypes_of_one_process(tmp_path, world):
    task = make(**EVERYTHING)
    for step in range(2):
        task.zero_grad()
        expected = task(sparse(), step=step)
        expected["loss"].backward()
    mp.start_processes(rank_step, args=(world, str(tmp_path)), nprocs=world, start_method="forkserver")
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(world)]
    for name, value in expected.items():
        assert np.mean([rank["outputs"][name] for rank in ranks]) == pytest.approx(value.item(), rel=1e-4), name
    for name in PATHS:  # of the global batch, on every rank
        assert {rank["outputs"][name] for rank in ranks} == {ranks[0]["outputs"][name]}
    for name, parameter in task.named_parameters():
        if parameter.grad is None:
            continue
        scale = parameter.grad.abs().max().item()
        for rank in ranks:
            found = rank["gradients"][name]
            assert torch.allclose(found, parameter.grad, rtol=1e-3, atol=1e-6 + 1e-4 * scale), name
    for name, value in task.model.bank.state_dict().items():
        for rank in ranks:
            assert torch.equal(rank["bank"][name], ranks[0]["bank"][name]), "the same on every rank"
            assert torch.allclose(rank["bank"][name].float(), value.float(), atol=1e-5), name


def test_accumulating_reconstruction_and_bank_have_the_gradients_of_the_whole_batch():
    """What is no loss over samples does not change with the micro-batch; those need the rows of the whole batch."""
    gradients = []
    for cut in (1, 4):
        task = make({**OFF, "caption_scene": 1e-9, "reconstruction": 1}, bank={"codes": 4, "width": 6}, fusion="none")
        for step in range(2):
            task.zero_grad()
            for rows in torch.arange(B).chunk(cut):
                keep = slice(int(rows[0]), int(rows[-1]) + 1)
                (task(part(captioned(), keep), step=step)["loss"] / cut).backward()
        gradients.append({name: p.grad for name, p in task.named_parameters() if p.grad is not None})
    for name, value in gradients[0].items():
        assert torch.allclose(gradients[1][name], value, rtol=1e-3, atol=1e-6), name


def test_the_losses_are_a_function_of_rows_that_can_be_kept_apart():
    """The hook of exact accumulation: embeddings of micro-batches joined give the loss of the whole batch."""
    task = make(**EVERYTHING).eval()
    batch = sparse()
    whole = task._over_samples(task._embed(batch)[1])
    parts = [task._embed(part(batch, slice(start, start + 2)))[1] for start in range(0, B, 2)]
    joined = task._over_samples({name: torch.cat([rows[name] for rows in parts]) for name in parts[0]})
    assert {name: v.item() for name, v in joined.items()} == pytest.approx(
        {n: v.item() for n, v in whole.items()}, rel=1e-5
    )


def test_validation_tells_perplexity_and_what_the_codes_say_of_a_label():
    task = make({**OFF, "caption_scene": 1}, bank={"codes": 4, "width": 6, "field": "emotion"}, fusion="none").eval()
    metrics = task.new_metrics()
    batch = captioned() | {"labels": {"emotion": torch.tensor([0, 1, 2, 0, 1, 2, 0, -1])}}
    metrics.update(task.predict(batch), batch)
    found = metrics.compute()
    assert 1 <= found["bank_perplexity"] <= 4 and 0 <= found["bank_information"] <= np.log2(3)
    assert found["caption_scene"] == pytest.approx(task(batch, step=0)["caption_scene"].item(), rel=1e-4)


def test_a_smaller_person_view_changes_gamma_alone():
    task = make({**OFF, "caption_fused": 1}).eval()
    small = make({**OFF, "caption_fused": 1})
    small.model.person_size = 16
    batch = captioned()
    found, expected = small.eval()(batch, step=0), task(batch, step=0)
    assert found["reconstruction"].item() == pytest.approx(expected["reconstruction"].item(), rel=1e-5)
    assert found["caption_fused"].item() != pytest.approx(expected["caption_fused"].item(), rel=1e-5)
    for size, part_of in ((16, "a smaller person view is not reconstructed"), (12, "not a multiple of the patch size")):
        config = make_config(objective={**OFF, "person_reconstruction": 1})
        config.model.person_size = size
        with pytest.raises(VeaError, match=f"model.person_size.*{part_of}"):
            PretrainTask(config, teacher=FakeTeacher())


def test_stage_two_starts_from_a_stage_one_or_a_published_encoder(tmp_path):
    from safetensors.torch import save_file

    from vea.storage.checkpoint import save_weights

    first = make({}, fusion="easy")
    save_weights(tmp_path / "final", first.state_to_save(), {})
    second = make(**EVERYTHING)
    with torch.no_grad():
        second.trunk().norm.weight.add_(1)
    assert "weights" in second.load_pretrained(str(tmp_path))
    assert torch.equal(second.trunk().norm.weight, first.trunk().norm.weight)
    published = dict(first.trunk().state_dict())
    published["blocks.0.norm1.weight"] = torch.full_like(published["blocks.0.norm1.weight"], 0.5)
    save_file(published, tmp_path / "timm.safetensors")
    config = make_config(objective=EVERYTHING["objective"])
    config.model.encoder.pretrained = str(tmp_path / "timm.safetensors")
    third = PretrainTask(config, teacher=FakeTeacher())
    assert (third.trunk().blocks[0].norm1.weight == 0.5).all()
