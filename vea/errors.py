"""The two ways a vea command fails on purpose, and the one place where they become an exit code.

A user's mistake is one sentence: what is wrong, where, and what to do. No traceback without ``--debug``.
"""

from __future__ import annotations

import difflib
import errno
import functools
import os
import sys
from collections.abc import Callable, Iterable


class VeaError(Exception):
    """A mistake in the user's data or config: one sentence, exit code 2."""

    exit_code = 2

    def __str__(self) -> str:
        """Returns the sentence on one line, whatever the names of files in it hold."""
        return super().__str__().replace("\r", " ").replace("\n", " ")


class RunError(VeaError):
    """A run that cannot go on (no space left, non-finite loss, broken checkpoint): one sentence, exit code 1."""

    exit_code = 1


class Preempted(VeaError):
    """The run saved a checkpoint after a signal and wants to be started again: exit code 75 (EX_TEMPFAIL)."""

    exit_code = 75


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Returns `` (did you mean 'x'?)`` for the nearest of ``choices``, or a list of them when none is near."""
    names = [str(choice) for choice in choices]
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (choose from: {', '.join(sorted(names))})" if names else ""


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Decorates a command's ``main(argv)``: errors made for people become one line on stderr and an exit code.

    ``--debug`` anywhere in the arguments (removed before ``main`` sees them) keeps the traceback. A rank other than 0
    says which it is.
    """

    @functools.wraps(main)
    def guarded(argv: list[str] | None = None) -> int:
        arguments = list(sys.argv[1:] if argv is None else argv)
        debug = "--debug" in arguments
        arguments = [argument for argument in arguments if argument != "--debug"]
        number = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
        rank = "" if number == "0" else f"rank {number}: "
        try:
            return main(arguments) or 0
        except BrokenPipeError:  # `vea ... | head` is not a failure
            sys.stderr.close()
            return 0
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except VeaError as error:
            if debug:
                raise
            print(f"error: {rank}{error}", file=sys.stderr, flush=True)
            return error.exit_code
        except OSError as error:
            if debug or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise
            print(
                f"error: {rank}{error.strerror}: {error.filename or 'while writing'}; free or change it and run again",
                file=sys.stderr,
            )
            return 1
        except Exception as error:
            if rank:
                error.add_note(f"on {rank.rstrip(': ')}")
            raise

    return guarded
