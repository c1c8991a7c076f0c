"""What the keys of a config mean: said of every key, on the command line and in docs/configuration.md."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from vea.commands.main import main
from vea.config import RECIPES
from vea.config.describe import as_markdown, find, keys, type_name, walk
from vea.errors import VeaError

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_key_has_a_meaning(recipe: str):
    silent = [key.name for key in walk(RECIPES[recipe]) if len(key.description) < 5]
    assert not silent, f"keys of {recipe} without a description: {silent}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_default_that_is_null_or_a_switch_off_is_explained(recipe: str):
    """``null`` says nothing by itself: the description names it."""
    silent = [key.name for key in walk(RECIPES[recipe]) if key.default == "null" and "null" not in key.description]
    assert not [name for name in silent if name != "model.hf.path"], silent


def test_the_page_of_the_documentation_is_current():
    page = ROOT / "docs/configuration.md"
    assert page.read_text(encoding="utf-8") == as_markdown(), (
        "run: vea config --describe --markdown > docs/configuration.md"
    )


def test_a_silent_key_would_be_found():
    class Toy(BaseModel):
        loud: int = Field(1, description="a number")
        silent: int = 2

    assert [key.name for key in walk(Toy) if not key.description] == ["silent"]


def test_keys_that_recipes_share_come_once():
    shared = [key for key in keys() if key.name == "train.base_lr"]
    assert len(shared) == 1
    assert set(shared[0].recipes) == set(RECIPES)
    assert {key.recipes for key in keys() if key.name == "model.decoder"} == {("explain",), ("pretrain",)}
    assert {key.recipes for key in keys() if key.name == "model.kind"} == {("explain",), ("instruct",)}


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("train.base_lr", "train.base_lr"),
        ("teacher", "teacher"),
        ("data.train.0.path", "data.train.N.path"),
        ("data.val.[].split", "data.val.N.split"),
        ("explain.model.kind", "model.kind"),
        ("emotion.field", "emotion.field"),  # a section of explain, not the recipe
        ("pretrain", "recipe"),
    ],
)
def test_a_key_is_found(name: str, first: str):
    assert find(name)[0].name == first


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("train.base_l", "train.base_lr"),
        ("base_lr", "train.base_lr"),
        ("trian", "train"),
        ("pretrain.model.mask_ratoi", "model.mask_ratio"),
        ("zzzz", "choose from: "),
        ("data.", "data"),
    ],
)
def test_an_unknown_key_names_its_nearest(name: str, near: str):
    with pytest.raises(VeaError) as caught:
        find(name)
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (str | None, "text or null"),
        (Literal["a", "b"], "a | b"),
        (Literal[1, 3], "1 | 3"),
        (tuple[float, float] | None, "[number, number] or null"),
        (dict[str, float], "mapping of text to number"),
        (list[int], "list of whole number"),
        (bool | str, "true | false or text"),
    ],
)
def test_types_in_the_words_of_yaml(annotation: object, expected: str):
    assert type_name(annotation) == expected


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        (["--describe", "train.base_lr"], 0, "batch of 256"),
        (["--describe"], 0, "teacher.cache"),
        (["--describe", "--markdown"], 0, "# Configuration"),
        (["--describe", "train.lr"], 2, "did you mean"),
        (["--describe", "--markdown", "a.yaml"], 2, "whole page"),
        (["a.yaml", "--describe", "train"], 2, "takes one KEY"),
        ([], 2, "needs a CONFIG"),
        (["--markdown"], 2, "needs a CONFIG"),
    ],
)
def test_the_command(arguments: list[str], code: int, shown: str, capsys: pytest.CaptureFixture[str]):
    assert main(["config", *arguments]) == code
    captured = capsys.readouterr()
    assert shown in captured.out + captured.err
