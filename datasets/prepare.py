"""Turn a raw download into shards that training reads.

    python datasets/prepare.py --list
    python datasets/prepare.py fer2013plus --root RAW --out data/fer2013plus
    python datasets/prepare.py synthetic --count 2000 --out data/synthetic
    python datasets/prepare.py emoset --root RAW --out data/emoset --part 3/16     # one of 16 jobs; in any order
    python datasets/prepare.py emoset --root RAW --out data/emoset --engine ray    # this machine, or RAY_ADDRESS

The cards beside this file (cards/NAME.yaml) say what a set is, how to obtain it and what it may be used for. Without
--root the raw folder is $VEA_DATA/<folder of the card>. The result is whole or not there; the same input and options
give the same bytes, in one job or in parts. A command that was killed goes on where it stopped when it is run again.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from vea.data.cards import Card, count_warnings, find_card
from vea.data.shards.index import Index
from vea.data.shards.plan import write_part
from vea.data.sources import make_source
from vea.errors import VeaError, command

CARDS = Path(__file__).resolve().parent / "cards"


def usable_cores() -> int:
    """Returns the cores that this process may use: a batch system gives fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def part(text: str) -> tuple[int, int]:
    """Returns (I, N) of ``I/N``."""
    number, _, parts = text.partition("/")
    if not (number.isdigit() and parts.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 3/16")
    return int(number), int(parts)


def arguments_of(argv: list[str]) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="a card's name, or the path of a card")
    parser.add_argument("--list", action="store_true", help="show the data sets and where they come from")
    parser.add_argument("--root", type=Path, help="folder of the raw download")
    parser.add_argument("--out", type=Path, help="folder to make")
    parser.add_argument("--max-side", type=int, metavar="N", help="reduce larger images to this side (stored as JPEG)")
    parser.add_argument("--quality", type=int, default=90, metavar="Q", help="of the JPEGs that have to be made (90)")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N samples of every split")
    parser.add_argument("--shard-size", type=int, default=1000, metavar="N", help="samples per shard (1000)")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (the cores there are)")
    parser.add_argument("--engine", choices=["processes", "ray"], default="processes", help="ray: each shard is a task "
                        "of Ray, here or on the cluster RAY_ADDRESS (needs the extra vea[ray])")  # fmt: skip
    parser.add_argument("--part", type=part, metavar="I/N", default=(1, 1), help="only the I-th of N parts: "
                        "the last one to end puts the data set in place")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace the data set that --out already holds")
    parser.add_argument("--count", type=int, metavar="N", help="synthetic: scenes to draw over all splits")
    parser.add_argument("--seed", type=int, metavar="N", help="synthetic: other scenes")
    parser.add_argument("--size", type=int, metavar="N", help="synthetic: pixels a side")
    parser.add_argument("--classes", metavar="A,B,C", help="image_folder: class folders in index order")
    parser.add_argument("--field", metavar="NAME", help="image_folder: what the label is called, such as emotion")
    return parser.parse_args(argv)


def with_options(card: Card, arguments: argparse.Namespace) -> Card:
    """Returns the card with the options of the command line that belong to its layout."""
    options = {name: getattr(arguments, name) for name in ("count", "seed", "size", "field")}
    options = {name: value for name, value in options.items() if value is not None}
    if card.layout != "synthetic" and set(options) & {"count", "seed", "size"}:
        raise VeaError(f"--count, --seed and --size belong to synthetic data; for {card.name} use --limit")
    if card.layout != "image_folder" and (arguments.classes or "field" in options):
        raise VeaError(f"--classes and --field belong to image_folder; the labels of {card.name} are in its card")
    fields: dict = {name: field.model_dump() for name, field in card.fields.items()}
    if arguments.classes:
        name = options.get("field", card.options.get("field", "label"))
        fields = {name: {"kind": "class", "classes": [part.strip() for part in arguments.classes.split(",")]}}
    return Card.model_validate({**card.model_dump(), "fields": fields, "options": {**card.options, **options}})


def raw_folder(card: Card, root: Path | None) -> Path:
    """Returns the folder to read; raises ``VeaError`` that tells how to obtain the set when there is none."""
    base = os.environ.get("VEA_DATA")
    if root is None and base and card.folder:
        root = Path(base) / card.folder
    if root is None:
        raise VeaError(f"{card.name} needs --root, the folder of the raw download. To obtain it: {card.obtain.strip()}")
    if not root.is_dir():
        raise VeaError(f"the raw folder {root} of {card.name} does not exist. To obtain it: {card.obtain.strip()}")
    return root


def prepare(card: Card, root: Path, arguments: argparse.Namespace) -> Index | None:
    """Returns the index of the data set in ``--out``, None where other parts of it are still to be written."""
    source = make_source(card)
    fields = source.fields(root)
    splits = source.splits(root)
    for line in source.warnings:
        print(line, file=sys.stderr)
    return write_part(
        {split: source.to_write(root, split, limit=arguments.limit) for split in splits},
        arguments.out,
        part=arguments.part,
        name=card.name if card.name != "image_folder" else arguments.out.resolve().name,
        title=card.title,
        fields=fields,
        card=card,
        synthetic=card.synthetic,
        shard_size=arguments.shard_size,
        max_side=arguments.max_side,
        quality=arguments.quality,
        overwrite=arguments.overwrite,
        expected={} if arguments.limit else card.splits,
        jobs=arguments.jobs or (None if arguments.engine == "ray" else usable_cores()),
        engine=arguments.engine,
    )


def show_list() -> None:
    """Prints one paragraph per card."""
    for path in sorted(CARDS.glob("*.yaml")):
        card = find_card(path.stem, CARDS)
        counts = ", ".join(f"{split} {'?' if n is None else format(n, ',')}" for split, n in card.splits.items())
        print(f"{card.name}: {card.title}\n    {card.task}\n    {counts}\n    {' '.join(card.obtain.split())}")


@command
def main(argv: list[str]) -> int:
    """Runs the command line above."""
    arguments = arguments_of(argv)
    if arguments.list:
        show_list()
        return 0
    if not arguments.name:
        raise VeaError("which data set? `python datasets/prepare.py --list` shows all")
    card = with_options(find_card(arguments.name, CARDS), arguments)
    if arguments.out is None:
        raise VeaError(f"--out is missing: the folder to make, such as --out data/{card.name}")
    if arguments.limit is not None and arguments.limit < 1:
        raise VeaError(f"--limit must be 1 or more (got {arguments.limit})")
    root = raw_folder(card, arguments.root) if make_source(card).needs_root else Path()
    index = prepare(card, root, arguments)
    if index is None:
        return 0
    found = {split: entry["samples"] for split, entry in index.splits.items()}
    for entry in index.raw["skipped"]:  # found, though not written
        found[entry["split"]] = found.get(entry["split"], 0) + 1
    if not arguments.limit:
        for line in count_warnings(card, found):
            print(line, file=sys.stderr)
    counts = ", ".join(f"{split} {entry['samples']:,}" for split, entry in index.splits.items())
    skipped = f"; {len(index.raw['skipped'])} images skipped, see index.json" if index.raw["skipped"] else ""
    print(f"{index.root}: {counts} samples{skipped}")
    print(f"terms: {' '.join(card.terms.split())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
