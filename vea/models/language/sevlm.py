"""Small vision-language models that say which emotion a picture evokes and why.

``sevlm``: SEVLM (arXiv 2403.11150, section 3), a GPT-2 whose blocks look at image tokens by cross-attention, with VAD
features fused into the explanation. ``prefix``: image tokens in front of the sentence of any causal language model.
Both write through ``transformers``' ``generate`` with its cache of keys and values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vea.config import ExplainModelConfig, GenerateConfig
from vea.models.language.decoder import build_decoder
from vea.models.language.generate import generate_options
from vea.models.language.onednn import quick_products  # it needs transformers as well
from vea.models.language.tokens import PROMPT, Sentences, Tokens


class Explainer(nn.Module):
    """Image tokens in, sentences out.

    Args:
        config: the ``model`` section.
        tokens: of the decoder.
        features: width of the image tokens.
        token_vad: (V, 3), of ``vea.models.language.vad.vad_table``.
        heads: which of ``vad``, ``contrastive`` and ``emotion`` are trained, each with a head.
        emotions: number of emotions.
        weights: False where a checkpoint follows.
    """

    prefix_vad: Tensor

    def __init__(
        self,
        config: ExplainModelConfig,
        *,
        tokens: Tokens,
        features: int,
        token_vad: Tensor,
        heads: tuple[str, ...] = (),
        emotions: int = 0,
        weights: bool = True,
    ) -> None:
        super().__init__()
        self.kind = config.kind
        self.decoder = build_decoder(config, tokens, token_vad, weights=weights)
        # (V, 3); FusedGPT2 holds its own, and a name here would store it twice
        self.register_buffer("prefix_vad", token_vad if self.kind == "prefix" else None)
        width = self.decoder.get_input_embeddings().embedding_dim
        if self.kind == "prefix":
            self.project: nn.Module = nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, width))
        else:
            self.project = nn.Identity() if features == width else nn.Linear(features, width)
        if "vad" in heads:
            self.vad_head = nn.Linear(width, 3)
        if "contrastive" in heads:
            layers: list[nn.Module] = [nn.Linear(3 * width, width), nn.ReLU()]
            for _ in range(3):
                layers += [nn.Linear(width, width), nn.ReLU()]
            self.contrast_head = nn.Sequential(*layers, nn.Linear(width, 1))
        self.emotion_head: nn.Module | None = None
        if "emotion" in heads:  # few pictures have an emotion, so half of what it sees is dropped
            self.emotion_head = nn.Sequential(nn.LayerNorm(features), nn.Dropout(0.5), nn.Linear(features, emotions))

        self.vector = nn.Parameter(torch.zeros(emotions, width)) if config.emotion_vector else None
        self.marks = nn.Embedding(2, width) if config.carries_emotion else None
        if self.marks is not None:
            nn.init.zeros_(self.marks.weight)

    @property
    def token_vad(self) -> Tensor:
        """(V, 3), the rating of each token."""
        return self.decoder.token_vad if self.kind == "sevlm" else self.prefix_vad

    def memory(self, features: Tensor) -> Tensor:
        """Returns what the decoder looks at, (B, N, D), from image features (B, N, F).

        With ``model.emotion_vector`` the emotion vector stands behind it, (B, N + 1, D): the mean of the emotions'
        vectors, weighed by what the emotion head sees. It does not teach that head.
        """
        tokens = self.project(features)
        if self.marks is not None:
            tokens = tokens + self.marks(self.carrying_patches(features).long()).to(tokens.dtype)
        if self.vector is not None:
            vector = self.shares(features.mean(1, keepdim=True)) @ self.vector
            tokens = torch.cat([tokens, vector.to(tokens.dtype)], dim=1)
        return tokens.contiguous()  # GPT-2 views it

    def seen(self, memory: Tensor) -> Tensor:
        """Returns the image tokens of ``memory``: all but the emotion vector."""
        return memory if self.vector is None else memory[:, :-1]

    @torch.no_grad()
    def shares(self, features: Tensor) -> Tensor:
        """Returns the emotion head's probabilities (B, N, E) of features (B, N, F), without dropout."""
        assert isinstance(self.emotion_head, nn.Sequential)
        norm, _, linear = self.emotion_head
        with torch.autocast(features.device.type, enabled=False):
            return linear(norm(features.float())).softmax(-1)

    def carrying_patches(self, features: Tensor) -> Tensor:
        """Returns bool (B, N): which patches speak for the picture's emotion more clearly than their mean does."""
        whole = self.shares(features.mean(1, keepdim=True))
        most = whole.argmax(-1, keepdim=True)
        return (self.shares(features).gather(-1, most.expand(-1, features.shape[1], -1)) > whole.gather(-1, most))[
            ..., 0
        ]

    def forward(self, memory: Tensor, sentences: Sentences) -> tuple[Tensor, Tensor]:
        """Returns logits (B, L, V) and hidden states (B, L, D) of the sentences, which see their memory (B, N, D)."""
        if self.kind == "sevlm":
            outputs = self.decoder(sentences.ids, encoder_hidden_states=memory.contiguous())
            return outputs.logits, outputs.hidden_states[0]
        embedded = self.decoder.get_input_embeddings()(sentences.ids)
        seen = torch.cat([sentences.mask.new_ones(memory.shape[:2]), sentences.mask], dim=1)
        outputs = self.decoder(
            inputs_embeds=torch.cat([memory.to(embedded.dtype), embedded], dim=1),
            attention_mask=seen.long(),
            output_hidden_states=True,
        )
        start = memory.shape[1]
        return outputs.logits[:, start:], outputs.hidden_states[-1][:, start:]

    def score(self, memory: Tensor, emotion: Tensor, explanation: Tensor) -> Tensor:
        """Returns the contrastive head's scores (B,) of pooled image tokens, emotions and explanations, (B, D) each."""
        return self.contrast_head(torch.cat([memory, emotion, explanation], dim=-1))[:, 0]

    def emotion_logits(self, features: Tensor) -> Tensor:
        """Returns the emotion head's logits (B, E) of image features (B, N, F).

        It has its own way from the features, so that the decoder learns as without it.
        """
        assert self.emotion_head is not None
        return self.emotion_head(features.mean(1))

    @torch.no_grad()
    def write(
        self,
        memory: Tensor,
        *,
        tokens: Tokens,
        settings: GenerateConfig,
        emotions: list[str],
        emotion: str | list[str] | None = None,
        count: int = 1,
        use_cache: bool = True,
    ) -> Tensor:
        """Returns the tokens after the prompt, int64 (B * count, T); a row of one image after the other.

        Args:
            memory: (B, N, D) of ``memory``.
            tokens: of the decoder.
            settings: method and lengths.
            emotions: class names, one of which starts the sentence where ``settings.constrain``.
            emotion: explain all pictures as this emotion, or each as its own; it is then part of the result.
            count: sentences per image (beam and nucleus).
            use_cache: False recomputes all keys and values at every step, to compare with.
        """
        if not emotion and emotions and settings.constrain and settings.method == "beam" and count == 1:
            # a beam ranks whole sentences, whose words would outvote the emotion: it is decided first, then explained
            emotion = self._named(memory, tokens, settings=settings, emotions=emotions, use_cache=use_cache)
        if isinstance(emotion, list):
            return self._explained(memory, emotion, tokens, settings=settings, count=count, use_cache=use_cache)
        given = [*tokens.encode(emotion), tokens.because] if emotion else []
        prompt = torch.tensor([tokens.end, *tokens.encode(PROMPT), *given], device=memory.device)
        prompt = prompt.expand(len(memory), -1)
        start = prompt.shape[1] if self.kind == "sevlm" else 0
        if given:  # they are part of the answer, whose length is what the decoder has positions for
            settings = settings.model_copy(update={"max_new_tokens": max(1, settings.max_new_tokens - len(given))})
        options = generate_options(settings, tokens, emotions=[] if emotion else emotions, start=start, count=count)
        options["use_cache"] = use_cache
        if self.kind == "sevlm":
            inputs = {"inputs": prompt, "attention_mask": torch.ones_like(prompt), "encoder_hidden_states": memory}
        else:
            embedded = self.decoder.get_input_embeddings()(prompt)
            whole = torch.cat([memory.to(embedded.dtype), embedded], dim=1)
            seen = torch.ones(whole.shape[:2], dtype=torch.long, device=memory.device)
            inputs = {"inputs_embeds": whole, "attention_mask": seen}
        with quick_products(self.decoder):
            written = self.decoder.generate(**inputs, **options)
        head = torch.tensor(given, dtype=torch.long, device=memory.device).expand(len(written), -1)
        return torch.cat([head, written[:, start:]], dim=1)

    def _named(
        self, memory: Tensor, tokens: Tokens, *, settings: GenerateConfig, emotions: list[str], use_cache: bool
    ) -> list[str]:
        """Returns the emotion of each image (B, N, D) that greedy decoding starts with."""
        choices = {name: [*tokens.encode(name), tokens.because] for name in emotions}
        longest = max(map(len, choices.values()))
        first = settings.model_copy(update={"method": "greedy", "max_new_tokens": longest})
        written = self.write(memory, tokens=tokens, settings=first, emotions=emotions, use_cache=use_cache).tolist()
        return [next(name for name, ids in choices.items() if row[: len(ids)] == ids) for row in written]

    def _explained(
        self, memory: Tensor, told: list[str], tokens: Tokens, *, settings: GenerateConfig, count: int, use_cache: bool
    ) -> Tensor:
        """Returns ``write`` of images whose emotions are ``told``, those of one emotion together."""
        rows: list[Tensor] = [torch.empty(0)] * len(told) * count
        for name in dict.fromkeys(told):
            here = [i for i, other in enumerate(told) if other == name]
            made = self.write(
                memory[here], tokens=tokens, settings=settings, emotions=[], emotion=name, count=count,
                use_cache=use_cache,
            )  # fmt: skip
            for place, row in enumerate(made):
                rows[here[place // count] * count + place % count] = row
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokens.end)
