"""The names that data sets use for expressions, and the one name that each stands for."""

from __future__ import annotations

from collections.abc import Sequence

from vea.errors import VeaError, did_you_mean

# One noun for every name that an expression data set uses for it.
_EXPRESSION_NAMES: dict[str, tuple[str, ...]] = {
    "anger": ("angry", "anger"),
    "disgust": ("disgust", "disgusted"),
    "fear": ("fear", "fearful", "afraid"),
    "happiness": ("happiness", "happy", "joy"),
    "sadness": ("sadness", "sad"),
    "surprise": ("surprise", "surprised"),
    "neutral": ("neutral",),
    "contempt": ("contempt", "contemptuous"),
}
_CANONICAL = {alias: noun for noun, aliases in _EXPRESSION_NAMES.items() for alias in aliases}


def canonical_expression(name: str) -> str | None:
    """Returns the noun of a facial expression (``Happy`` -> ``happiness``), or None if it is not one."""
    return _CANONICAL.get(str(name).strip().lower())  # a description from elsewhere may hold anything


def map_expressions(source: Sequence[str], target: Sequence[str]) -> list[int | None]:
    """Returns, for each class of ``source``, the index of the same expression in ``target``, None where it has none.

    The mapping is by name: ``happy`` is ``happiness``, ``angry`` is ``anger``; case does not matter.

    Raises:
        VeaError: a name of either list is not a facial expression, or two classes of ``target`` are the same one.
    """
    for names in (source, target):
        for name in names:
            if canonical_expression(name) is None:
                raise VeaError(f"{name!r} is not a facial expression{did_you_mean(name.lower(), _CANONICAL)}")
    position = {canonical_expression(name): index for index, name in enumerate(target)}
    if len(position) < len(target):
        raise VeaError(f"two of the classes {', '.join(target)} are the same facial expression")
    return [position.get(canonical_expression(name)) for name in source]
