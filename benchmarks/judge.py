"""P(yes) with a shared picture prefix against generating each answer: statements a second, and the same decisions.

    python benchmarks/judge.py --pictures DIR [--model FOLDER] [--json judge.json]

Without --model: a Qwen2-VL with random weights (real class, made on the spot), big enough that the model and not
Python takes the time. Three ways, interleaved, medians. A decision is the likelier of the two first answer tokens;
for generation it is read from the scores of its first step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from vea.evals.backends.local import LocalModel
from vea.evals.oasis import PROMPT
from vea.evals.question import Question
from vea.models.language.turns import first_tokens

CHOICES = ("Correct", "Incorrect")


def statements(count: int) -> list[str]:
    """Returns statements of the lengths that MVEI has."""
    text = "the image might evoke joy because a child laughs in warm light near the sea while people walk"
    words = text.split()
    return [" ".join(words[: 6 + number % 12]) + f", claim {number}." for number in range(count)]


def generated(model: LocalModel, questions: list[Question]) -> list[bool]:
    """Returns the decisions of answers generated one by one, whole."""
    found = []
    for question in questions:
        item = {name: value.to(model.device) for name, value in model._encode(question).items()}
        made = model.model.generate(
            **item, max_new_tokens=question.max_tokens, min_new_tokens=question.max_tokens, do_sample=False,
            output_logits=True, return_dict_in_generate=True, pad_token_id=model.tokenizer.pad_token_id,
        )  # fmt: skip
        shares = made.logits[0][0].float().softmax(0)
        first, second = (float(shares[ids].sum()) for ids in first_tokens(model.tokenizer, CHOICES))
        found.append(first > second)
    return found


def read(model: LocalModel, questions: list[Question], *, share: bool) -> list[bool]:
    """Returns the decisions of P(yes)."""
    model.share_prefix = share
    answers = dict(model.ask(questions, ["probability"]))
    return [answers[i].probabilities["Correct"] > 0.5 for i in range(len(questions))]


def main() -> None:
    """Prints the table and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--model", type=Path, help="folder of an image-text model")
    parser.add_argument("--count", type=int, default=3, help="pictures")
    parser.add_argument("--statements", type=int, default=26, help="a picture")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=16, help="generated for an answer")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.model
    if folder is None:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit" / "evals"))
        import tiny

        folder = tiny.vision_language_model(Path(tempfile.mkdtemp()) / "qwen2-vl", width=256, layers=6, pixels=448)
    model = LocalModel(folder)
    files = sorted(p for p in arguments.pictures.iterdir() if p.suffix.lower() in (".jpg", ".png"))[: arguments.count]
    sets = [
        [
            Question(f"{file}/{i}", PROMPT.format(statement=text), file, CHOICES, max_tokens=arguments.tokens)
            for i, text in enumerate(statements(arguments.statements))
        ]
        for file in files
    ]
    ways = {
        "generated one by one": generated,
        "P(yes) one by one": lambda m, q: read(m, q, share=False),
        "P(yes), shared prefix": lambda m, q: read(m, q, share=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    decisions: dict[str, list[bool]] = {name: [] for name in ways}
    for turn in range(arguments.rounds):
        for questions in sets:
            for name, way in ways.items():
                started = time.perf_counter()
                found = way(model, questions)
                seconds[name].append(time.perf_counter() - started)
                if turn == 0:
                    decisions[name] += found
    base = statistics.median(seconds["generated one by one"])
    record = {"statements": arguments.statements, "tokens": arguments.tokens, "pictures": len(files), "ways": {}}
    print(
        f"| way | seconds a picture ({arguments.statements} statements) | times | same decisions |\n|---|---|---|---|"
    )
    for name, values in seconds.items():
        middle = statistics.median(values)
        same = sum(a == b for a, b in zip(decisions[name], decisions["generated one by one"]))
        print(f"| {name} | {middle:.3f} ({min(values):.3f} to {max(values):.3f}) | {base / middle:.1f} | "
              f"{same} of {len(decisions[name])} |")  # fmt: skip
        record["ways"][name] = {"median": middle, "seconds": values, "times": base / middle, "same": same}
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
