"""``vea config``: the resolved config."""

from __future__ import annotations

import argparse

from vea.commands.main import VERBS


def show_config(argv: list[str]) -> None:
    """Prints the resolved config."""
    from vea.config import load_config, to_yaml

    parser = argparse.ArgumentParser(prog="vea config", description=VERBS["config"].help)
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that replace those of the file")
    arguments = parser.parse_args(argv)
    print(to_yaml(load_config(arguments.config, arguments.overrides)), end="")
