"""A language model of two blocks with random weights, made on the spot: shows that recipes work, knows nothing."""

from __future__ import annotations

from typing import Any

import torch

from vea.taxonomy.emotions import TAXONOMIES

NAME = "tiny"  # what model.path says
TEXT = (
    "Which emotion does the image show? Choose one of: Answer from what the image shows. Look at the image. Here is a "
    "picture. You are shown an image. Study the picture before you answer. Question about this image: As an expert in "
    "emotions, answer: Give only the answer. Consider what a viewer of this image feels. Emotion closest to the image: "
    "Valence of the viewer, 0 to 9: Arousal of the viewer, 0 to 9: Correct or Incorrect?"
)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tiny_tokenizer() -> Any:
    """Returns a byte-level BPE whose pieces are the names of emotions and the words of vea's questions."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    names = sorted({name for one in TAXONOMIES.values() for name in one.classes})
    made.train_from_iterator([" ".join([TEXT, *names]), *names], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


def tiny_language_model() -> tuple[Any, Any]:
    """Returns (Llama of two blocks, tokenizer); each call the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokens = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id, bos_token_id=None,
        initializer_range=0.2, max_position_embeddings=2048,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config), tokens
