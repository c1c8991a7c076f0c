from dataclasses import replace

import pytest

from vea.inference.face_reason import reason
from vea.inference.results import Face
from vea.metrics import mention_scores, mentioned_units, shown_units
from vea.taxonomy.action_units import UNITS

NONE = dict.fromkeys(UNITS, 0.0)
SMILE = NONE | {"AU12 lip corner puller": 0.83, "AU25 lips part": 0.45, "AU1 inner brow raiser": 0.2}
HAPPY = Face((0, 0, 9, 9), "happy", {"happy": 0.9, "sad": 0.1}, 0.9, units=SMILE)


def test_a_smile_and_happy_agree_and_every_part_says_why():
    told = reason(HAPPY)
    assert [one.unit.split()[0] for one in told.observations] == ["AU12", "AU25"]
    assert told.units == "agree" and told.observations[0].strength == "strong"
    heads = [line.split(":")[0] for line in told.text.splitlines()]
    assert heads == ["Key observations", "Interpretation", "Conclusion"]
    assert "happiness (90%)" in told.conclusion and "AU12 and AU25" in told.conclusion


def test_where_units_and_recogniser_disagree_the_text_says_so():
    told = reason(replace(HAPPY, expression="sad", probabilities={"sad": 0.7}))
    assert told.units == "disagree" and "disagree" in told.conclusion and "happiness" in told.conclusion


def test_a_face_at_rest_is_neutral_or_its_reason_is_elsewhere():
    calm = replace(HAPPY, units=NONE, expression="neutral", probabilities={"neutral": 0.8})
    assert reason(calm).units == "agree"
    assert "moderate or strong" in reason(calm).text
    angry = reason(replace(calm, expression="angry", probabilities={"angry": 0.6}))
    assert angry.units == "silent" and "not in these units" in angry.conclusion


def test_the_text_names_the_units_that_are_shown_and_no_other():
    for name in UNITS:
        face = replace(HAPPY, units=NONE | {name: 0.4, "AU26 jaw drop": 0.7})
        assert mention_scores(mentioned_units(reason(face).text), shown_units(face.units))["f1"] == 1.0, name


def test_another_face_has_another_text_and_the_same_face_the_same():
    assert reason(HAPPY).text == reason(HAPPY).text
    assert reason(HAPPY).text != reason(replace(HAPPY, units=NONE | {"AU43 eyes closed": 0.6})).text


def test_a_model_without_units_has_no_reason():
    with pytest.raises(ValueError, match="no action units"):
        reason(replace(HAPPY, units={}))
