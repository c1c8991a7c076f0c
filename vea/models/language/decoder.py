"""Build or read the language model of an explainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vea.config import ExplainModelConfig
from vea.errors import VeaError
from vea.models.language.tokens import Tokens

try:  # this module is imported only where an explanation model is built
    from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, PreTrainedModel
except ImportError:
    raise VeaError("explanations need the package transformers: pip install 'vea[vlm]'") from None
from torch import nn

from vea.models.language.tokens import after_because
from vea.models.language.vad import VadEncoder

try:  # this module is imported only where an explanation model is built
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions
except ImportError:
    raise VeaError("explanations need the package transformers: pip install 'vea[vlm]'") from None


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
    form.add_vector, form.mark_words = config.emotion_vector, config.carries_emotion
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


# transformers renamed the cache; under the wrong name ``generate`` drops it without a word and recomputes everything
CACHE = "cache" if "cache" in CausalLMOutputWithCrossAttentions.__dataclass_fields__ else "past_key_values"


CARRIES = 0.4  # length of (valence, arousal), each from -1 to 1, from which a word carries emotion


def carrying_words(token_vad: Tensor) -> Tensor:
    """Returns bool (V,): which tokens carry emotion, of their ratings (V, 3)."""
    return token_vad[:, :2].norm(dim=1) >= CARRIES


class FusedGPT2(GPT2LMHeadModel):
    """GPT-2 with cross-attention, segments for emotion and explanation, and VAD fusion.

    ``config.because`` is the token that starts the explanation; ``config.fuse_vad`` switches the VAD parts.
    ``config.add_vector``: the last image token is no token but a vector that is added to every input embedding (the
    emotion-aware encoder's word + emotion). ``config.mark_words``: an embedding for words that carry emotion and one
    for the others (ReflectDiffu's E_word + E_pos + E_reason). Both start as the model without them.
    """

    token_vad: Tensor

    def __init__(self, config: GPT2Config, token_vad: Tensor) -> None:
        super().__init__(config)
        width = config.n_embd
        self.segments = nn.Embedding(2, width)  # emotion, explanation
        nn.init.zeros_(self.segments.weight)
        # the checkpoint carries the ratings of its own words, so that it runs without the lexicon
        self.register_buffer("token_vad", token_vad)
        if config.mark_words:
            self.marks = nn.Embedding(2, width)
            nn.init.zeros_(self.marks.weight)
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
            encoder_hidden_states: image tokens (B, N, D); one more with ``config.add_vector``.
            use_cache: return the cache.
            logits_to_keep: K, the last positions that get logits; 0: all L.
        """
        history = input_ids if history is None else history
        length = input_ids.shape[1]
        explained = after_because(history, self.config.because)[:, -length:]
        embedded = self.transformer.wte(input_ids) + self.segments(explained.long())
        if self.config.mark_words:
            embedded = embedded + self.marks(carrying_words(self.token_vad)[input_ids].long())
        if self.config.add_vector:
            assert encoder_hidden_states is not None
            embedded = embedded + encoder_hidden_states[:, -1:].to(embedded.dtype)
            encoder_hidden_states = encoder_hidden_states[:, :-1].contiguous()
        outputs = self.transformer(
            inputs_embeds=embedded,
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
