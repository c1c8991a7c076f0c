"""EmoSet's emotions and six attributes, from the raw folder to the table: four ways to the emotion, several seeds.

    python benchmarks/emoset.py RAW --out runs/emoset                        # EmoSet's folder as released
    python benchmarks/emoset.py --draw 3000 --out runs/emoset-drawn          # drawn scenes, written in the same layout
    python benchmarks/emoset.py $VEA_DATA --card emoset_weak --out runs/emoset-weak --arms direct module bottleneck

direct: a head each on the picture. module: the emotion's head also sees what the others predict. bottleneck: the
emotion is W s(attributes) and nothing else, its loss teaches W alone; joint: it teaches the attributes too. These two
once more with the annotations of the training pictures dealt to other pictures: names that mean nothing. If the emotion
is read through what the attributes mean, it drops to chance; if not, it is smuggled through them.

The arms of a seed start from the same encoder weights and see the same pictures in the same order. Validation chooses
the step, the table shows the test split. What is complete is not repeated: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from recipes import evaluated, run, spread, summary
from rich.console import Console
from rich.table import Table

from vea.config import AttributesConfig, load_config
from vea.data import synthetic
from vea.data.cards import find_card
from vea.errors import VeaError, command
from vea.storage.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
ARMS: dict[str, tuple[str, ...]] = {
    "direct": ("model.attribute_module=false",),
    "module": ("model.attribute_module=true",),
    "bottleneck": ("model.attribute_module=false", "model.bottleneck=strict"),
    "joint": ("model.attribute_module=false", "model.bottleneck=joint"),
    "bottleneck, shuffled": ("model.attribute_module=false", "model.bottleneck=strict"),
    "joint, shuffled": ("model.attribute_module=false", "model.bottleneck=joint"),
}
SHARES = {"train": 0.8, "val": 0.08, "test": 0.12}  # of the scenes that are drawn


def draw(count: int, folder: Path, *, size: int) -> None:
    """Writes ``count`` drawn scenes as EmoSet is released: info.json, split tables, annotation/ and image/."""
    fields = find_card("emoset", ROOT / "datasets/cards").label_fields
    info = {name: {"label2idx": {label: i for i, label in enumerate(field.classes)}} for name, field in fields.items()}
    for split, share in SHARES.items():
        rows = []
        for number, scene in enumerate(synthetic.samples(round(share * count), split=split, size=size)):
            emotion = scene.labels["emotion"]
            name = f"{emotion}_{split}{number:05d}"
            places = [f"image/{emotion}/{name}.jpg", f"annotation/{emotion}/{name}.json"]
            known: dict[str, Any] = {"image_id": name}
            for field, value in scene.labels.items():
                if field in fields:
                    known[field] = float(value) if field in ("brightness", "colorfulness") else value
            for place in places:
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / places[0]).write_bytes(scene.image)
            (folder / places[1]).write_text(json.dumps(known), encoding="utf-8")
            rows.append([emotion, name, *places])
        write_text(folder / f"{split}.json", json.dumps(rows))
    write_text(folder / "info.json", json.dumps(info))  # last: a folder without it is drawn anew


def shuffle(raw: Path, folder: Path) -> None:
    """Makes ``folder`` the raw folder with the annotations of the training pictures dealt among them."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in raw.iterdir():
        if path.name != "train.json" and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path.resolve())
    rows = json.loads((raw / "train.json").read_text(encoding="utf-8"))
    dealt = [row[-1] for row in rows]
    random.Random(0).shuffle(dealt)
    write_text(folder / "train.json", json.dumps([[*row[:-1], place] for row, place in zip(rows, dealt)]))


def prepared(raw: Path, out: Path, given: argparse.Namespace) -> Path:
    """Returns the shards of a raw folder, written unless they are there."""
    if not (out / "index.json").is_file():
        options = ["--max-side", str(given.max_side)] if given.max_side else []
        run("datasets/prepare.py", given.card, "--root", str(raw), "--out", str(out), *options)
    return out


def measure(arm: str, seed: int, data: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Returns the evaluation on the test split of one run, trained and scored unless that is done."""
    name = arm.replace(", ", "-")
    words = [given.config, *given.overrides, *ARMS[arm], f"name=emoset-{name}", f"seed={seed}"]
    words += [f"data.train.0.path={data}", f"data.val.0.path={data}"]
    return evaluated(given.out / f"{name}-s{seed}", "finetune/train.py", *words)


def value_of(record: dict[str, Any], target: str) -> float:
    """Returns the main metric of a target; 0 where it says nothing (no answer differs from another)."""
    found = record["targets"][target]["metrics"][record["blind"][target]["metric"]]
    return 0.0 if found is None or found != found else float(found)


def table_of(results: dict[str, list[dict[str, Any]]], title: str) -> Table:
    """Returns a row an arm, a column a target: mean and deviation over seeds of the main metric, times 100."""
    some = next(iter(results.values()))[0]
    table = Table(title=title, title_justify="left")
    for column in ("", *(f"{name}, {some['blind'][name]['metric']}" for name in some["targets"])):
        table.add_column(column)
    for arm, records in results.items():
        table.add_row(arm, *(spread([value_of(record, name) for record in records]) for name in some["targets"]))
    table.add_row("without looking", *(f"{100 * some['blind'][name]['majority']:.1f}" for name in some["targets"]))
    return table


def verdicts(results: dict[str, list[dict[str, Any]]], first: str) -> list[str]:
    """Returns sentences: each arm beside ``direct`` on the first target, paired by seed, and beside not looking."""
    lines = []
    for arm, records in results.items():
        over = [value_of(record, first) - record["blind"][first]["majority"] for record in records]
        line = f"{first}, {arm}: {spread(over)} above not looking"
        if arm != "direct" and "direct" in results:
            pairs = [value_of(a, first) - value_of(b, first) for a, b in zip(records, results["direct"])]
            mean, deviation = summary(pairs)
            beside = f", {100 * mean:+.1f}" + (f" ± {100 * deviation:.1f}" if len(pairs) > 1 else "") + " beside direct"
            within = "within" if abs(mean) <= deviation else "beyond"
            line += beside + (f" ({within} the spread over seeds)" if len(pairs) > 1 else " (one seed)")
        lines.append(line)
    return lines


def arguments_of(argv: list[str]) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, nargs="?", help="the raw folder")
    parser.add_argument("--draw", type=int, metavar="N", help="N drawn scenes in place of a raw folder")
    parser.add_argument("--card", default="emoset")
    parser.add_argument("--config", help="default: configs/finetune/attributes_{emoset,drawn,weak}.yaml")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max-side", type=int, help="reduce larger pictures to this side")
    parser.add_argument("--out", type=Path, default=Path("runs/emoset"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="a.b=c", help="for every run")
    given = parser.parse_args(argv)
    if (given.raw is None) == (given.draw is None):
        raise VeaError("give the raw folder, or --draw N for drawn scenes")
    if given.config is None:
        kind = "drawn" if given.draw else {"emoset_weak": "weak"}.get(given.card, "emoset")
        given.config = f"configs/finetune/attributes_{kind}.yaml"
    return given


@command
def main(argv: list[str]) -> None:
    """Prepares, trains, scores and prints."""
    given = arguments_of(argv)
    config = load_config(given.config, given.overrides, schema=AttributesConfig)  # a typo stops here, before any run
    raw = given.raw
    if given.draw:
        raw = given.out / "raw"
        if not (raw / "info.json").is_file():
            draw(given.draw, raw, size=96)
    data = {False: prepared(raw, given.out / "data", given)}
    if any("shuffled" in arm for arm in given.arms):
        if not (raw / "train.json").is_file():
            raise VeaError(f"{raw} has no train.json to shuffle; leave the shuffled arms out (--arms)")
        shuffle(raw, given.out / "raw-shuffled")
        data[True] = prepared(given.out / "raw-shuffled", given.out / "data-shuffled", given)
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in given.arms}
    for seed in given.seeds:  # seed by seed: what was stopped is paired for the seeds it has
        for arm in given.arms:
            results[arm].append(measure(arm, seed, data["shuffled" in arm], given))
    title = f"{given.config}, seeds {given.seeds}: test, times 100, mean ± sd"
    Console(width=None if sys.stdout.isatty() else 160).print(table_of(results, title))
    lines = verdicts(results, next(iter(config.targets)))
    print("\n".join(lines))
    if given.json:
        kept = {
            arm: [{name: value_of(record, name) for name in record["targets"]} for record in records]
            for arm, records in results.items()
        }
        blind = next(iter(results.values()))[0]["blind"]
        record = {"config": given.config, "overrides": given.overrides, "seeds": given.seeds}
        write_text(
            given.json, json.dumps(record | {"results": kept, "blind": blind, "verdicts": lines}, indent=1) + "\n"
        )


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
