"""Small vision-language models of the hub (SmolVLM, Qwen-VL) with LoRA, behind the methods of ``vlm.Explainer``.

The picture and a question go through the model's own processor and chat template, which place as many image tokens as
the model wants: they are never cut. The sentence follows as the answer, so that tokens, losses and scores are those of
the other kinds. Only LoRA weights learn and are saved; the base stays a local folder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vea.config import GenerateConfig, HfModelConfig
from vea.errors import VeaError
from vea.models.language.tokens import PROMPT, Sentences, Tokens

try:  # this module is imported only where an explanation model is built
    from transformers import AutoModelForImageTextToText, AutoProcessor
except ImportError:
    raise VeaError("explanations need the package transformers: pip install 'vea[vlm]'") from None

from vea.models.language.generate import generate_options

QUESTION = "Which emotion does this picture evoke, and why?"


def read_base(path: str) -> tuple[Any, Any]:
    """Returns (model, processor) of a local folder.

    Raises:
        VeaError: the folder holds no image-text model of transformers.
    """
    try:
        processor = AutoProcessor.from_pretrained(path, local_files_only=True)
        model = AutoModelForImageTextToText.from_pretrained(path, local_files_only=True, dtype=torch.float32)
    except Exception as error:  # transformers raises many types for a folder that is not what it should be
        raise VeaError(f"model.hf.path: {path} cannot be used: {str(error).splitlines()[0]}") from None
    if getattr(processor, "image_processor", None) is None:
        raise VeaError(f"model.hf.path: the processor of {path} takes no pictures; give an image-text model")
    return model, processor


class ChatExplainer(nn.Module):
    """A vision-language model that answers a question about a picture; ``memory`` is the uint8 picture itself.

    Args:
        config: the ``model.hf`` section.

    Raises:
        VeaError: peft is missing, the folder does not serve, or no layer has the name of ``target_modules``.
    """

    def __init__(self, config: HfModelConfig) -> None:
        super().__init__()
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError:
            raise VeaError("model.kind=hf needs the package peft: pip install 'vea[vlm]'") from None
        base, self.processor = read_base(config.path or "")
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"  # the answer follows the prompt without a gap
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if hasattr(self.processor.image_processor, "do_image_splitting"):
            self.processor.image_processor.do_image_splitting = config.image_splitting
        adapters = LoraConfig(
            r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=config.target_modules
        )
        try:
            self.model = get_peft_model(base, adapters)
        except ValueError as error:
            raise VeaError(f"model.hf.target_modules: {str(error).splitlines()[0]}") from None
        self.prompt = self._prompt()

    def _prompt(self) -> str:
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
            return self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
        return f"{getattr(self.processor, 'image_token', '<image>')} {QUESTION}"

    def memory(self, features: Tensor) -> Tensor:
        """Returns the pictures, uint8 (B, 3, H, W), as they are."""
        return features

    def inputs(self, images: Tensor, answer: Tensor) -> tuple[dict[str, Tensor], int]:
        """Returns the inputs of prompts, each followed by a row of ``answer`` (B, L), and the prompt's length."""
        pictures = [[image.permute(1, 2, 0).cpu().numpy()] for image in images]
        made = self.processor(text=[self.prompt] * len(pictures), images=pictures, return_tensors="pt", padding=True)
        found = {name: value.to(images.device) for name, value in made.items()}
        batch, length = found["input_ids"].shape
        for name, value in found.items():  # ids, mask, and the kinds of tokens that some processors add
            if value.shape[:2] == (batch, length):
                follows = answer if name == "input_ids" else torch.full_like(answer, int(name == "attention_mask"))
                found[name] = torch.cat([value, follows.to(value.dtype)], dim=1)
        return found, length

    def forward(self, memory: Tensor, sentences: Sentences) -> tuple[Tensor, Tensor]:
        """Returns logits (B, L, V) and hidden states (B, L, D) of the sentences; place t predicts token t + 1."""
        # the sentence's first token stands for "begin", which the prompt's last one is here
        given, length = self.inputs(memory, sentences.ids[:, 1:])
        given["attention_mask"][:, length:] = sentences.mask[:, 1:].to(given["attention_mask"].dtype)
        outputs = self.model(**given, output_hidden_states=True, use_cache=False)
        return outputs.logits[:, length - 1 :], outputs.hidden_states[-1][:, length - 1 :]

    @torch.no_grad()
    def write(
        self,
        memory: Tensor,
        *,
        tokens: Tokens,
        settings: GenerateConfig,
        emotions: list[str],
        emotion: str | None = None,
        count: int = 1,
        use_cache: bool = True,
    ) -> Tensor:
        """Returns the tokens after the prompt, int64 (B * count, T), as ``vlm.Explainer.write`` does."""
        given = [*tokens.encode(emotion), tokens.because] if emotion else []
        begun = torch.tensor([*tokens.encode(PROMPT), *given], dtype=torch.long, device=memory.device)
        inputs, _ = self.inputs(memory, begun.expand(len(memory), -1))
        start = inputs["input_ids"].shape[1]
        options = generate_options(settings, tokens, emotions=[] if emotion else emotions, start=start, count=count)
        written = self.model.generate(**inputs, **options, use_cache=use_cache)
        head = torch.tensor(given, dtype=torch.long, device=memory.device).expand(len(written), -1)
        return torch.cat([head, written[:, start:]], dim=1)
