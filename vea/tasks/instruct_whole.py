"""Affective instructions for a whole image-text model of transformers (SmolVLM, Qwen-VL), with LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vea.config import InstructConfig
from vea.errors import VeaError
from vea.models.language.chat import read_base
from vea.models.language.pupil import padded, with_lora
from vea.models.language.turns import Chat, Packed
from vea.tasks.base import Batch, Task
from vea.tasks.instruct import InstructTask, Lesson, Reading


def _logits_at(logits: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    return logits[rows, places].float()


class InstructWholeTask(InstructTask):
    """The same lessons for a model with eyes of its own: a conversation a row, its processor's image tokens.

    Raises:
        VeaError: the folder holds no image-text model, or its chat template or tokens do not serve.
    """

    def __init__(self, config: InstructConfig) -> None:
        Task.__init__(self)
        self.config, model = config, config.model
        base, self.processor = read_base(model.path)
        base.requires_grad_(False)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"  # answers follow the prompt without a gap
        if self.tokenizer.eos_token_id is None:
            raise VeaError(f"model.path: the tokenizer of {model.path} has no end-of-text token; set its eos_token")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if hasattr(self.processor.image_processor, "do_image_splitting"):
            self.processor.image_processor.do_image_splitting = model.image_splitting
        self.end = int(self.tokenizer.eos_token_id)
        self.chat = Chat(self.processor, where=model.path, system=model.system, processor=True)
        self._towers = []
        self.model = with_lora(base, model.lora)
        self.digits = self._digits() if config.soft_numbers else []

    def _row(self, talk: list[Lesson], *, picture: bool, answered: bool, key: str) -> tuple[str, list[int], list[bool]]:
        """Returns the first question as text, and the tokens behind it with which of them are learned."""
        turns = [(str(lesson["q"]), str(lesson["a"])) for lesson in talk]
        if not answered:
            turns[-1] = (turns[-1][0], "")
        head, *rest = self.chat.parts(turns, picture=picture)
        ids: list[int] = []
        learned: list[bool] = []
        for part in rest:
            new = self.tokenizer(part.text, add_special_tokens=False)["input_ids"]
            last = new.index(self.end) if part.learned and self.end in new else len(new) - 1
            ids += new
            learned += [part.learned and place <= last for place in range(len(new))]
        if len(ids) > self.config.model.max_tokens:
            raise VeaError(
                f"lesson {key!r} has {len(ids)} tokens behind its first question and model.max_tokens is "
                f"{self.config.model.max_tokens}; raise it, or leave the lesson out"
            )
        return head.text, ids, learned

    def read(self, batch: Batch, *, answered: bool) -> Iterator[Reading]:
        """Yields conversations with a picture, and those without, a row each."""
        shown = [bool(p) and not self.config.model.blind for p in batch["picture"].tolist()]
        for pictured in (True, False):
            held = [(i, talk) for i, talks in enumerate(batch["lessons"]) if shown[i] == pictured for talk in talks]
            if not held:
                continue
            made = [self._row(talk, picture=pictured, answered=answered, key=batch["keys"][i]) for i, talk in held]
            inputs, start = self._inputs([text for text, _, _ in made], [i for i, _ in held], pictured, batch["image"])
            inputs, start = self._followed(inputs, start, [ids for _, ids, _ in made])
            outputs = self.model(**inputs, use_cache=False).logits
            rows = [
                Packed(
                    [0] * start + ids,
                    [False] * start + learned,
                    [],
                    [1] * (start + len(ids)),
                    [],
                    [start + len(ids) - 1],
                )
                for _, ids, learned in made
            ]
            shares = [1 / len(batch["lessons"][i]) for i, _ in held]
            yield Reading(
                [i for i, _ in held], rows, [[talk] for _, talk in held],
                partial(_logits_at, outputs), shares,
            )  # fmt: skip

    def _inputs(
        self, texts: list[str], rows: list[int], pictured: bool, images: Tensor
    ) -> tuple[dict[str, Tensor], int]:
        extra: dict[str, Any] = {}
        if pictured:
            extra["images"] = [[images[row].permute(1, 2, 0).cpu().numpy()] for row in rows]
        made = self.processor(text=texts, return_tensors="pt", padding=True, **extra)
        found = {name: value.to(images.device) for name, value in made.items()}
        return found, found["input_ids"].shape[1]

    def _followed(self, inputs: dict[str, Tensor], start: int, tails: list[list[int]]) -> tuple[dict[str, Tensor], int]:
        """Returns the inputs with tails behind them, padded on the right, and where these start."""
        if not any(tails):
            return inputs, start
        ids = padded(tails, fill=self.end).to(inputs["input_ids"].device)
        mask = padded([[1] * len(tail) for tail in tails], fill=0).to(ids.device)
        shape = inputs["input_ids"].shape
        for name, value in inputs.items():  # ids, mask, and the kinds of tokens that some processors add
            if value.shape[:2] == shape:
                follows = {"input_ids": ids, "attention_mask": mask}.get(name, torch.zeros_like(ids))
                inputs[name] = torch.cat([value, follows.to(value.dtype)], dim=1)
        return inputs, start

    def state_to_save(self) -> dict[str, Tensor]:
        """Returns the adapters; the model stays in its folder."""
        return {name: value for name, value in self.state_dict().items() if "lora_" in name}
