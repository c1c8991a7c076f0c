"""What is asked and what comes back: the two things that tasks and back ends share."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LOW_MASS = 0.5  # less probability than this on the named answers: the first token was about something else


@dataclass(frozen=True)
class Question:
    """One question about one picture.

    ``key`` is unique in its task; ``picture`` a file or None; ``choices`` the named answers (none: free text) and
    ``values`` their numbers where an expected value makes sense; ``group`` names what is resampled together in
    intervals, the picture as a rule; ``row`` is what the task's metrics need and no back end but a baseline sees.
    """

    key: str
    prompt: str
    picture: Path | None = None
    choices: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    group: str = ""
    row: dict[str, Any] = field(default_factory=dict)
    max_tokens: int = 16


@dataclass(frozen=True)
class Answer:
    """What a back end said.

    ``text`` is generated text, None where it was not asked for or could not be had; ``probabilities`` those of the
    choices, summing to 1, with ``mass``, the probability of all choices together at that place of the text; ``error``
    says why there is no answer: such an answer is not kept and is asked again by the next run.
    """

    text: str | None = None
    probabilities: dict[str, float] | None = None
    mass: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """Returns the answer as JSON holds it."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "") or name == "text"}


def picture_digest(path: Path | None) -> str:
    """Returns the SHA-256 of a picture's bytes, empty without a picture."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None else ""


def answer_key(model: str, settings: dict[str, Any], question: Question, *, picture: str) -> str:
    """Returns what an answer is kept under: model, prompt, choices, picture and settings, and nothing else."""
    parts = [model, settings, question.prompt, question.choices, question.max_tokens, picture]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
