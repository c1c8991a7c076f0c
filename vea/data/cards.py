"""Cards: what is known about a data set before anything is read. One YAML file each in ``datasets/cards/``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vea.errors import VeaError, did_you_mean
from vea.taxonomy.fields import FieldKind, LabelField


class FieldCard(BaseModel):
    """One label field of a card; ``classes`` are in index order."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    kind: FieldKind
    classes: list[str] = []
    low: float | None = None
    high: float | None = None


class Card(BaseModel):
    """One data set: labels in index order, expected size, raw layout, how to obtain it and under which terms.

    ``layout`` names a reader of ``vea.data.sources``; ``options`` are that reader's. ``splits`` maps a split to the
    number of samples the reader should find, or null where nobody has said.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    title: str
    task: str
    layout: str
    folder: str = Field("", description="folder of the raw data inside VEA_DATA")
    synthetic: bool = False
    fields: dict[str, FieldCard] = {}
    splits: dict[str, int | None] = {}
    options: dict[str, Any] = {}
    obtain: str
    terms: str
    citation: str
    notes: str = ""

    @property
    def label_fields(self) -> dict[str, LabelField]:
        """The fields in the type that samples and shards use."""
        return {
            name: LabelField(kind=field.kind, classes=tuple(field.classes), low=field.low, high=field.high)
            for name, field in self.fields.items()
        }


def read_card(path: str | Path) -> Card:
    """Returns the card in a YAML file.

    Raises:
        VeaError: no such file, not YAML, or a key is missing, unknown or of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise VeaError(f"no card {path}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Card.model_validate(data)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VeaError(f"card {path} is not readable YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        # A misspelt key is two errors, one missing and one unknown: the unknown one says more.
        first = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        if first["type"] == "extra_forbidden":
            known = Card if len(first["loc"]) == 1 else FieldCard
            near = did_you_mean(str(first["loc"][-1]), known.model_fields)
            raise VeaError(f"card {path}: unknown key {place!r}{near}") from None
        raise VeaError(f"card {path}: {place}: {first['msg'][0].lower() + first['msg'][1:]}") from None


def find_card(name: str, folder: str | Path) -> Card:
    """Returns the card called ``name`` in ``folder``, or the card at ``name`` if that is the path of a YAML file.

    Raises:
        VeaError: no card of that name; the sentence names the nearest one.
    """
    if name.endswith((".yaml", ".yml")):
        return read_card(name)
    names = sorted(path.stem for path in Path(folder).glob("*.yaml"))
    if name not in names:
        raise VeaError(
            f"no data set is called {name!r}{did_you_mean(name, names)}; `python datasets/prepare.py --list` shows all"
        )
    return read_card(Path(folder) / f"{name}.yaml")


def count_warnings(card: Card, found: dict[str, int]) -> list[str]:
    """Returns one line for every split whose number of samples is not the one its card expects."""
    lines = []
    for split, expected in card.splits.items():
        if expected is not None and found.get(split, 0) != expected:
            lines.append(
                f"warning: {card.name}: split {split!r} should hold {expected:,} samples by its card, "
                f"found {found.get(split, 0):,}"
            )
    return lines
