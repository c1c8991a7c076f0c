"""Affective instructions: a small language model learns to answer questions about pictures and texts.

The lessons are what `vea instructions --shards` writes: each sample is a picture (or a blank, for texts) with its
questions and answers. Loss on the answers only; a digit is learned as the two digits next to the true number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vea.config import DatasetRef, InstructConfig
from vea.data.loading.collate import Item
from vea.data.loading.items import Drawn, ItemMaker, Place
from vea.data.loading.order import permutation
from vea.data.loading.sets import ShardSet
from vea.data.views.views import Views
from vea.errors import VeaError
from vea.models.language.pupil import Pupil, VisionPrefix, loudness, read_language_model, with_lora
from vea.models.language.turns import (
    DIGITS,
    Chat,
    Encoded,
    Packed,
    digit_target,
    encode,
    expected_number,
    first_tokens,
)
from vea.tasks.base import Batch, Task
from vea.tasks.instruct_metrics import InstructMetrics
from vea.tasks.towers import Towers

Lesson = dict[str, Any]  # task, class, q, a; for named answers choices, for numbers value (0 to 1)


def lessons_of(metadata: dict[str, Any], *, where: str, key: str) -> list[Lesson]:
    """Returns the lessons of a sample.

    Raises:
        VeaError: the set was not written by `vea instructions --shards`, or a lesson has no answer.
    """
    try:
        lessons = [json.loads(text) for text in metadata.get("text") or []]
        known = bool(lessons) and all({"q", "a", "class", "task"} <= lesson.keys() for lesson in lessons)
    except (ValueError, AttributeError):
        known = False
    if not known:
        raise VeaError(
            f"{where}: sample {key!r} holds no lessons; write the set with vea instructions ... --shards DIR"
        )
    for lesson in lessons:
        if not str(lesson["a"]).strip():
            raise VeaError(f"{where}: a lesson of sample {key!r} has no answer ({lesson['q'][:60]!r}); write it anew")
    return lessons


def dealt(classes: Sequence[Sequence[Any]], *, turns: int, most: int) -> list[list[Any]]:
    """Returns at most ``most`` conversations of at most ``turns`` lessons, filled class after class.

    No conversation has two lessons of one class. What a class contrasts about a picture (a true and a false statement)
    comes into one step, each as if it were alone.
    """
    talks: list[list[Any]] = []
    for lessons in classes:
        place = 0
        for lesson in lessons:
            while place < len(talks) and len(talks[place]) == turns:
                place += 1
            if place == most:
                break
            if place == len(talks):
                talks.append([])
            talks[place].append(lesson)
            place += 1
    return talks


class InstructItems:
    """Items: ``image``, ``picture`` and ``whole_face`` bool, and ``lessons``: conversations, each a list of lessons."""

    def __init__(self, config: InstructConfig) -> None:
        self.config = config

    def open_set(self, ref: DatasetRef) -> ShardSet:
        """Returns a set."""
        return ShardSet(ref)

    def maker(self, sets: Sequence[ShardSet], *, train: bool) -> ItemMaker:
        """Returns the maker."""
        return _LessonMaker(self.config, train=train)


class _LessonMaker(ItemMaker):
    def __init__(self, config: InstructConfig, *, train: bool) -> None:
        # frozen towers see the view of evaluation, once
        super().__init__(Views(config.augment, seed=config.seed, train=False), num_views=1)
        self.config, self.train = config, train

    def item(self, drawn: Drawn) -> Item:
        lessons = lessons_of(drawn.metadata, where=drawn.shards.name, key=drawn.key)
        image = self.views.one(drawn.encoded, key=drawn.key)
        small = min(drawn.encoded.width, drawn.encoded.height) <= self.config.model.vision.face_pixels
        pictured = not drawn.metadata.get("source", "").startswith("texts:")
        return self._made(drawn.key, drawn.place, image, self._chosen(lessons, drawn), pictured, pictured and small)

    def _chosen(self, lessons: list[Lesson], drawn: Drawn) -> list[list[Lesson]]:
        """Returns conversations about lessons drawn by key, class after class."""
        config = self.config
        if not self.train:
            asked = [lesson for lesson in lessons if lesson.get("choices")]
            return [[asked[i]] for i in permutation(len(asked), "eval", drawn.key)[: config.eval_lessons]]
        by_class: dict[tuple[str, str], list[Lesson]] = {}
        for i in permutation(len(lessons), "lesson", config.seed, drawn.pass_number, drawn.key):
            by_class.setdefault((lessons[i]["task"], lessons[i]["class"]), []).append(lessons[i])
        # in the order of the first lesson drawn: a class with more lessons comes first more often
        return dealt(list(by_class.values()), turns=config.turns, most=config.conversations)

    def empty(self, shards: ShardSet, image: np.ndarray, *, key: str, place: Place) -> Item:
        return self._made(key, place, image, [], False, False)

    @staticmethod
    def _made(
        key: str, place: Place, image: np.ndarray, lessons: list[list[Lesson]], pictured: bool, face: bool
    ) -> Item:
        arrays = {"picture": np.array(pictured), "whole_face": np.array(face)}
        return Item(key, place[1], {"image": image}, arrays, lists={"lessons": lessons})


@dataclass(frozen=True)
class Reading:
    """Conversations of some samples as the model reads them, a row each.

    ``talks`` are those of each row, ``logits_at(rows, places)`` gives (N, V), ``shares`` the row's part in its
    sample's mean.
    """

    samples: list[int]
    rows: list[Packed]
    talks: list[list[list[Lesson]]]
    logits_at: Callable[[Tensor, Tensor], Tensor]
    shares: list[float]


class InstructTask(Task):
    """Learns answers, by LoRA on a language model with image tokens of vea's frozen towers.

    Args:
        config: the resolved config.
        merged: the adapters are part of the language model already.

    Raises:
        VeaError: the model's folder, its chat template or its tokens do not serve.
    """

    def __init__(self, config: InstructConfig, *, merged: bool = False) -> None:
        super().__init__()
        self.config, model = config, config.model
        language, self.tokenizer = read_language_model(model.path, model.gguf)
        language.requires_grad_(False)
        self.end = int(self.tokenizer.eos_token_id)
        self.chat = Chat(self.tokenizer, where=model.path, system=model.system)
        vision = None
        self._towers: list[Towers] = []  # in a list, so that they are no part of the module
        if not model.blind:
            self._towers.append(Towers(model.vision, config.augment))
            vision = VisionPrefix(
                model.vision, widths=self._towers[0].widths, embedding=language.config.hidden_size,
                scale=loudness(language, model.vision.layer, self.tokenizer),
            )  # fmt: skip
        first = model.vision.layer
        adapted = language if merged else with_lora(language, model.lora, first=first)
        folder = Path(model.vision.cache) if isinstance(model.vision.cache, str) else None
        self.pupil = Pupil(adapted, vision, layer=first, cache=folder)
        self.digits = self._digits() if config.soft_numbers else []

    def _digits(self) -> list[int]:
        rows = [self.tokenizer.encode(digit, add_special_tokens=False) for digit in DIGITS]
        if any(len(row) != 1 for row in rows):
            raise VeaError(
                f"the tokenizer of {self.config.model.path} writes a digit as several tokens; set soft_numbers=false"
            )
        return [row[0] for row in rows]

    # ------------------------------------------------------------------------------------------------------- the model

    def encoded(self, lessons: Sequence[Lesson], *, picture: bool, answered: bool, key: str = "") -> Encoded:
        """Returns the tokens of a conversation; without ``answered`` its last answer is left to the model."""
        turns = [(str(lesson["q"]), str(lesson["a"])) for lesson in lessons]
        if not answered:
            turns[-1] = (turns[-1][0], "")
        shown = picture and not self.config.model.blind
        return encode(
            self.chat.parts(turns, picture=shown), self.tokenizer, image_tokens=self.config.model.vision.tokens,
            max_tokens=self.config.model.max_tokens, end=self.end, key=key,
        )  # fmt: skip

    def features(self, batch: Batch) -> Tensor | None:
        """Returns what the towers see, (B, F); zeros where a sample is a text, None for a blind pupil."""
        if not self._towers:
            return None
        towers, images, pictured = self._towers[0], batch["image"], batch["picture"]
        made = images.new_zeros((len(images), sum(towers.widths) + 1), dtype=torch.float32)
        rows = pictured.nonzero()[:, 0].tolist()
        if rows:
            keys = [batch["keys"][row] for row in rows]
            made[rows] = towers.features(keys, images[rows], batch["whole_face"][rows])
        return made

    def read(self, batch: Batch, *, answered: bool) -> Iterator[Reading]:
        """Yields the conversations of a batch in parts of like length, with the way to the logits of their tokens."""
        shown, keys = batch["picture"].tolist(), batch["keys"]
        taught = [i for i, talks in enumerate(batch["lessons"]) if talks]
        made = [
            self.pupil.joined(
                [self.encoded(t, picture=shown[i], answered=answered, key=keys[i]) for t in batch["lessons"][i]]
            )
            for i in taught
        ]
        features = self.features(batch) if taught else None
        order = sorted(range(len(made)), key=lambda n: len(made[n][0].ids))
        for part in np.array_split(order, min(self.config.model.buckets, len(order))) if order else ():
            held = [taught[n] for n in part]
            rows, states = [made[n][0] for n in part], [made[n][1] for n in part]
            hidden = self.pupil(rows, states, None if features is None else features[held])
            talks = [batch["lessons"][i] for i in held]
            yield Reading(held, rows, talks, partial(self._logits_at, hidden), [1.0] * len(rows))

    def _logits_at(self, hidden: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        return self.pupil.logits(hidden[rows, places]).float()

    def forward(self, batch: Batch, *, step: int) -> dict[str, Tensor]:
        """Returns the loss: the mean over samples of the mean over conversations of the mean cost of answer tokens."""
        total = torch.zeros((), device=batch["image"].device)
        some = False
        for reading in self.read(batch, answered=True):
            total, some = total + self._costs(reading), True
        if not some:  # a batch of blanks: the graph of every parameter, worth nothing
            total = total + sum(0 * p.sum() for p in self.parameters() if p.requires_grad)
        loss = total.float() / len(batch["lessons"])
        return {"loss": loss, "loss/language": loss}

    def _costs(self, reading: Reading) -> Tensor:
        """Returns the sum over rows of the mean over conversations of the mean cost of answer tokens."""
        rows, device = reading.rows, next(self.parameters()).device
        places = [(b, t) for b, row in enumerate(rows) for t, learned in enumerate(row.learned) if learned]
        at = {place: n for n, place in enumerate(places)}
        before = torch.tensor([[b, t - 1] for b, t in places], device=device)
        told = reading.logits_at(before[:, 0], before[:, 1]).log_softmax(1)
        targets = torch.tensor([rows[b].ids[t] for b, t in places], device=device)
        costs = list(-told.gather(1, targets[:, None])[:, 0])
        for b, row in enumerate(rows) if self.digits else ():
            starts = [t for t, learned in enumerate(row.learned) if learned and not row.learned[t - 1]]
            for start, lesson in zip(starts, (x for talk in reading.talks[b] for x in talk)):
                if lesson.get("value") is not None and row.ids[start] in self.digits:
                    soft = digit_target(float(lesson["value"])).to(device)
                    costs[at[b, start]] = -(soft @ told[at[b, start], self.digits])
        counts = Counter((b, rows[b].branch[t]) for b, t in places)
        weights = [reading.shares[b] / counts[b, rows[b].branch[t]] / len(rows[b].ends) for b, t in places]
        return torch.stack(costs) @ torch.tensor(weights, device=device)

    def shares(self, logits: Tensor, choices: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns P(choice) (B, C) of first-token logits (B, V), and the mass (B,) of all choices."""
        chosen = first_tokens(self.tokenizer, choices)
        told = logits.softmax(1)
        picked = torch.stack([told[:, ids].sum(1) for ids in chosen], dim=1)
        return picked / picked.sum(1, keepdim=True).clamp(min=1e-12), picked.sum(1)

    def _told_apart(self, choices: Sequence[str]) -> bool:
        """Returns whether the first token of an answer says which choice it is; of 0.0 and 0.1 it does not."""
        try:
            return bool(first_tokens(self.tokenizer, choices))
        except VeaError:
            return False

    def predict(self, batch: Batch) -> dict[str, Any]:
        """Returns ``rows``: for each lesson its class, and whether its likeliest choice is right, or the number."""
        pairs, logits = [], []
        for reading in self.read(batch, answered=False):
            ends = [
                (b, end, talk[-1])
                for b, row in enumerate(reading.rows)
                for end, talk in zip(row.ends, reading.talks[b])
            ]
            places = torch.tensor([[b, end] for b, end, _ in ends], device=batch["image"].device)
            logits += list(reading.logits_at(places[:, 0], places[:, 1]))
            pairs += [(reading.samples[b], lesson) for b, _, lesson in ends]
        told = []
        for (i, lesson), row in zip(pairs, logits):
            about = {"key": batch["keys"][i], "sample": i, "task": lesson["task"], "class": lesson["class"]}
            if lesson.get("value") is not None and tuple(lesson["choices"]) == DIGITS:
                digits = first_tokens(self.tokenizer, DIGITS)
                told.append({**about, "truth": lesson["value"], "value": float(expected_number(row[None], digits))})
            elif not self._told_apart(lesson["choices"]):
                told.append({**about, "not_asked": True})
            else:
                shares = self.shares(row[None], lesson["choices"])[0][0]
                right = lesson["choices"][int(shares.argmax())] == lesson["a"]
                truth = shares[lesson["choices"].index(lesson["a"])]
                told.append({**about, "right": right, "cost": -float(truth.clamp(min=1e-9).log())})
        return {"rows": told}

    # ------------------------------------------------------------------------------------------- what the engine asks

    def item_spec(self) -> InstructItems:
        """Returns how a sample becomes a picture with lessons."""
        return InstructItems(self.config)

    def new_metrics(self) -> InstructMetrics:
        """Returns an empty collector."""
        return InstructMetrics()

    def load_pretrained(self, path: str) -> str:
        """Loads adapters and projector of another run of this recipe; returns what was loaded."""
        from vea.storage.checkpoint import load_weights

        weights, _ = load_weights(path)
        wanted = self.state_to_save()
        fits = {name: value for name, value in weights.items() if name in wanted and value.shape == wanted[name].shape}
        if not fits:
            raise VeaError(f"train.init_from: {path} holds no weights of a pupil; give a run of recipe instruct")
        self.load_state_dict(fits, strict=False)
        return f"{len(fits)} of {len(wanted)} tensors"

    def trunk(self) -> nn.Module:
        """Returns nothing to decay by layers."""
        return nn.Identity()

    def state_to_save(self) -> dict[str, Tensor]:
        """Returns adapters and projector; the language model stays in its folder."""
        return {k: v for k, v in self.state_dict().items() if "lora_" in k or k.startswith("pupil.vision.")}

    def metadata(self) -> dict[str, Any]:
        """Returns what rebuilds the pupil beside the config: which towers and which words."""
        return {"widths": list(self._towers[0].widths) if self._towers else [], "vocabulary": len(self.tokenizer)}

    def check_metadata(self, metadata: dict[str, Any]) -> None:
        """Raises ``VeaError`` where a checkpoint was made with another language model or other towers."""
        for name, value in self.metadata().items():
            if metadata.get(name) != value:
                raise VeaError(f"the checkpoint was made with another {name} ({metadata.get(name)}, here {value})")
