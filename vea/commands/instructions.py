"""``vea instructions SOURCE ... --out FILE``: questions with answers that teach a small vision-language model.

    vea instructions statements affect --out data/instructions/oasis.jsonl
    vea instructions data/emoset texts:emobank --out data/instructions/emoset.jsonl --most 500

    vea instructions data/foreign texts:tweets.jsonl --labels ferplus-8 --annotators majority --out foreign.jsonl

A source is a prepared set's folder, a task of ``vea eval``, texts:emobank, texts:goemotions or texts:FILE.jsonl.
Records have LLaVA's conversation form; pictures lie beside the file. Nothing is made from a test split.

--labels brings classes and labels in anybody's words to a taxonomy: by name, lemma, synonym and, with --nearest, by
nearest sentence embedding. The rest stays open: left out of the closed question, and counted.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vea.errors import VeaError
from vea.metrics.agreement import AGGREGATIONS


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
    parser.add_argument("--labels", metavar="NAME", help="taxonomy that labels are brought to, or classes A,B,C")
    parser.add_argument("--annotators", choices=AGGREGATIONS, default="union",
                        help="with --labels: which labels of several annotators hold (union)")  # fmt: skip
    parser.add_argument("--k", type=int, default=1, help="with --annotators k-of-n")
    parser.add_argument("--nearest", type=Path, metavar="CSV", help="with --labels: validation labels with their class "
                        "(columns label, class), on which the least cosine of the nearest class is tuned")  # fmt: skip
    arguments = parser.parse_args(argv)
    if (arguments.out is None) == (arguments.shards is None):
        raise VeaError("give --out FILE or --shards DIR, one of them")
    if arguments.labels is None and (arguments.nearest or arguments.annotators != "union"):
        raise VeaError("--annotators and --nearest belong to --labels NAME: which taxonomy?")
    labels = None
    if arguments.labels is not None:
        from vea.evals.outside_labels import outside

        labels = outside(arguments.labels, how=arguments.annotators, k=arguments.k, tuned_on=arguments.nearest)
    root = os.environ.get("VEA_DATA")
    given: dict[str, Any] = {
        "data": Path(root) if root else None, "seed": arguments.seed, "most": arguments.most, "labels": labels
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
    if labels is not None:
        console.print(labels.line())
