"""Words of a text and whether they are negated: a window of three words, as the field's lexicon readers do."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"[a-z]+(?:['’][a-z]+)?(?:-[a-z]+)*|[.!?;:,\n]")
_NEGATIONS = """
    not no never neither nor cannot hardly without lack lacks isn't isnt wasn't aren't doesn't don't didn't can't
    won't wouldn't couldn't shouldn't
"""
NEGATIONS = frozenset(_NEGATIONS.split())


def words_with_negation(text: str, *, window: int = 3) -> list[tuple[str, bool]]:
    """Returns the lower-case words of a text, each with whether one of the ``window`` words before it negates it.

    A negation does not reach over a full stop, comma, colon or line break; ``not only`` is none.
    """
    tokens = _TOKEN.findall(text.lower().replace("’", "'"))
    found: list[tuple[str, bool]] = []
    clause: list[str] = []
    for place, token in enumerate(tokens):
        if not token[0].isalpha():
            clause = []
            continue
        negated = any(word in NEGATIONS for word in clause[-window:])
        found.append((token, negated))
        only = token in NEGATIONS and tokens[place + 1 : place + 2] == ["only"]
        clause.append("" if only else token)
    return found
