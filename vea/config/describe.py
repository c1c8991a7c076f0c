"""What every key of a config means, read off the schema: for ``vea config --describe`` and docs/configuration.md."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from vea.config.base import section_of
from vea.config.load import RECIPES
from vea.errors import VeaError, did_you_mean

ENTRY = "N"  # stands for the number of an entry in a list: data.train.0.path is data.train.N.path
BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True)
class Key:
    """One key: its dotted name, type, default as YAML, meaning, and the recipes that have it so."""

    name: str
    type: str
    default: str
    description: str
    section: bool
    recipes: tuple[str, ...] = ()


def type_name(annotation: Any) -> str:
    """Returns a type in the words of YAML: ``number or null``, ``a | b``, ``list of text``."""
    plain = {str: "text", int: "whole number", float: "number", bool: "true | false", type(None): "null", Any: "value"}
    if annotation in plain:
        return plain[annotation]
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(json.dumps(value) if not isinstance(value, str) else value for value in inside)
    if origin is list:
        return f"list of {'sections' if section_of(inside[0]) else type_name(inside[0])}"
    if origin is tuple:
        return f"[{', '.join(map(type_name, inside))}]"
    if origin is dict:
        return f"mapping of {type_name(inside[0])} to {type_name(inside[1])}"
    if inside:
        return " or ".join(dict.fromkeys(map(type_name, inside)))
    return "section"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    plain = round(value, 4) if isinstance(value, float) else value
    if isinstance(value, tuple):
        plain = [round(item, 4) if isinstance(item, float) else item for item in value]
    return "" if plain is PydanticUndefined else json.dumps(plain, ensure_ascii=False)


def _type(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(item, name):g}"
        for item in field.metadata
        for name, sign in BOUNDS.items()
        if getattr(item, name, None) is not None
    ]
    return ", ".join([type_name(field.annotation), *bounds])


def walk(schema: type[BaseModel], *, prefix: str = "") -> Iterator[Key]:
    """Yields every key of a schema, a section before what is in it."""
    for name, field in schema.model_fields.items():
        section = section_of(field.annotation)
        meaning = field.description or (_meaning(section) if section else _inherited(schema, name))
        yield Key(prefix + name, _type(field), _default(field), meaning, section is not None)
        if section:
            entry = f"{ENTRY}." if get_origin(field.annotation) is list else ""
            yield from walk(section, prefix=f"{prefix}{name}.{entry}")


def _inherited(schema: type[BaseModel], name: str) -> str:
    """Returns what a parent of the schema says about a key whose default the schema only changes."""
    parents = (base.model_fields.get(name) for base in schema.__mro__ if issubclass(base, BaseModel))
    return next((field.description for field in parents if field and field.description), "")


def _meaning(section: type[BaseModel]) -> str:
    """Returns the first paragraph of a section's own docstring, without the marks of code."""
    own = section.__dict__.get("__doc__") or ""
    return " ".join(textwrap.dedent(own).split("\n\n")[0].split()).replace("``", "").replace("`", "").rstrip(".;")


def keys(recipes: Mapping[str, type[BaseModel]] = RECIPES) -> list[Key]:
    """Returns the keys of all recipes; one that several recipes have alike comes once and names them."""
    found: dict[Key, list[str]] = {}
    for recipe, schema in recipes.items():
        for key in walk(schema):
            found.setdefault(key, []).append(recipe)
    return [Key(k.name, k.type, k.default, k.description, k.section, tuple(names)) for k, names in found.items()]


def find(name: str) -> list[Key]:
    """Returns the keys that ``name`` means: a key, or a section and all that is in it; ``explain.model`` is a recipe's.

    Raises:
        VeaError: no recipe has such a key; the sentence names the nearest one.
    """
    wanted = ".".join(ENTRY if part.isdigit() or part == "[]" else part for part in name.split("."))
    recipe, _, rest = wanted.partition(".")
    chosen = _within(keys(), wanted)
    if not chosen and recipe in RECIPES:
        wanted = rest
        chosen = _within(keys({recipe: RECIPES[recipe]}), rest)
    if not chosen:
        raise VeaError(f"no config has a key {name!r}{did_you_mean(wanted, _choices(wanted, keys()))}")
    return chosen


def _within(everything: list[Key], wanted: str) -> list[Key]:
    return [key for key in everything if not wanted or key.name == wanted or key.name.startswith(f"{wanted}.")]


def _choices(wanted: str, everything: list[Key]) -> list[str]:
    """Returns what may have been meant: a last word that some key ends in, or else the top of the tree."""
    names = list(dict.fromkeys(key.name for key in everything))
    last = wanted.rpartition(".")[2]
    ends = [name for name in names if name.rpartition(".")[2] == last]
    if ends:
        return ends[:5]
    near = did_you_mean(wanted, names)
    return names if near.startswith(" (did") else [name for name in names if "." not in name]


def as_text(chosen: list[Key]) -> str:
    """Returns keys for a terminal: name, type and default on a line, the meaning below it."""
    lines = []
    for key in chosen:
        default = f", default {key.default}" if key.default not in ("", "required") else ""
        needed = ", required" if key.default == "required" else ""
        only = "" if set(key.recipes) >= set(RECIPES) else f"  [{', '.join(key.recipes)}]"
        lines.append(f"{key.name}  ({key.type}{default}{needed}){only}")
        lines += textwrap.wrap(key.description, 110, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines) + "\n"


HEAD = """# Configuration

Made by `vea config --describe --markdown > docs/configuration.md` from the schema in `vea/config/`; do not edit it.

A config is a YAML file. `base:` names files that are merged underneath. Any key can be replaced on the command line:
`train.steps=10`, `data.train.0.path=data/mine`. `N` stands for the number of an entry in a list, from 0.
`vea config FILE` prints a config with every default; `vea config --describe KEY` prints one key or section.
"""


def as_markdown() -> str:
    """Returns docs/configuration.md: the keys that all recipes share, then those of each recipe."""
    everything = keys()
    parts = [HEAD]
    groups: dict[tuple[str, ...], list[Key]] = {}
    for key in everything:
        groups.setdefault(key.recipes, []).append(key)
    for recipes, members in sorted(groups.items(), key=lambda item: (-len(item[0]), item[0])):
        title = "Every recipe" if set(recipes) == set(RECIPES) else "Recipe " + ", ".join(f"`{r}`" for r in recipes)
        rows = [f"| `{k.name}` | {_cell(k.type)} | {_cell(k.default)} | {_cell(k.description)} |" for k in members]
        parts.append("\n".join([f"## {title}\n", "| key | type | default | meaning |", "|---|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")
