"""``vea instructions SOURCE ... --out FILE``: questions with answers that teach a small vision-language model.

    vea instructions statements affect --out data/instructions/oasis.jsonl
    vea instructions data/emoset texts:emobank --out data/instructions/emoset.jsonl --most 500

A source is a prepared set's folder, a task of ``vea eval``, texts:emobank or texts:goemotions. Records have LLaVA's
conversation form; pictures lie beside the file. Nothing is made from a test split.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vea.errors import VeaError


def main(argv: list[str]) -> None:
    """Writes the file and prints the counts."""
    parser = argparse.ArgumentParser(
        prog="vea instructions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="prepared set, task, or texts:NAME")
    parser.add_argument("--out", type=Path, help="JSONL file")
    parser.add_argument("--shards", type=Path, metavar="DIR", help="prepared set, train and val, for recipe instruct")
    parser.add_argument("--split", default="train", help="train or val")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, help="records of one task, class and answer (default: all)")
    parser.add_argument("--brief", type=float, default=0.0, metavar="SHARE",
                        help="with --shards: this share of the questions in few words")  # fmt: skip
    arguments = parser.parse_args(argv)
    if (arguments.out is None) == (arguments.shards is None):
        raise VeaError("give --out FILE or --shards DIR, one of them")
    root = os.environ.get("VEA_DATA")
    given: dict[str, Any] = {
        "data": Path(root) if root else None, "seed": arguments.seed, "most": arguments.most
    }  # fmt: skip
    if arguments.shards is not None:
        from vea.evals.lesson_shards import write_lessons

        counts = write_lessons(arguments.sources, arguments.shards, brief_share=arguments.brief, **given)
    else:
        from vea.evals.instructions import write_instructions

        counts = write_instructions(arguments.sources, arguments.out, split=arguments.split, **given)
    table = Table("task", "class", "records")
    for task, classes in counts["tasks"].items():
        for name, number in classes.items():
            table.add_row(task, name, f"{number:,}")
    console = Console(width=110)
    console.print(table)
    where = arguments.out or arguments.shards
    console.print(
        f"{counts['records']:,} records of {counts['pictures']:,} pictures in {where}; every "
        f"answer was read back; {counts['leaked']} left out because a test split shows the same picture"
    )
