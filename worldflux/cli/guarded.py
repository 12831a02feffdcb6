"""Mistakes of a person are one line; a bug keeps its traceback."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from worldflux.cli.parser import Parser
from worldflux.config.hydra_errors import explain
from worldflux.errors import WorldFluxError
from worldflux.runner.caller import callers_logging, quiet_disk, short_warnings
from worldflux.training.output import lasting_output

FULL_ERROR = "HYDRA_FULL_ERROR"
INTERRUPTED = 130


def guarded(program: str, command: Callable[[], int]) -> int:
    """Runs a command and returns its exit code; prints every mistake in one line as `program`'s."""
    with lasting_output():
        try:
            return command()
        except KeyboardInterrupt:
            print(f"{program}: interrupted", file=sys.stderr)
            return INTERRUPTED
        except Exception as error:
            return report(error, program)


def verb(
    parser: Callable[[], Parser], command: Callable[[argparse.Namespace], int]
) -> Callable[..., int]:
    """The `main` of a verb: reads a command line (None: of this process), runs the command with its
    options and returns the exit code, 2 for wrong input."""

    def main(argv: Sequence[str] | None = None) -> int:
        made = parser()
        return guarded(made.prog, lambda: command(made.read(argv)))

    return main


def guarded_hydra(program: str, command: Callable[[], int]) -> int:
    """`guarded` for a command that hands its jobs to Hydra. With HYDRA_FULL_ERROR=1 a mistake shows
    its traceback too."""
    before = os.environ.get(FULL_ERROR)

    def whole() -> int:
        try:
            return command()
        except Exception as error:
            if explain(error) is not None:  # else its traceback is shown anyway
                traceback.print_exc()
            raise

    os.environ[FULL_ERROR] = "1"  # Hydra raises instead of printing and exiting
    try:
        with lasting_output(), quiet_disk(), callers_logging(program), short_warnings(program):
            return guarded(program, whole if before == "1" else command)
    finally:
        os.environ.pop(FULL_ERROR)
        if before is not None:
            os.environ[FULL_ERROR] = before


def report(error: Exception, program: str) -> int:
    """Prints an error, in one line if it is a user's mistake, and returns its exit code."""
    line = explain(error)
    if line is None:
        error.__traceback__ = _without_hydra(error.__traceback__)
        traceback.print_exception(error)
        return 1
    print(f"{program}: error: {line}", file=sys.stderr)
    return error.exit_code if isinstance(error, WorldFluxError) else WorldFluxError.exit_code


def _without_hydra(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from the job on, without the frames of Hydra that led to it."""
    last: Any = None
    frame = frames
    while frame is not None:
        if "hydra" in Path(frame.tb_frame.f_code.co_filename).parts:
            last = frame
        frame = frame.tb_next
    return frames if last is None or last.tb_next is None else last.tb_next
