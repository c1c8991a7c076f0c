"""Conversations as tokens: the model's own chat template, cut into what is given and what is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vea.errors import VeaError

MARK = "<|the picture|>"  # where image tokens go in the text of a language model that knows none
DIGITS = tuple("0123456789")
Turn = tuple[str, str]  # question, answer


@dataclass(frozen=True)
class Part:
    """A piece of a rendered conversation; ``learned``: an answer with its end."""

    text: str
    learned: bool


class Chat:
    """Renders conversations by the chat template of a tokenizer, or of a processor with pictures.

    Args:
        coder: tokenizer or processor of transformers.
        where: the folder, for messages.
        system: what the system turn says; None leaves it to the template.
        processor: questions are given as processors want them, with an image entry.

    Raises:
        VeaError: there is no chat template, or it leaves the system turn out.
    """

    def __init__(self, coder: Any, *, where: str, system: str | None, processor: bool = False) -> None:
        self.coder, self.where, self.system, self.processor = coder, where, system, processor
        if not getattr(coder, "chat_template", None):
            raise VeaError(f"{where} has no chat template; give a model that was tuned to follow instructions")
        if system and system.strip() not in self._render([("q", "")], done=False, picture=False):
            raise VeaError(
                f"the chat template of {where} leaves the system turn out; set model.system=null, and say it in the "
                "questions"
            )

    def _render(self, turns: Sequence[Turn], *, done: bool, picture: bool) -> str:
        messages: list[dict[str, Any]] = []
        if self.system is not None:
            messages.append({"role": "system", "content": self._content(self.system, picture=False)})
        for place, (question, answer) in enumerate(turns):
            shown = picture and place == 0
            messages.append({"role": "user", "content": self._content(question, picture=shown)})
            if done or place < len(turns) - 1:
                messages.append({"role": "assistant", "content": self._content(answer, picture=False)})
        return str(self.coder.apply_chat_template(messages, add_generation_prompt=not done, tokenize=False))

    def _content(self, text: str, *, picture: bool) -> Any:
        if self.processor:
            return [*([{"type": "image"}] if picture else []), {"type": "text", "text": text}]
        return f"{MARK}{text}" if picture else text

    def parts(self, turns: Sequence[Turn], *, picture: bool) -> list[Part]:
        """Returns the conversation in pieces: question, answer, question, answer ...; a last answer "" is left out.

        Raises:
            VeaError: the template writes an answer in another place than where it is asked for.
        """
        found, before = [], ""
        for number in range(1, len(turns) + 1):
            asked = self._render(turns[:number], done=False, picture=picture)
            if not asked.startswith(before):
                raise VeaError(f"the chat template of {self.where} changes earlier turns; set turns=1")
            found.append(Part(asked[len(before) :], learned=False))
            if not turns[number - 1][1]:
                break
            answered = self._render(turns[:number], done=True, picture=picture)
            if not answered.startswith(asked):
                raise VeaError(
                    f"the chat template of {self.where} does not begin an answer as add_generation_prompt ends"
                )
            found.append(Part(answered[len(asked) :], learned=True))
            before = answered
        return found


@dataclass
class Encoded:
    """One conversation: ``ids`` (L,), ``learned`` bool (L,), ``image`` bool (L,); ``turns``: how many fitted."""

    ids: list[int]
    learned: list[bool]
    image: list[bool]
    turns: int


@dataclass
class Packed:
    """Several conversations about one picture behind their common beginning, each as if it were alone.

    ``branch`` (L,) is 0 for what is shared, else the number of the conversation; ``place`` (L,) the position that a
    token has in its own conversation; ``ends`` the last place of each conversation in the row.
    """

    ids: list[int]
    learned: list[bool]
    image: list[bool]
    branch: list[int]
    place: list[int]
    ends: list[int]


def pack(conversations: Sequence[Encoded]) -> Packed:
    """Returns conversations in one row; at least the last token before an answer stays each one's own."""
    first = conversations[0]
    most = min(
        min((t for t, learned in enumerate(c.learned) if learned), default=len(c.ids)) - 1 for c in conversations
    )
    shared = next((t for t in range(most) if len({(c.ids[t], c.image[t]) for c in conversations}) > 1), max(most, 0))
    row = Packed(first.ids[:shared], first.learned[:shared], first.image[:shared], [0] * shared, [*range(shared)], [])
    for number, one in enumerate(conversations, start=1):
        row.ids += one.ids[shared:]
        row.learned += one.learned[shared:]
        row.image += one.image[shared:]
        row.branch += [number] * (len(one.ids) - shared)
        row.place += range(shared, len(one.ids))
        row.ends.append(len(row.ids) - 1)
    return row


def branch_mask(branch: Tensor, mask: Tensor) -> Tensor:
    """Returns bool (B, 1, L, L): a token looks back at what is shared and at its own conversation, never at pads."""
    length = branch.shape[1]
    back = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    same = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    own = torch.eye(length, dtype=torch.bool, device=branch.device)  # a pad looks at itself: softmax needs something
    return ((same & back & mask[:, None, :]) | own)[:, None]


def encode(
    parts: Sequence[Part], tokenizer: Any, *, image_tokens: int, max_tokens: int, end: int, key: str = ""
) -> Encoded:
    """Returns the tokens of a conversation; ``MARK`` becomes ``image_tokens`` places. Whole turns are left out.

    Of an answer everything up to its first ``end`` is learned; what the template writes behind it is not.

    Raises:
        VeaError: not even the first turn fits.
    """
    ids: list[int] = []
    learned: list[bool] = []
    image: list[bool] = []
    kept = 0
    for start in range(0, len(parts), 2):
        new: list[tuple[int, bool, bool]] = []
        for part in parts[start : start + 2]:
            before, mark, after = part.text.partition(MARK)
            if mark:
                new += [(token, False, False) for token in _plain(tokenizer, before)]
                new += [(end, False, True)] * image_tokens
            row = _plain(tokenizer, after if mark else part.text)
            last = row.index(end) if part.learned and end in row else len(row) - 1
            new += [(token, part.learned and place <= last, False) for place, token in enumerate(row)]
        if len(ids) + len(new) > max_tokens:
            if not kept:
                raise VeaError(
                    f"lesson {key!r} has {len(new)} tokens and model.max_tokens is {max_tokens}; raise it, or leave "
                    "the lesson out"
                )
            break
        kept += 1
        ids += [token for token, _, _ in new]
        learned += [is_learned for _, is_learned, _ in new]
        image += [is_image for _, _, is_image in new]
    return Encoded(ids, learned, image, kept)


def _plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def first_tokens(tokenizer: Any, choices: Sequence[str]) -> list[list[int]]:
    """Returns, for each choice, the first tokens of its spellings: as is, lower, upper and title case, with a space.

    A token that begins two choices tells nothing and is left out of both.

    Raises:
        VeaError: a choice has no first token of its own.
    """
    firsts = []
    for choice in choices:
        forms = {f(choice) for f in (str, str.lower, str.upper, str.capitalize)}
        coded = [tokenizer.encode(space + form, add_special_tokens=False) for form in forms for space in ("", " ")]
        firsts.append({ids[0] for ids in coded if ids})
    own = [first - set().union(*(o for j, o in enumerate(firsts) if j != i)) for i, first in enumerate(firsts)]
    lost = [choice for choice, ids in zip(choices, own) if not ids]
    if lost:
        raise VeaError(f"the answer {lost[0]!r} begins with the same token as another; ask with --readout text")
    return [sorted(ids) for ids in own]


def digit_target(value: float, *, top: int = 9) -> Tensor:
    """Returns float32 (top + 1,): the digits next to ``top * value``, by nearness; their mean is that number."""
    place = min(max(value, 0.0), 1.0) * top
    low = min(int(place), top - 1)
    target = torch.zeros(top + 1)
    target[low], target[low + 1] = 1 - (place - low), place - low
    return target


def expected_number(logits: Tensor, digits: Sequence[Sequence[int]]) -> Tensor:
    """Returns (B,), 0 to 1: the sum over digits v of p(v) v / 9, p by softmax over the digits' tokens alone.

    Args:
        logits: (B, V) of the first answer token.
        digits: the tokens of each digit, 0 first.
    """
    shares = torch.stack([logits[:, list(ids)].float().logsumexp(1) for ids in digits], dim=1).softmax(1)
    return shares @ torch.arange(len(digits), device=logits.device, dtype=torch.float32) / (len(digits) - 1)
