"""Settings that change nothing are said when a run starts, and refused where weights would be left out."""

from __future__ import annotations

import logging

import pytest

from vea.config import RECIPES
from vea.errors import VeaError
from vea.training.effects import say_what_has_no_effect, without_effect

FACE = {"encoder": {"name": "vea_face_cnn"}, "channels": 1}
SAID = [
    ({"train": {"optimizer": "lamb", "betas": [0.9, 0.99]}}, "train.betas has no effect with train.optimizer=lamb"),
    ({"train": {"optimizer": "muon", "betas": [0.9, 0.95]}}, "train.betas has no effect with train.optimizer=muon"),
    ({"train": {"patience": 3}}, "train.patience has no effect without validations"),
    ({"data": {"cache_dir": "cache"}}, "data.cache_dir has no effect: no data set is at an address"),
    ({"data": {"cache_gb": 3.0}}, "data.cache_gb has no effect"),
    ({"model": FACE | {"drop_path": 0.1}}, "model.drop_path has no effect on vea_face_cnn"),
    ({"model": FACE | {"pool": "avg"}}, "model.pool=avg has no effect on vea_face_cnn"),
    ({"model": {"encoder": {"name": "resnet18"}, "pool": "cls"}}, "model.pool=cls has no effect on resnet18"),
    (
        {"model": {"encoder": {"pretrained": "w.pt"}}, "train": {"init_from": "runs/x"}},
        "model.encoder.pretrained has no effect beside train.init_from",
    ),
    ({"model": {"encoder": {"pretrained": "w.pt"}}}, "w.pt: ImageNet's mean and standard deviation are assumed"),
]


def config(**sections):
    plain = {
        "recipe": "expression",
        "name": "x",
        "targets": {"expression": 1.0},
        "data": {"train": [{"path": "data/a"}]} | sections.pop("data", {}),
        "train": {"steps": 10} | sections.pop("train", {}),
    }
    return RECIPES["expression"].model_validate(plain | sections)


@pytest.mark.parametrize(("sections", "wanted"), SAID)
def test_what_changes_nothing_is_said_at_the_start(sections, wanted, caplog):
    with caplog.at_level(logging.WARNING, logger="vea.training"):
        say_what_has_no_effect(config(**sections), aloud=True)
    (record,) = caplog.records
    assert record.getMessage().startswith(wanted) and "; " in record.getMessage()
    caplog.clear()
    say_what_has_no_effect(config(**sections), aloud=False)
    assert not caplog.records


def test_regions_are_for_models_of_labels():
    pretrain = RECIPES["pretrain"].model_validate(
        {"name": "x", "data": {"train": [{"path": "data/a"}]}, "train": {"steps": 10}, "augment": {"region": "face"}}
    )
    with pytest.raises(VeaError, match=r"augment\.region=face has no effect with recipe pretrain"):
        say_what_has_no_effect(pretrain, aloud=False)
    assert list(without_effect(config(augment={"region": "face"}))) == []


def test_weights_that_would_be_left_out_are_refused_on_every_rank():
    unread = config(model={"encoder": {"name": "vea_face_cnn", "pretrained": "w.pt"}, "channels": 1})
    for aloud in (True, False):
        with pytest.raises(VeaError, match=r"pretrained has no effect on vea_face_cnn; name a run in train\.init_from"):
            say_what_has_no_effect(unread, aloud=aloud)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"train": {"optimizer": "sgd", "betas": [0.9, 0.99]}},
        {"model": {"encoder": {"name": "vit_small_patch16_224"}, "pool": "avg", "drop_path": 0.1}},
        {"data": {"train": [{"path": "https://host/set"}], "cache_dir": "cache"}},
        {"data": {"val": [{"path": "data/a"}]}, "train": {"patience": 3, "eval_every": 5}},
    ],
)
def test_what_has_an_effect_is_not_said(sections):
    assert list(without_effect(config(**sections))) == []
