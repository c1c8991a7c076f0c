"""``vea loader keys``: the sample keys of each global batch, printed by the real loader.

    vea loader keys configs/pretrain/demo.yaml --start 100 --steps 3 --world 2 --workers 1

One line per step: the step and the keys of the global batch in order, separated by tabs. The lines are the same for
every ``--world`` and ``--workers``.
"""

from __future__ import annotations

import argparse

from vea.config import load_config
from vea.data.loading.loader import train_loader
from vea.errors import VeaError, command
from vea.tasks.items import item_spec


@command
def main(argv: list[str]) -> None:
    """Runs ``vea loader``."""
    parser = argparse.ArgumentParser(
        prog="vea loader", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    keys = verbs.add_parser("keys", help="print the sample keys of each global batch")
    keys.add_argument("config")
    keys.add_argument("overrides", nargs="*", metavar="a.b=c")
    keys.add_argument("--start", type=int, default=0, help="first step")
    keys.add_argument("--steps", type=int, default=1)
    keys.add_argument("--world", type=int, default=1, help="number of ranks to play")
    keys.add_argument("--workers", type=int, help="loader processes per rank; default: those of the config")
    arguments = parser.parse_args(argv)
    if arguments.start < 0 or arguments.steps < 1 or arguments.world < 1 or (arguments.workers or 0) < 0:
        raise VeaError("--start and --workers must be 0 or more, --steps and --world 1 or more")

    config = load_config(arguments.config, arguments.overrides)
    if arguments.workers is not None:
        config.data.workers = arguments.workers
    local = config.data.global_batch_size // arguments.world
    micro_batch = max(1, min(config.train.max_micro_batch or local, local))
    ranks = [
        train_loader(
            config,
            item_spec(config),
            start_step=arguments.start,
            micro_batch=micro_batch,
            rank=rank,
            world_size=arguments.world,
        )
        for rank in range(arguments.world)
    ]
    for step in range(arguments.start, arguments.start + arguments.steps):
        keys_of_step: list[str] = []
        for batches in ranks:
            of_rank: list[str] = []
            while len(of_rank) < local:
                of_rank += next(batches)["keys"]
            keys_of_step += of_rank
        print(step, *keys_of_step, sep="\t", flush=True)
