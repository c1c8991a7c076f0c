"""Emotion and words of photographs (OASIS): a trained model against what it must beat, and what its parts bring.

    python benchmarks/explain_oasis.py --encoder DINOV2_FILE --lexicon WARRINER_OR_NRC_FILE [--seeds 0 1 2]
    python benchmarks/explain_oasis.py --encoder DINOV2_FILE --decoder SMOLLM2_FOLDER      # image tokens before SmolLM2

Runs finetune/train.py (configs/finetune/explain_oasis.yaml) and finetune/evaluate.py for each arm and seed, at one
budget; validation chooses the step, the test split is scored once. What is complete is not repeated. The table:

- ``model``, a SEVLM from nothing or, with --decoder, a language model that reads image tokens; and ``shuffled``: the
  same model, its words written before another picture;
- ``text only``: the same model trained without any picture;
- ``no VAD``, ``contrast``: SEVLM without its VAD parts, with its contrastive head;
- ``no head``: the language model names the emotion, as in the paper;
- ``vector``: the emotion that the head sees is added to every input embedding; ``marks``: words and patches that carry
  emotion are marked, and explanations of one emotion lie near each other (NT-Xent);
- ``nearest``: emotion and caption of the training photograph nearest by the mean of the encoder's patches;
- ``majority``: the emotion that training photographs have most often.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import torch
from recipes import evaluated, spread
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from vea.config import DatasetRef, ExplainConfig, load_config
from vea.data.loading.loader import eval_loader
from vea.errors import VeaError, command
from vea.metrics.captions import caption_scores
from vea.tasks.explain import ExplainTask
from vea.training.finetune import label_fields

SCORES = ("emotion_accuracy", "cider", "bleu_4", "rouge_l", "ea")
NO_VAD, CONTRAST = ["model.vad=false", "objective.vad=0"], ["objective.contrastive=1"]
ARMS = {"model": [], "text only": ["model.blind=true"], "no VAD": NO_VAD, "contrast": CONTRAST,
        "no head": ["objective.emotion=0"], "vector": ["model.emotion_vector=true"],
        "marks": ["model.carries_emotion=true", "objective.nt_xent=0.1"]}  # fmt: skip
Scores = dict[str, float]


def photographs(task: ExplainTask, split: str) -> tuple[Tensor, list[str], list[list[str]]]:
    """Returns (mean patch features (N, F), emotions, captions) of a split of OASIS."""
    features, emotions, captions = [], [], []
    refs = [DatasetRef(path=task.config.data.val[0].path, split=split)]
    for batch in eval_loader(task.config, task.item_spec(), refs=refs, batch_size=32, rank=0, world_size=1):
        with torch.no_grad():
            rows = task.encode(batch["image"]).float().mean(1)
        for i, pairs in enumerate(task.candidates(batch)):
            if batch["valid"][i] and pairs:
                features.append(rows[i])
                emotions.append(pairs[0][0])
                captions.append([text for _, text in pairs])
    return normalize(torch.stack(features), dim=-1), emotions, captions


def without_learning(config: ExplainConfig) -> dict[str, Scores]:
    """Returns the scores of the nearest training photograph's words, and of the most frequent emotion."""
    task = ExplainTask(config, fields=label_fields(config)).eval()
    known, known_emotions, known_captions = photographs(task, "train")
    asked, emotions, captions = photographs(task, "test")
    nearest = (asked @ known.T).argmax(1).tolist()
    most = Counter(known_emotions).most_common(1)[0][0]
    names = [str(i) for i in range(len(emotions))]
    found = caption_scores(dict(zip(names, captions)), {n: known_captions[i][0] for n, i in zip(names, nearest)})
    right = sum(known_emotions[i] == emotion for i, emotion in zip(nearest, emotions)) / len(emotions)
    majority = emotions.count(most) / len(emotions)
    return {"nearest": {**found, "emotion_accuracy": right}, "majority": {"emotion_accuracy": majority}}


@command
def main(argv: list[str]) -> None:
    """Makes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/finetune/explain_oasis.yaml")
    parser.add_argument("--encoder", required=True, type=Path, help="weight file of vit_small_patch14_dinov2")
    parser.add_argument("--decoder", type=Path, help="folder of a causal language model; a .gguf in it is found")
    parser.add_argument("--lexicon", type=Path, help="Warriner or NRC-VAD file, for SEVLM's VAD parts")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS)[:5])
    parser.add_argument("--beams", type=int, help="every arm writes by beam search; default: as the config says")
    parser.add_argument("--threads", type=int, default=2, help="of every run")
    parser.add_argument("--out", type=Path, default=Path("runs/explain-oasis"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="for every run")
    given = parser.parse_intermixed_args(argv)
    common = [f"model.encoder.pretrained={given.encoder}", f"runtime.threads={given.threads}", "tracking.backend=none"]
    arms = {name: ARMS[name] for name in given.arms}
    if given.decoder:
        if not given.decoder.is_dir():
            raise VeaError(
                f"--decoder: no folder {given.decoder}; give one of a causal language model, such as SmolLM2"
            )
        # what learned to write already is moved gently, by fewer image tokens
        common += ["model.kind=prefix", *NO_VAD, "model.image_tokens=9", "train.base_lr=3.2e-3"]
        common += [f"model.decoder.path={given.decoder}"]
        common += [f"model.decoder.gguf={file.name}" for file in sorted(given.decoder.glob("*.gguf"))[:1]]
        arms = {name: ARMS[name] for name in ("model", "text only") if name in given.arms}
    elif given.lexicon is None:
        raise VeaError("give --lexicon (without ratings of words the VAD parts have nothing to learn), or --decoder")
    else:
        common += [f"model.lexicon={given.lexicon}"]
    common += given.overrides
    config = load_config(given.config, common)  # a typo stops here, before any run
    assert isinstance(config, ExplainConfig)

    results = {arm: [scores] for arm, scores in without_learning(config).items()}
    for seed in given.seeds:
        for arm, changed in arms.items():
            folder = given.out / f"{arm.replace(' ', '-')}-s{seed}"
            words = [given.config, f"name={folder.name}", f"seed={seed}", *common, *changed]
            record = evaluated(folder, "finetune/train.py", *words, beams=given.beams)
            scores = record["targets"]["explanation"]["metrics"]
            results.setdefault(arm, []).append(scores)
            if arm == "model":
                swapped = {name: scores[f"swapped/{name}"] for name in SCORES if f"swapped/{name}" in scores}
                results.setdefault("shuffled", []).append(swapped)
    table = Table(title=f"OASIS test split, seeds {given.seeds}: mean ± sd over seeds, times 100")
    for column in ("", *SCORES):
        table.add_column(column)
    for arm, rows in results.items():
        table.add_row(arm, *(spread([row[name] for row in rows if name in row]) for name in SCORES))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if given.json:
        given.json.write_text(json.dumps({"seeds": given.seeds, "results": results}, indent=1), encoding="utf-8")
        print(f"wrote {given.json}")


if __name__ == "__main__":
    sys.exit(main())
