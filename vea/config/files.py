"""Config files: strict YAML with ``base:``, and ``a.b=c`` overrides. What cannot be read is one sentence."""

from __future__ import annotations

import datetime
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from vea.errors import VeaError, did_you_mean

MAX_VALUES = 100_000  # a page of nested aliases would unfold to billions
MAX_DEPTH = 50


class _Loader(yaml.SafeLoader):
    """YAML without surprises: a key occurs once in a mapping, and a date is its text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                what = "is no plain word" if not isinstance(key, Hashable) else "occurs twice"
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} {what}", key_node.start_mark)
            if key_node.tag != "tag:yaml.org,2002:merge":
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _unfolded(value: Any, *, depth: int = 0, count: list[int] | None = None) -> Any:
    """Returns ``value`` without aliases: every place has an object of its own, and an override changes one place."""
    count = count if count is not None else [0]
    count[0] += 1
    if depth > MAX_DEPTH or count[0] > MAX_VALUES:
        raise ValueError("it is nested too deeply, holds too many values, or an alias holds itself")
    if isinstance(value, dict):
        return {key: _unfolded(item, depth=depth + 1, count=count) for key, item in value.items()}
    if isinstance(value, list):
        return [_unfolded(item, depth=depth + 1, count=count) for item in value]
    if isinstance(value, bytes | set | tuple | datetime.date):
        raise ValueError(f"it holds a {type(value).__name__}: a config has words, numbers, lists and mappings")
    return value


def _parsed(text: str) -> Any:
    """Returns what YAML text holds; raises ``ValueError`` with the reason in one line."""
    try:
        return _unfolded(yaml.load(text, Loader=_Loader))  # a SafeLoader
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, AttributeError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _merge(low: dict, high: dict) -> dict:
    merged = dict(low)
    for key, value in high.items():
        merged[key] = (
            _merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
        )
    return merged


def read_yaml(path: str | Path, *, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Returns the mapping in a YAML file with its ``base:`` files (relative to it) merged underneath.

    Args:
        path: the file.
        above: the files whose ``base:`` led here.

    Raises:
        VeaError: the file or one of its bases is missing, cannot be read, or is no mapping of words to values.
    """
    path = Path(path)
    data = _mapping(path)
    trail = (*above, path.resolve())
    bases = data.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) and base and "\0" not in base for base in bases):
        raise VeaError(f"{path}: base must name a file or a list of files, it is {bases!r}")
    merged: dict[str, Any] = {}
    for base in bases:
        if (path.parent / base).resolve() in trail:
            raise VeaError(f"{path}: base {base} leads back to itself; remove it from one of the files")
        merged = _merge(merged, read_yaml(path.parent / base, above=trail))
    return _merge(merged, data)


def _mapping(path: Path) -> dict[str, Any]:
    try:
        if path.is_dir():
            raise VeaError(f"{path} is a folder, not a config file{_nearest(path / 'config.yaml')}")
        if not path.exists():
            raise VeaError(f"no config file {path}{_nearest(path)}")
        data = _parsed(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise VeaError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise VeaError(f"{path} cannot be read ({error.strerror}); name a readable file") from None
    except ValueError as error:
        raise VeaError(f"{path} is not readable YAML: {error}") from None
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise VeaError(f"{path} must hold a mapping of keys to values, it holds a {type(data).__name__}")
    _check_keys(data, path)
    return data


def _nearest(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("configs")
    return did_you_mean(path.name, [found.name for found in folder.rglob("*.yaml")][:200])


def _check_keys(value: Any, path: Path) -> None:
    """Raises ``VeaError`` for a key that is no text: YAML reads ``on:`` and ``no:`` as true and false."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if isinstance(value, dict) and not isinstance(key, str):
            raise VeaError(f"{path}: the key {key!r} is no text; put it in quotes")
        _check_keys(item, path)


def _parse_value(text: str) -> Any:
    try:
        value = _parsed(text)
    except ValueError:
        return text
    # YAML 1.1 reads "1e-4" as a string; the schema turns it into the float that was meant
    return text if value is None and text not in ("null", "~", "") else value


def apply_override(data: dict[str, Any], override: str) -> None:
    """Sets ``a.b.0.c=value`` in nested mappings and lists; a section that is ``null`` becomes one."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise VeaError(f"override {override!r} is not of the form a.b=value")
    *parents, last = path.split(".")
    node: Any = data
    try:
        for name in parents:
            if isinstance(node, list):
                node = node[int(name)]
            else:
                if node.get(name) is None:
                    node[name] = {}
                node = node[name]
        if isinstance(node, list):
            node[int(last)] = _parse_value(text)
        elif isinstance(node, dict):
            node[last] = _parse_value(text)
        else:
            raise TypeError
    except (ValueError, IndexError, TypeError, AttributeError):
        raise VeaError(
            f"override {override!r} does not fit the config: {'.'.join(parents)} has no entry {last!r}"
        ) from None
