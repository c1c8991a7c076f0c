"""Strict sections, and errors of a config as one sentence."""

from __future__ import annotations

import re
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from vea.errors import did_you_mean

NUMBER = re.compile(r"[-+]?(\d[\d_]*(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


def number(value: Any) -> Any:
    """Returns text that is written like a number as that number, also inside lists and mappings; the rest as it is."""
    if isinstance(value, dict):
        return {key: number(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [number(item) for item in value]
    if not isinstance(value, str) or not NUMBER.fullmatch(value.strip()):
        return value
    try:
        return int(value)
    except ValueError:
        return float(value)


# A mapping without a schema: nobody else would turn the text "1e-4" into the number that is meant.
Arguments = Annotated[dict[str, Any], BeforeValidator(number)]


class Section(BaseModel):
    """A part of a config: unknown keys are errors, values are checked again when assigned; no NaN, no infinity."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True, allow_inf_nan=False)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Returns the section that a key of this type holds, itself, in a list or optionally; None for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (section_of(part) for part in getattr(annotation, "__args__", ()))
    return next((section for section in found if section), None)


def _keys_of(schema: Any, location: tuple) -> list[str]:
    """Returns the valid keys of the section that ``location`` (a pydantic error location) points into."""
    for part in location:
        if isinstance(part, int):
            continue
        fields = getattr(schema, "model_fields", {})
        if part not in fields:
            return []
        schema = section_of(fields[part].annotation)
    return list(getattr(schema, "model_fields", {}))


def sentence(error: ValidationError, schema: type[BaseModel], where: str) -> str:
    """Returns the first mistake that pydantic found: the key, what is wrong, and what was given."""
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = did_you_mean(str(first["loc"][-1]), _keys_of(schema, first["loc"][:-1]))
        return f"{where}: unknown key {location!r}{near}"
    if first["type"] == "missing":
        return f"{where}: {location!r} is required and not set"
    message = first["msg"].removeprefix("Value error, ")
    given = repr(first.get("input"))
    shown = given if len(given) <= 80 else f"{given[:77]}..."
    shown = "" if isinstance(first.get("input"), dict | BaseModel) else f" (got {shown})"
    return f"{where}: {location + ': ' if location else ''}{message[0].lower() + message[1:]}{shown}"


def public(value: Any) -> Any:
    """Returns settings without the queries of URLs: a signed address carries a key that belongs into no file or log."""
    if isinstance(value, dict):
        return {key: public(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [public(entry) for entry in value]
    if isinstance(value, str) and re.match(r"[a-z][a-z0-9+]+:/", value):
        return value.partition("?")[0]
    return value


def to_yaml(config: BaseModel) -> str:
    """Returns the resolved config as YAML, every default written out; without the queries of URLs."""
    return yaml.safe_dump(public(config.model_dump(mode="json")), sort_keys=False, allow_unicode=True)
