"""``vea VERB ...``: everything that is not training.

    vea config configs/pretrain/demo.yaml train.steps=10    # the resolved config, every default written out
    vea runs                                                # the runs of runs/ and how far they are
    vea predict photo.jpg                                   # what it evokes, and the expression of every face

A verb's code is imported when the verb is used, so that ``vea --help`` takes no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

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
    "config": Verb(
        "vea.commands.config:show_config", "CONFIG [a.b=c ...]: check a config and print it with every default"
    ),
    "shards": Verb("vea.commands.shards:main", "check|stats|show DIR: is a prepared data set whole, what is in it"),
    "enrich": Verb("vea.commands.enrich:main", "PASS DIR: boxes of people and faces, prompts, teacher embeddings"),
    "loader": Verb("vea.commands.loader:main", "keys CONFIG: the sample keys of each global batch"),
    "submit": Verb(
        "vea.commands.submit:main", "SCRIPT CONFIG [a.b=c ...]: sbatch with a copy of the code in the run folder"
    ),
    "runs": Verb("vea.commands.runs:main", "[DIR]: the runs below a folder: state, step, rate, time left, best value"),
    "doctor": Verb("vea.commands.doctor:main", "CONFIG [a.b=c ...]: what a job would miss, before it starts"),
    "report": Verb("vea.commands.report:make_report", "RUN: write RUN/report.html, plots and pictures on one page"),
    "sync": Verb("vea.commands.sync:main", "RUN ...: send the recorded history to wandb or trackio, every step once"),
    "dashboard": Verb(
        "vea.commands.dashboard:main", "[--project P] [--out FILE]: a project's wandb workspace and report, as code"
    ),
    "compare": Verb("vea.commands.compare:compare", "RUN_A RUN_B: is the difference between two evaluated runs real"),
    "leaderboard": Verb("vea.commands.compare:leaderboard", "[DIR]: a table over the evaluated runs below a folder"),
    "instructions": Verb("vea.commands.instructions:main", "SOURCE ... --out FILE: questions that teach a model"),
    "eval": Verb("vea.commands.eval:main", "MODEL TASK[,TASK]: how well a vision-language model reads emotion"),
    "predict": Verb("vea.commands.predict:main", "FILE|FOLDER ...: what pictures evoke, expressions of faces"),
    "export": Verb(
        "vea.commands.export:main", "RUN --to onnx|hub|timm --out PATH: a model for others, checked against the run"
    ),
    "explain": Verb("vea.commands.explain:main", "FILE|FOLDER ...: what pictures evoke and why, with evidence"),
    "serve": Verb("vea.commands.serve:main", "[RUN]: a web page to upload photographs to (pip install 'vea[serve]')"),
    "import-weights": Verb("vea.models.weights:main", "mae|uniemox|timm|dinov2 FILE OUT: published weights as ours"),
}


def usage() -> str:
    """Returns the help of ``vea``."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.help}" for name, verb in VERBS.items()]
    options = ["vea VERB --help tells more; vea --version; --debug anywhere keeps the traceback of an error."]
    return "\n".join(["usage: vea VERB ...", "", *lines, "", *options])


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
