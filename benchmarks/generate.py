"""Writing explanations: SEVLM's released loop, transformers' cached generate, and vea's, with the same weights.

    python benchmarks/generate.py [--batches 1 8 32] [--rounds 3] [--threads 1] [--json FILE]

A decoder of distilGPT2's size (6 layers, 768 wide, 50,257 words) with cross-attention to 196 image tokens, random
weights, 25 new tokens, greedy, in one run with the rounds interleaved; medians. ``released`` follows the authors': no
cache of keys and values, VAD features and logits of all tokens at every step, all 25 steps. ``transformers`` is its own
GPT-2 of the same size without any VAD part, with cache: the least that generating can cost. The released loop and vea
must write the same tokens, or the command ends with 1. The limit of memory is the bytes of the weights that a step
reads, over the bandwidth of a copy; caches can carry a small model beyond it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from vea.config import ExplainModelConfig, GenerateConfig, TextDecoderConfig
from vea.errors import RunError, command
from vea.models.language.sevlm import Explainer
from vea.models.language.tokens import BECAUSE, PROMPT, SPECIAL, WordTokens

IMAGE_TOKENS, WIDTH, WORDS, STEPS = 196, 768, 50_257, 25


def build() -> tuple[Explainer, WordTokens, GPT2LMHeadModel]:
    """Returns vea's model, its tokens, and transformers' GPT-2 of the same size."""
    known = [*SPECIAL, BECAUSE, *PROMPT.split()]
    tokens = WordTokens([*known, *(f"word{i}" for i in range(WORDS - len(known)))])
    decoder = TextDecoderConfig(width=WIDTH, depth=6, heads=12, dropout=0.0)
    model = Explainer(
        ExplainModelConfig(kind="sevlm", decoder=decoder, max_tokens=40),
        tokens=tokens, features=WIDTH, token_vad=torch.rand(WORDS, 3) * 2 - 1,
    ).eval()  # fmt: skip
    with torch.no_grad():  # random weights of the usual size would write one word over and over, whatever the picture
        model.decoder.transformer.wpe.weight.mul_(10)
        for name, weight in model.decoder.transformer.h.named_parameters():
            weight.mul_(4 if "crossattention" in name else 2)
    form = GPT2Config(n_positions=40, n_embd=WIDTH, n_layer=6, n_head=12, vocab_size=WORDS, add_cross_attention=True)
    return model, tokens, GPT2LMHeadModel(form).eval()


def released(model: Explainer, tokens: WordTokens, memory: Tensor) -> Tensor:
    """Returns tokens (B, 25) by the authors' loop: everything again for every word."""
    ids = torch.tensor([tokens.end, *tokens.encode(PROMPT)]).expand(len(memory), -1)
    start = ids.shape[1]
    for _ in range(STEPS):
        logits = model.decoder(ids, encoder_hidden_states=memory).logits
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids[:, start:]


def up_to_end(rows: Tensor, end: int) -> list[list[int]]:
    """Returns each row up to its first end token."""
    return [row[: row.index(end)] if end in row else row for row in rows.tolist()]


def copy_bandwidth() -> float:
    """Returns bytes/s of reading (half of what a copy of 400 MB moves)."""
    source = torch.empty(100_000_000)
    target = torch.empty_like(source)
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        target.copy_(source)
        taken.append(time.perf_counter() - start)
    return source.nbytes / min(taken)


@command
def main(argv: list[str]) -> None:
    """Makes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, tokens, plain = build()
    settings = GenerateConfig(max_new_tokens=STEPS, constrain=False)
    images = torch.randn(max(arguments.batches), IMAGE_TOKENS, WIDTH)
    read = sum(p.nbytes for p in model.decoder.parameters()) - model.decoder.transformer.wpe.weight.nbytes
    limit = copy_bandwidth() / read
    prompt = torch.tensor([tokens.end, *tokens.encode(PROMPT)])

    def cached(memory: Tensor) -> Tensor:
        return plain.generate(
            prompt.expand(len(memory), -1), attention_mask=torch.ones(len(memory), len(prompt), dtype=torch.long),
            encoder_hidden_states=memory, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False,
            pad_token_id=tokens.end, eos_token_id=tokens.end,
        )  # fmt: skip

    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "released": lambda memory: released(model, tokens, memory),
        "transformers": cached,
        "vea": lambda memory: model.write(memory, tokens=tokens, settings=settings, emotions=[]),
    }
    rows: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        for batch in arguments.batches:
            memory = model.memory(images[:batch])
            taken: dict[str, list[float]] = {way: [] for way in ways}
            for round_ in range(arguments.rounds + 1):  # the first warms up
                wrote = {}
                for way, write in ways.items():
                    start = time.perf_counter()
                    wrote[way] = write(memory)
                    if round_:
                        taken[way].append(time.perf_counter() - start)
            own, theirs = (up_to_end(wrote[way], tokens.end) for way in ("vea", "released"))
            if own != theirs:
                raise RunError(f"batch {batch}: vea and the released loop write different tokens")
            if len({tuple(row) for row in own}) < batch or any(len(set(row)) < 3 for row in own):
                raise RunError(f"batch {batch}: the model repeats itself, so equal tokens prove nothing")
            rows[str(batch)] = {way: batch * STEPS / statistics.median(times) for way, times in taken.items()}
    first, last = str(arguments.batches[0]), str(arguments.batches[-1])
    print(f"tokens/s, {arguments.threads} thread, medians of {arguments.rounds}; a step reads {read / 2**20:.0f} MiB")
    print(f"{'batch':>5} {'released':>10} {'transformers':>13} {'vea':>10} {'vea/released':>13} "
          f"{'vea/transformers':>17} {'of limit':>9}")  # fmt: skip
    for batch, row in rows.items():
        print(f"{batch:>5} {row['released']:10.1f} {row['transformers']:13.1f} {row['vea']:10.1f} "
              f"{row['vea'] / row['released']:13.2f} {row['vea'] / row['transformers']:17.2f} "
              f"{row['vea'] / (limit * int(batch)):9.2f}")  # fmt: skip
    ratios = {
        "vs_released": rows[last]["vea"] / rows[last]["released"],
        "vs_released_single": rows[last]["vea"] / rows[first]["released"] if first == "1" else None,
        "vs_transformers": rows[last]["vea"] / rows[last]["transformers"],
    }
    print(f"batch {last} against the released loop one image at a time: {ratios['vs_released_single'] or 'not run'}")
    if arguments.json:
        record = {"tokens_per_second": rows, "limit_steps_per_second": limit, "ratios": ratios,
                  "threads": arguments.threads}  # fmt: skip
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
