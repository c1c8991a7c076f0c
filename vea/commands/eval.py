"""``vea eval MODEL TASK[,TASK]``: how well a vision-language model, or any other judge, reads emotion.

    vea eval text-only statements                              # what the texts alone give away
    vea eval path/to/a/vlm statements:mvei/statements.json     # a transformers folder, a published file
    vea eval http://127.0.0.1:8000/v1#my-model statements      # any OpenAI-compatible server

Models: a transformers folder, the URL of a server, a run of vea, ``judge`` (frozen features), and the baselines
constant, uniform, text-only, brightness, oracle, shuffled:MODEL, blind:FOLDER. docs/evals.md has the tasks.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich.console import Console
from rich.table import Table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vea eval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="who is asked")
    parser.add_argument(
        "tasks",
        help="TASK[:SOURCE], with commas between: statements, choice, open-vocabulary, ratings, affect, explanations",
    )
    parser.add_argument("--limit", type=int, help="only the first pictures")
    parser.add_argument("--out", type=Path, help="folder of answers, records, report.html (default: runs/eval/MODEL)")
    parser.add_argument("--data", type=Path, help="folder of the task's data (default: below VEA_DATA)")
    parser.add_argument("--split", default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readout", default="both", choices=("both", "text", "probability"))
    parser.add_argument("--calibrate", action="store_true", help="fit P(choice) on the validation split, score it too")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at once, for a server")
    parser.add_argument("--retries", type=int, default=5, help="how often a question is asked again, for a server")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one request")
    parser.add_argument("--image-size", type=int, default=768, help="longer side of pictures sent to a server, pixels")
    parser.add_argument("--max-new-tokens", type=int, help="of a generated answer (default: the task's)")
    parser.add_argument("--device", default="cpu", help="of a local model")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument(
        "--extract",
        metavar="MODEL",
        help="a language model that reads open labels too, or text: vea's own reader of texts",
    )
    parser.add_argument("--wandb", metavar="PROJECT", help="show scores and a table of all answers (WANDB_MODE counts)")
    parser.add_argument("--hint", help="RUN or random: a recogniser's first classes go into the prompt (HEF)")
    return parser


def main(argv: list[str]) -> None:
    """Runs the tasks and prints the headline of each read-out."""
    arguments = _parser().parse_args(argv)
    from vea.evals.run import evaluate, run_name

    out = arguments.out or Path(os.environ.get("VEA_RUNS", "runs")) / "eval" / run_name(arguments.model)
    records = evaluate(
        arguments.model,
        arguments.tasks,
        limit=arguments.limit,
        out=out,
        data=arguments.data,
        split=arguments.split,
        seed=arguments.seed,
        readouts=("text", "probability") if arguments.readout == "both" else (arguments.readout,),
        calibrate=arguments.calibrate,
        extract=arguments.extract,
        hint=arguments.hint,
        concurrency=arguments.concurrency,
        retries=arguments.retries,
        timeout=arguments.timeout,
        image_size=arguments.image_size,
        max_new_tokens=arguments.max_new_tokens,
        device=arguments.device,
        dtype=arguments.dtype,
    )
    table = Table("task", "read-out", "measure", "value", "95 %", "n")
    for name, record in records.items():
        for readout, scores in record["scores"].items():
            headline = record["headline"]
            low, high = scores.get("intervals", {}).get("overall", (None, None))
            interval = f"{low:.3f} to {high:.3f}" if low is not None else ""
            table.add_row(name, readout, headline, f"{scores[headline]:.4f}", interval, str(record["questions"]))
    console = Console(width=120)
    console.print(table)
    for record in records.values():
        for note in record["notes"]:
            console.print(f"note: {note}", markup=False, highlight=False)
        if record["cost"]["failed"]:
            console.print(f"{record['cost']['failed']} questions have no answer: run the command again to ask them")
    console.print(f"report: {out / 'report.html'}", markup=False, highlight=False)
    if arguments.wandb:
        from vea.evals.dashboard import show

        show(out, records, project=arguments.wandb)
