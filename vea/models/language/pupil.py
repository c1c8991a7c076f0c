"""A causal language model with LoRA and a vision side of vea's: a few image tokens in front of the first question."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vea.config import LoraConfig, VisionConfig
from vea.errors import VeaError
from vea.models.feature_cache import KeptFeatures
from vea.models.language import tiny
from vea.models.language.turns import Encoded, Packed, branch_mask, pack


class VisionPrefix(nn.Module):
    """Features of a scene tower and a face tower as image tokens.

    gate: z = a_1 v + a_2 f with a = softmax(W_2 W_1 [v; f]), v and f projected to one width (AffectGPT, arXiv
    2501.16566; its released code has neither softmax nor a place for a missing face: here a face that is not there has
    weight 0). concat: half of the tokens from each, those of a missing face masked.

    Args:
        config: the ``vision`` section.
        widths: of the scene's and the face's features; the second 0 without a face tower.
        embedding: width of the language model's tokens.
        scale: root mean square of its word embeddings: image tokens begin as loud as words.
    """

    gain: Tensor

    def __init__(self, config: VisionConfig, *, widths: tuple[int, int], embedding: int, scale: float) -> None:
        super().__init__()
        self.widths, self.fusion, self.count = widths, config.fusion, config.tokens
        self.dropout = nn.Dropout(config.dropout)
        self.scene = nn.Linear(widths[0], config.width)
        self.face = nn.Linear(widths[1], config.width) if widths[1] else None
        joined = self.face is not None and config.fusion == "concat"
        made = config.tokens // 2 if joined else config.tokens
        self.tokens = nn.Linear(config.width, made * embedding)
        self.face_tokens = nn.Linear(config.width, made * embedding) if joined else None
        self.gate = (
            nn.Sequential(nn.Linear(2 * config.width, config.width // 4), nn.Linear(config.width // 4, 2))
            if self.face is not None and not joined
            else None
        )
        self.register_buffer("gain", torch.tensor(scale))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Returns image tokens (B, K, D) and bool (B, K), False for those of a missing face.

        Args:
            features: (B, S + F + 1): of the scene, of the face, and 1 where there is one.
        """
        scene, face, there = features.split([*self.widths, 1], dim=1)
        v = F.gelu(self.scene(self.dropout(F.layer_norm(scene, scene.shape[1:]))))
        seen = features.new_ones((len(features), self.count), dtype=torch.bool)
        if self.face is None:
            return self._scaled(self.tokens(v)), seen
        f = F.gelu(self.face(self.dropout(F.layer_norm(face, face.shape[1:])))) * there
        if self.gate is not None:
            return self._scaled(
                self.tokens((self.weights(v, f, there)[:, :, None] * torch.stack([v, f], 1)).sum(1))
            ), seen
        assert self.face_tokens is not None
        seen[:, self.count // 2 :] = there > 0
        return torch.cat([self._scaled(self.tokens(v)), self._scaled(self.face_tokens(f))], 1), seen

    def weights(self, v: Tensor, f: Tensor, there: Tensor) -> Tensor:
        """Returns (B, 2): the softmax weights of scene and face; (1, 0) where there is no face."""
        assert self.gate is not None
        logits = self.gate(torch.cat([v, f], 1)).float()
        none = torch.cat([torch.zeros_like(there), (there <= 0).float() * -1e4], 1)
        return (logits + none).softmax(1).to(v.dtype)

    def _scaled(self, flat: Tensor) -> Tensor:
        rows = flat.unflatten(
            1, (-1, flat.shape[1] // (self.count // 2 if self.face_tokens is not None else self.count))
        )
        return F.rms_norm(rows.float(), rows.shape[-1:]) * self.gain


def read_language_model(path: str, gguf: str | None = None) -> tuple[Any, Any]:
    """Returns (model, tokenizer) of a local folder, or of ``tiny``; the pad token is the end token where there is none.

    Raises:
        VeaError: the folder holds no causal language model, or a tokenizer without an end.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise VeaError("recipe instruct needs the package transformers: pip install 'vea[vlm]'") from None
    if path == tiny.NAME and not Path(path).exists():
        return tiny.tiny_language_model()
    if not Path(path).is_dir():
        raise VeaError(f"model.path: no folder {path}; give a local folder of a causal language model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, gguf_file=gguf, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(path, gguf_file=gguf, local_files_only=True, dtype=torch.float32)
    except Exception as error:  # transformers raises many types for a folder that is not what it should be
        raise VeaError(f"model.path: {path} cannot be used: {str(error).splitlines()[0]}") from None
    if tokenizer.eos_token_id is None:
        raise VeaError(f"model.path: the tokenizer of {path} has no end-of-text token; set its eos_token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def with_lora(model: Any, config: LoraConfig, *, first: int = 0) -> Any:
    """Returns the model with adapters in its blocks from number ``first`` on, everything else frozen.

    Raises:
        VeaError: peft is missing, or no layer has the name of ``target_modules``.
    """
    try:
        from peft import LoraConfig as Adapters
        from peft import get_peft_model
    except ImportError:
        raise VeaError("recipe instruct needs the package peft: pip install 'vea[vlm]'") from None
    named = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and re.fullmatch(config.target_modules, name) and _block(name) >= first
    ]
    if not named:
        raise VeaError(f"model.lora.target_modules: no layer is called {config.target_modules} from block {first} on")
    adapters = Adapters(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=named)
    return get_peft_model(model, adapters)


def _block(name: str) -> int:
    found = re.search(r"\.layers\.(\d+)\.", f".{name}.")
    return int(found.group(1)) if found else 0


@torch.no_grad()
def loudness(language: Any, layer: int, tokenizer: Any) -> float:
    """Returns the root mean square of the states of words before block ``layer``: image tokens begin as loud.

    The median over the tokens of a sentence: the first token's state is often far larger than all others.
    """
    ids = torch.tensor([tokenizer("The image shows how people feel about it.", add_special_tokens=False)["input_ids"]])
    states = Pupil(language, None, layer=layer).below(
        Encoded(ids[0].tolist(), [False] * ids.shape[1], [False] * ids.shape[1], 1)
    )
    return float(states.float().pow(2).mean(1).sqrt().median())


def padded(rows: Sequence[Sequence[Any]], *, fill: Any, left: bool = False) -> Tensor:
    """Returns (B, L) of rows of any length, ``fill`` behind them (or before)."""
    longest = max(map(len, rows))
    gaps = [[fill] * (longest - len(row)) for row in rows]
    return torch.tensor([[*gap, *row] if left else [*row, *gap] for row, gap in zip(rows, gaps)])


class Pupil(nn.Module):
    """The language model with its adapters and, unless ``vision`` is None, the image tokens.

    Image tokens enter before block ``layer``: at 0 as a prefix of the input, higher up as one of the states there. The
    blocks below are frozen and never see the picture, so what they make of a text is the same for every picture.

    Args:
        language: a causal language model, with adapters or merged.
        vision: what makes image tokens of features; None for a blind pupil.
        layer: the block before which image tokens enter.
        cache: a folder that keeps what the blocks below ``layer`` make of texts, for other runs; None: in memory.

    Raises:
        VeaError: the model is not built of blocks as Llama's family is, or has fewer of them.
    """

    def __init__(
        self, language: Any, vision: VisionPrefix | None, *, layer: int = 0, cache: Path | None = None
    ) -> None:
        super().__init__()
        self.language, self.vision, self.layer, self.cache = language, vision, layer, cache
        core = self.base.model
        if not all(hasattr(core, name) for name in ("layers", "rotary_emb", "norm", "embed_tokens")):
            raise VeaError(f"model.path: a {self.base.config.model_type} is not built as Llama, SmolLM and Qwen2 are")
        if layer >= len(core.layers):
            raise VeaError(
                f"model.vision.layer is {layer} and the language model has blocks 0 to {len(core.layers) - 1}"
            )
        self._texts: KeptFeatures | None = None  # states of texts before block ``layer``, by tokens

    @property
    def base(self) -> Any:
        """The language model without what peft put around it; its adapters are inside."""
        return self.language.get_base_model() if hasattr(self.language, "get_base_model") else self.language

    def _through(self, states: Tensor, mask: Tensor, places: Tensor, blocks: Any) -> Tensor:
        turns = self.base.model.rotary_emb(states, position_ids=places)
        for block in blocks:
            states = block(states, attention_mask=mask, position_ids=places, position_embeddings=turns)
            states = states[0] if isinstance(states, tuple) else states
        return states

    @torch.no_grad()
    def below(self, talk: Encoded, *, keep: bool = True) -> Tensor:
        """Returns the states (L, D) of one conversation before block ``layer``, where the picture is not seen yet."""
        core = self.base.model
        ids = torch.tensor([talk.ids], device=core.embed_tokens.weight.device)
        words = core.embed_tokens(ids)
        if not self.layer:
            return words[0]
        if keep and self._texts is None:
            self._texts = KeptFeatures(self.cache / self.identity() if self.cache else None)

        def made(_: list[int]) -> Tensor:
            mask = branch_mask(torch.zeros_like(ids), ~torch.tensor([talk.image], device=ids.device))
            places = torch.arange(ids.shape[1], device=ids.device)[None]
            with torch.autocast(ids.device.type, enabled=False):
                return self._through(words, mask, places, core.layers[: self.layer]).cpu()

        key = " ".join("image" if image else str(token) for token, image in zip(talk.ids, talk.image))
        # one at a time: the states do not depend on what else is in a batch
        known = self._texts.get([key], made) if keep and self._texts is not None else made([0])
        return known[0].to(ids.device)

    def identity(self) -> str:
        """Returns a name that changes with the words' embeddings and the blocks below ``layer``."""
        core, digest = self.base.model, hashlib.sha256(str(self.layer).encode())
        for part in (core.embed_tokens, *core.layers[: self.layer]):
            for name, weight in part.state_dict().items():
                digest.update(name.encode() + weight.float().cpu().numpy().tobytes())
        return f"texts-{digest.hexdigest()[:16]}"

    def forward(self, rows: Sequence[Packed], states: Sequence[Tensor], features: Tensor | None) -> Tensor:
        """Returns the last states (B, L, D) of rows.

        Args:
            rows: packed conversations.
            states: of each row ``below``, (L, D).
            features: (B, F) of their pictures; None where no row has one.
        """
        x = nn.utils.rnn.pad_sequence(list(states), batch_first=True).detach()
        branch, places = (
            padded([getattr(row, name) for row in rows], fill=fill).to(x.device)
            for name, fill in (("branch", -1), ("place", 0))
        )
        image = padded([row.image for row in rows], fill=False).to(x.device)
        mask = branch >= 0
        if features is not None and self.vision is not None:
            tokens, seen = self.vision(features)
            shown = image.any(1)
            mask = mask.masked_scatter(image, seen[shown])
            x = x.masked_scatter(image[..., None], tokens[shown].to(x.dtype))
            if not shown.all():  # every parameter takes part in every step, as DDP wants
                x = x + 0 * tokens.sum().to(x.dtype)
        core = self.base.model
        return core.norm(self._through(x, branch_mask(branch, mask), places, core.layers[self.layer :]))

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns (..., V)."""
        return self.base.get_output_embeddings()(hidden)

    def joined(self, talks: Sequence[Encoded], *, keep: bool = True) -> tuple[Packed, Tensor]:
        """Returns conversations about one picture as one row, and its states ``below``."""
        row = pack(talks)
        shared = row.branch.count(0)
        parts = [self.below(talk, keep=keep) for talk in talks]
        return row, torch.cat([parts[0][:shared], *(part[shared:] for part in parts)])

    @torch.no_grad()
    def write(self, talk: Encoded, features: Tensor | None, *, most: int, end: int) -> list[int]:
        """Returns the greedy tokens behind a prompt, without the end; ``features`` (F,)."""
        made: list[int] = []
        for _ in range(most):
            ids = Encoded(talk.ids + made, talk.learned + [False] * len(made), talk.image + [False] * len(made), 1)
            row, states = self.joined([ids], keep=False)
            hidden = self([row], [states], None if features is None else features[None])
            token = int(self.logits(hidden[0, -1]).argmax())
            if token == end:
                break
            made.append(token)
        return made
