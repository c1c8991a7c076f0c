"""Config files as people write them, whole and broken: read as meant, or one sentence and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vea.config import RECIPES, load_config, read_yaml
from vea.errors import VeaError

MINIMAL = {"recipe": "pretrain", "name": "x", "data": {"train": [{"path": "data/a"}]}, "train": {"steps": 10}}
TEXT = yaml.safe_dump(MINIMAL)


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(VeaError) as caught:
        load_config(path, list(overrides))
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    assert path.name in message or path.stem in message
    return message


# ---------------- null sections


@pytest.mark.parametrize(
    ("overrides", "name"),
    [(["teacher.name=tiny-synthetic"], "tiny-synthetic"), (["teacher.cache=none"], "ViT-B-16")],
)
def test_a_section_that_is_null_can_be_overridden(tmp_path: Path, overrides: list[str], name: str):
    path = tmp_path / "a.yaml"
    path.write_text(TEXT + "teacher: null\n")
    assert load_config(path).teacher is None
    assert load_config(path, overrides).teacher.name == name
    assert load_config(path, [*overrides, "teacher=null"]).teacher is None


def test_an_override_changes_one_place_though_the_file_has_an_alias(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "recipe: pretrain\nname: x\ntrain: {steps: 1}\ndata:\n  train: &set [{path: a}]\n  val: *set\n",
        encoding="utf-8",
    )
    config = load_config(path, ["data.val.0.path=b"])
    assert (config.data.train[0].path, config.data.val[0].path) == ("a", "b")


# ---------------- numbers


@pytest.mark.parametrize("written", ["1e-4", "'1e-4'", "1E-4", '"0.0001"', "1.0e-4", "0.0001"])
def test_numbers_given_as_text_in_a_free_mapping_are_numbers(tmp_path: Path, written: str):
    path = tmp_path / "a.yaml"
    path.write_text(f"{TEXT}model: {{encoder: {{args: {{qk: {written}, deep: [{written}, {{x: {written}}}]}}}}}}\n")
    args = load_config(path).model.encoder.args
    assert args == {"qk": 1e-4, "deep": [1e-4, {"x": 1e-4}]}
    assert load_config(path, [f"model.encoder.args.qk={written}"]).model.encoder.args["qk"] == 1e-4


@pytest.mark.parametrize("text", ["gelu", "1e", "e4", "1.2.3", "0x1f", "nan", "inf", "", "12 px"])
def test_text_that_is_no_number_stays_text(tmp_path: Path, text: str):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, "model": {"encoder": {"args": {"a": text}}}}))
    assert load_config(path).model.encoder.args == {"a": text}


def test_whole_numbers_stay_whole(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, "model": {"encoder": {"args": {"depth": "3", "width": "4_0"}}}}))
    assert load_config(path).model.encoder.args == {"depth": 3, "width": 40}


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "'nan'", "'inf'", "1e400"])
@pytest.mark.parametrize("key", ["train.base_lr", "train.weight_decay", "objective.infonce", "augment.rotate"])
def test_not_a_number_is_no_setting(tmp_path: Path, key: str, value: str):
    path = tmp_path / "a.yaml"
    path.write_text(TEXT)
    assert key in refusal(path, f"{key}={value}")


# ---------------- broken files

BROKEN = {
    "a key twice": (b"a: 1\na: 2\n", "the key 'a' occurs twice"),
    "a key twice, deep": (b"train:\n  steps: 1\n  seed: 2\n  steps: 3\n", "the key 'steps' occurs twice"),
    "a key twice in braces": (b"data: {train: [], train: []}\n", "the key 'train' occurs twice"),
    "a list as key": (b"? [1, 2]\n: 3\n", "plain word"),
    "a number as key": (b"1: 2\n", "the key 1 is no text"),
    "yes as key": (b"train: {on: 2}\n", "the key True is no text"),
    "an alias of nothing": (b"a: *b\n", "undefined alias"),
    "an alias of itself": (b"a: &a [*a]\n", "alias holds itself"),
    "aliases of aliases": (
        b"a: &a [1,1,1,1,1,1,1,1,1]\n"
        + b"".join(b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 107)),
        "too many values",
    ),
    "Latin-1": ("name: é\n".encode("latin-1"), "is not UTF-8"),
    "UTF-16": ("name: x\n".encode("utf-16"), "is not UTF-8"),
    "zeros": (b"name: \x00\n", "not readable YAML"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00", "is not UTF-8"),
    "a tab": (b"a:\n\t- 1\n", "not readable YAML"),
    "a list": (b"- 1\n", "must hold a mapping"),
    "a word": (b"hello\n", "must hold a mapping"),
    "two documents": (b"a: 1\n---\nb: 2\n", "not readable YAML"),
    "a Python object": (b"a: !!python/object/apply:os.getcwd []\n", "not readable YAML"),
    "an integer of 9,000 digits": (b"a: " + b"9" * 9000 + b"\n", "not readable YAML"),
    "bytes": (b"a: !!binary aGVsbG8=\n", "holds a bytes"),
    "deep lists": (b"a: " + b"[" * 5000 + b"]" * 5000 + b"\n", "too deeply"),
    "base of itself": (b"base: broken.yaml\n", "leads back to itself"),
    "base is a number": (b"base: 3\n", "base must name a file"),
    "base is a list of numbers": (b"base: [3]\n", "base must name a file"),
    "base is empty": (b"base: ''\n", "base must name a file"),
    "base is a folder": (b"base: .\n", "is a folder"),
    "base is not there": (b"base: gone.yaml\n", "no config file"),
    "an empty file": (b"", "recipe None is not known"),
    "a recipe that is a list": (b"recipe: [pretrain]\n", "is not known"),
    "a recipe that is a mapping": (b"recipe: {a: 1}\n", "is not known"),
}


@pytest.mark.parametrize(("content", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_sentence(tmp_path: Path, content: bytes, said: str):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(VeaError) as caught:
        load_config(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_circle_of_bases_is_found(tmp_path: Path):
    for name, base in (("a", "b"), ("b", "deep/../c"), ("c", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"base: {base}.yaml\n")
    (tmp_path / "deep").mkdir()
    assert "leads back to itself" in refusal(tmp_path / "a.yaml").replace("c.yaml", "a.yaml")


def test_the_same_base_twice_is_no_circle(tmp_path: Path):
    (tmp_path / "low.yaml").write_text(TEXT)
    (tmp_path / "b.yaml").write_text("base: low.yaml\nseed: 3\n")
    (tmp_path / "a.yaml").write_text("base: [low.yaml, b.yaml]\n")
    assert load_config(tmp_path / "a.yaml").seed == 3


def test_a_folder_is_no_file(tmp_path: Path):
    assert "is a folder" in refusal(tmp_path)


def test_a_mark_of_byte_order_is_no_part_of_the_first_key(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert load_config(path).name == "x"


def test_a_date_is_its_text(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_text(TEXT.replace("name: x", "name: 2026-11-25"))
    assert load_config(path).name == "2026-11-25"


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, len(TEXT)), cut=st.integers(0, 8), new=st.binary(max_size=6))
def test_a_changed_file_loads_or_is_refused(tmp_path_factory: pytest.TempPathFactory, place: int, cut: int, new: bytes):
    path = tmp_path_factory.mktemp("mutated") / "a.yaml"
    path.write_bytes(TEXT.encode()[:place] + new + TEXT.encode()[place + cut :])
    try:
        config = load_config(path)
    except VeaError as error:
        assert "\n" not in str(error)
    else:
        assert type(config) in RECIPES.values()


@settings(max_examples=150, deadline=None)
@given(override=st.text(max_size=40) | st.from_regex(r"[a-z.]{1,12}(\.[0-9-]{1,3})?=[^\n]{0,12}", fullmatch=True))
def test_any_override_fits_or_is_refused(tmp_path_factory: pytest.TempPathFactory, override: str):
    path = tmp_path_factory.getbasetemp() / "override.yaml"
    path.write_text(TEXT)
    try:
        load_config(path, [override])
    except VeaError as error:
        assert "\n" not in str(error)


def test_read_yaml_keeps_the_order_of_keys(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("b: 1\na: 2\n")
    assert list(read_yaml(tmp_path / "a.yaml")) == ["b", "a"]


@pytest.mark.parametrize("base", ['"a\\0.yaml"', '[b.yaml, "\\0"]', "7", "{a: b}", "[null]", '""'])
def test_a_base_that_names_no_file_is_refused(tmp_path: Path, base: str):
    path = tmp_path / "a.yaml"
    (tmp_path / "b.yaml").write_text(TEXT)
    path.write_text(f"base: {base}\n")
    assert "base must name a file" in refusal(path)
