"""``vea config``: the resolved config, and what its keys mean."""

from __future__ import annotations

import argparse

from vea.commands.main import VERBS
from vea.errors import VeaError


def show_config(argv: list[str]) -> None:
    """Prints the resolved config, or what keys mean."""
    parser = argparse.ArgumentParser(prog="vea config", description=VERBS["config"].help)
    parser.add_argument("config", nargs="?", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that replace those of the file")
    parser.add_argument(
        "--describe", nargs="?", const="", metavar="KEY", help="what a key or a section means (train.base_lr); all keys"
    )
    parser.add_argument("--markdown", action="store_true", help="with --describe: the page docs/configuration.md")
    arguments = parser.parse_args(argv)
    if arguments.describe is not None:
        print(_described(arguments), end="")
        return
    if arguments.markdown or arguments.config is None:
        raise VeaError("vea config needs a CONFIG to show, or --describe [KEY]")
    from vea.config import load_config, to_yaml

    print(to_yaml(load_config(arguments.config, arguments.overrides)), end="")


def _described(arguments: argparse.Namespace) -> str:
    from vea.config import describe

    if arguments.markdown:
        if arguments.describe or arguments.config:
            raise VeaError("--markdown prints the whole page: name no key and no config beside it")
        return describe.as_markdown()
    if arguments.config or arguments.overrides:
        raise VeaError(f"--describe takes one KEY; {arguments.config!r} is not needed")
    return describe.as_text(describe.find(arguments.describe) if arguments.describe else describe.keys())
