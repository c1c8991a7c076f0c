"""Choice among named emotions (VECBench): which candidate an answer names, and the published group scores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vea.errors import VeaError, did_you_mean
from vea.metrics.statements import answer_text
from vea.taxonomy.negation import words_with_negation

GROUPS: dict[str, tuple[str, ...]] = {
    "id_ver": ("EmoSet-8", "FI-8", "WebEmo-25", "WebEmo-7"),
    "id_vsa": ("FI-2", "WebEmo-2"),
    "ood_ver": ("UnbiasedEmo-6", "Abstract-8", "Artphoto-8"),
}
ALIASES = {"UnbaisedEmo-6": "UnbiasedEmo-6"}
PROTOCOLS = ("emobserver", "emocaliber", "strict")
UNKNOWN = "unknown"


def _emobserver(text: str, candidates: Sequence[str]) -> str:
    answer = answer_text(text).lower()
    return next((name for name in candidates if name.lower() in answer), candidates[0] if candidates else "")


def _emocaliber(text: str, candidates: Sequence[str]) -> str:
    lower = text.lower()
    pair = re.search(r"<answer>(.*?)</answer>", lower)  # no line breaks inside, as published
    looked_at = pair.group(1) if pair and pair.group(1) else lower
    return next((name.lower() for name in candidates if name.lower() in looked_at), UNKNOWN)


def _strict(text: str, candidates: Sequence[str]) -> str:
    answer = answer_text(text)
    pairs = words_with_negation(answer)
    words = [word for word, _ in pairs]
    named = {  # numbers, such as EmoSet's levels of brightness, have no words
        name for name in candidates
        if not re.search("[a-z]", name.lower()) and re.search(rf"(?<![\d.-]){re.escape(name)}(?!\.?\d)", answer)
    }  # fmt: skip
    for name in candidates:
        parts = re.findall(r"[a-z]+(?:'[a-z]+)?(?:-[a-z]+)*", name.lower())
        for start in range(len(words) - len(parts) + 1):
            if parts and words[start : start + len(parts)] == parts and not pairs[start][1]:
                named.add(name)
    longest = {name for name in named if not any(name != other and name.lower() in other.lower() for other in named)}
    return longest.pop() if len(longest) == 1 else UNKNOWN


def parse_choice(text: str | None, candidates: Sequence[str], *, protocol: str = "emobserver") -> str:
    """Returns the candidate that a reply names.

    Args:
        text: the reply; None counts as empty.
        candidates: the names offered, in the order of the question.
        protocol: ``emobserver``: the first candidate of the list that is a substring of the answer part, else the
            first of the list; ``emocaliber``: the same on the lower-cased text, else ``unknown`` (returned lower-case);
            ``strict``: the one candidate that stands there as a whole word and is not negated, else ``unknown``.

    Raises:
        VeaError: there is no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise VeaError(f"no choice protocol {protocol!r}{did_you_mean(protocol, PROTOCOLS)}")
    rule = {"emobserver": _emobserver, "emocaliber": _emocaliber, "strict": _strict}[protocol]
    return rule(text or "", candidates)


def _is_right(row: Mapping[str, Any], protocol: str) -> bool:
    predicted = parse_choice(row.get("predict"), list(row["candidates"] or []), protocol=protocol)
    label = str(row["label"])
    # EmObserver compares as written; the others in lower case
    return predicted == label if protocol == "emobserver" else predicted.lower() == label.lower()


def choice_scores(rows: Iterable[Mapping[str, Any]], protocol: str = "emobserver") -> dict[str, float]:
    """Returns the accuracy of each task, the mean of each VECBench group and the mean of the three groups.

    Args:
        rows: one mapping an answer: ``task``, ``candidates`` (names in order), ``label``, ``predict`` (the reply).
        protocol: see ``parse_choice``.

    Returns:
        ``id_ver_acc``, ``id_vsa_acc``, ``ood_ver_acc``, ``total_acc`` and ``TASK_acc`` for the nine tasks and any
        other task of the rows. As published, a task without rows counts as 0 in its group: look at the tasks' own
        scores when only some were run. A task outside the nine enters no group.

    Raises:
        VeaError: a row misses a field, or there is no such protocol.
    """
    counts: dict[str, list[bool]] = {task: [] for tasks in GROUPS.values() for task in tasks}
    for number, row in enumerate(rows):
        missing = [name for name in ("task", "candidates", "label") if name not in row]
        if missing:
            raise VeaError(f"row {number} has no {missing[0]}; a choice needs task, candidates, label and predict")
        task = ALIASES.get(row["task"], row["task"])
        counts.setdefault(task, []).append(_is_right(row, protocol))
    if protocol not in PROTOCOLS:  # no row asked
        parse_choice("", [], protocol=protocol)
    accuracy = {task: sum(right) / len(right) if right else 0.0 for task, right in counts.items()}
    groups = {f"{name}_acc": sum(accuracy[task] for task in tasks) / len(tasks) for name, tasks in GROUPS.items()}
    total = sum(groups.values()) / len(groups)
    return {**groups, "total_acc": total, **{f"{task}_acc": value for task, value in accuracy.items()}}
