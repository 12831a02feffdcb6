"""Links in a run folder: those that leave it are refused, as reading follows and writing destroys."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from worldflux.errors import CheckpointError
from worldflux.run_folder.names import (
    CSV,
    FOLDERS,
    LOCK,
    LOG,
    MANIFEST,
    METRICS,
    PREVIOUS,
    TENSORBOARD,
)

# Entries of a run folder that a run, or a command about it, opens.
ENTRIES = (LOCK, LOG, METRICS, CSV, MANIFEST, TENSORBOARD, ".tmp-*", ".old-*")
# Ranks beside the first have a replay of their own, with a number behind its name.
BELOW = tuple(f"{name}*" for name in sorted(FOLDERS - {PREVIOUS}))


def check_links(folder: Path, names: Iterable[str] | None = None) -> None:
    """CheckpointError for a link that leaves the run folder, and for an entry that is neither file
    nor folder, such as a pipe or a device.

    names: the entries to look at; None: all that a run or a command about it opens.
    """
    home = Path(os.path.realpath(folder))
    for path in _entries(folder) if names is None else (folder / name for name in names):
        try:
            mode = path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue  # a run that goes on removes what it no longer needs
        if stat.S_ISLNK(mode):
            target = Path(os.path.realpath(path))  # `resolve` raises where links go in a circle
            if target.is_symlink():
                raise CheckpointError(f"{path} is a link that leads to itself")
            if not target.is_relative_to(home):
                raise CheckpointError(f"{path} is a link out of the run folder, to {target}")
        elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise CheckpointError(f"{path} is neither a file nor a folder")


def _entries(folder: Path) -> Iterator[Path]:
    for pattern in (*ENTRIES, PREVIOUS):
        yield from folder.glob(pattern)
    for pattern in BELOW:
        for top in folder.glob(pattern):
            yield top
            if not top.is_symlink():
                for parent, below, files in os.walk(top):
                    yield from (Path(parent, name) for name in (*below, *files))
