"""How sentences are written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vea.config import GenerateConfig
from vea.errors import VeaError
from vea.models.language.tokens import Tokens

try:  # this module is imported only where an explanation model is built
    from transformers import LogitsProcessor, LogitsProcessorList
except ImportError:
    raise VeaError("explanations need the package transformers: pip install 'vea[vlm]'") from None


def generate_options(
    settings: GenerateConfig, tokens: Tokens, *, emotions: list[str], start: int, count: int
) -> dict[str, Any]:
    """Returns the arguments of ``generate`` for a method.

    Args:
        settings: method and lengths.
        tokens: of the decoder.
        emotions: class names, one of which starts the answer where ``settings.constrain``; none: it is given.
        start: where the answer starts in the ids that ``generate`` holds.
        count: sentences per image.
    """
    options: dict[str, Any] = {
        "max_new_tokens": settings.max_new_tokens, "num_return_sequences": count,
        "no_repeat_ngram_size": settings.no_repeat_ngram or None,
        "pad_token_id": tokens.end, "eos_token_id": tokens.end, "bos_token_id": tokens.end,
    }  # fmt: skip
    if settings.constrain and emotions:
        choices = [(*tokens.encode(name), tokens.because) for name in emotions]
        options["logits_processor"] = LogitsProcessorList([EmotionFirst(choices, start=start)])
    if settings.method == "nucleus":
        return options | {
            "do_sample": True, "top_p": settings.top_p, "top_k": 0, "temperature": settings.temperature,
        }  # fmt: skip
    if settings.method == "beam":
        return options | {"do_sample": False, "num_beams": max(settings.beams, count)}
    if count > 1:
        raise VeaError("greedy decoding has one result; set generate.method to beam or nucleus for several")
    return options | {"do_sample": False, "num_beams": 1}


class EmotionFirst(LogitsProcessor):
    """Lets only the given token sequences stand at the start of the answer."""

    def __init__(self, choices: list[tuple[int, ...]], *, start: int) -> None:
        self.choices, self.start = choices, start
        self.longest = max(map(len, choices))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Returns scores (B, V) with -inf for the tokens that continue none of the sequences."""
        step = input_ids.shape[1] - self.start
        if step >= self.longest:
            return scores
        for row, written in enumerate(input_ids[:, self.start :].tolist()):
            allowed = {c[step] for c in self.choices if len(c) > step and list(c[:step]) == written}
            if allowed:
                kept = torch.tensor(sorted(allowed), device=scores.device)
                masked = torch.full_like(scores[row], -torch.inf)
                masked[kept] = scores[row, kept]
                scores[row] = masked
        return scores
