"""What is measured of explanations, and a page that shows some."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from vea.distributed import collectives
from vea.errors import VeaError
from vea.metrics.captions import caption_scores, tokenize
from vea.metrics.text_emotion import TextEmotionClassifier
from vea.models.language.tokens import BECAUSE
from vea.models.language.vad import look_up
from vea.tasks.base import Batch

if TYPE_CHECKING:
    from vea.tasks.explain import ExplainTask

METAPHORS = ("could be", "appears to be", "reminds me", "seems like", "looks like", "is like", "are like", "think of",
             "resembles")  # fmt: skip  # the list of ArtEmis
Pair = tuple[str, str]  # emotion, explanation


def split_answer(text: str) -> Pair:
    """Returns (emotion, explanation) of ``EMOTION because WORDS``; the emotion is empty in a text of another form."""
    emotion, because, explanation = text.partition(f" {BECAUSE} ")
    return (emotion.strip().lower(), explanation.strip()) if because else ("", text.strip())


def pairs_of(texts: Sequence[str], emotion: str, emotions: Sequence[str], *, unlabelled: bool = False) -> list[Pair]:
    """Returns the (emotion, explanation) pairs of one picture; ``emotion`` is its label, empty where unknown.

    ``unlabelled`` keeps the texts of an unknown emotion, as pairs ("", explanation).
    """
    pairs = []
    for text in texts:
        own, explanation = split_answer(text)
        pair = (own, explanation) if own in emotions else (emotion, text.strip())
        if all(pair) or (unlabelled and pair[1]):
            pairs.append(pair)
    return pairs


def dominant_emotion(pairs: Sequence[Pair]) -> str:
    """Returns the emotion of more than half of a picture's explanations, empty where there is none (ArtEmis)."""
    top, times = Counter(emotion for emotion, _ in pairs).most_common(1)[0]
    return top if 2 * times > len(pairs) else ""


@dataclass
class Record:
    """One picture's outcome."""

    key: str
    emotion: str
    references: list[str]
    text: str
    swapped: str | None
    cost: float
    tokens: int


class ExplainMetrics:
    """Scores of sentences: caption metrics of the explanation, the emotion's accuracy, and the image's part in both.

    ``swapped/...`` are the same scores of sentences written while looking at another picture (``task.control``).
    """

    def __init__(self, task: ExplainTask) -> None:
        self.task = task
        self.judge: TextEmotionClassifier | None = None  # with one, EA is scored as well
        self._records: list[Record] = []

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Adds one batch; pictures without an emotion or a text are left out."""
        valid = batch["valid"].tolist() if "valid" in batch else [True] * len(batch["keys"])
        swapped = outputs.get("swapped")
        for i, pairs in enumerate(self.task.candidates(batch)):
            if not valid[i] or not pairs:
                continue
            self._records.append(
                Record(
                    key=batch["keys"][i],
                    emotion=dominant_emotion(pairs),
                    references=[text for _, text in pairs],
                    text=self.task.tokens.text(outputs["written"][i].cpu()),
                    swapped=None if swapped is None else self.task.tokens.text(swapped[i].cpu()),
                    cost=float(outputs["costs"][i]),
                    tokens=int(outputs["counts"][i]),
                )
            )

    def gather(self) -> list[Record]:
        """Returns the records of all ranks by key; collective."""
        return sorted((r for rank in collectives.gather_objects(self._records) for r in rank), key=lambda r: r.key)

    def compute(self) -> dict[str, float]:
        """Returns the scores; collective."""
        records = self.gather()
        if not records:
            raise VeaError("data.val: no picture has both an emotion and a text; name another set")
        result = {"loss": sum(r.cost for r in records) / max(1, sum(r.tokens for r in records))}
        result |= self._scores(records, [r.text for r in records])
        words = [(text, r.emotion) for r in records if r.emotion for text in r.references]
        if self.judge and words:  # the most that EA can be
            told = self.judge.predict([text for text, _ in words])
            result["ea_of_people"] = fmean(name == emotion for name, (_, emotion) in zip(told, words))
        if records[0].swapped is not None:
            found = self._scores(records, [r.swapped or "" for r in records])
            result |= {f"swapped/{name}": value for name, value in found.items()}
        return result

    def _scores(self, records: Sequence[Record], texts: Sequence[str]) -> dict[str, float]:
        answers = [split_answer(text) for text in texts]
        references = {r.key: [t for t in r.references if tokenize(t)] or ["-a-"] for r in records}
        written = {r.key: explanation for r, (_, explanation) in zip(records, answers)}
        distances = [self._distance(r.references, words) for r, words in zip(records, written.values())]
        known = [distance for distance in distances if distance is not None]
        dominated = [i for i, r in enumerate(records) if r.emotion]
        result = {}
        if dominated:  # the others have no one right answer
            result["emotion_accuracy"] = fmean(answers[i][0] == records[i].emotion for i in dominated)
        if dominated and self.judge:
            told = self.judge.predict([answers[i][1] for i in dominated])
            result["ea"] = fmean(name == records[i].emotion for name, i in zip(told, dominated))
        return {
            **caption_scores(references, written),
            **result,
            "unique": len(set(written.values())) / len(records),
            "metaphors": fmean(any(phrase in words for phrase in METAPHORS) for words in written.values()),
            **({"vad_distance": fmean(known)} if known else {}),
        }

    def _distance(self, references: Sequence[str], text: str) -> float | None:
        """Returns the distance of the mean VAD of two texts' rated words, None where one has no such word."""
        places = []
        for words in (tokenize(" ".join(references)), tokenize(text)):
            rated = [vad for vad in (look_up(word, self.task.lexicon) for word in words) if any(vad)]
            if not rated:
                return None
            places.append(np.mean(rated, axis=0))
        return float(np.linalg.norm(places[0] - places[1]))

    def records(self) -> list[dict[str, Any]]:
        """Returns every picture's outcome for JSON; collective."""
        return [asdict(record) for record in self.gather()]

    def report(self) -> dict[str, Any]:
        """Returns what an evaluation keeps: ``targets`` and ``predictions``; collective."""
        scores, records = self.compute(), self.records()
        return {
            "targets": {"explanation": {"samples": len(records), "metrics": scores, "intervals": {}}},
            "predictions": {"keys": [row["key"] for row in records], "explanation": records},
        }


def draw_page(images: np.ndarray, written: Sequence[str], truth: Sequence[str], *, width: int = 200) -> np.ndarray:
    """Returns uint8 (H, W, 3): pictures (B, 3, H, W) in a row of fours, model and people in words below each."""
    text_height = 130
    columns, rows = min(4, len(images)), (len(images) + 3) // 4
    page = Image.new("RGB", (columns * (width + 10), rows * (width + text_height)), "white")
    pen = ImageDraw.Draw(page)
    for number, (image, model, people) in enumerate(zip(images, written, truth)):
        x, y = number % 4 * (width + 10), number // 4 * (width + text_height)
        page.paste(Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).resize((width, width)), (x, y))
        for text, colour, top in ((f"model: {model}", "black", 2), (f"people: {people}", "#666666", 66)):
            lines = textwrap.wrap(text, 34)[:5]
            pen.multiline_text((x + 2, y + width + top), "\n".join(lines), fill=colour, spacing=1)
    return np.asarray(page)
