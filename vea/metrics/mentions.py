"""Which action units a text names, against those that a face shows: is an explanation true to its evidence?

The measure is that of MER-Factory's ``metrics_au`` (precision, recall and F1 of units mentioned against units present);
the words are a lexicon of ours, and a mention that is denied does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from vea.taxonomy.action_units import LEVELS, UNITS
from vea.taxonomy.negation import NEGATIONS

# What people and language models write for a movement, beside FACS's words and ours; also of units nobody reads here.
_PHRASES: dict[int, str] = {
    1: "inner brow raise; inner eyebrows raised; raised inner brows; raised inner eyebrows",
    2: "outer brow raise; outer eyebrows raised; raised outer brows; raised outer eyebrows",
    4: "brow lower; furrowed brow; furrowed brows; frowning brows; lowered brows; eyebrows lowered; knitted brows",
    5: "upper lid raise; widened eyes; wide eyes; eyes widened; wide open eyes",
    6: "cheek raiser; cheek raise; raised cheeks; cheeks raised",
    7: "lid tighten; tightened lids; squinting; narrowed eyes; eyes narrowed",
    9: "nose wrinkler; nose wrinkle; wrinkled nose; nose wrinkled",
    10: "upper lip raise; raised upper lip",
    12: "lip corner pull; smile; smiling; upturned corners of the mouth",
    14: "dimpled; dimples; smirk",
    15: "lip corner depress; downturned mouth; downturned corners of the mouth; mouth corners turned down",
    16: "lower lip depress; lowered lower lip",
    17: "chin raise; raised chin; chin boss raised",
    18: "lip pucker; puckered lips; pursed lips",
    20: "lip stretch; stretched lips",
    22: "lip funnel; funnelled lips; funneled lips",
    23: "lip tightener; tightened lips; lips tightened",
    24: "lip press; pressed lips; lips pressed",
    25: "parted lips; lips parted; mouth open; open mouth",
    26: "dropped jaw; jaw is dropped; open jaw",
    28: "lips sucked in; sucked lips",
    43: "closed eyes; eyes are closed; eyes shut",
}
_WINDOW = 3  # words before a mention, of its clause, in which a negation denies it
_DENIED_AFTER = re.compile(r"^[^.!?;:,\n]{0,40}?\b(?:absent|missing|not (?:present|visible|active))\b")


def _patterns() -> dict[int, re.Pattern[str]]:
    phrases = {number: {phrase.strip() for phrase in text.split(";")} for number, text in _PHRASES.items()}
    for unit in UNITS.values():
        phrases.setdefault(unit.number, set()).update((unit.words, unit.plain))
    return {
        number: re.compile(
            rf"\b(?:(?:au|action unit)[ -]?0?{number}|" + "|".join(sorted(map(re.escape, own), key=len, reverse=True))
            + r")\b"
        )
        for number, own in phrases.items()
    }  # fmt: skip


_PATTERNS = _patterns()


def mentioned_units(text: str) -> set[int]:
    """Returns the numbers of the units that a text says are there: by number, FACS's words, or plain ones."""
    lower = text.lower().replace("’", "'")
    return {
        number
        for number, pattern in _PATTERNS.items()
        if any(not _denied(lower, match.start(), match.end()) for match in pattern.finditer(lower))
    }


def _denied(text: str, start: int, end: int) -> bool:
    clause = re.split(r"[.!?;:,\n(]", text[:start])[-1]
    before = re.findall(r"[a-z']+", clause)[-_WINDOW:]
    return any(word in NEGATIONS for word in before) or bool(_DENIED_AFTER.match(text[end:]))


def shown_units(units: Mapping[str, float], *, least: float = LEVELS[1][0]) -> set[int]:
    """Returns the numbers of the units of ``read_units``' names whose value is ``least`` and more: moderate, strong."""
    return {UNITS[name].number for name, value in units.items() if value >= least}


def mention_scores(mentioned: Iterable[int], present: Iterable[int]) -> dict[str, float]:
    """Returns precision, recall and f1 of mentioned against present units; nothing said of nothing is 1.

    P = |M ∩ S| / |M|, R = |M ∩ S| / |S|, F1 = 2PR / (P + R); an empty M or S, not both, gives 0.
    """
    said, shown = set(mentioned), set(present)
    if not said and not shown:
        return {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    both = len(said & shown)
    precision, recall = both / len(said) if said else 0.0, both / len(shown) if shown else 0.0
    return {"precision": precision, "recall": recall, "f1": 2 * both / (len(said) + len(shown))}
