"""Caption metrics against numbers worked out by hand, and the tokenizer's rules."""

import math

import pytest

from vea.caption_metrics import tokenize
from vea.errors import VeaError
from vea.metrics import caption_scores


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


def test_equal_to_the_toolkit_where_it_is_installed():
    """pip install pycocoevalcap (and pycocotools); its metrics get our words, since its tokenizer needs Java."""
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    from vea.data.synthetic import samples

    texts = {sample.key: sample.text[0] for sample in samples(60, split="train", size=32)}
    keys = list(texts)
    references = {key: [texts[key], texts[keys[i - 1]]] for i, key in enumerate(keys)}
    hypotheses = {key: texts[keys[(i + 1) % len(keys)]] for i, key in enumerate(keys)}
    told = {key: [" ".join(tokenize(text)) for text in found] for key, found in references.items()}
    said = {key: [" ".join(tokenize(text))] for key, text in hypotheses.items()}
    theirs = {f"bleu_{n}": v for n, v in enumerate(bleu.Bleu(4).compute_score(told, said, verbose=0)[0], start=1)}
    theirs["rouge_l"] = rouge.Rouge().compute_score(told, said)[0]
    theirs["cider"] = cider.Cider().compute_score(told, said)[0]
    assert caption_scores(references, hypotheses) == pytest.approx({k: float(v) for k, v in theirs.items()}, abs=1e-9)
