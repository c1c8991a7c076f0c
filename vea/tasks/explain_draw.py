"""Which of a picture's sentences a step learns, and which of the global batch's they are told apart from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vea.data.loading.order import keyed_words
from vea.losses.language import explanation_contrast
from vea.tasks.explain_metrics import Pair


@dataclass
class Drawn:
    """The sentences of one step: ``pairs``, the picture of each, and whether it is the picture's first or second."""

    pairs: list[Pair]
    image: list[int]
    which: list[int]

    def by_picture(self, values: Tensor, *, pictures: int, empty: float = 0.0) -> Tensor:
        """Returns (pictures, 2, ...): the (S, ...) values of the sentences at their places, ``empty`` where none is."""
        placed = values.new_full((pictures, 2, *values.shape[1:]), empty)
        places = torch.tensor([self.image, self.which], device=values.device)
        return placed.index_put(tuple(places), values)


def draw(candidates: Sequence[Sequence[Pair]], *, paired: bool, seed: int, step: int, slots: Sequence[int]) -> Drawn:
    """Returns one sentence per picture and, where ``paired``, a second one of another emotion.

    They are a function of (seed, step, slot in the global batch): ranks and micro-batches do not change them. A picture
    without any sentence stands as ("", ""), of which nothing is learned.
    """
    drawn = Drawn([], [], [])
    for image, (pairs, slot) in enumerate(zip(candidates, slots, strict=True)):
        first_draw, second_draw = (int(word) for word in keyed_words(2, "sentence", seed, step, slot))
        first = pairs[first_draw % len(pairs)] if pairs else ("", "")
        rivals = [pair for pair in pairs if pair[0] != first[0]] if paired else []
        for which, pair in enumerate([first, *([rivals[second_draw % len(rivals)]] if rivals else [])]):
            drawn.pairs.append(pair)
            drawn.image.append(image)
            drawn.which.append(which)
    return drawn


def others(image: Sequence[int], has_words: Sequence[bool]) -> list[int]:
    """Returns for each sentence the next one, around the end, with words on another picture; -1 where there is none."""
    count, found = len(image), []
    for i in range(count):
        after = ((i + k) % count for k in range(1, count))
        found.append(next((j for j in after if image[j] != image[i] and has_words[j]), -1))
    return found


def contrast(
    score: Callable[[Tensor, Tensor, Tensor], Tensor], image: Tensor, emotion: Tensor, words: Tensor, said: Tensor
) -> Tensor:
    """Returns the contrastive loss: against the picture's other emotion, and against another picture's words.

    Args:
        score: (S, D) image tokens, emotions and explanations -> (S,).
        image: (N, 2, D) pooled image tokens of each sentence's picture.
        emotion: (N, 2, D) of the emotion's span.
        words: (N, 2, D) of the explanation's span.
        said: int (N, 2): 1 for a sentence with emotion and explanation, 0 for one without, -1 where there is none.
    """
    there = said >= 0
    picture = there.nonzero()[:, 0].tolist()
    complete = (said[there] > 0).tolist()
    count = len(picture)
    partner = [
        next((j for j in (i - 1, i + 1) if 0 <= j < count and picture[j] == picture[i]), -1) for i in range(count)
    ]
    rivals = torch.tensor([partner, others(picture, complete)], device=image.device).T
    seen, felt, told = image[there], emotion[there], words[there]
    negatives = torch.stack([score(seen, felt, told[column]) for column in rivals.T], dim=1)
    known = (rivals >= 0) & torch.tensor(complete, device=image.device)[:, None]
    return explanation_contrast(score(seen, felt, told), negatives, known)
