"""The one thing a back end does, and how a user names one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from vea.errors import VeaError, did_you_mean
from vea.evals.question import Answer, Question

READOUTS = ("text", "probability")


class Backend:
    """Someone who answers questions about pictures.

    ``name`` and ``settings`` together say whose answers these are: they are part of the key of a kept answer.
    ``readouts`` is what it can give. ``counts`` counts what went wrong on the way (retries by reason), ``notes`` are
    sentences for the report.
    """

    name = "nobody"
    readouts: tuple[str, ...] = READOUTS
    keeps_answers = True  # baselines are computed anew: nothing to keep

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []

    def prepare(self, train: Sequence[Question]) -> None:
        """Shows questions of the training split with their rows: for baselines that learn."""

    def plan(self, questions: Sequence[Question]) -> None:
        """Shows every question of the run before the first is asked, kept answers included."""

    def shown(self, question: Question) -> Path | None:
        """Returns the picture that is shown with a question: part of the key of the answer."""
        return question.picture

    def ask(self, questions: Sequence[Question], readouts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Yields (place in ``questions``, answer), each as soon as it is there, in any order."""
        raise NotImplementedError

    def close(self) -> None:
        """Frees what the back end holds."""


BASELINES = ("constant", "uniform", "text-only", "shuffled", "brightness", "oracle")


def open_backend(name: str, **options: Any) -> Backend:
    """Returns the back end that a user names.

    ``constant[:ANSWER]``, ``uniform``, ``text-only``, ``brightness``, ``oracle``: baselines; ``shuffled:MODEL``:
    another picture's answer of a model; ``http(s)://HOST/v1[#MODEL]``: an OpenAI-compatible server; ``DIR``: a local
    transformers folder; ``blind:URL`` and ``blind:DIR``: the same, shown no picture; a run of recipe
    instruct: a pupil (``blind:RUN`` withholds its pictures); ``judge:DIR`` or ``judge``: vea's
    judge from frozen features; anything else that ``vea.load`` opens: a recogniser. With the option
    ``hint`` the model is given a recogniser's first classes.

    Raises:
        VeaError: nothing goes by that name.
    """
    hint = options.pop("hint", None)
    if hint:
        ours = import_module("vea.evals.backends.ours")
        return ours.Hinted(open_backend(name, **options), hint, seed=options.get("seed", 0))
    head, _, rest = name.partition(":")
    address = rest if head == "blind" else name
    if address.startswith(("http://", "https://")):
        return import_module("vea.evals.backends.endpoint").Endpoint(address, blind=head == "blind", **options)
    if head == "shuffled":
        baselines = import_module("vea.evals.backends.baselines")
        return baselines.Shuffled(open_backend(rest or "judge", **options), seed=options.get("seed", 0))
    if head in BASELINES:
        return import_module("vea.evals.backends.baselines").open_baseline(head, rest, seed=options.get("seed", 0))
    if head == "judge":
        return import_module("vea.evals.backends.judge").FeatureJudge(rest or None, seed=options.get("seed", 0))
    folder = Path(rest if head == "blind" else name).expanduser()
    if (folder / "config.json").is_file():
        return import_module("vea.evals.backends.local").LocalModel(folder, blind=head == "blind", **options)
    if folder.is_dir() and import_module("vea.tasks.instruct_saved").is_pupil(folder):
        return import_module("vea.evals.backends.pupil").PupilBackend(folder, blind=head == "blind")
    if head == "blind":
        raise VeaError(f"{folder} is neither a pupil nor a transformers model; blind: takes the folder of one")
    if folder.exists() or name in import_module("vea.tasks.saved").FACE_MODELS:
        return import_module("vea.evals.backends.ours").Recogniser(name)
    raise VeaError(
        f"no model {name!r}{did_you_mean(name, [*BASELINES, 'judge'])}; a model is a baseline, a "
        "transformers folder, a run folder, or the URL of a server"
    )
