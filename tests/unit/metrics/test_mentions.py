import pytest

from vea.metrics import mention_scores, mentioned_units, shown_units
from vea.taxonomy.action_units import UNITS


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("AU12 and AU 25, action unit 4", {4, 12, 25}),
        ("The lip corner puller is strong, with a wide smile", {12}),
        ("Raised inner eyebrows and a wrinkled nose", {1, 9}),
        ("There is no smile. The eyes are open, the jaw dropped", {26}),
        ("not a smile, but pressed lips", {24}),
        ("AU12 is absent; AU1 is slight", {1}),
        ("AU121 is none", set()),
        ("The face is calm", set()),
    ],
)
def test_units_are_found_by_number_and_by_words_unless_denied(text: str, units: set[int]):
    assert mentioned_units(text) == units


def test_every_unit_is_known_by_its_number_its_words_and_plain_words():
    for unit in UNITS.values():
        for said in (f"AU{unit.number}", f"AU0{unit.number}", unit.words.title(), unit.plain):
            assert unit.number in mentioned_units(f"One sees {said} here."), said


def test_scores_are_those_of_sets():
    said, shown = {1, 4, 12}, {4, 12, 25, 26}
    both = len(said & shown)
    precision, recall = both / 3, both / 4
    found = mention_scores(said, shown)
    assert found["precision"] == pytest.approx(precision) and found["recall"] == pytest.approx(recall)
    assert found["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert mention_scores([], [])["f1"] == 1 and mention_scores([1], [])["f1"] == mention_scores([], [1])["f1"] == 0


def test_shown_are_the_moderate_and_strong():
    assert shown_units({"AU12 lip corner puller": 0.31, "AU1 inner brow raiser": 0.29}) == {12}
