"""Instructions for a small vision-language model, from the questions that tasks ask: pupil and judge share them.

Records have LLaVA's conversation form: ``{"id", "image", "conversations": [{"from": "human", "value"}, {"from": "gpt",
"value"}], "task", "class", "source", "key", "split"}``. The same seed gives the same bytes. Every answer is read back
by the task's own parser before it is written; no picture of a test split is taken, by key and by content.

Sources: AAID's ten paraphrased instructions a task (EmoLLMs, arXiv 2401.08508), EmoVIT's questions about attributes
(arXiv 2404.16670), statements as MVEI has them (arXiv 2509.21950).
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vea.data.shards.index import read_index
from vea.errors import RunError, VeaError
from vea.evals.outside_labels import Outside, read_records
from vea.evals.question import Answer, Question
from vea.evals.tasks.affect import DIGITS
from vea.evals.tasks.base import Task, open_task
from vea.progress import Progress
from vea.storage.atomic import new_file, write_bytes
from vea.taxonomy.outside import with_and_without

# Ten ways to put one question; {q} is the question in its task's own words, which the judge uses.
TEMPLATES = (
    "{q}",
    "Look at the image. {q}",
    "Here is a picture. {q}",
    "You are shown an image. {q}",
    "Study the picture before you answer. {q}",
    "{q}\nAnswer from what the image shows.",
    "Question about this image: {q}",
    "As an expert in emotions, answer: {q}",
    "{q}\nGive only the answer.",
    "Consider what a viewer of this image feels. {q}",
)
# Of the statements that teach: with one, a pupil learns by heart which picture a claim is right for.
MATCHINGS = 8
TEXT_TASKS = {
    "V-reg": "Task: Evaluate the valence intensity of the reader's mental state based on the text, from 0 (most "
    "negative) to 9 (most positive). Answer with one digit. Text: {text} Intensity Score:",
    "A-reg": "Task: Evaluate the arousal intensity of the reader's mental state based on the text, from 0 (most calm) "
    "to 9 (most aroused). Answer with one digit. Text: {text} Intensity Score:",
    "E-c": "Task: Identify the presence of one or more of the given emotions ({names}) in the text. Text: {text} This "
    "text contains emotions:",
}


@dataclass(frozen=True)
class Lesson:
    """A question with its answer, and where it comes from; ``task`` reads the answer back, None for texts."""

    question: Question
    answer: str
    name: str
    source: str
    split: str
    task: Task | None = None

    @property
    def kind(self) -> str:
        """The class of the question within its task, for counts and balance."""
        return str(self.question.row.get("class") or self.question.row.get("task") or self.name)


def read_back(lesson: Lesson) -> bool:
    """Returns whether the task's own parser finds the right answer in the answer that is taught."""
    if lesson.task is None:
        return True
    given, question = Answer(text=lesson.answer), lesson.question
    point = lesson.task.points(question, given, "text")
    if point is not None:
        return point == 1
    value = lesson.task.value(question, given, "text") if hasattr(lesson.task, "value") else None
    if value is None:
        return False
    truth = float(question.row["truth"])
    return abs(value - truth) <= (0 if question.row["measure"] == "V-oc" else 1 / 18 + 1e-9)


def _of_task(spec: str, *, split: str, data: Path | None, seed: int) -> list[Lesson]:
    task = open_task(spec, data=data, seed=seed, matchings=MATCHINGS if split == "train" else 1)
    known = task.questions(task.validation if split == "val" else split)
    return [Lesson(q, str(q.row["answer"]), task.name, spec, split, task) for q in known if q.row.get("answer")]


def _of_set(folder: Path, *, split: str, seed: int) -> list[Lesson]:
    """Returns lessons of every label with classes of a prepared set: the emotion, and attributes where it has them."""
    fields = [name for name, field in read_index(folder).fields.items() if field.classes]
    if not fields:
        raise VeaError(f"{folder} has no label with classes; instructions need one")
    made = []
    for name in fields:
        asked = f"Which {name.replace('_', ' ')} does the image show? Choose one of: "
        for lesson in _of_task(f"choice:{folder}@{name}", split=split, data=None, seed=seed):
            question = lesson.question
            prompt = f"{asked}{', '.join(question.choices)}."
            row = {**question.row, "class": name}
            made.append(replace(lesson, question=replace(question, prompt=prompt, row=row), source=folder.name))
    return made


def _brought(lessons: Sequence[Lesson], labels: Outside) -> list[Lesson]:
    """Returns lessons with named choices, asked and answered in another taxonomy; those of open labels are left out."""
    made = []
    for lesson in lessons:
        question = lesson.question
        if not question.choices or "candidates" not in question.row:
            made.append(lesson)
            continue
        held, _ = labels([[lesson.answer]])
        for answer in held:
            names, old = ", ".join(labels.classes), ", ".join(question.choices)
            row = {**question.row, "candidates": labels.classes, "label": answer, "answer": answer}
            prompt = question.prompt.replace(old, names)
            asked = replace(question, prompt=prompt, choices=tuple(labels.classes), row=row)
            made.append(replace(lesson, question=asked, answer=answer))
    return made


def _of_records(path: Path, *, split: str, labels: Outside) -> list[Lesson]:
    """Returns two lessons of each text of a JSONL file, with what surrounds it and alone."""
    made = []
    for record in read_records(path, split=split):
        shares, still_open = labels(record.raters)
        if not shares:
            continue
        row = {"class": "E-c", "answer": ", ".join(shares), "truth": None, "shares": shares, "open": still_open}
        forms = with_and_without(record.context, record.text)
        for number, text in enumerate(dict.fromkeys(forms)):
            words = TEXT_TASKS["E-c"].format(text=" ".join(text.split()), names=", ".join(labels.classes))
            question = Question(f"{record.key}/{number}", words, row=row)
            made.append(Lesson(question, str(row["answer"]), "E-c, text", f"texts:{path.name}", split))
    return made


def _of_texts(kind: str, root: Path, *, split: str) -> list[Lesson]:
    """Returns lessons without a picture: valence and arousal (EmoBank), emotions (GoEmotions)."""
    made: list[Lesson] = []

    def add(key: str, task: str, answer: str, value: float | None = None, **words: str) -> None:
        row = {"class": task, "answer": answer, "truth": value}
        choices = DIGITS if value is not None else ()
        question = Question(f"{key}/{task}", TEXT_TASKS[task].format(**words), choices=choices, row=row)
        made.append(Lesson(question, answer, f"{task}, text", kind, split))

    if kind == "texts:emobank":
        part = {"val": "dev"}.get(split, split)
        file = next(iter(sorted((root / "lexicons" / "emobank").glob("*.csv"))), None)
        if file is None:
            raise VeaError(f"{root / 'lexicons' / 'emobank'} holds no CSV file of EmoBank")
        with file.open(encoding="utf-8", newline="") as handle:
            rows = [row for row in csv.DictReader(handle) if row["split"] == part and row["text"].strip()]
        for row in rows:
            for task, column in (("V-reg", "V"), ("A-reg", "A")):
                value = min(max((float(row[column]) - 1) / 4, 0), 1)
                add(row["id"], task, str(round(9 * value)), value, text=" ".join(row["text"].split()))
        return made
    names = (root / "goemotions" / "labels.txt").read_text(encoding="utf-8").split()
    path = root / "goemotions" / f"{ {'val': 'dev'}.get(split, split) }.tsv"
    for line in path.read_text(encoding="utf-8").splitlines():
        text, labels, key = line.split("\t")
        words = ", ".join(names[int(label)] for label in labels.split(","))
        add(key, "E-c", words, text=" ".join(text.split()), names=", ".join(names))
    return made


def collect(
    specs: Sequence[str], *, split: str, data: Path | None, seed: int, labels: Outside | None = None
) -> list[Lesson]:
    """Returns the lessons of every source, in order.

    Args:
        specs: a prepared set's folder, a task (``statements``, ``affect:fer``, ``choice:FOLDER`` ...),
            ``texts:emobank``, ``texts:goemotions``, or ``texts:FILE.jsonl`` with labels in anybody's words.
        split: train or val; lessons are never made from test.
        data: the folder above oasis/, fer2013plus/, lexicons/ and the others.
        seed: of what a task draws.
        labels: brings the classes of prepared sets and class folders, and the labels of a file, to another taxonomy.
    """
    if split not in ("train", "val"):
        raise VeaError(f"--split {split}: instructions are made from train or val, never from {split}")
    made: list[Lesson] = []
    for spec in specs:
        if spec.startswith("texts:") and spec.endswith(".jsonl"):
            if labels is None:
                raise VeaError(f"{spec}: name the taxonomy its labels are brought to, --labels NAME")
            made += _of_records(Path(spec.removeprefix("texts:")).expanduser(), split=split, labels=labels)
        elif spec.startswith("texts:"):
            if spec not in ("texts:emobank", "texts:goemotions") or data is None:
                raise VeaError(
                    f"{spec}: choose texts:FILE.jsonl, texts:emobank or texts:goemotions; the last two need VEA_DATA"
                )
            made += _of_texts(spec, data, split=split)
        else:
            prepared = (Path(spec) / "index.json").is_file()
            found = (
                _of_set(Path(spec), split=split, seed=seed)
                if prepared
                else _of_task(spec, split=split, data=None, seed=seed)
            )
            made += found if labels is None else _brought(found, labels)
    return made


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def held_out_pictures(specs: Iterable[str], *, seed: int) -> set[str]:
    """Returns the SHA-256 of every picture that the sources' test splits show."""
    found: set[Path] = set()
    for spec in specs:
        if spec.startswith("texts:"):
            continue
        if (Path(spec) / "index.json").is_file():
            index = read_index(spec)
            if "test" not in index.splits:
                continue
            spec = f"choice:{spec}"
        found |= {q.picture for q in open_task(spec, seed=seed).questions("test") if q.picture is not None}
    return {_digest(path) for path in found}


def balance(lessons: Sequence[Lesson], *, most: int | None, seed: int) -> list[Lesson]:
    """Returns at most ``most`` lessons of each task, class and answer, drawn by seed; the order stays."""
    if most is None:
        return list(lessons)
    groups: dict[tuple[str, str, str], list[int]] = {}
    for place, lesson in enumerate(lessons):
        groups.setdefault((lesson.name, lesson.kind, lesson.answer), []).append(place)
    drawn = random.Random(f"balance {seed}")
    kept = {p for places in groups.values() for p in (drawn.sample(places, most) if len(places) > most else places)}
    return [lesson for place, lesson in enumerate(lessons) if place in kept]


def _record(lesson: Lesson, number: int, *, seed: int, image: str | None) -> dict[str, Any]:
    text = asked(lesson, seed=seed)
    return {
        "id": f"{number:08d}",
        **({"image": image} if image else {}),
        "conversations": [
            {"from": "human", "value": f"<image>\n{text}" if image else text},
            {"from": "gpt", "value": lesson.answer},
        ],
        "task": lesson.name, "class": lesson.kind, "source": Path(lesson.source).name, "key": lesson.question.key,
        "split": lesson.split, **{name: lesson.question.row[name] for name in ("shares", "open")
                                  if name in lesson.question.row},
    }  # fmt: skip


def ready_lessons(
    specs: Sequence[str], *, split: str, data: Path | None, seed: int, most: int | None, labels: Outside | None = None
) -> tuple[list[Lesson], dict[Path, str], int]:
    """Returns lessons of which each answer was read back, {picture: SHA-256}, and how many a test split also shows.

    Raises:
        VeaError: nothing is left to teach.
        RunError: an answer is not read back by its task's parser.
    """
    lessons = collect(specs, split=split, data=data, seed=seed, labels=labels)
    held_out = held_out_pictures(specs, seed=seed)
    pictures = [p for p in dict.fromkeys(lesson.question.picture for lesson in lessons) if p is not None]
    if lost := [p for p in pictures if not p.is_file()]:
        raise VeaError(f"{len(lost)} pictures are missing, first {lost[0]}; put them there, or take their rows out")
    digests = {p: _digest(p) for p in pictures}
    clean = [x for x in lessons if x.question.picture is None or digests[x.question.picture] not in held_out]
    if not clean:
        raise VeaError(f"{', '.join(specs)}: nothing to teach in the split {split!r}")
    kept = balance(clean, most=most, seed=seed)
    if unread := [lesson for lesson in kept if not read_back(lesson)]:
        first = unread[0]
        raise RunError(
            f"{len(unread)} answers are not read back by their task's parser, first {first.answer!r} to "
            f"{first.question.prompt[:80]!r} of {first.source}"
        )
    return kept, digests, len(lessons) - len(clean)


def asked(lesson: Lesson, *, seed: int) -> str:
    """Returns the question in one of its ten forms, drawn by seed and key; a text's in its own words."""
    key = f"{lesson.source}/{lesson.question.key}"
    forms = TEMPLATES if lesson.question.picture is not None else TEMPLATES[:1]
    return random.Random(f"{seed} {key}").choice(forms).format(q=lesson.question.prompt)


def write_instructions(
    specs: Sequence[str], out: Path, *, split: str = "train", data: Path | None = None, seed: int = 0,
    most: int | None = None, labels: Outside | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes ``out`` (JSONL) and the pictures beside it, in ``<stem>_images/``, each once; returns the counts.

    Args:
        specs: see ``collect``.
        out: the file; replaced when everything was read.
        split: train or val.
        data: see ``collect``.
        seed: of templates, of what tasks draw and of what is left out.
        most: records of one task, class and answer; None keeps all.
        labels: see ``collect``.

    Returns:
        ``{"records", "pictures", "leaked", "tasks": {task: {class: records}}}``; ``leaked`` counts lessons that were
        left out because a test split shows the same picture.

    Raises:
        VeaError: a source is unknown or empty, or ``split`` is test.
        RunError: an answer is not read back by its task's parser: a fault of the data or of vea.
    """
    kept, digests, leaked = ready_lessons(specs, split=split, data=data, seed=seed, most=most, labels=labels)
    folder = out.parent / f"{out.stem}_images"
    folder.mkdir(parents=True, exist_ok=True)
    shown: dict[str, str] = {}
    counts: dict[str, Counter[str]] = {}
    with new_file(out) as draft, draft.open("w", encoding="utf-8") as file, Progress("instructions", len(kept)) as bar:
        for number, lesson in enumerate(kept):
            image, picture = None, lesson.question.picture
            if picture is not None:
                digest = digests[picture]
                if digest not in shown:
                    shown[digest] = f"{digest[:24]}{picture.suffix.lower() or '.img'}"
                    write_bytes(folder / shown[digest], picture.read_bytes())
                image = f"{folder.name}/{shown[digest]}"
            file.write(json.dumps(_record(lesson, number, seed=seed, image=image), ensure_ascii=False) + "\n")
            counts.setdefault(lesson.name, Counter())[lesson.kind] += 1
            bar.advance(1)
    tasks = {name: dict(sorted(held.items())) for name, held in sorted(counts.items())}
    return {"records": len(kept), "pictures": len(shown), "leaked": leaked, "tasks": tasks,
            **({"labels": labels.record()} if labels is not None else {})}  # fmt: skip
