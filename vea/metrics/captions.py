"""BLEU, ROUGE-L and CIDEr of captions, by the definitions of the COCO caption toolkit, without Java.

Words are those of its Penn Treebank tokenizer as far as captions need them: lower case, ``n't`` and ``'s`` split off,
punctuation dropped, hyphenated words whole.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from vea.errors import VeaError

MAX_N = 4
SIGMA = 6.0  # of CIDEr's length penalty
BETA = 1.2  # of ROUGE-L: recall counts more
_WORD = re.compile(r"n't\b|'(?:s|re|ve|ll|d|m)\b|[^\W_]+(?:[-./:][^\W_]+)*?(?=n't\b)|[^\W_]+(?:[-./:][^\W_]+)*")

Words = tuple[str, ...]
Counts = Counter[Words]


def tokenize(text: str) -> Words:
    """Returns the words of a caption."""
    return tuple(_WORD.findall(re.sub(r"\bcannot\b", "can not", text.lower().replace("’", "'"))))


def ngrams(words: Sequence[str]) -> list[Counts]:
    """Returns the counts of 1-grams to 4-grams."""
    return [Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for n in range(1, MAX_N + 1)]


def bleu(references: Sequence[Sequence[Words]], hypotheses: Sequence[Words]) -> list[float]:
    """Returns corpus BLEU-1 to BLEU-4 (Papineni et al. 2002), the closest reference length for brevity."""
    correct, total = [0] * MAX_N, [0] * MAX_N
    length, wanted = 0, 0
    for refs, words in zip(references, hypotheses, strict=True):
        length += len(words)
        wanted += min((abs(len(ref) - len(words)), len(ref)) for ref in refs)[1]
        per_ref = [ngrams(ref) for ref in refs]
        for n, counts in enumerate(ngrams(words)):
            most: Counts = Counter()
            for grams in per_ref:
                most |= grams[n]
            correct[n] += sum((counts & most).values())
            total[n] += sum(counts.values())
    ratio = (length + 1e-15) / (wanted + 1e-9)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    logs = [math.log((c + 1e-15) / (t + 1e-9)) for c, t in zip(correct, total)]
    return [brevity * math.exp(sum(logs[: n + 1]) / (n + 1)) for n in range(MAX_N)]


def _common(one: Words, other: Words) -> int:
    """Returns the length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for a in one:
        before = 0
        for j, b in enumerate(other, start=1):
            before, row[j] = row[j], before + 1 if a == b else max(row[j], row[j - 1])
    return row[-1]


def rouge_l(references: Sequence[Sequence[Words]], hypotheses: Sequence[Words]) -> float:
    """Returns the mean ROUGE-L (Lin 2004): best precision and best recall over the references, beta 1.2."""
    scores = []
    for refs, words in zip(references, hypotheses, strict=True):
        common = [_common(words, ref) for ref in refs]
        precision = max(c / len(words) for c in common) if words else 0.0
        recall = max(c / len(ref) if ref else 0.0 for c, ref in zip(common, refs))
        both = precision and recall
        scores.append((1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if both else 0.0)
    return sum(scores) / len(scores)


def cider(references: Sequence[Sequence[Words]], hypotheses: Sequence[Words]) -> float:
    """Returns the toolkit's CIDEr (Vedantam et al. 2015, CIDEr-D): document frequencies of these references."""
    grams = [[ngrams(ref) for ref in refs] for refs in references]
    frequency: Counts = Counter()
    for per_image in grams:
        frequency.update({gram for ref in per_image for counts in ref for gram in counts})
    images = math.log(len(references))

    def vector(counts: Counts) -> tuple[dict[Words, float], float]:
        weights = {gram: tf * (images - math.log(max(1, frequency[gram]))) for gram, tf in counts.items()}
        return weights, math.sqrt(sum(value * value for value in weights.values()))

    scores = []
    for per_image, words in zip(grams, hypotheses, strict=True):
        mine = [vector(counts) for counts in ngrams(words)]
        length = sum(ngrams(words)[1].values())
        total = 0.0
        for ref in per_image:
            penalty = math.exp(-((length - sum(ref[1].values())) ** 2) / (2 * SIGMA**2))
            for (own, norm), counts in zip(mine, ref):
                theirs, other = vector(counts)
                dot = sum(min(value, theirs[gram]) * theirs[gram] for gram, value in own.items() if gram in theirs)
                total += penalty * dot / (norm * other) if norm and other else 0.0
        scores.append(10 * total / MAX_N / len(per_image))
    return sum(scores) / len(scores)


def caption_scores(references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str]) -> dict[str, float]:
    """Returns ``bleu_1`` to ``bleu_4``, ``rouge_l`` and ``cider`` of one caption per image against its references.

    Args:
        references: the human captions of each image, at least one, none without a word.
        hypotheses: the caption to score, for the same images; an empty one scores 0.

    Raises:
        VeaError: the images differ, there are none, or an image has no reference.
    """
    if references.keys() != hypotheses.keys():
        key = sorted(references.keys() ^ hypotheses.keys())[0]
        where = "references" if key in references else "hypotheses"
        raise VeaError(f"captions: image {key!r} is only in the {where}; both need the same images")
    if not references:
        raise VeaError("captions: there is nothing to score; give at least one image")
    keys = sorted(references)
    refs = [[tokenize(text) for text in references[key]] for key in keys]
    for key, found in zip(keys, refs):
        if not found or not all(found):
            raise VeaError(f"captions: image {key!r} has no reference with a word in it; leave the image out")
    words = [tokenize(hypotheses[key]) for key in keys]
    named = {f"bleu_{n}": value for n, value in enumerate(bleu(refs, words), start=1)}
    return {**named, "rouge_l": rouge_l(refs, words), "cider": cider(refs, words)}
