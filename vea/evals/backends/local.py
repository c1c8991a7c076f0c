"""A transformers model on this machine: an image-text model, or a causal language model that is blind.

All questions about one picture share the prefill of their common tokens, the picture's among them; P(choice) is read
from the logits behind the prompt and decodes nothing.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vea.errors import RunError, VeaError
from vea.evals.backends.base import Backend
from vea.evals.question import Answer, Question
from vea.models.language.turns import first_tokens


def _common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Returns how many leading tokens all rows share; at least one token is left to each row."""
    shortest = min(len(row) for row in rows) - 1
    return next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), max(0, shortest))


class LocalModel(Backend):
    """A folder of transformers' own form, loaded with its own class.

    Args:
        folder: config.json, weights, tokenizer, and a processor for image-text models.
        blind: an image-text model is shown no picture. A causal language model never is.
        device: where it runs; dtype: float32, bfloat16, float16.
        share_prefix: off for measurements only.
        batch: questions of one picture that go through together.
        max_new_tokens: the longest generated answer; the question's own by default.
    """

    def __init__(
        self,
        folder: Path,
        *,
        blind: bool = False,
        device: str = "cpu",
        dtype: str = "float32",
        share_prefix: bool = True,
        batch: int = 32,
        max_new_tokens: int | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        try:
            import transformers
        except ImportError:
            raise VeaError("local models need transformers: pip install 'vea[vlm]'") from None
        self.name = ("blind:" if blind else "") + folder.resolve().name
        self.device, self.share_prefix, self.batch, self.max_new = device, share_prefix, batch, max_new_tokens
        self.settings = {"dtype": dtype, "weights": _identity(folder), "max_new_tokens": max_new_tokens}
        try:
            config = transformers.AutoConfig.from_pretrained(folder)
            self.sees = _reads_pictures(config)
            kind: Any = transformers.AutoModelForImageTextToText if self.sees else transformers.AutoModelForCausalLM
            self.model: Any = kind.from_pretrained(folder, dtype=getattr(torch, dtype))
            self.model.to(device)
            self.model.eval()
            self.processor = transformers.AutoProcessor.from_pretrained(folder) if self.sees else None
            self.tokenizer: Any = (
                self.processor.tokenizer if self.processor is not None
                else transformers.AutoTokenizer.from_pretrained(folder)
            )  # fmt: skip
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise VeaError(f"{folder} cannot be loaded as a transformers model ({reason})") from None
        if self.sees and blind:
            self.notes.append("blind: the model was shown no picture")
        self.shows = self.sees and not blind
        self._firsts: dict[tuple[str, ...], list[list[int]]] = {}

    def shown(self, question: Question) -> Path | None:
        """Returns the picture, None for a blind model."""
        return question.picture if self.shows else None

    def _text(self, question: Question) -> str:
        """Returns the prompt in the model's own chat form, with one mark for the picture."""
        content: list[dict[str, Any]] = [{"type": "text", "text": question.prompt}]
        pictured = self.shown(question) is not None
        if pictured:
            content.insert(0, {"type": "image"})
        coder = self.processor if self.processor is not None else self.tokenizer
        if getattr(coder, "chat_template", None) or getattr(self.tokenizer, "chat_template", None):
            said: Any = content if self.processor is not None else question.prompt
            messages = [{"role": "user", "content": said}]
            return str(coder.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        mark = getattr(self.processor, "image_token", "<image>") if pictured else ""
        return f"{mark}{question.prompt}\nAnswer:"

    def _encode(self, question: Question) -> dict[str, Tensor]:
        """Returns the tokens of a question, with its picture's pixels."""
        picture, text = self.shown(question), self._text(question)
        if picture is None or self.processor is None:
            return dict(self.tokenizer(text, return_tensors="pt", add_special_tokens=False))
        from PIL import Image

        from vea.data.views.pictures import read_image

        image = Image.fromarray(read_image(picture))
        return dict(self.processor(text=[text], images=[image], return_tensors="pt"))

    def _encode_all(self, questions: Sequence[Question]) -> list[dict[str, Tensor]]:
        """Returns the inputs of questions about one picture; its pixels are prepared once where the form allows it.

        The processor turns one mark into a run of equal tokens as a rule. Where that rule gives the processor's own
        tokens for the first question, the others are spliced by it; other forms go through the processor each.
        """
        first = self._encode(questions[0])
        mark = getattr(self.model.config, "image_token_id", None)
        if self.shown(questions[0]) is None or mark is None or len(questions) == 1:
            return [first, *(self._encode(question) for question in questions[1:])]
        run = int((first["input_ids"][0] == mark).sum())
        rows = []
        for question in questions:
            ids = self.tokenizer(self._text(question), add_special_tokens=False)["input_ids"]
            place = ids.index(mark) if ids.count(mark) == 1 else None
            rows.append(None if place is None else [*ids[:place], *([mark] * run), *ids[place + 1 :]])
        if rows[0] != first["input_ids"][0].tolist() or None in rows:
            return [first, *(self._encode(question) for question in questions[1:])]
        pixels = {n: v for n, v in first.items() if v.shape[:2] != first["input_ids"].shape}
        made = []
        for row in rows:
            ids = torch.tensor([row])
            made.append({**pixels, "input_ids": ids, "attention_mask": torch.ones_like(ids)})
            if "mm_token_type_ids" in first:  # 1 where the picture is
                made[-1]["mm_token_type_ids"] = (ids == mark).to(first["mm_token_type_ids"].dtype)
        return made

    @torch.inference_mode()
    def ask(self, questions: Sequence[Question], readouts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Yields answers picture by picture."""
        groups: dict[Path | None, list[int]] = {}
        for place, question in enumerate(questions):
            groups.setdefault(self.shown(question), []).append(place)
        for places in groups.values():
            ordered = sorted(places, key=lambda place: len(questions[place].prompt))  # batches of like length
            for start in range(0, len(ordered), self.batch):
                part = ordered[start : start + self.batch]
                yield from zip(part, self._answers([questions[place] for place in part], readouts))

    def _answers(self, questions: Sequence[Question], readouts: Sequence[str]) -> list[Answer]:
        started = time.perf_counter()
        coded = self._encode_all(questions)
        rows = [item["input_ids"][0].tolist() for item in coded]
        wants = [bool(q.choices) and "probability" in readouts for q in questions]
        logits = self._next_logits(coded, rows) if any(wants) else None
        seconds = (time.perf_counter() - started) / len(questions)
        found = []
        for i, question in enumerate(questions):
            before = time.perf_counter()
            shares, mass = self._read(logits[i], question) if wants[i] and logits is not None else (None, None)
            text, tokens = self._generate(coded[i], question) if "text" in readouts else (None, 0)
            spent = seconds + time.perf_counter() - before
            found.append(Answer(text, shares, mass, tokens + len(rows[i]), round(spent, 4)))
        return found

    def _read(self, logits: Tensor, question: Question) -> tuple[dict[str, float] | None, float | None]:
        """Returns P(choice) and mass, or nothing and a note where the first token does not tell the choices apart."""
        try:
            return self._shares(logits, question)
        except RunError:
            raise
        except VeaError as error:
            if str(error) not in self.notes:
                self.notes.append(str(error))
            return None, None

    def _shares(self, logits: Tensor, question: Question) -> tuple[dict[str, float], float]:
        """Returns P(choice) from the logits (V,) of the first answer token, and the mass of all choices."""
        everything = logits.float().softmax(0)
        if not torch.isfinite(everything).all():
            raise RunError(f"{self.name} gives logits that are not finite; try dtype float32")
        if question.choices not in self._firsts:
            self._firsts[question.choices] = first_tokens(self.tokenizer, question.choices)
        picked = [float(everything[ids].sum()) for ids in self._firsts[question.choices]]
        mass = sum(picked)
        return {name: p / mass if mass else 1 / len(picked) for name, p in zip(question.choices, picked)}, mass

    def _positions(self, item: dict[str, Tensor]) -> Tensor | None:
        """Returns the positions of the tokens where the model computes them from the picture (M-RoPE), else None."""
        core = getattr(self.model, "model", None)
        rope = getattr(core, "get_rope_index", None)
        if rope is None:
            return None
        import inspect

        known = inspect.signature(rope).parameters
        return rope(**{name: value for name, value in item.items() if name in known})[0]

    def _whole(self, item: dict[str, Tensor]) -> Tensor:
        inputs = {name: value.to(self.device) for name, value in item.items()}
        return self.model(**inputs, logits_to_keep=1).logits[0, -1]

    def _next_logits(self, coded: Sequence[dict[str, Tensor]], rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Returns the logits (V,) behind each prompt; the common beginning goes through once."""
        shared = _common_prefix(rows)
        if len(rows) == 1 or not self.share_prefix or shared < 8:
            return [self._whole(item) for item in coded]
        positions = self._positions(coded[0])
        first = {name: v for name, v in coded[0].items() if name != "attention_mask"}
        # per-token inputs are cut with the tokens, pixels stay whole
        first = {n: v[:, :shared] if v.shape[:2] == (1, len(rows[0])) else v for n, v in first.items()}
        if positions is not None:
            first["position_ids"] = positions[..., :shared]
        inputs = {name: value.to(self.device) for name, value in first.items()}
        cache = self.model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(rows))
        # what is left is text: padded on the left, so that every row ends at the last place, and positions count on
        lengths = [len(row) - shared for row in rows]
        longest = max(lengths)
        ids = torch.zeros((len(rows), longest), dtype=torch.long)
        mask = torch.ones((len(rows), shared + longest), dtype=torch.long)
        begin = shared if positions is None else int(positions[..., shared].max())
        places = torch.full((len(rows), longest), begin)
        for i, row in enumerate(rows):
            ids[i, longest - lengths[i] :] = torch.tensor(row[shared:])
            mask[i, shared : shared + longest - lengths[i]] = 0
            places[i, longest - lengths[i] :] += torch.arange(lengths[i])
        output = self.model(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            position_ids=(places if positions is None else places.expand(len(positions), -1, -1)).to(self.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return list(output.logits[:, -1])

    def _generate(self, item: dict[str, Tensor], question: Question) -> tuple[str, int]:
        """Returns the greedy answer and its number of tokens."""
        inputs = {name: value.to(self.device) for name, value in item.items()}
        settings = copy.deepcopy(self.model.generation_config)
        settings.update(do_sample=False, temperature=None, top_p=None, top_k=None)
        if settings.pad_token_id is None:
            settings.pad_token_id = self.tokenizer.eos_token_id
        settings.max_new_tokens = self.max_new or question.max_tokens
        made = self.model.generate(**inputs, generation_config=settings)[0, inputs["input_ids"].shape[1] :]
        return str(self.tokenizer.decode(made, skip_special_tokens=True)).strip(), len(made)


def _reads_pictures(config: Any) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as known

    return config.model_type in known


def _identity(folder: Path) -> str:
    """Returns names, sizes and times of the weight files: a retrained folder is another model."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".json"))
    import hashlib

    text = "|".join(f"{p.name}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
