"""Asks a model the questions of tasks, keeps every answer, and scores: ``vea eval`` and ``vea.evaluate``."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vea.errors import RunError, VeaError
from vea.evals.answers import Answers
from vea.evals.backends.base import READOUTS, Backend, open_backend
from vea.evals.calibrate import FEWEST, apply, fit
from vea.evals.question import Answer, Question, answer_key, picture_digest
from vea.evals.tasks.base import Task, has_readout, open_task
from vea.progress import Progress
from vea.storage.atomic import write_text
from vea.storage.lock import held


def run_name(model: str) -> str:
    """Returns a folder name for a model."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-")[:80] or "model"


def choose_readouts(backend: Backend, task: Task, wanted: Sequence[str]) -> list[str]:
    """Returns the read-outs that model and task share, in the order asked for.

    Raises:
        VeaError: there is none.
    """
    unknown = [name for name in wanted if name not in READOUTS]
    if unknown:
        raise VeaError(f"no read-out {unknown[0]!r}; choose from {', '.join(READOUTS)}")
    shared = [name for name in wanted if name in backend.readouts and name in task.readouts]
    if not shared:
        raise VeaError(f"{backend.name} gives {', '.join(backend.readouts)}; {task.name} needs another read-out")
    return shared


def limit_questions(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """Returns the questions of the first ``limit`` pictures: all that is asked about a picture stays together."""
    if limit is None:
        return list(questions)
    groups = list(dict.fromkeys(question.group for question in questions))[:limit]
    kept = set(groups)
    return [question for question in questions if question.group in kept]


def ask_all(
    backend: Backend, questions: Sequence[Question], readouts: Sequence[str], answers: Answers | None, *, label: str
) -> tuple[list[Answer], dict[str, Any]]:
    """Returns the answers in the order of the questions, and what they cost; only what is not kept is asked."""
    backend.plan(questions)
    digests: dict[Path | None, str] = {}
    keys = []
    settings = {**backend.settings, "readouts": list(readouts)}
    for question in questions:
        picture = backend.shown(question)
        if picture not in digests:
            digests[picture] = picture_digest(picture)
        keys.append(answer_key(backend.name, settings, question, picture=digests[picture]))
    known = [answers.get(key) if answers is not None else None for key in keys]
    # the same question twice in a run is asked once
    places: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        if known[place] is None:
            places.setdefault(key, []).append(place)
    asked = [questions[group[0]] for group in places.values()]
    groups = list(places.values())
    started = time.perf_counter()
    failed = 0
    with Progress(label, len(asked)) as progress:
        for number, answer in backend.ask(asked, readouts) if asked else ():
            for place in groups[number]:
                known[place] = answer
            if answer.error is not None:
                failed += 1
            elif answers is not None and backend.keeps_answers:
                answers.keep(keys[groups[number][0]], answer, model=backend.name, question=asked[number].key)
            progress.advance(1)
    cost = {
        "asked": len(asked),
        "kept": len(questions) - sum(map(len, groups)),
        "failed": failed,
        "seconds": round(time.perf_counter() - started, 3),
        "tokens": sum(answer.tokens for answer in known if answer is not None),
        "pictures": len(digests) - (None in digests),
    }
    return [answer if answer is not None else Answer(error="no answer came") for answer in known], cost


def _score(
    task: Task, questions: Sequence[Question], answers: Sequence[Answer], readouts: Sequence[str], backend: Backend
) -> dict[str, Any]:
    found = {}
    for readout in readouts:
        if not any(has_readout(answer, readout) for answer in answers):
            backend.notes.append(f"{task.name}: {backend.name} gave no {readout} read-out; it is left out")
            continue
        found[readout] = task.scores(questions, answers, readout)
    return found


def _calibrated(
    backend: Backend, task: Task, questions: Sequence[Question], given: Sequence[Answer], answers: Answers | None
) -> dict[str, Any] | None:
    """Returns the scores of P(choice) calibrated on the validation split; None, with a note, where nothing was fitted.

    The validation questions are asked for their probabilities alone, and kept beside the others.
    """
    known = task.questions(task.validation)
    if not known:
        backend.notes.append(f"{task.name} has no validation split: nothing was calibrated")
        return None
    told, _ = ask_all(backend, known, ["probability"], answers, label=f"{backend.name}: {task.name}, validation")
    scales = fit(known, told)
    if not scales:
        backend.notes.append(f"{task.name}: fewer than {FEWEST} validation answers of one form; nothing was calibrated")
        return None
    backend.notes.append(f"calibrated on {len(known)} validation questions, temperature and offsets")
    return task.scores(questions, apply(scales, questions, given), "probability")


def _answer_rows(task: Task, questions: Sequence[Question], answers: Sequence[Answer], readouts: Sequence[str]) -> Any:
    for question, answer in zip(questions, answers):
        points = {r: task.points(question, answer, r) for r in readouts if has_readout(answer, r)}
        yield {
            "key": question.key,
            "group": question.group,
            "picture": str(question.picture) if question.picture is not None else None,
            "prompt": question.prompt,
            "truth": question.row.get("answer"),
            "class": question.row.get("class"),
            "points": points,
            **answer.record(),
        }


@contextlib.contextmanager
def _locked(folder: Path | None) -> Iterator[None]:
    """Holds the folder for this process: a second runner on it stops with a sentence."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / ".eval.lock", what=f"judging into {folder}"):
        yield


def run_task(
    backend: Backend,
    task: Task,
    *,
    readouts: Sequence[str],
    limit: int | None,
    split: str,
    folder: Path | None,
    calibrate: bool = False,
) -> dict[str, Any]:
    """Returns the record of one task: scores by read-out, cost, context; writes it and its answers into ``folder``."""
    shared = choose_readouts(backend, task, readouts)
    questions = limit_questions(task.questions(split), limit)
    if not questions:
        raise VeaError(f"{task.name} has no questions in split {split!r}")
    backend.notes.clear()
    backend.counts.clear()
    backend.prepare(task.questions("train") if needs_training(backend) else [])
    with contextlib.ExitStack() as stack:
        answers = stack.enter_context(Answers(folder)) if folder is not None else None
        given, cost = ask_all(backend, questions, shared, answers, label=f"{backend.name}: {task.name}")
        if cost["failed"] == len(questions):
            reasons = ", ".join(f"{count} x {reason}" for reason, count in backend.counts.most_common(3))
            raise RunError(f"{backend.name} answered none of {len(questions)} questions ({reasons or given[0].error})")
        scores = _score(task, questions, given, shared, backend)
        if calibrate and "probability" in scores:
            scores["calibrated"] = _calibrated(backend, task, questions, given, answers)
    record = {
        "model": backend.name,
        "task": task.name,
        "source": task.source,
        "split": split,
        "questions": len(questions),
        "headline": task.headline,
        "scores": {readout: held for readout, held in scores.items() if held is not None},
        "context": task.context(split),
        "cost": cost,
        "troubles": dict(backend.counts),
        "notes": list(dict.fromkeys(backend.notes)),
        "settings": {**backend.settings, "seed": task.seed, "limit": limit},
    }
    if folder is not None:
        lines = [json.dumps(row, ensure_ascii=False) for row in _answer_rows(task, questions, given, shared)]
        write_text(folder / f"judged_{task.name}.jsonl", "".join(f"{line}\n" for line in lines))
        write_text(folder / f"eval_{task.name}.json", json.dumps(record, indent=1, ensure_ascii=False))
    return record


def needs_training(backend: Backend) -> bool:
    """Returns whether a back end learns from the training split (a shuffled one asks its model)."""
    inner = getattr(backend, "model", None)
    return type(inner if isinstance(inner, Backend) else backend).prepare is not Backend.prepare


def evaluate(
    model: str | Backend,
    tasks: str | Sequence[str | Task],
    *,
    limit: int | None = None,
    out: str | Path | None = None,
    readouts: Sequence[str] = READOUTS,
    split: str = "test",
    data: str | Path | None = None,
    seed: int = 0,
    calibrate: bool = False,
    extract: str | None = None,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Returns {task: record} of a model on tasks; the records hold scores by read-out, cost and context.

    Args:
        model: the name of a back end (see ``vea.evals.backends.base.open_backend``) or one of your own.
        tasks: ``"statements,choice:DIR"`` or a list of names and tasks.
        limit: only the first pictures.
        out: folder that keeps every answer, the records and report.html; None keeps nothing.
        readouts: ``text`` (generated, then parsed) and ``probability`` (read from the first answer token).
        split: of tasks that have splits.
        data: folder of the task's data; default: below the environment's VEA_DATA.
        seed: of everything that is drawn.
        calibrate: score P(choice) once more after a temperature and offsets fitted on the validation split.
        extract: a language model that reads open labels off replies, beside the lexicon.
        options: for the back end: base_url, concurrency, image_size, device, dtype, max_tokens ...

    Raises:
        VeaError: a name, a file or a setting is wrong.
        RunError: the model answered nothing, or another run holds ``out``.
    """
    if limit is not None and limit < 1:
        raise VeaError(f"--limit {limit}; it is a number of pictures, at least 1")
    folder = Path(out).expanduser() if out is not None else None
    specs = [part for part in tasks.split(",") if part] if isinstance(tasks, str) else list(tasks)
    place = Path(data).expanduser() if data is not None else None
    opened = [t if isinstance(t, Task) else open_task(t, data=place, seed=seed, extract=extract) for t in specs]
    if not opened:
        raise VeaError("no task; name one or more, with commas between")
    records: dict[str, dict[str, Any]] = {}
    with _locked(folder):
        backend = open_backend(model, seed=seed, **options) if isinstance(model, str) else model
        try:
            for task in opened:
                records[task.name] = run_task(
                    backend, task, readouts=readouts, limit=limit, split=split, folder=folder, calibrate=calibrate
                )
        finally:
            backend.close()
        if folder is not None:
            from vea.evals.report import write_report

            write_report(folder)
    return records
