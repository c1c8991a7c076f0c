"""``vea VERB ...``: everything that is not training.

    vea config configs/pretrain/demo.yaml train.steps=10    # the resolved config, every default written out
    vea runs                                                # the runs of runs/ and how far they are
    vea predict photo.jpg                                   # the expression of every face

A verb's code is imported when the verb is used, so that ``vea --help`` takes no torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import vea
from vea.errors import VeaError, command, did_you_mean

Main = Callable[[list[str]], int | None]


@dataclass(frozen=True)
class Verb:
    """Where the ``main(argv)`` of a verb lives (``module:function``), and its line of help."""

    target: str
    help: str

    def load(self) -> Main:
        """Returns the verb's ``main``, imported now."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)


VERBS = {
    "config": Verb("vea.cli:show_config", "CONFIG [a.b=c ...]: check a config and print it with every default"),
    "shards": Verb("vea.data.shards_cli:main", "check|stats DIR: is a prepared data set whole, what is in it"),
    "loader": Verb("vea.data.loader_cli:main", "keys CONFIG: the sample keys of each global batch"),
    "runs": Verb("vea.cli:list_runs", "[DIR]: the runs below a folder, how far they are, their best value"),
    "report": Verb("vea.cli:make_report", "RUN: write RUN/report.html, plots and pictures on one page"),
    "compare": Verb("vea.compare_cli:compare", "RUN_A RUN_B: is the difference between two evaluated runs real"),
    "leaderboard": Verb("vea.compare_cli:leaderboard", "[DIR]: a table over the evaluated runs below a folder"),
    "predict": Verb(
        "vea.predict_cli:main", "FILE|FOLDER ...: expressions of faces, or emotion of pictures"
    ),
    "export": Verb("vea.hub:main", "RUN --to onnx|hub|timm --out PATH: a model for others, checked against the run"),
    "import-weights": Verb("vea.models.weights:main", "mae|uniemox|timm|dinov2 FILE OUT: published weights as ours"),
}


def usage() -> str:
    """Returns the help of ``vea``."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.help}" for name, verb in VERBS.items()]
    options = ["vea VERB --help tells more; vea --version; --debug anywhere keeps the traceback of an error."]
    return "\n".join(["usage: vea VERB ...", "", *lines, "", *options])


def show_config(argv: list[str]) -> None:
    """Prints the resolved config."""
    from vea.config import load_config, to_yaml

    parser = argparse.ArgumentParser(prog="vea config", description=VERBS["config"].help)
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that replace those of the file")
    arguments = parser.parse_args(argv)
    print(to_yaml(load_config(arguments.config, arguments.overrides)), end="")


def make_report(argv: list[str]) -> None:
    """Writes the report of a run and prints its path."""
    parser = argparse.ArgumentParser(prog="vea report", description=VERBS["report"].help)
    parser.add_argument("run", type=Path, help="run folder")
    arguments = parser.parse_args(argv)
    if not arguments.run.is_dir():
        raise VeaError(f"no run folder at {arguments.run}; `vea runs DIR` lists those there are")
    from vea.report import write_report

    print(write_report(arguments.run))


def _progress(record: dict[str, Any]) -> str:
    step, steps = record.get("step"), record.get("steps")
    return f"{'?' if step is None else step}/{'?' if steps is None else steps}"


def run_row(run_dir: Path, *, name: str) -> list[str]:
    """Returns [name, state, step/steps, best value, last checkpoint] of a run folder, from its files alone."""
    try:
        record = json.loads((run_dir / "state.json").read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError):
        record = {"state": "unreadable state.json"}
    best = record.get("best")
    shown = f"{best['metric']} {best['value']:.4f} at step {best['step']}" if best else "-"
    # the rule of vea.training.checkpoint, which would import torch: whole folders have a state.json
    whole = sorted(path.parent.name for path in (run_dir / "checkpoints").glob("step_*/state.json"))
    return [name, str(record.get("state", "?")), _progress(record), shown, whole[-1] if whole else "-"]


def list_runs(argv: list[str]) -> None:
    """Prints one line per run folder below a folder."""
    parser = argparse.ArgumentParser(prog="vea runs", description=VERBS["runs"].help)
    parser.add_argument("dir", nargs="?", type=Path, default=Path("runs"), help="folder of runs, or one run (runs)")
    root = parser.parse_args(argv).dir
    if not root.is_dir():
        raise VeaError(f"no folder {root}; give the folder that holds the runs (recipes write to runs/NAME)")
    # checkpoints, best/ and final/ have a state.json as well, but no config.yaml
    found = sorted(path.parent for path in root.rglob("state.json") if (path.parent / "config.yaml").is_file())
    if not found:
        raise VeaError(f"no run below {root} (a run folder holds config.yaml and state.json)")
    rows = [["run", "state", "step", "best", "last checkpoint"]]
    rows += [run_row(run, name=run.relative_to(root).as_posix() if run != root else run.name) for run in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


@command
def main(argv: list[str]) -> int:
    """Runs ``vea``; returns the exit code of the verb."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"vea {vea.__version__}")
        return 0
    name, *rest = argv
    if name not in VERBS:
        raise VeaError(f"vea has no verb {name!r}{did_you_mean(name, VERBS)}")
    # A verb's own main may be guarded already: it would swallow --debug, which was removed from argv above.
    function: Main = VERBS[name].load()
    return getattr(function, "__wrapped__", function)(rest) or 0


if __name__ == "__main__":
    sys.exit(main())
