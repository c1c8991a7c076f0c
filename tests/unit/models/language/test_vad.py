"""What a text's content words are rated, on average."""

from __future__ import annotations

import pytest

from vea.models.language.vad import mean_vad

LEXICON = {"happy": (0.8, 0.2, 0.4), "war": (-0.9, 0.5, -0.2), "child": (0.4, 0.0, -0.2), "of": (1.0, 1.0, 1.0)}


def test_the_mean_is_over_rated_content_words_and_their_lemmas():
    found = mean_vad("Happy children, happy child: the wars of old", LEXICON)
    # happy, happy, child, wars (war); children is no regular form, "of" is too short
    wanted = [(0.8 + 0.8 + 0.4 - 0.9) / 4, (0.2 + 0.2 + 0.0 + 0.5) / 4, (0.4 + 0.4 - 0.2 - 0.2) / 4, 4 / 8]
    assert found == pytest.approx(wanted)


def test_a_text_without_a_rated_word_is_zeros():
    assert mean_vad("of the 12 ...", LEXICON) == mean_vad("", LEXICON) == (0.0, 0.0, 0.0, 0.0)
