"""Strict sections, YAML with ``base:``, overrides, and errors as one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from vea.errors import VeaError, did_you_mean


class Section(BaseModel):
    """A part of a config: unknown keys are errors, values are checked again when assigned."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)


def _merge(low: dict, high: dict) -> dict:
    merged = dict(low)
    for key, value in high.items():
        merged[key] = (
            _merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
        )
    return merged


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Returns the mapping in a YAML file with its ``base:`` files (relative to it) merged underneath."""
    path = Path(path)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("configs")
        raise VeaError(f"no config file {path}{did_you_mean(path.name, [p.name for p in folder.rglob('*.yaml')])}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VeaError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise VeaError(f"{path} must hold a mapping of keys to values, it holds a {type(data).__name__}")
    bases = data.pop("base", [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        merged = _merge(merged, read_yaml(path.parent / base))
    return _merge(merged, data)


def _parse_value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    # YAML 1.1 reads "1e-4" as a string; pydantic turns it into the float that was meant
    return text if value is None and text not in ("null", "~", "") else value


def apply_override(data: dict[str, Any], override: str) -> None:
    """Sets ``a.b.0.c=value`` in nested mappings and lists."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise VeaError(f"override {override!r} is not of the form a.b=value")
    *parents, last = path.split(".")
    node: Any = data
    try:
        for name in parents:
            node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
            if node is None:
                raise TypeError
        if isinstance(node, list):
            node[int(last)] = _parse_value(text)
        elif isinstance(node, dict):
            node[last] = _parse_value(text)
        else:
            raise TypeError
    except (ValueError, IndexError, TypeError):
        raise VeaError(
            f"override {override!r} does not fit the config: {'.'.join(parents)} has no entry {last!r}"
        ) from None


def _keys_of(schema: Any, location: tuple) -> list[str]:
    """Returns the valid keys of the section that ``location`` (a pydantic error location) points into."""
    for part in location:
        if isinstance(part, int):
            continue
        fields = getattr(schema, "model_fields", {})
        if part not in fields:
            return []
        schema = fields[part].annotation
        candidates = [schema, *getattr(schema, "__args__", ())]
        schema = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return list(getattr(schema, "model_fields", {}))


def _sentence(error: ValidationError, schema: type[BaseModel], where: str) -> str:
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = did_you_mean(str(first["loc"][-1]), _keys_of(schema, first["loc"][:-1]))
        return f"{where}: unknown key {location!r}{near}"
    if first["type"] == "missing":
        return f"{where}: {location!r} is required and not set"
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(first.get("input"), (dict, BaseModel)) else f" (got {first.get('input')!r})"
    return f"{where}: {location + ': ' if location else ''}{message[0].lower() + message[1:]}{shown}"


def to_yaml(config: BaseModel) -> str:
    """Returns the resolved config as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
