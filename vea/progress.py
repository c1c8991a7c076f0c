"""How far long work over samples is: for a person at a terminal, and for the log of a job."""

from __future__ import annotations

import sys
import time
from typing import Any


class Progress:
    """A bar on a terminal, a plain line every few seconds otherwise; both on stderr."""

    def __init__(self, name: str, total: int | None):
        self.name, self.total, self.done = name, total, 0
        self.started = self.said = time.monotonic()
        self.bar: Any = None
        if sys.stderr.isatty():
            from rich import progress as rich_progress
            from rich.console import Console

            self.bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}"),
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
                auto_refresh=False,  # no thread of its own: loaders and pools fork while the bar stands
            )
            self.task = self.bar.add_task(name, total=total)
            self.bar.start()

    def advance(self, samples: int) -> None:
        """Counts samples that are done."""
        self.done += samples
        if self.bar is not None:
            self.bar.update(self.task, advance=samples, refresh=True)
        elif time.monotonic() - self.said > 5:
            self.said = time.monotonic()
            of = f" of {self.total:,}" if self.total else ""
            print(
                f"{self.name}: {self.done:,}{of} samples, {self.done / (self.said - self.started):.0f} a second",
                file=sys.stderr,
                flush=True,
            )

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self.bar is not None:
            self.bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()
