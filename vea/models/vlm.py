"""Small vision-language models that say which emotion a picture evokes and why.

``sevlm``: SEVLM (arXiv 2403.11150, section 3), a GPT-2 whose blocks look at image tokens by cross-attention, with VAD
features fused into the explanation. ``prefix``: image tokens in front of the sentence of any causal language model.
Both write through ``transformers``' ``generate`` with its cache of keys and values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vea.config import ExplainModelConfig, GenerateConfig
from vea.errors import VeaError
from vea.models.tokens import PROMPT, Sentences, Tokens, after_because
from vea.models.vad import VadEncoder

try:  # this module is imported only where an explanation model is built
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        LogitsProcessor,
        LogitsProcessorList,
        PreTrainedModel,
    )
    from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions
except ImportError:
    raise VeaError("explanations need the package transformers: pip install 'vea[vlm]'") from None

from vea.models.products import quick_products  # it needs transformers as well

# transformers renamed the cache; under the wrong name ``generate`` drops it without a word and recomputes everything
CACHE = "cache" if "cache" in CausalLMOutputWithCrossAttentions.__dataclass_fields__ else "past_key_values"


class FusedGPT2(GPT2LMHeadModel):
    """GPT-2 with cross-attention, segments for emotion and explanation, and VAD fusion.

    ``config.because`` is the token that starts the explanation; ``config.fuse_vad`` switches the VAD parts.
    """

    token_vad: Tensor

    def __init__(self, config: GPT2Config, token_vad: Tensor) -> None:
        super().__init__(config)
        width = config.n_embd
        self.segments = nn.Embedding(2, width)  # emotion, explanation
        nn.init.zeros_(self.segments.weight)
        # the checkpoint carries the ratings of its own words, so that it runs without the lexicon
        self.register_buffer("token_vad", token_vad)
        if config.fuse_vad:
            self.vad_encoder = VadEncoder(max_tokens=config.n_positions, dropout=config.embd_pdrop)
            self.fuse = nn.Linear(width + 3, width)
            with torch.no_grad():  # starts as the language model without VAD
                self.fuse.weight.copy_(torch.eye(width, width + 3))
                self.fuse.bias.zero_()

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        history: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithCrossAttentions:
        """Returns logits (B, K, V) and, as ``hidden_states[0]``, the states behind them, (B, K, D).

        Args:
            input_ids: (B, L) the tokens whose keys are not cached.
            history: (B, S) all tokens so far, the last L of them ``input_ids``; None: ``input_ids`` are all.
            cache: keys and values of the first S - L tokens.
            past_key_values: the same by transformers' older name.
            attention_mask: not needed: pads stand at the end, where no earlier token looks.
            encoder_hidden_states: image tokens (B, N, D).
            use_cache: return the cache.
            logits_to_keep: K, the last positions that get logits; 0: all L.
        """
        history = input_ids if history is None else history
        length = input_ids.shape[1]
        explained = after_because(history, self.config.because)[:, -length:]
        outputs = self.transformer(
            inputs_embeds=self.transformer.wte(input_ids) + self.segments(explained.long()),
            encoder_hidden_states=encoder_hidden_states,
            use_cache=use_cache,
            **{CACHE: past_key_values if cache is None else cache},
        )
        kept = logits_to_keep or length
        hidden, explained = outputs.last_hidden_state[:, -kept:], explained[:, -kept:]
        if self.config.fuse_vad:
            features = self.vad_encoder(self.token_vad[history])[:, -kept:].to(hidden.dtype)
            hidden = torch.where(explained[..., None], self.fuse(torch.cat([hidden, features], dim=-1)), hidden)
        return CausalLMOutputWithCrossAttentions(
            logits=self.lm_head(hidden), hidden_states=(hidden,), **{CACHE: outputs[CACHE] if use_cache else None}
        )

    def prepare_inputs_for_generation(self, input_ids: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns the inputs of one step: the new tokens, and all of them for segments and VAD."""
        cache = kwargs.get(CACHE)
        seen = cache.get_seq_length() if cache is not None else 0
        return {
            "input_ids": input_ids[:, seen:],
            "history": input_ids,
            CACHE: cache,
            "encoder_hidden_states": kwargs.get("encoder_hidden_states"),
            "use_cache": bool(kwargs.get("use_cache")),
            "logits_to_keep": kwargs.get("logits_to_keep", 0),
        }


def build_decoder(config: ExplainModelConfig, tokens: Tokens, token_vad: Tensor, *, weights: bool = True) -> Any:
    """Returns the language model of ``config``: with weights of ``decoder.path``, or GPT-2 from scratch.

    ``weights=False`` makes only the architecture, for weights that come from a checkpoint.

    Raises:
        VeaError: the folder holds no causal language model, or (sevlm) none of GPT-2's family.
    """
    settings = config.decoder
    sevlm = config.kind == "sevlm"
    if settings.path is None:
        places = config.max_tokens + (0 if sevlm else config.image_tokens or 1024)
        if settings.width % settings.heads:
            raise VeaError(f"model.decoder: heads ({settings.heads}) must divide width ({settings.width})")
        form: Any = GPT2Config(
            vocab_size=tokens.size, n_positions=places, n_embd=settings.width, n_layer=settings.depth,
            n_head=settings.heads, resid_pdrop=settings.dropout, embd_pdrop=settings.dropout,
            attn_pdrop=settings.dropout, bos_token_id=tokens.end, eos_token_id=tokens.end,
        )  # fmt: skip
        base = None
    else:
        form, base = _read_decoder(settings.path, settings.gguf, cross_attention=sevlm, weights=weights)
    if not sevlm:
        return base if base is not None else AutoModelForCausalLM.from_config(form)
    form.add_cross_attention, form.because, form.fuse_vad = True, tokens.because, config.vad
    table = torch.zeros(form.vocab_size, 3)
    table[: len(token_vad)] = token_vad
    decoder = FusedGPT2(form, table)
    if base is not None:
        decoder.load_state_dict(base.state_dict(), strict=False)
    return decoder


def _read_decoder(
    path: str, gguf: str | None, *, cross_attention: bool, weights: bool
) -> tuple[Any, PreTrainedModel | None]:
    """Returns (config, model or None) of a local folder."""
    try:
        form = AutoConfig.from_pretrained(path, gguf_file=gguf, local_files_only=True)
        if cross_attention and form.model_type != "gpt2":
            raise ValueError(f"sevlm needs GPT-2's family and this is {form.model_type}; set model.kind=prefix")
        if not weights:
            return form, None
        extra = {"add_cross_attention": True} if cross_attention else {}
        model = AutoModelForCausalLM.from_pretrained(
            path, gguf_file=gguf, local_files_only=True, dtype=torch.float32, **extra
        )
    except Exception as error:  # transformers raises many types for a folder that is not what it should be
        raise VeaError(f"model.decoder.path: {path} cannot be used: {str(error).splitlines()[0]}") from None
    return form, model


class Explainer(nn.Module):
    """Image tokens in, sentences out.

    Args:
        config: the ``model`` section.
        tokens: of the decoder.
        features: width of the image tokens.
        token_vad: (V, 3), of ``vea.models.vad.vad_table``.
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

    @property
    def token_vad(self) -> Tensor:
        """(V, 3), the rating of each token."""
        return self.decoder.token_vad if self.kind == "sevlm" else self.prefix_vad

    def memory(self, features: Tensor) -> Tensor:
        """Returns what the decoder looks at, (B, N, D), from image features (B, N, F)."""
        return self.project(features).contiguous()  # GPT-2 views it

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
