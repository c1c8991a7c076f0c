"""Our wheels: every word has one place, of its own polarity, on every wheel."""

from collections import Counter

import pytest

from vea.taxonomy import wheels
from vea.taxonomy.emotions import TAXONOMIES

OPPOSITE = {"positive": -1, "negative": 1}


def test_a_word_belongs_to_one_family_and_a_family_to_one_sector():
    words = Counter(word for _, text in wheels._FAMILIES.values() for word in text.split())
    assert not [word for word, count in words.items() if count > 1]  # so the order of the table means nothing
    for wheel in wheels.WHEELS:
        placed = Counter(name for _, names in wheels._WHEELS[wheel].values() for name in names.split())
        assert placed == Counter(dict.fromkeys(wheels._FAMILIES, 1))


@pytest.mark.parametrize("wheel", wheels.WHEELS)
@pytest.mark.parametrize("level", [1, 2])
def test_every_class_of_the_field_is_on_every_wheel(wheel: str, level: int):
    place = wheels.sectors(wheel, level)
    for taxonomy in TAXONOMIES.values():
        missing = [name for name in taxonomy.classes if name.lower() not in place and name != "something else"]
        assert not missing, (taxonomy.name, missing)


@pytest.mark.parametrize("wheel", wheels.WHEELS)
def test_no_word_lands_in_the_opposite_polarity(wheel: str):
    for word, sector in wheels.sectors(wheel).items():
        assert wheels.word_polarity(word) * wheels.sector_polarity(wheel, sector) >= 0, (word, sector)
    for taxonomy in TAXONOMIES.values():
        for name, polarity in zip(taxonomy.classes, taxonomy.polarity):
            if name != "something else" and polarity in OPPOSITE:
                assert wheels.word_polarity(name) != OPPOSITE[polarity], name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("He is happy and calm.", ["happy", "calm"]),
        ("Not happy at all, but afraid", ["afraid"]),
        ("no sign of anger; sadness, sadness", ["sadness"]),
        ("It isn't sad", []),
        ("not only sad but angry", ["sad", "angry"]),
        ("", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]):
    assert wheels.find_words(text) == words


def test_unknown_words_have_no_polarity():
    assert wheels.word_polarity("table") is None and wheels.word_polarity(" Happy ") == 1
