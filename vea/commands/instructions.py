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

from rich.console import Console
from rich.table import Table


def main(argv: list[str]) -> None:
    """Writes the file and prints the counts."""
    parser = argparse.ArgumentParser(
        prog="vea instructions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="prepared set, task, or texts:NAME")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file")
    parser.add_argument("--split", default="train", help="train or val")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, help="records of one task, class and answer (default: all)")
    arguments = parser.parse_args(argv)
    from vea.evals.instructions import write_instructions

    root = os.environ.get("VEA_DATA")
    counts = write_instructions(
        arguments.sources, arguments.out, split=arguments.split, data=Path(root) if root else None,
        seed=arguments.seed, most=arguments.most,
    )  # fmt: skip
    table = Table("task", "class", "records")
    for task, classes in counts["tasks"].items():
        for name, number in classes.items():
            table.add_row(task, name, f"{number:,}")
    console = Console(width=110)
    console.print(table)
    console.print(
        f"{counts['records']:,} records of {counts['pictures']:,} pictures in {arguments.out}; every answer was read "
        f"back; {counts['leaked']} left out because a test split shows the same picture"
    )
