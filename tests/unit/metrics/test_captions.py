"""Caption metrics against numbers worked out by hand, and the tokenizer's rules."""

import math

import pytest

from vea.errors import VeaError
from vea.metrics import caption_scores
from vea.metrics.captions import tokenize


@pytest.mark.parametrize(
    "text, words",
    [
        ("A man's dog, and it's BIG!", ["a", "man", "'s", "dog", "and", "it", "'s", "big"]),
        ("They don't wear a t-shirt.", ["they", "do", "n't", "wear", "a", "t-shirt"]),
        ('"Two" (small) girls -- one runs...', ["two", "small", "girls", "one", "runs"]),
        ("Ein Hündchen, 3.5 kg", ["ein", "hündchen", "3.5", "kg"]),
        ("We cannot go at 8:25", ["we", "can", "not", "go", "at", "8:25"]),
        ("...", []),
    ],
)
def test_words(text, words):
    assert list(tokenize(text)) == words


def test_a_caption_equal_to_its_reference_is_perfect():
    texts = {"1": "a dog runs over the grass", "2": "two people sit on a red bench", "3": "the sea under dark clouds"}
    scores = caption_scores({key: [text] for key, text in texts.items()}, texts)
    assert all(scores[f"bleu_{n}"] == pytest.approx(1, abs=1e-6) for n in range(1, 5))
    assert scores["rouge_l"] == pytest.approx(1) and scores["cider"] == pytest.approx(10)


def test_bleu_clips_and_takes_the_closest_length():
    scores = caption_scores({"1": ["the cat is on the mat", "there is a cat on the mat"]}, {"1": "the the the cat"})
    # 1-grams: the (at most 2) + cat = 3 of 4; 2-grams: "the cat" = 1 of 3; closest reference 6 words
    brevity = math.exp(1 - 6 / 4)
    assert scores["bleu_1"] == pytest.approx(brevity * 3 / 4, rel=1e-6)
    assert scores["bleu_2"] == pytest.approx(brevity * math.sqrt(3 / 4 * 1 / 3), rel=1e-6)
    assert scores["bleu_3"] < 1e-4


def test_rouge_takes_best_precision_and_best_recall():
    scores = caption_scores({"1": ["a b c d", "a x"]}, {"1": "a b x"})
    precision, recall = 2 / 3, 1 / 2  # common: a b of the first, a x of the second (recall 1)
    recall = max(recall, 2 / 2)
    assert scores["rouge_l"] == pytest.approx((1 + 1.44) * precision * recall / (recall + 1.44 * precision))


def test_cider_by_hand():
    """Two images, single words: only 1-grams count, each with the weight log 2 / 1."""
    scores = caption_scores({"1": ["dog"], "2": ["cat", "sea"]}, {"1": "dog", "2": "cat"})
    first, second = 10 * 1 / 4, 10 * (1 + 0) / 2 / 4
    assert scores["cider"] == pytest.approx((first + second) / 2)


def test_words_of_every_image_weigh_nothing_in_cider():
    assert caption_scores({"1": ["a dog"], "2": ["a cat"]}, {"1": "a", "2": "a"})["cider"] == 0


def test_empty_captions_score_zero_and_bad_input_is_one_sentence():
    scores = caption_scores({"1": ["a dog"], "2": ["a cat"]}, {"1": "", "2": ""})
    assert scores["rouge_l"] == 0 and scores["cider"] == 0 and scores["bleu_1"] < 1e-6
    with pytest.raises(VeaError, match="image '2' is only in the references"):
        caption_scores({"1": ["a"], "2": ["b"]}, {"1": "a"})
    with pytest.raises(VeaError, match="image '1' has no reference"):
        caption_scores({"1": ["..."]}, {"1": "a"})
    with pytest.raises(VeaError, match="nothing to score"):
        caption_scores({}, {})


def test_equal_to_the_coco_toolkit():
    """The numbers are pycocoevalcap 1.2's, its own Java tokenizer included, on these captions."""
    references = {
        "beach": ["Two children run along the beach.", "A boy and a girl are running near the sea.",
                  "Kids play on the sand."],
        "market": ["A man's stall is full of fruit.", "People don't look at the market stall."],
        "dog": ["A brown dog jumps over a log.", "The dog leaps over a fallen tree in the forest."],
        "street": ["An old woman crosses a wet street at 8:25.", "A woman walks across the road in the rain."],
        "storm": ["Dark clouds hang over the sea.", "A storm is coming, and the sky is dark."],
    }  # fmt: skip
    hypotheses = {
        "beach": "Two children are running on the beach.",
        "market": "A man looks at a stall full of fruit.",
        "dog": "A dog jumps over a fallen tree.",
        "street": "An old man crosses the street.",
        "storm": "The sea is dark under the clouds.",
    }
    toolkit = {
        "bleu_1": 0.8611111110632717,
        "bleu_2": 0.645497224330596,
        "bleu_3": 0.4311169897794288,
        "bleu_4": 0.29556229413710955,
        "rouge_l": 0.5866556653645614,
        "cider": 1.9213258334703353,
    }
    assert caption_scores(references, hypotheses) == pytest.approx(toolkit, abs=1e-9)
