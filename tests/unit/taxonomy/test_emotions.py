import json
import os
from pathlib import Path

import pytest

from vea.errors import VeaError
from vea.taxonomy.emotions import AFFECTNET_8, EKMAN_6, FER2013_7, FERPLUS_8, MIKELS_8, RAFDB_7, TAXONOMIES, taxonomy
from vea.taxonomy.fields import check_same_classes
from vea.taxonomy.words import canonical_expression, map_expressions


def test_sizes_match_names():
    for name, entry in TAXONOMIES.items():
        assert name == entry.name
        assert name.endswith(str(len(entry))), name


def test_first_four_of_mikels_are_positive():
    assert MIKELS_8.polarity == ("positive",) * 4 + ("negative",) * 4
    assert [vad[0] > 0 for vad in MIKELS_8.vad()] == [True] * 4 + [False] * 4


def test_taxonomy_by_alias_and_typo():
    assert taxonomy("EmoSet") is MIKELS_8
    with pytest.raises(VeaError, match="did you mean 'fer2013-7'"):
        taxonomy("fer2013_7")
    with pytest.raises(VeaError, match="did you mean 'sadness'"):
        MIKELS_8.index("sadnes")


def test_fer2013_to_ferplus_by_name():
    mapped = map_expressions(FER2013_7.classes, FERPLUS_8.classes)
    assert [FERPLUS_8.classes[i] for i in mapped] == [
        "anger",
        "disgust",
        "fear",
        "happiness",
        "sadness",
        "surprise",
        "neutral",
    ]


def test_contempt_has_no_place_in_seven():
    assert map_expressions(FERPLUS_8.classes, RAFDB_7.classes)[FERPLUS_8.index("contempt")] is None
    assert map_expressions(AFFECTNET_8.classes, EKMAN_6.classes)[AFFECTNET_8.index("neutral")] is None


def test_mapping_refuses_what_is_not_an_expression():
    with pytest.raises(VeaError, match="'amusement' is not a facial expression"):
        map_expressions(MIKELS_8.classes, FER2013_7.classes)
    with pytest.raises(VeaError, match="same facial expression"):
        map_expressions(["happy"], ["happy", "joy"])


def test_canonical_expression():
    assert canonical_expression(" Happy") == "happiness"
    assert canonical_expression("awe") is None


def test_same_classes_pass():
    check_same_classes(FER2013_7.classes, list(FER2013_7.classes), "run")


def test_other_order_names_the_index():
    folders = sorted(FER2013_7.classes)  # what ImageFolder gives
    with pytest.raises(VeaError, match=r"another order: index 4 is 'neutral', expected 'sad'"):
        check_same_classes(FER2013_7.classes, folders, "data/fer")


def test_other_names_are_listed():
    with pytest.raises(VeaError, match=r"lacks 'a' and has 'c'"):
        check_same_classes(["a", "b"], ["b", "c"], "head")
    with pytest.raises(VeaError, match="under other names"):
        check_same_classes(["happy", "sad"], ["happiness", "sadness"], "head")
    with pytest.raises(VeaError, match="repeated"):
        check_same_classes(["a", "b"], ["a", "b", "b"], "head")


@pytest.mark.real_data
@pytest.mark.skipif("VEA_DATA" not in os.environ, reason="VEA_DATA is not set")
def test_orders_of_emoset_match_its_file():
    info = json.loads((Path(os.environ["VEA_DATA"]) / "emoset_taxonomy/info.json").read_text())
    order = sorted(info["emotion"]["label2idx"], key=info["emotion"]["label2idx"].get)
    assert tuple(order) == MIKELS_8.classes
    assert tuple(info["facial_expression"]["label2idx"]) == taxonomy("emoset-face-6").classes


@pytest.mark.parametrize("name", [{"a": 1}, ["happy"], None, 3, 0.5, ""])
def test_a_class_name_of_elsewhere_may_be_anything(name):
    assert canonical_expression(name) is None
    with pytest.raises(VeaError, match="class names differ"):
        check_same_classes(["happy", "sad"], ["happy", name], "head")


@pytest.mark.parametrize("name", ["x\ny.jpg", "x\r\ny.jpg", "\n"])
def test_a_sentence_has_one_line_whatever_a_file_is_called(name):
    assert len(str(VeaError(f"own/{name}: not an image")).splitlines()) == 1
