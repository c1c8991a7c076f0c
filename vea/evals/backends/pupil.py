"""A pupil of vea's (recipe instruct) as a back end: asked in few words; P(choice) beside greedy text."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vea.data.views.pictures import read_image
from vea.data.views.views import Views
from vea.errors import VeaError
from vea.evals.backends.base import Backend
from vea.evals.lesson_shards import few_words
from vea.evals.question import Answer, Question, picture_digest
from vea.models.language.turns import Encoded
from vea.storage.checkpoint import find_weights
from vea.tasks.instruct import InstructTask
from vea.tasks.instruct_saved import EXPORTED, open_pupil


class PupilBackend(Backend):
    """Answers by the pupil of a run or an exported folder; all questions about one picture go through together.

    Args:
        folder: of the run or the export.
        blind: its pictures are withheld: a control.
        brief: ask vea's own questions in few words, as the pupil was taught; others are asked as they are.
        task: the pupil, where it is open already.
    """

    def __init__(
        self, folder: Path, *, blind: bool = False, brief: bool = True, task: InstructTask | None = None
    ) -> None:
        super().__init__()
        self.task = task or open_pupil(folder)
        if self.task.config.model.kind == "hf":
            raise VeaError(
                f"{folder} is a whole image-text model: vea export {folder} --to pupil, and judge that folder"
            )
        self.blind, self.brief = blind or self.task.config.model.blind, brief
        self.name = ("blind:" if blind else "") + folder.resolve().name
        exported = (folder / EXPORTED).is_file()
        weights = folder / "vision.safetensors" if exported else find_weights(folder) / "model.safetensors"
        self.settings = {"weights": picture_digest(weights)[:16] if weights.is_file() else "", "brief": brief}
        self._views = Views(self.task.config.augment, seed=0, train=False)
        self._seen: dict[Path, Tensor] = {}

    def shown(self, question: Question) -> Path | None:
        """Returns the picture, None for a blind pupil."""
        return None if self.blind else question.picture

    def _features(self, picture: Path) -> Tensor:
        """Returns (F,): what the towers see of a picture."""
        if picture not in self._seen:
            self._seen[picture] = self.look(read_image(picture), key=picture_digest(picture)[:32])
        return self._seen[picture]

    def look(self, image: np.ndarray, *, key: str | None = None) -> Tensor:
        """Returns (F,): what the towers see of an RGB picture (H, W, 3); kept under ``key``, if it has one."""
        towers = self.task._towers[0]
        view = torch.from_numpy(self._views.one(image, key="").copy()).permute(2, 0, 1)[None]
        whole = torch.tensor([min(image.shape[:2]) <= towers.config.face_pixels])
        return (towers.features([key], view, whole) if key else towers.look(view, whole))[0]

    def _talk(self, prompt: str, *, picture: bool, key: str) -> Encoded:
        said = (few_words(prompt) if self.brief else None) or prompt
        return self.task.encoded([{"q": said, "a": ""}], picture=picture, answered=False, key=key)

    @torch.inference_mode()
    def reply(self, prompt: str, features: Tensor | None, *, most: int, key: str) -> tuple[str, Tensor, int]:
        """Returns (greedy text, log-probabilities (V,) of its first token, tokens of the question)."""
        talk = self._talk(prompt, picture=features is not None, key=key)
        row, states = self.task.pupil.joined([talk])
        hidden = self.task.pupil([row], [states], None if features is None else features[None])
        told = self.task.pupil.logits(hidden[0, row.ends]).float()[0]
        return self._text(talk, int(told.argmax()), features, most), told.log_softmax(0), len(talk.ids)

    @torch.inference_mode()
    def ask(self, questions: Sequence[Question], readouts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Yields answers picture by picture."""
        groups: dict[Path | None, list[int]] = {}
        for place, question in enumerate(questions):
            groups.setdefault(self.shown(question), []).append(place)
        for picture, places in groups.items():
            for start in range(0, len(places), 16):
                part = places[start : start + 16]
                yield from zip(part, self._answers([questions[p] for p in part], picture, readouts))

    def _answers(self, questions: Sequence[Question], picture: Path | None, readouts: Sequence[str]) -> list[Answer]:
        started = time.perf_counter()
        features = self._features(picture) if picture is not None else None
        talks = [self._talk(q.prompt, picture=picture is not None, key=q.key) for q in questions]
        row, states = self.task.pupil.joined(talks)
        hidden = self.task.pupil([row], [states], None if features is None else features[None])
        logits = self.task.pupil.logits(hidden[0, row.ends]).float()
        found = []
        for question, talk, told in zip(questions, talks, logits):
            shares, mass, text = None, None, None
            if question.choices and "probability" in readouts:
                chosen, all_of_them = self.task.shares(told[None], question.choices)
                shares, mass = dict(zip(question.choices, chosen[0].tolist())), float(all_of_them)
            if "text" in readouts:
                text = self._text(talk, int(told.argmax()), features, question.max_tokens)
            found.append((shares, mass, text, len(talk.ids)))
        spent = round((time.perf_counter() - started) / len(questions), 4)
        return [Answer(text, shares, mass, tokens, spent) for shares, mass, text, tokens in found]

    def _text(self, talk: Encoded, first: int, features: Tensor | None, most: int) -> str:
        """Returns the greedy answer; its first token is known from the questions' common pass."""
        if first == self.task.end:
            return ""
        begun = Encoded([*talk.ids, first], [*talk.learned, False], [*talk.image, False], 1)
        rest = self.task.pupil.write(begun, features, most=most - 1, end=self.task.end)
        return str(self.task.tokenizer.decode([first, *rest], skip_special_tokens=True)).strip()
