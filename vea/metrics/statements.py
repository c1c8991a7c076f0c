"""Emotion statement judgment (MVEI): what an answer says about a statement, and the published scores.

Three parsers, because the published two disagree and both are too kind: ``conference`` (Qiu et al. 2025, the released
scorer), ``emobserver`` (the scorer of EmObserver) and ``strict`` (ours: whole words, aware of negation).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from vea.errors import VeaError, did_you_mean
from vea.taxonomy.negation import words_with_negation

Verdict = Literal["correct", "incorrect", "abstain"]

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_ISOLATED = {letter: re.compile(rf"(?:^|[^A-Za-z]){letter}(?:$|[^A-Za-z])") for letter in "ab"}
_HEDGES = frozenset(["whether", "if", "unsure", "uncertain", "sure", "certain"])
_NEGATED: dict[str, Verdict] = {"correct": "incorrect", "incorrect": "correct"}


def answer_text(text: str) -> str:
    """Returns the part of a reply that the EmObserver scorers read.

    Inside the first ``<answer>...</answer>``; else behind the last of ``<answer>`` and ``</think>``; else everything.
    """
    found = _ANSWER.search(text)
    if found:
        return found.group(1)
    lower = text.lower()
    opened, thought = lower.rfind("<answer>"), lower.rfind("</think>")
    cut = max(opened, thought)
    return text if cut < 0 else text[cut + len("<answer>" if opened > thought else "</think>") :]


def _conference(text: str) -> Verdict:
    lower = text.lower()
    return "incorrect" if "incorrect" in lower else "correct" if "correct" in lower else "abstain"


def _emobserver(text: str) -> Verdict:
    answer = answer_text(text)
    verdict = _conference(answer)
    if verdict != "abstain":
        return verdict
    if "A" in answer or _ISOLATED["a"].search(answer):
        return "correct"
    return "incorrect" if "B" in answer or _ISOLATED["b"].search(answer) else "abstain"


def _strict(text: str) -> Verdict:
    pairs = _ANSWER.findall(text)
    said: set[Verdict] = set()
    unsure = False
    for word, negated in words_with_negation(pairs[-1] if pairs else answer_text(text)):
        unsure |= word in _HEDGES
        word = word.replace("-", "") if word == "in-correct" else word
        if word in _NEGATED:
            said.add(_NEGATED[word] if negated else _NEGATED[_NEGATED[word]])
    return "abstain" if len(said) != 1 or unsure else said.pop()


PARSERS: dict[str, Callable[[str], Verdict]] = {"conference": _conference, "emobserver": _emobserver, "strict": _strict}


def parse_statement(text: str | None, *, parser: str = "conference") -> Verdict:
    """Returns what a reply says about a statement: ``correct``, ``incorrect`` or ``abstain``.

    Args:
        text: the reply as the model gave it; None or empty is an abstention.
        parser: ``conference`` looks for "incorrect", then "correct", anywhere ("not correct" is correct to it);
            ``emobserver`` does so in the answer part and then takes an A or a B; ``strict`` wants whole words, reads
            "not correct" as incorrect, and abstains when a reply says both or says that it is not sure.

    Raises:
        VeaError: there is no such parser.
    """
    if parser not in PARSERS:
        raise VeaError(f"no statement parser {parser!r}{did_you_mean(parser, PARSERS)}")
    return PARSERS[parser](text) if text else "abstain"


def _shares(verdicts: list[tuple[str, Verdict]]) -> dict[str, float]:
    total = len(verdicts)
    share = {
        "accuracy": sum(label == verdict for label, verdict in verdicts),
        "positive_ratio": sum(verdict == "correct" for _, verdict in verdicts),
        "give_up_ratio": sum(verdict == "abstain" for _, verdict in verdicts),
    }
    return {**{name: count / total if total else 0.0 for name, count in share.items()}, "total": total}


def statement_scores(rows: Iterable[Mapping[str, Any]], parser: str = "conference") -> dict[str, dict[str, float]]:
    """Returns accuracy, positive ratio, give-up ratio and count, overall and per class (MVEI, arXiv 2509.21950).

    Args:
        rows: one mapping a statement: ``class``, ``label`` ("correct" or "incorrect", any case) and ``predict``, the
            reply as text. A missing ``predict`` is an abstention, and an abstention is wrong.
        parser: see ``parse_statement``.

    Raises:
        VeaError: a row has no label, or there is no such parser.
    """
    all_rows: list[tuple[str, Verdict]] = []
    classes: dict[str, list[tuple[str, Verdict]]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row.get("label"), str):
            raise VeaError(f"row {number} has no label; each statement needs label: correct or incorrect")
        pair = (str(row["label"]).strip().lower(), parse_statement(row.get("predict"), parser=parser))
        all_rows.append(pair)
        if row.get("class") is not None:
            classes.setdefault(str(row["class"]), []).append(pair)
    if parser not in PARSERS:  # no row asked
        parse_statement("", parser=parser)
    return {"overall": _shares(all_rows), **{name: _shares(pairs) for name, pairs in classes.items()}}


def pair_score(rows: Iterable[Mapping[str, Any]], parser: str = "conference") -> dict[str, float]:
    """Returns the share of pairs of a true and a false version that are both judged right, and the number of pairs.

    Rows carry ``pair``, the same value for the versions of one claim (EmotionHallucer's rule); a group without both
    a correct and an incorrect version is no pair.
    """
    groups: dict[Any, list[tuple[str, bool]]] = {}
    for row in rows:
        if row.get("pair") is not None:
            label = str(row["label"]).strip().lower()
            right = parse_statement(row.get("predict"), parser=parser) == label
            groups.setdefault(row["pair"], []).append((label, right))
    whole = [group for group in groups.values() if {label for label, _ in group} >= {"correct", "incorrect"}]
    both = sum(all(ok for _, ok in group) for group in whole)
    return {"accuracy": both / len(whole) if whole else 0.0, "total": len(whole)}
