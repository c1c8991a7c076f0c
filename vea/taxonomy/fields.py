"""What a label field is, and when two data sets agree on one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vea.errors import VeaError
from vea.taxonomy.words import canonical_expression


def check_same_classes(expected: Sequence[str], found: Sequence[str], where: str) -> None:
    """Raises ``VeaError`` unless both hold the same class names in the same order.

    ``where`` says what holds ``found``, for instance a data set's path. The sentence says which names are
    missing or unknown, or at which index the order differs.
    """
    expected, found = list(expected), list(found)
    if expected == found:
        return
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    if missing or unknown:
        parts = [f"lacks {', '.join(map(repr, missing))}"] if missing else []
        parts += [f"has {', '.join(map(repr, unknown))}, which are not expected"] if unknown else []
        detail = " and ".join(parts)
        renamed = {canonical_expression(name) for name in missing} == {canonical_expression(name) for name in unknown}
        if renamed and None not in {canonical_expression(name) for name in missing}:
            detail += " (the same expressions under other names)"
        raise VeaError(
            f"{where}: the class names differ: it {detail}; expected {', '.join(expected)}; "
            "use data and weights of one label set"
        )
    if len(expected) != len(found):
        raise VeaError(f"{where}: a class name is repeated: {', '.join(found)}")
    index = next(i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b)
    raise VeaError(
        f"{where}: same class names in another order: index {index} is {found[index]!r}, expected "
        f"{expected[index]!r} (expected {', '.join(expected)}; found {', '.join(found)})"
    )


FieldKind = Literal["class", "multilabel", "distribution", "value"]


@dataclass(frozen=True)
class LabelField:
    """The meaning of one label: its kind and, where it has classes, their names in index order.

    Kinds and what a sample's ``labels[name]`` holds:

    - ``class``: one class name (str);
    - ``multilabel``: a list of class names;
    - ``distribution``: a list of ``len(classes)`` non-negative numbers (votes or probabilities);
    - ``value``: one float between ``low`` and ``high`` (the scale of the raters).

    A label that a sample does not have is absent from its ``labels``.
    """

    kind: FieldKind
    classes: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the form written in ``index.json``; defaults are left out."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if value not in ((), None)
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LabelField:
        """Returns the field that ``to_json`` wrote."""
        return cls(
            kind=data["kind"], classes=tuple(data.get("classes", ())), low=data.get("low"), high=data.get("high")
        )


def merged_fields(
    fields_by_set: Mapping[str, Mapping[str, LabelField]], *, used: Collection[str] | None = None
) -> dict[str, LabelField]:
    """Returns the label fields of several data sets together, by name; the first set's where two have one name.

    Args:
        fields_by_set: of each set, by its name.
        used: the labels that a model learns or is scored on, on which the sets must agree; None for all.

    Raises:
        VeaError: two sets give one name another kind, scale, other classes or another order; the sentence names both.
    """
    merged: dict[str, LabelField] = {}
    origin: dict[str, str] = {}
    for where, fields in fields_by_set.items():
        for name, entry in fields.items():
            if name not in merged:
                merged[name], origin[name] = entry, where
                continue
            if used is not None and name not in used:
                continue
            first, both = merged[name], f"{origin[name]} and {where} cannot be mixed"
            if entry.kind != first.kind:
                raise VeaError(
                    f"{both}: label {name!r} is a {first.kind} in the first and a {entry.kind} in the second"
                )
            if (entry.low, entry.high) != (first.low, first.high):
                raise VeaError(
                    f"{both}: {name!r} goes from {first.low} to {first.high} in the first and from {entry.low} to "
                    f"{entry.high} in the second"
                )
            try:
                check_same_classes(first.classes, entry.classes, f"{where}, label {name!r}")
            except VeaError as error:
                raise VeaError(f"{both}: {error}") from None
    return merged
