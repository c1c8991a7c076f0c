"""``vea report``: a run as one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from vea.commands.main import VERBS
from vea.errors import VeaError


def make_report(argv: list[str]) -> None:
    """Writes the report of a run and prints its path."""
    parser = argparse.ArgumentParser(prog="vea report", description=VERBS["report"].help)
    parser.add_argument("run", type=Path, help="run folder")
    arguments = parser.parse_args(argv)
    if not arguments.run.is_dir():
        raise VeaError(f"no run folder at {arguments.run}; `vea runs DIR` lists those there are")
    from vea.publish.report.page import write_report

    print(write_report(arguments.run))
