"""The pretraining task: objectives, teacher, validation, pictures, and gradients that ranks do not change."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from tiny_pretrain import SIDE, B, FakeTeacher, make_batch, make_config, make_task, part
from torch.nn.parallel import DistributedDataParallel

from vea.data.prompts import NO_TEXT
from vea.errors import VeaError
from vea.losses.contrastive import contrastive_similarity
from vea.models.weights import find_encoder
from vea.tasks.pretrain import PretrainTask

SUBSETS = {
    "all": {},
    "reconstruction": {"similarity": 0, "contrastive": 0},
    "similarity": {"reconstruction": 0, "contrastive": 0},
    "contrastive": {"reconstruction": 0, "similarity": 0},
    "person": {"person_reconstruction": 0.5},
    "person only": {"reconstruction": 0, "similarity": 0, "contrastive": 0, "person_reconstruction": 1},
    "soft": {"similarity": 0, "contrastive": 0, "distillation": 1, "infonce": 0.5, "focal": 0.5, "infonce_block": 3},
    "text": {"reconstruction": 0.5, "similarity": 0, "contrastive": 0, "infonce": 1, "sigmoid": 0.1},
}


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("fusion", ["easy", "none"])
def test_any_subset_of_the_parts_can_be_learned_and_uses_every_trained_parameter(subset, fusion):
    task = make_task(objective=SUBSETS[subset], fusion=fusion)
    outputs = task(make_batch(), step=0)
    weights = {name: value for name, value in task.config.objective if name in task.weights}
    assert {"loss", *weights} == outputs.keys() - {"gamma_std", "gamma_rank"}
    total = sum(weight * outputs[name].item() for name, weight in weights.items())
    assert outputs["loss"].item() == pytest.approx(total, rel=1e-6)
    outputs["loss"].backward()  # DDP waits forever for a parameter that a step does not reach
    assert [name for name, p in task.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_parts_are_those_of_the_paper():
    task, batch = make_task(), make_batch()
    outputs = task(batch, step=0)
    mim, model = task.model.mim, task.model
    scene = mim(task.normalise(batch["scene"]), noise=batch["noise"][:, 0])
    person = mim(task.normalise(batch["person"]), noise=batch["noise"][:, 1])
    gamma = model.projection(model.fusion(scene.cls_projected, person.cls_projected))
    omega, text = task.teacher.encode_image(batch["scene"]), task.teacher.encode_text(batch["text"])
    assert outputs["reconstruction"].item() == pytest.approx(scene.loss.item(), rel=1e-5)
    similarity = 1 - F.cosine_similarity(gamma, omega).mean()
    assert outputs["similarity"].item() == pytest.approx(similarity.item(), abs=1e-5)
    assert outputs["contrastive"].item() == pytest.approx(contrastive_similarity(gamma, omega, text).item(), abs=1e-5)


def test_no_projection_where_the_decoder_is_as_wide_as_the_teacher():
    assert make_task(width=20).model.projection is None
    assert make_task(width=24).model.projection.out_features == 20


def test_without_fusion_or_without_a_teacher_the_person_view_is_not_needed():
    batch = {name: value for name, value in make_batch().items() if name != "person"}
    for task in (make_task(fusion="none"), make_task(objective=SUBSETS["reconstruction"])):
        assert torch.isfinite(task(batch, step=0)["loss"])
    assert make_task(objective=SUBSETS["reconstruction"]).model.fusion is None


def test_a_cached_teacher_embedding_replaces_the_teachers_image_tower():
    task, batch = make_task(teacher={"name": "any", "cache": "image"}), make_batch()
    task.teacher.encode_image = None
    batch["teacher_image"] = 5 * torch.randn(B, 20)
    assert torch.isfinite(task(batch, step=0)["loss"])
    assert torch.allclose(task.predict(batch)["image"].norm(dim=1), torch.ones(B))


@pytest.mark.parametrize("stand_in", ["", NO_TEXT])
def test_a_sample_without_a_text_takes_part_in_everything_but_the_contrast(stand_in):
    task, batch = make_task(), make_batch()
    batch["text"][2] = stand_in
    outputs = task(batch, step=0)
    others = [i for i in range(B) if i != 2]
    rest = {n: rows[others] if torch.is_tensor(rows) else [rows[i] for i in others] for n, rows in batch.items()}
    assert outputs["contrastive"].item() == pytest.approx(task(rest, step=0)["contrastive"].item(), abs=1e-5)
    assert outputs["similarity"].item() != pytest.approx(task(rest, step=0)["similarity"].item(), abs=1e-5)


def test_objectives_that_cannot_be_learned_are_told_in_a_sentence():
    with pytest.raises(VeaError, match="compares with a teacher and teacher is null"):
        PretrainTask(make_config(teacher=None), teacher=None)
    with pytest.raises(VeaError, match="every part has weight 0"):
        make_task(objective={"reconstruction": 0, "similarity": 0, "contrastive": 0})
    assert PretrainTask(make_config(teacher=None, objective=SUBSETS["reconstruction"]), teacher=None).teacher is None


def test_the_teacher_is_frozen_and_not_saved():
    task = make_task()
    before = task.teacher.weight.clone()
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=0.1)
    task(make_batch(), step=0)["loss"].backward()
    optimizer.step()
    assert torch.equal(task.teacher.weight, before)
    saved = task.state_to_save()
    assert saved and not any(name.startswith("teacher") for name in saved)
    wanted = set(task.trunk().state_dict())
    assert find_encoder(saved, wanted)[0] == "model.mim.encoder."  # where fine-tuning looks for it


def test_another_runs_weights_start_this_one(tmp_path):
    from vea.storage.checkpoint import save_weights

    source, other = make_task(), make_task(fusion="lambda")
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1.0)
    save_weights(tmp_path / "final", source.state_to_save(), {})
    other.load_pretrained(str(tmp_path))
    assert torch.equal(other.trunk().norm.weight, source.trunk().norm.weight)
    config = make_config()
    config.model.encoder.args["embed_dim"] = 64
    with pytest.raises(VeaError, match="of another size"):
        PretrainTask(config, teacher=FakeTeacher()).load_pretrained(str(tmp_path))


# ----------------------------------------------------------------------------------------------------------- validation


def collect(task, batches):
    task.eval()
    metrics = task.new_metrics()
    for batch in batches:
        metrics.update(task.predict(batch), batch)
    return metrics.compute()


def test_validation_does_not_depend_on_how_its_samples_are_batched():
    task, batch = make_task(), make_batch(20)
    padded = make_batch(4, seed=5)
    padded["valid"][:] = False
    whole = collect(task, [batch])
    split = collect(task, [part(batch, slice(13, 20)), padded, part(batch, slice(0, 13))])
    assert whole == pytest.approx(split, rel=1e-5)
    assert whole["loss"] == pytest.approx(whole["reconstruction"] + whole["similarity"] + whole["contrastive"])
    assert collect(task, [batch]) == whole


def test_validation_of_one_block_is_the_training_loss():
    task, batch = make_task(), make_batch()
    outputs = task(batch, step=0)
    metrics = collect(task, [batch])
    assert metrics == pytest.approx({name: value.item() for name, value in outputs.items()}, rel=1e-5)


def test_validation_without_a_usable_sample_is_told_in_a_sentence():
    batch = make_batch()
    batch["valid"][:] = False
    with pytest.raises(VeaError, match=r"data\.val"):
        collect(make_task(), [batch])


# ------------------------------------------------------------------------------------------------- pictures, metadata


def test_pictures_show_the_image_its_visible_part_and_the_reconstruction():
    task, batch = make_task().eval(), make_batch()
    pictures = task.pictures(batch)
    assert pictures.keys() == {"reconstruction", "similarity_student", "similarity_teacher"}
    for picture in pictures.values():
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    grid, cell = pictures["reconstruction"], 128  # 32 pixels, four times as large
    original, masked, filled = (grid[:cell, left : left + cell] for left in (0, cell + 4, 2 * (cell + 4)))
    assert np.array_equal(original[::4, ::4], batch["scene"][0].permute(1, 2, 0).numpy())
    mask = task.model.mim.mask(batch["noise"][:1, 0].argsort(1)).view(4, 4).bool().numpy()
    removed = mask.repeat(cell // 4, axis=0).repeat(cell // 4, axis=1)
    assert np.array_equal(masked[~removed], original[~removed]) and np.array_equal(filled[~removed], original[~removed])
    assert len(np.unique(masked[removed].reshape(-1, 3), axis=0)) == 1
    assert not np.array_equal(filled[removed], original[removed])


def test_pictures_without_teacher_or_reconstruction():
    assert make_task(objective=SUBSETS["reconstruction"]).pictures(make_batch()).keys() == {"reconstruction"}
    assert make_task(objective=SUBSETS["similarity"]).pictures(make_batch()) == {}


def test_metadata_says_how_to_use_the_encoder_and_who_taught_it():
    task = make_task(prompt={"emotion": False})
    metadata = task.metadata()
    assert metadata["image_size"] == SIDE and metadata["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert metadata["encoder"]["args"]["embed_dim"] == 32
    assert metadata["teacher"] == FakeTeacher.description and metadata["prompt"].endswith("without the label")
    task.check_metadata(metadata)
    with pytest.raises(VeaError, match="another"):
        task.check_metadata({**metadata, "teacher": "another"})


# ------------------------------------------------------------------------------------------------------------- ranks

ROWS_OF_ITS_OWN = {"person_reconstruction": 0.5, "sigmoid": 0.1, "distillation": 0.5}
EVERYTHING = {**ROWS_OF_ITS_OWN, "infonce": 0.5}


def one_process_step(task, batch):
    outputs = task(batch, step=0)
    outputs["loss"].backward()
    gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    return {name: value.item() for name, value in outputs.items()}, gradients


def sparse_batch():
    batch = make_batch()
    for row in (1, 4, 5, 6):  # unevenly spread over the ranks
        batch["text"][row] = ""
    return batch


def rank_step(rank, world, folder, objective):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world, init_method=f"file://{folder}/rendezvous")
    task = make_task(objective=objective)
    model = DistributedDataParallel(task)
    local = B // world
    outputs = model(part(sparse_batch(), slice(rank * local, (rank + 1) * local)), step=0)
    outputs["loss"].backward()
    gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    scalars = {name: value.item() for name, value in outputs.items()}
    torch.save({"outputs": scalars, "gradients": gradients}, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(("world", "objective"), [(2, EVERYTHING), (4, ROWS_OF_ITS_OWN)])
def test_ranks_have_the_loss_and_the_gradients_of_one_process(tmp_path, world, objective):
    expected, expected_gradients = one_process_step(make_task(objective=objective), sparse_batch())
    mp.start_processes(rank_step, args=(world, str(tmp_path), objective), nprocs=world, start_method="forkserver")
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(world)]
    for name, value in expected.items():
        assert np.mean([rank["outputs"][name] for rank in ranks]) == pytest.approx(value, rel=1e-5)
    for name in {"infonce", "gamma_std", "gamma_rank"} & expected.keys():  # the global value on every rank
        assert len({rank["outputs"][name] for rank in ranks}) == 1
    assert len({rank["outputs"]["contrastive"] for rank in ranks}) == world  # each the part of its rows
    assert expected_gradients.keys() == ranks[0]["gradients"].keys()
    for name, gradient in expected_gradients.items():
        scale = gradient.abs().max().item()
        for rank in ranks:
            assert torch.allclose(rank["gradients"][name], gradient, rtol=1e-4, atol=1e-6 + 1e-5 * scale), name


def test_the_released_variant_predicts_one_patch_ignores_the_person_and_gives_the_teacher_other_statistics():
    batch = make_batch()
    task = make_task()
    task.config.model.variant = "released"
    torch.manual_seed(0)

    class Teacher(FakeTeacher):
        def encode_image(self, images, *, statistics):
            assert statistics[0].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
            return super().encode_image(images)

    task = PretrainTask(task.config, teacher=Teacher())
    mim = task.model.mim
    prediction = mim(task.normalise(batch["scene"]), noise=batch["noise"][:, 0]).prediction
    assert torch.equal(prediction, prediction[:, :1].expand_as(prediction)) and prediction.std() > 0
    loss = task(batch, step=0)["loss"]
    other = {**batch, "person": 255 - batch["person"]}
    assert torch.equal(task(other, step=0)["loss"], loss)
    loss.backward()
    assert [name for name, p in task.named_parameters() if p.requires_grad and p.grad is None] == []
    assert make_task()(other, step=0)["loss"] != make_task()(batch, step=0)["loss"]


def test_the_released_variant_takes_no_cached_teacher():
    config = make_config(teacher={"name": "tiny-synthetic", "cache": "image"})
    config.model.variant = "released"
    with pytest.raises(VeaError, match=r"teacher\.cache=none"):
        PretrainTask(config, teacher=FakeTeacher())
