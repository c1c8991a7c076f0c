"""What the attribute module brings: emotion with and without it, same budget, same seeds, several seeds.

    python benchmarks/attribute_module.py --seeds 0 1 2 --json attribute_module.json
    python benchmarks/attribute_module.py --seeds 0 --set train.steps=8 train.warmup_steps=2 --out runs/quick  # check

The module gives what the heads of the attributes predict to the head of the emotion; without it each head sees the
picture alone. Both arms of a seed start from the same encoder weights and see the same pictures. Validation chooses
the step, the table shows the test split. What is complete is not repeated: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from recipes import evaluated, summary
from rich.console import Console
from rich.table import Table

from vea.config import AttributesConfig, load_config
from vea.errors import command

ARMS = {"without": "false", "with": "true"}


def measure(arm: str, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Returns {target: main metric on the test split} of one run, trained and scored unless that is done."""
    words = [given.config, *given.overrides, f"name=module-{arm}", f"seed={seed}"]
    words += [f"model.attribute_module={ARMS[arm]}"]
    record = evaluated(given.out / f"{arm}-s{seed}", "finetune/train.py", *words)
    return {name: result["metrics"][record["blind"][name]["metric"]] for name, result in record["targets"].items()}


@command
def main(argv: list[str]) -> None:
    """Makes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/finetune/attributes_synthetic.yaml")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/attribute_module"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="a.b=c", help="for every run")
    given = parser.parse_args(argv)
    load_config(given.config, given.overrides, schema=AttributesConfig)  # a typo stops here, before any run

    results: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for seed in given.seeds:  # seed by seed: what was stopped is paired for the seeds it has
        for arm in ARMS:
            results[arm].append(measure(arm, seed, given))

    targets = list(results["with"][0])
    pairs = {
        name: [(one[name], other[name]) for one, other in zip(results["without"], results["with"])] for name in targets
    }
    table = Table(title=f"{given.config}, seeds {given.seeds}: test, percent, mean ± sd", title_justify="left")
    for column in ("target", "without", "with", "with - without, paired", "by seed"):
        table.add_column(column)
    for name, rows in pairs.items():
        changes = [other - one for one, other in rows]
        columns = [[one for one, _ in rows], [other for _, other in rows], changes]
        cells = ["{:.1f} ± {:.1f}".format(*(100 * value for value in summary(column))) for column in columns]
        table.add_row(name, *cells, " ".join(f"{100 * change:+.1f}" for change in changes))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    mean, spread = summary([other - one for one, other in pairs[targets[0]]])
    told = f"{targets[0]}: the module changes it by {100 * mean:+.1f} ± {100 * spread:.1f} points"
    if len(given.seeds) > 1:
        told += ", beyond the spread over seeds" if abs(mean) > spread else ", within the spread over seeds"
    print(told)
    if given.json:
        record = {"config": given.config, "overrides": given.overrides, "seeds": given.seeds, "results": results}
        given.json.write_text(json.dumps(record | {"difference": {"mean": mean, "sd": spread}}, indent=1))
        print(f"wrote {given.json}")


if __name__ == "__main__":
    sys.exit(main())
