"""What the tasks tell the loaders, and that the loaders know nothing else of a recipe."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import vea
from vea.config import AugmentConfig, DataConfig, DatasetRef, PretrainConfig, TrainConfig, load_config
from vea.data.loading.collate import Item
from vea.data.loading.items import Drawn, ItemMaker
from vea.data.loading.loader import eval_loader, train_loader
from vea.data.loading.sets import ShardSet
from vea.data.shards.plan import write_dataset
from vea.data.synthetic import FIELDS, samples
from vea.data.views.views import Views
from vea.errors import VeaError
from vea.tasks.items import LabelItems, PretrainItems, infer_num_patches, item_spec

LOADING = Path(vea.__file__).parent / "data/loading"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("items") / "set"
    write_dataset(
        {"train": samples(20, size=40)}, folder, name="set", title="", fields=FIELDS, card=None, synthetic=True
    )
    return str(folder)


def settings(data: str, workers: int = 0) -> PretrainConfig:
    refs = [DatasetRef(path=data)]
    return PretrainConfig(
        name="t", train=TrainConfig(steps=1), augment=AugmentConfig(image_size=16),
        data=DataConfig(train=refs, val=refs, global_batch_size=8, virtual_readers=4, workers=workers),
    )  # fmt: skip


def test_the_loader_knows_no_recipe():
    for path in LOADING.glob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        calls = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        words = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
        assert "getattr" not in calls, path
        assert not words & {"pretrain", "classify", "expression", "explain"}, path
        assert not imported & {"PretrainConfig", "FinetuneConfig", "RecogniseConfig", "ExplainConfig"}, path


class MeanColour(ItemMaker):
    """An item that no recipe of vea has."""

    def item(self, drawn: Drawn) -> Item:
        view = self.views.one(drawn.image, key=drawn.key, pass_number=drawn.pass_number)
        return Item(drawn.key, drawn.place[1], {"picture": view}, {"colour": drawn.image.mean((0, 1))})

    def empty(self, shards, image, *, key, place):
        return Item(key, place[1], {"picture": image}, {"colour": np.full(3, np.nan)})


class MeanColours:
    def __init__(self, config):
        self.config = config

    def open_set(self, ref):
        return ShardSet(ref)

    def maker(self, sets, *, train):
        return MeanColour(Views(self.config.augment, seed=0, train=train), num_views=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_task_of_ones_own_has_its_own_items(data, workers):
    config = settings(data, workers)
    batch = next(train_loader(config, MeanColours(config), start_step=0, micro_batch=8, rank=0, world_size=1))
    assert batch["picture"].shape == (8, 3, 16, 16) and batch["colour"].shape == (8, 3)
    assert "labels" not in batch
    parts = eval_loader(config, MeanColours(config), refs=config.data.val, batch_size=8, rank=0, world_size=1)
    rows = [(valid, colour) for part in parts for valid, colour in zip(part["valid"], part["colour"])]
    assert len(rows) == 24 and all(bool(valid) != bool(colour.isnan().any()) for valid, colour in rows)


def test_each_recipe_of_the_configs_has_a_spec(repository):
    seen = set()
    configs = repository / "configs"
    for path in (configs / "pretrain/demo.yaml", *configs.glob("*/*_synthetic.yaml")):
        config = load_config(path)
        seen.add(config.recipe)
        spec = item_spec(config)
        assert isinstance(spec, PretrainItems if config.recipe == "pretrain" else LabelItems)
    assert {"pretrain", "expression", "emotion", "attributes", "explain"} <= seen


@pytest.mark.parametrize(
    ("name", "args", "side", "patches"),
    [
        ("vit_base_patch16_224", {}, 224, 196),
        ("vit_tiny_patch16_224", {"patch_size": 8}, 64, 64),
        ("vit_x_patch14", {}, 28, 4),
    ],
)
def test_patches_are_read_off_the_name(data, name, args, side, patches):
    config = settings(data)
    config.model.encoder.name, config.model.encoder.args, config.augment.image_size = name, args, side
    assert infer_num_patches(config) == patches and math.isqrt(patches) ** 2 == patches


@pytest.mark.parametrize(("name", "sentence"), [("vit_base", "set patch_size"), ("vit_patch7_224", "not a multiple")])
def test_patches_that_do_not_fit_are_a_sentence(data, name, sentence):
    config = settings(data)
    config.model.encoder.name = name
    with pytest.raises(VeaError, match=sentence):
        PretrainItems(config).maker([], train=True)


def test_a_blank_has_the_shapes_of_an_item(data):
    config = settings(data)
    spec = item_spec(config)
    shards = spec.open_set(config.data.train[0])
    maker = spec.maker([shards], train=True)
    item, blank = maker.make(shards, 0, pass_number=0, place=(0, 0)), maker.blank(shards, place=(0, 0))
    assert item.valid and not blank.valid
    for name in ("views", "arrays"):
        ours, theirs = getattr(item, name), getattr(blank, name)
        assert ours.keys() == theirs.keys() and all(ours[key].shape == theirs[key].shape for key in ours)
    assert maker.num_bytes == sum(view.nbytes for view in item.views.values())
    assert torch.from_numpy(item.arrays["noise"]).shape == (2, 1)


# ------------------------------------------------------------------------------------------------------- stage two


def stage_two(data: str, *, workers: int = 0, **captions) -> PretrainConfig:
    config = settings(data, workers)
    model = {"encoder": {"args": {"patch_size": 4}}, "mask_ratio": 0.6, "salient": {"probability": 0.9}}
    return PretrainConfig.model_validate({**config.model_dump(), "model": model, "captions": captions})


def steps(config: PretrainConfig, *, start: int, stop: int, world: int = 1, micro: int = 8) -> list[dict]:
    """Returns the global batches of some steps, whatever they were cut into."""
    place = {"start_step": start, "stop_step": stop, "micro_batch": micro, "world_size": world}
    ranks = [train_loader(config, PretrainItems(config, num_patches=16), rank=rank, **place) for rank in range(world)]
    parts = [list(rank) for rank in ranks]
    each = len(parts[0]) // (stop - start)
    return [
        {
            name: torch.cat([part[name] for rank in parts for part in rank[step * each : (step + 1) * each]])
            for name in ("noise", "slot", "mix")
        }
        | {"text": [text for rank in parts for part in rank[step * each : (step + 1) * each] for text in part["text"]]}
        for step in range(stop - start)
    ]


@pytest.mark.parametrize(("world", "workers", "micro"), [(1, 2, 8), (2, 0, 4), (4, 0, 1), (2, 1, 2)])
def test_salient_masks_mixing_and_captions_do_not_depend_on_ranks_workers_or_where_a_run_goes_on(
    data, world, workers, micro
):
    whole = steps(stage_two(data, mix="pair", vary=True), start=0, stop=4)
    cut = steps(stage_two(data, workers=workers, mix="pair", vary=True), start=2, stop=4, world=world, micro=micro)
    for expected, found in zip(whole[2:], cut):
        for name in ("noise", "slot", "mix"):
            assert torch.equal(found[name], expected[name]), name
        assert found["text"] == expected["text"]


def test_a_salient_mask_removes_the_same_number_of_every_picture(data):
    config = stage_two(data, mix="pair")
    plain = config.model_copy(update={"model": config.model.model_copy(update={"salient": None})})
    changed, uniform = (torch.cat([batch["noise"] for batch in steps(c, start=0, stop=10)]) for c in (config, plain))
    kept = int(16 * 0.4)
    assert ((changed < 0).sum(-1)[(changed < 0).any(-1)] == kept).all() and (changed < 0).any()
    assert not torch.equal(changed.argsort(dim=-1), uniform.argsort(dim=-1))


def test_captions_vary_by_pass_are_left_out_or_belong_to_another_picture(data):
    items = {}
    for name, captions in {"own": {}, "other": {"shuffled": True}, "half": {"share": 0.5}}.items():
        config = stage_two(data, mix="pair", **captions)
        config.prompt.source = "caption"
        items[name] = [text for batch in steps(config, start=0, stop=3) for text in batch["text"]]
    assert items["own"] != items["other"] and set(items["other"]) <= set(items["own"]) | {"A photo."}
    left = sum(text == "A photo." for text in items["half"]) / len(items["half"])
    assert 0.1 < left < 0.9 and all(b in (a, "A photo.") for a, b in zip(items["own"], items["half"]))
