"""The runs that `worldflux verify --target` means."""

from __future__ import annotations

import os
from pathlib import Path

from worldflux.errors import CheckpointError
from worldflux.run_folder.names import FOLDERS, MANIFEST


def runs_below(target: Path) -> list[Path]:
    """The run folders at or below a folder, oldest first.

    Runs that were moved aside (``previous/`` inside a run) do not count. CheckpointError if there
    is none.
    """
    if not target.is_dir():
        raise CheckpointError(f"--target {target}: there is no such folder")
    runs = []
    for folder, below, files in os.walk(target):
        if MANIFEST in files:
            runs.append(Path(folder))
        below[:] = sorted(set(below) - FOLDERS)
    if not runs:
        text = f"--target {target}: neither a run folder (with {MANIFEST}) nor a folder of runs"
        raise CheckpointError(text)
    return sorted(runs, key=lambda run: ((run / MANIFEST).stat().st_mtime, str(run)))
