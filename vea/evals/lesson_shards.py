"""Lessons as shards: `vea instructions ... --shards DIR`, what `recipe: instruct` trains on.

A sample is a picture with all that is asked about it, or a blank picture for a text. Each entry of its ``text`` is one
lesson as JSON: task, class, q, a, and where answers are named choices, where they are numbers value (0 to 1).
"""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vea.data.sample import Sample
from vea.data.shards.plan import write_dataset
from vea.errors import VeaError
from vea.evals import oasis
from vea.evals.instructions import TEXT_TASKS, Lesson, asked, ready_lessons
from vea.evals.outside_labels import Outside
from vea.evals.tasks import affect, choice

# The same questions in few words: cheaper to learn from, and to be asked in.
HINT_ENDS = "the others only if none fits. "  # of vea.evals.backends.ours
FEW_WORDS = {
    affect.VALENCE: "Valence of the viewer, 0 to 9:",
    affect.AROUSAL: "Arousal of the viewer, 0 to 9:",
    affect.ORDINAL: "Valence class, -3 to 3:",
}
_STATEMENT = oasis.PROMPT.partition("{statement}")[2]
_FORMS = (  # what a question begins with, what stands before and behind its own part, and the few words
    (affect.LABELS.partition("{names}")[0], None, None, "Emotions in the image:"),
    (choice.PROMPT.partition("{options}")[0], None, None, "Emotion closest to the image:"),
    (TEXT_TASKS["V-reg"].partition("{text}")[0], "Text: ", " Intensity Score:", "Valence of the reader, 0 to 9: {own}"),
    (TEXT_TASKS["A-reg"].partition("{text}")[0], "Text: ", " Intensity Score:", "Arousal of the reader, 0 to 9: {own}"),
    (
        TEXT_TASKS["E-c"].partition("{names}")[0],
        "Text: ",
        " This text contains emotions:",
        "Emotions in the text: {own}",
    ),
)


def few_words(prompt: str) -> str | None:
    """Returns a question of vea's tasks in few words, None for any other; a recogniser's hint stays before it."""
    hint, ends, rest = prompt.partition(HINT_ENDS)
    if ends:
        few = few_words(rest)
        return f"{hint}{ends}{few}" if few else None
    if prompt in FEW_WORDS:
        return FEW_WORDS[prompt]
    if prompt.endswith(_STATEMENT):
        return f"{prompt.removesuffix(_STATEMENT)} Correct or Incorrect?"
    for begins, before, behind, form in _FORMS:
        if prompt.startswith(begins):
            own = prompt.partition(before)[2].removesuffix(behind or "") if before else ""
            return form.format(own=own)
    return None


def lesson_text(lesson: Lesson, *, seed: int, brief_share: float) -> str:
    """Returns the lesson as it stands in a shard."""
    question = lesson.question
    few = few_words(question.prompt)
    if few is not None and random.Random(f"brief {seed} {lesson.source}/{question.key}").random() >= brief_share:
        few = None
    known: dict[str, Any] = {
        "task": lesson.name, "class": lesson.kind, "q": few or asked(lesson, seed=seed), "a": lesson.answer
    }  # fmt: skip
    if question.choices:
        known["choices"] = list(question.choices)
    if question.values or (question.choices and isinstance(question.row.get("truth"), float)):
        known["value"] = float(question.row["truth"])
    return json.dumps(known, ensure_ascii=False)


def _blank() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()


def _samples(lessons: Sequence[Lesson], digests: dict[Path, str], *, seed: int, brief_share: float) -> list[Sample]:
    found: dict[str, Sample] = {}
    for lesson in lessons:
        picture = lesson.question.picture
        name = (
            digests[picture][:32] if picture is not None else f"{lesson.source}/{lesson.question.key}".rsplit("/", 1)[0]
        )
        if name not in found:
            data = picture.read_bytes() if picture is not None else _blank()
            source = f"texts:{lesson.source.removeprefix('texts:')}" if picture is None else Path(lesson.source).name
            found[name] = Sample(name, data, "jpg", source=source, split=lesson.split)
        found[name].text.append(lesson_text(lesson, seed=seed, brief_share=brief_share))
    return list(found.values())


def write_lessons(
    specs: Sequence[str], out: Path, *, data: Path | None = None, seed: int = 0, most: int | None = None,
    brief_share: float = 0.0, labels: Outside | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes the prepared set ``out`` with the splits train and val; returns the counts of train.

    Args:
        specs: see ``vea.evals.instructions.collect``.
        out: the folder.
        data: the folder above the sets.
        seed: of templates, of what tasks draw and of what is left out.
        most: records of one task, class and answer; None keeps all.
        brief_share: of the questions that have a form in few words, so many have it.
        labels: see ``vea.evals.instructions.collect``.

    Raises:
        VeaError: a source is unknown or empty, or the folder is taken.
    """
    if not 0 <= brief_share <= 1:
        raise VeaError(f"--brief {brief_share}: it is a share, 0 to 1")
    splits: dict[str, list[Sample]] = {}
    leaked = 0
    counts: dict[str, Counter[str]] = {}
    for split in ("train", "val"):
        kept, digests, left_out = ready_lessons(specs, split=split, data=data, seed=seed, most=most, labels=labels)
        splits[split] = _samples(kept, digests, seed=seed, brief_share=brief_share)
        leaked += left_out
        for lesson in kept if split == "train" else ():
            counts.setdefault(lesson.name, Counter())[lesson.kind] += 1
    seen = {sample.key for sample in splits["train"]}
    splits["val"] = [sample for sample in splits["val"] if sample.key not in seen]
    write_dataset(splits, out, name=out.name, title=f"lessons from {', '.join(specs)}", fields={}, card=None)
    tasks = {name: dict(sorted(held.items())) for name, held in sorted(counts.items())}
    records = sum(len(sample.text) for sample in splits["train"])
    return {"records": records, "pictures": len(splits["train"]), "leaked": leaked, "tasks": tasks,
            **({"labels": labels.record()} if labels is not None else {})}  # fmt: skip
