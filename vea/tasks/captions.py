"""Stage two of pretraining: the parts ``objective.caption_scene``, ``caption_fused`` and ``caption_phrases``.

L = masked reconstruction + l1 InfoNCE(scene class token, caption) + l2 InfoNCE(fused scene and person, caption) + l3
InfoNCE(patches, phrases); each has a temperature of its own. What is compared is rows of tensors, one a sample, and the
loss is a function of the rows of the whole global batch: ranks gather them, and a run that accumulates can.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vea.config import CaptionsConfig
from vea.data.prompts import NO_TEXT
from vea.errors import VeaError
from vea.losses.captions import caption_infonce, cosines, likeness, max_mean, mixed_negatives
from vea.models.language.vad import Lexicon, look_up, read_lexicon
from vea.models.teachers.base import Teacher

PATHS = ("caption_scene", "caption_fused", "caption_phrases")
MAX_PHRASES = 6  # of a caption
LARGEST_SCALE = 100.0  # of the cosines, as in CLIP
LINKS = r"\b(?:and|with|in|on|at|of|near|behind|beside|over|under|by|while|next to|in front of)\b|[,;.:]"
EVOKES = "a photo that evokes {} {}: {}"  # facts2, section 6
DEGREES = (("mild", 0.2), ("moderate", 0.4), ("strong", math.inf))  # of |valence|, up to


def phrases_of(caption: str) -> list[str]:
    """Returns the phrases of a caption, at most ``MAX_PHRASES``: what stands between commas, ands and prepositions."""
    parts = [part.strip() for part in re.split(LINKS, caption.strip().lower())]
    return [part for part in parts if len(part) > 2][:MAX_PHRASES]


def affect_of(text: str, lexicon: Lexicon) -> tuple[float, float] | None:
    """Returns the mean (valence, arousal) of a text's rated words in [-1, 1]; None where no word is rated."""
    found = [rating for word in re.findall(r"[a-z']+", text.lower()) if any(rating := look_up(word, lexicon))]
    if not found:
        return None
    return sum(row[0] for row in found) / len(found), sum(row[1] for row in found) / len(found)


def evoking(caption: str, lexicon: Lexicon) -> str:
    """Returns "a photo that evokes mild pleasure: CAPTION", by the caption's own words; as it is without rated words.

    No label is read: what a picture was rated never comes into its text.
    """
    affect = affect_of(caption, lexicon)
    if affect is None or affect[0] == 0:
        return caption
    degree = next(name for name, end in DEGREES if abs(affect[0]) <= end)
    return EVOKES.format(degree, "pleasure" if affect[0] > 0 else "displeasure", caption)


class CaptionPaths(nn.Module):
    """The projections, temperatures and losses of stage two.

    Args:
        config: of stage two.
        paths: those of ``PATHS`` that have a weight.
        width: of alpha.
        patch_width: of the encoder's patches.
        text_width: of the text tower.
    """

    def __init__(
        self, config: CaptionsConfig, *, paths: Sequence[str], width: int, patch_width: int, text_width: int
    ) -> None:
        super().__init__()
        self.config, self.paths = config, tuple(paths)
        self.scene = nn.Linear(width, text_width) if "caption_scene" in paths else None
        self.patches = nn.Linear(patch_width, text_width) if "caption_phrases" in paths else None
        start = torch.tensor(-math.log(config.temperature))
        self.log_scales = nn.ParameterDict({name: nn.Parameter(start.clone()) for name in paths})
        self.log_scales.requires_grad_(config.learn_temperature)
        self._lexicon: Lexicon | None = None
        if config.template or (config.positives == "soft" and config.affect):
            try:
                self._lexicon = read_lexicon(config.lexicon)
            except VeaError as error:
                raise VeaError(str(error).replace("model.lexicon", "captions.lexicon", 1)) from None

    # -------------------------------------------------------------------------------------------- what is compared

    def worded(self, texts: Sequence[str]) -> list[str]:
        """Returns what the text tower reads for the captions ``texts``."""
        if not self.config.template or self._lexicon is None:
            return list(texts)
        return [text if text in ("", NO_TEXT) else evoking(text, self._lexicon) for text in texts]

    @torch.no_grad()
    def targets(self, texts: Sequence[str], teacher: Teacher, *, device: torch.device) -> dict[str, Tensor]:
        """Returns ``affect`` (B, 2) and ``phrases`` (B, P, D) with ``phrase_known`` (B, P), where a part uses them."""
        found = {}
        if self.config.positives == "soft" and self.config.affect:
            missing = (math.nan, math.nan)
            rated = [affect_of(text, self._lexicon or {}) or missing for text in texts]
            found["affect"] = torch.tensor(rated, device=device)
        if "caption_phrases" in self.paths:
            parts = [[] if text in ("", NO_TEXT) else phrases_of(text) or [text] for text in texts]
            padded = [part + [""] * (MAX_PHRASES - len(part)) for part in parts]
            known = [[bool(word) for word in part] for part in padded]
            flat = teacher.encode_text([word for part in padded for word in part]).to(device)
            found["phrases"] = flat.view(len(texts), MAX_PHRASES, -1)
            found["phrase_known"] = torch.tensor(known, device=device).float()
        return found

    def embeddings(self, *, alpha: Tensor | None, patches: Tensor | None) -> dict[str, Tensor]:
        """Returns ``scene_text`` (B, D) and ``patch_text`` (B, K, D): projections of alpha and of the patches."""
        found = {}
        if self.scene is not None:
            assert alpha is not None
            found["scene_text"] = F.normalize(self.scene(alpha).float(), dim=-1)
        if self.patches is not None:
            assert patches is not None
            found["patch_text"] = F.normalize(self.patches(patches).float(), dim=-1)
        return found

    # -------------------------------------------------------------------------------------------------- the losses

    def losses(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the parts by name, of the rows of the whole global batch."""
        config, text, paired = self.config, rows["text"], rows["paired"]
        like = None
        if config.positives == "soft":
            like = likeness(text, affect=rows.get("affect"), weight=config.affect)
        found = {}
        for name in self.paths:
            scale = self.log_scales[name].exp().clamp(max=LARGEST_SCALE)
            if name == "caption_phrases":
                scores, student = max_mean(rows["patch_text"], rows["phrases"], rows["phrase_known"]), None
            else:
                student = rows["scene_text" if name == "caption_scene" else "gamma"]
                scores = cosines(student, text)
            mixed = self._mixed(scores, student, rows) if config.mix != "none" and student is not None else None
            found[name] = caption_infonce(
                scores,
                scale=scale,
                paired=paired,
                like=like,
                soft_temperature=config.soft_temperature,
                mixed=mixed,
            )
        return found

    def _mixed(self, scores: Tensor, student: Tensor, rows: dict[str, Tensor]) -> Tensor:
        """Returns (B, M) cosines of the pictures with their mixed negatives, -inf where there is none."""
        config = self.config
        draws = rows["mix"] if config.mix == "pair" else scores.new_empty(len(scores), 1, 5)
        negatives, usable = mixed_negatives(
            scores,
            rows["text"],
            form=config.mix,
            hard=config.mix_hard,
            margin=config.mix_margin,
            temperature=config.temperature,
            draws=draws,
            paired=rows["paired"],
        )
        unit = F.normalize(student.float(), dim=-1)
        return torch.einsum("bd,bmd->bm", unit, negatives).masked_fill(~usable, -torch.inf)
