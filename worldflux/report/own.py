"""The page that a run leaves of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from worldflux.report.comparison import Choices, ComparedRun, compare, grouped
from worldflux.report.page import write_page
from worldflux.run_folder.names import REPORT


def write_own_page(folder: Path, command: str | None, words: Sequence[str]) -> Path | None:
    """Writes ``report/report.html`` of a run. command: what repeats it; words: its overrides."""
    run = ComparedRun.read(folder, words)
    # This process holds the folder still, so that the run counts as running to everybody else.
    runs = grouped([replace(run, state=run.manifest["status"])])
    return write_page(folder / REPORT, compare(runs, Choices()), {folder: command})
