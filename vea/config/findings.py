"""What a check of a config found: a line for people. Each room checks its own subject; ``vea doctor`` prints them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from vea.config.sections import RunConfig
from vea.errors import VeaError

# warning: the job runs, perhaps not as meant; wrong: it runs, and its numbers would not mean what they say;
# missing: it would fail.
State = Literal["ok", "warning", "wrong", "missing"]


@dataclass(frozen=True)
class Finding:
    """One line of the answer."""

    state: State
    what: str
    text: str
    todo: str = ""

    @classmethod
    def of(cls, error: Exception, what: str) -> Finding:
        """Returns what is missing by an error made for people, ``what is wrong; what to do``."""
        text, _, todo = str(error).rpartition("; ")
        return cls("missing", what, text or todo, todo if text else "")


Check = Callable[[RunConfig], Iterable[Finding]]


def collect(checks: Mapping[str, Check], config: RunConfig) -> list[Finding]:
    """Returns what several checks find; one that fails leaves the others alone."""
    findings: list[Finding] = []
    for what, check in checks.items():
        try:
            findings += check(config)
        except (VeaError, OSError) as error:
            findings.append(Finding.of(error, what))
        except Exception as error:  # a mistake of a check's own must not keep a good job from starting
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            findings.append(Finding("warning", what, f"this could not be looked at ({reason})"))
    return findings
