"""Read a config file; its ``recipe:`` decides the schema."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from vea.config.align import AlignConfig
from vea.config.base import sentence
from vea.config.explain import ExplainConfig
from vea.config.files import apply_override, read_yaml
from vea.config.instruct import InstructConfig
from vea.config.pretrain import PretrainConfig
from vea.config.recognise import AttributesConfig, EmotionConfig, RecogniseConfig
from vea.config.sections import RunConfig
from vea.config.temporal import TemporalConfig
from vea.errors import VeaError, did_you_mean

ConfigT = TypeVar("ConfigT", bound=RunConfig)

RECIPES: dict[str, type[RunConfig]] = {
    "pretrain": PretrainConfig,
    "align": AlignConfig,
    "expression": RecogniseConfig,
    "emotion": EmotionConfig,
    "attributes": AttributesConfig,
    "explain": ExplainConfig,
    "temporal": TemporalConfig,
    "instruct": InstructConfig,
}


def load_config(path: str | Path, overrides: list[str] | None = None, *, schema: type[ConfigT] | None = None) -> Any:
    """Returns the checked config in ``path`` with ``overrides`` applied; its ``recipe:`` chooses the schema.

    Raises:
        VeaError: the file, a key or a value is wrong; the sentence names the key and its nearest neighbour.
    """
    data = read_yaml(path)
    for override in overrides or []:
        apply_override(data, override)
    recipe = data.get("recipe")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise VeaError(f"{path}: recipe {recipe!r} is not known{did_you_mean(str(recipe), RECIPES)}")
    if schema is not None and not issubclass(RECIPES[recipe], schema):
        raise VeaError(f"{path} is a config for recipe {recipe!r}, not for this command")
    try:
        return RECIPES[recipe].model_validate(data)
    except ValidationError as error:
        raise VeaError(sentence(error, RECIPES[recipe], str(path))) from None


def load_record(path: str | Path) -> tuple[Any, list[str]]:
    """Returns the config of a run's record, and its keys that this version does not know, which are left out.

    For what only reads a run (`vea sync`): a run of another version, or with settings of somebody's own, is a run.

    Raises:
        VeaError: no recipe of that name, or a known key has a value that cannot be.
    """
    data = read_yaml(path)
    unknown: list[str] = []
    while True:
        recipe = RECIPES.get(str(data.get("recipe")))
        if recipe is None:
            raise VeaError(
                f"{path}: recipe {data.get('recipe')!r} is not known{did_you_mean(str(data.get('recipe')), RECIPES)}"
            )
        try:
            return recipe.model_validate(data), unknown
        except ValidationError as error:
            extra = [entry["loc"] for entry in error.errors() if entry["type"] == "extra_forbidden"]
            if not extra:
                raise VeaError(sentence(error, recipe, str(path))) from None
            for location in extra:
                node: Any = data
                for name in location[:-1]:
                    node = node[name]
                del node[location[-1]]
                unknown.append(".".join(map(str, location)))


def config_from_command_line(doc: str, argv: list[str], schema: type[ConfigT]) -> ConfigT:
    """Returns the config of ``CONFIG [a.b=c ...]``; ``doc`` is the recipe's docstring, shown by ``--help``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that replace those of the file")
    if not argv:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.overrides, schema=schema)
    for key in ("cache_dir", "cache_gb"):  # vea.storage.remote reads them there, in worker processes as well
        if key in config.data.model_fields_set and getattr(config.data, key) is not None:
            os.environ[f"VEA_{key.upper()}"] = str(getattr(config.data, key))
    return config
