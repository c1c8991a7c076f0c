"""What makes a pupil: all lessons against one task, texts, pictures, the gate and the face tower, at one budget.

    python benchmarks/instruct_ablation.py --model FOLDER_OF_SMOLLM2          # go on: rows that are there are skipped
    python benchmarks/instruct_ablation.py --model FOLDER_OF_SMOLLM2 --show   # the tables of the rows there are

A row is an arm and a seed: configs/finetune/instruct_smollm2.yaml with the arm's changes, the same steps and pictures a
step for each, then judged on the validation split. The pupil of all lessons and its blind twin (taught the
same lessons without a picture) are judged on the test split too, with its own pictures and with others. A
statement is read by P(Correct); ``calibrated``: after vea's vector scaling, fitted for each kind of claim on
validation. Needs VEA_DATA (OASIS).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from instruct import interval, numbers, rows_of
from recipes import add_rows, check_finished, kept_rows, run, spread
from rich.console import Console
from rich.table import Table

from vea.config import load_config
from vea.errors import command
from vea.evals import calibrate
from vea.evals.backends.base import Backend
from vea.evals.backends.baselines import Shuffled
from vea.evals.backends.pupil import PupilBackend
from vea.evals.question import Answer, Question
from vea.evals.run import evaluate
from vea.evals.tasks.base import open_task
from vea.tasks.instruct_saved import open_pupil

ALL, TWIN = "all lessons", "blind twin"
# an arm's changes of the config, and the sets it is taught (None: all)
ARMS: dict[str, tuple[list[str], tuple[str, ...] | None]] = {
    ALL: ([], None),
    TWIN: (["model.blind=true"], None),
    "no face tower": (["model.vision.face=null"], None),
    "concatenation": (["model.vision.fusion=concat"], None),
    "without texts": ([], ("affect", "statements", "fer")),
    "expressions alone": ([], ("fer",)),
    "affect alone": ([], ("affect",)),
    "statements alone": ([], ("statements",)),
}
COLUMNS = ("V-reg", "A-reg", "statements", "statements, calibrated", "expressions")


def settings(given: argparse.Namespace, arm: str) -> list[str]:
    """Returns the words of an arm: the sets of the config below --data, and what the arm changes."""
    words, taught = ARMS[arm]
    config = load_config(given.config)

    def sets(refs: Sequence[Any]) -> str:
        rows = []
        for ref in refs:
            name = Path(ref.path).name
            if taught is None or name.removeprefix("lessons-") in taught:
                rows.append(f"{{path: {given.data / name}, split: {ref.split}, weight: {ref.weight}, "
                            f"fraction: {ref.fraction}}}")  # fmt: skip
        return f"[{', '.join(rows)}]"

    return [f"data.train={sets(config.data.train)}", f"data.val={sets(config.data.val)}",
            f"model.path={given.model}", f"model.vision.cache={given.out / 'kept'}", f"train.steps={given.steps}",
            f"train.precision={given.precision}", f"runtime.threads={given.threads}", "tracking.backend=none",
            *words]  # fmt: skip


def asked(backend: Backend, given: argparse.Namespace, folder: Path, split: str) -> None:
    """Judges OASIS and FER+ into ``folder``; every answer is kept."""
    faces = open_task(f"choice:{given.fer}@expression")
    for task, limit, name in (
        (open_task("affect"), None, split), (open_task("statements"), None, split),
        (faces, given.faces, "val" if split == "valid" else split),
    ):  # fmt: skip
        evaluate(backend, [task], out=folder, readouts=("probability",), split=name, limit=limit)


def held(folder: Path, task: str) -> list[dict[str, Any]]:
    """Returns the judged answers of a task."""
    return rows_of(folder, open_task(task if task != "choice" else "choice:."))


def calibrated(rows: list[dict[str, Any]], known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns statements judged anew: P(Correct) scaled as fits ``known``, each kind of claim by itself."""
    made = []
    scales = {}
    for kind in {row["class"] for row in known}:
        of_kind = [row for row in known if row["class"] == kind]
        scales[kind] = calibrate.fit(*_as_answers(of_kind))
    for row in rows:
        question, answer = _as_answers([row])
        shares = calibrate.apply(scales.get(row["class"], {}), question, answer)[0].probabilities or {}
        right = bool(shares) and max(shares, key=lambda name: shares[name]) == row["truth"]
        made.append({**row, "points": {"probability": float(right)}})
    return made


def _as_answers(rows: Sequence[dict[str, Any]]) -> tuple[list[Question], list[Answer]]:
    questions = [Question(r["key"], r["prompt"], None, tuple(r.get("probabilities") or ()), group=r["group"],
                          row={"answer": r["truth"]}) for r in rows]  # fmt: skip
    return questions, [Answer(probabilities=r.get("probabilities")) for r in rows]


def columns(folder: Path, known: Path) -> dict[str, float]:
    """Returns the table's columns of the answers in ``folder``; ``known`` are those of validation, own pictures."""
    told = numbers(held(folder, "affect"))
    found = {name: told[f"{name}, expected"][0] for name in ("V-reg", "A-reg")}
    statements = held(folder, "statements")
    fitted = calibrated(statements, held(known, "statements"))
    for name, rows in (("statements", statements), ("statements, calibrated", fitted),
                       ("expressions", held(folder, "choice"))):  # fmt: skip
        found[name] = float(np.mean([row["points"].get("probability", 0.0) for row in rows]))
    return found


def measured(arm: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Returns a row: trained unless it is, judged on validation, and the pupil and its twin on the test split."""
    folder = place(arm, seed, given)
    words = [given.config, *settings(given, arm), f"out={folder}", "name=pupil", f"seed={seed}"]
    if (folder / "final" / "state.json").is_file():
        check_finished(folder, *words)
    else:
        run("finetune/train.py", *words)
    backend = PupilBackend(folder, task=open_pupil(folder))
    asked(backend, given, folder / "valid", "valid")
    row = {"valid": columns(folder / "valid", folder / "valid")}
    if arm in (ALL, TWIN):
        asked(backend, given, folder / "test", "test")
        row["test"] = columns(folder / "test", folder / "valid")
    if arm == ALL:
        asked(Shuffled(backend, seed=seed), given, folder / "shuffled", "test")
        row["shuffled"] = columns(folder / "shuffled", folder / "valid")
    return row


def place(arm: str, seed: int, given: argparse.Namespace) -> Path:
    """Returns the folder of a row."""
    return Path(given.out / f"{arm.replace(' ', '-')}-s{seed}")


def paired(given: argparse.Namespace, seeds: Sequence[int]) -> list[str]:
    """Returns a sentence for each task and control: the pupil minus it on the test split, by seed, of all seeds
    together (a picture is drawn with its answers of every seed), and so for each kind of statement."""
    told = []
    for task, fit in (("statements", False), ("statements", True), ("choice", False)):
        for control in ("shuffled", TWIN):
            pairs = [_pair(given, seed, task, control, fit) for seed in seeds]
            gains = [interval(own, other, "probability") for own, other in pairs]
            every = [(a, b) for own, other in pairs for a, b in zip(own, other, strict=True)]
            kinds = sorted({a["class"] for a, _ in every}) if task == "statements" else []
            parts = [f"{task}{', calibrated' if fit else ''}, own picture minus {control}, by seed: "
                     + ", ".join(_words(gain) for gain in gains),
                     f"  mean over seeds {spread([gain for gain, _, _ in gains])}; "
                     f"together {_words(interval(*zip(*every), 'probability'))}"]  # fmt: skip
            for kind in kinds:
                of_kind = [(a, b) for a, b in every if a["class"] == kind]
                parts.append(f"  {kind}: {_words(interval(*zip(*of_kind), 'probability'))}")
            told += parts
    return told


def _pair(given: argparse.Namespace, seed: int, task: str, control: str, fit: bool) -> list[list[dict[str, Any]]]:
    """Returns the judged answers of the pupil and of its control on the test split."""
    own, twin = place(ALL, seed, given), place(TWIN, seed, given)
    sides = [(own / "test", own), (own / "shuffled", own) if control == "shuffled" else (twin / "test", twin)]
    if not fit:
        return [held(folder, task) for folder, _ in sides]
    return [calibrated(held(folder, task), held(base / "valid", task)) for folder, base in sides]


def _words(gain: Sequence[float]) -> str:
    return f"{100 * gain[0]:+.1f} ({100 * gain[1]:+.1f} to {100 * gain[2]:+.1f})"


def show(rows: dict[str, Any], given: argparse.Namespace) -> None:
    """Prints the tables: mean and deviation over seeds, times 100; then the pupil against its controls."""
    for part in ("valid", "test", "shuffled"):
        table = Table(title=f"{part}, {given.steps} steps, times 100", title_justify="left")
        for column in ("arm", "seeds", *COLUMNS):
            table.add_column(column)
        for arm in ARMS:
            values = [row[part] for key, row in sorted(rows.items()) if key.rpartition("|")[0] == arm and part in row]
            if values:
                table.add_row(arm, str(len(values)), *(spread([v[name] for v in values]) for name in COLUMNS))
        Console(width=120).print(table)
    seeds = [seed for seed in given.seeds if all(f"{arm}|{seed}" in rows for arm in (ALL, TWIN))]
    print("\n".join(paired(given, seeds) if seeds else ["no seed with pupil and twin yet"]))


@command
def main(argv: list[str]) -> None:
    """Makes the rows that are missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--config", default="configs/finetune/instruct_smollm2.yaml")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder above the sets of the config")
    parser.add_argument("--fer", type=Path, default=Path("data/fer2013plus"), help="prepared FER+")
    parser.add_argument("--faces", type=int, default=300, help="faces of FER+ in validation and in test, the first")
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="default: the config's")
    parser.add_argument("--precision", default="bf16", help="of training: bf16 where the processor multiplies it")
    parser.add_argument("--limit", type=int, help="most rows to make now")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/instruct-ablation"))
    parser.add_argument("--show", action="store_true", help="only the tables")
    given = parser.parse_args(argv)
    given.steps = given.steps or load_config(given.config).train.steps
    file = given.out / "rows.json"
    made = kept_rows(file, {"steps": given.steps, "faces": given.faces})
    for arm in given.arms:  # a typo stops here, before any run
        load_config(given.config, settings(given, arm))
    wanted = [] if given.show else [(arm, seed) for seed in given.seeds for arm in given.arms]
    add_rows(file, made, wanted, lambda arm, seed: measured(arm, seed, given), limit=given.limit)
    show(made["rows"], given)


if __name__ == "__main__":
    sys.exit(main())
