"""Tiny models of real classes with random weights, made on the spot: no hub, a second each."""

from pathlib import Path

PROMPT = (
    "Based on the provided image and emotional statement, please determine whether the statement aligns with the "
    "content of the image. If it does, respond with Correct. If it does not, respond with Incorrect. Do not output "
    "the reason. "
)
WORDS = "the image might evoke joy because a child laughs in warm light near the sea while people walk, claim "
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]


def tokenizer():
    """A byte-level BPE with Qwen's special tokens, trained on a few sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([PROMPT, WORDS, "Correct Incorrect correct incorrect"] * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


def language_model(folder: Path) -> Path:
    """A Llama of two layers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokens = tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id, bos_token_id=None,
        initializer_range=0.3, max_position_embeddings=2048,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def vision_language_model(folder: Path, *, width: int = 64, layers: int = 2, pixels: int = 112) -> Path:
    """A Qwen2-VL with a vision tower of as many layers; pictures of at most ``pixels`` squared."""
    import torch
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    torch.manual_seed(0)
    tokens = tokenizer()
    place = {name: tokens.convert_tokens_to_ids(name) for name in SPECIAL}
    tokens.image_token, tokens.video_token = "<|image_pad|>", "<|video_pad|>"
    sections = [width // 32, 3 * width // 64, 3 * width // 64]
    text = {
        "vocab_size": len(tokens), "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "initializer_range": 0.3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections},
        "eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id, "bos_token_id": None,
    }  # fmt: skip
    vision = {
        "depth": layers,
        "embed_dim": width // 2,
        "hidden_size": width,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 14,
    }
    config = Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=place["<|image_pad|>"],
        video_token_id=place["<|video_pad|>"], vision_start_token_id=place["<|vision_start|>"],
        vision_end_token_id=place["<|vision_end|>"],
    )  # fmt: skip
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    sizes = {"shortest_edge": 56 * 56, "longest_edge": pixels * pixels}
    images = Qwen2VLImageProcessor(size=sizes)
    Qwen2VLProcessor(images, tokens, Qwen2VLVideoProcessor(size=sizes), chat_template=TEMPLATE).save_pretrained(folder)
    return folder
