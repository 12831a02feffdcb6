"""A new run in a folder that holds something already: a run of ours moves aside, whole; what is
somebody else's stays, and the run is refused."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from worldflux.errors import ConfigurationError
from worldflux.run_folder.disk import disk_errors, shown
from worldflux.run_folder.names import (
    CHECKPOINTS,
    CSV,
    HYDRA,
    LOG,
    MANIFEST,
    METRICS,
    OF_TRAINER,
    PICTURES,
    PREVIOUS,
    REPLAY,
    REPORT,
    STATE,
    VIDEOS,
)

BEFORE_TRAINER = (HYDRA, LOG)  # written before a Trainer begins
HELD = "%s held a run already; it is now in %s"  # for a log: the folder, and where it is now


def holds_run(folder: Path) -> bool:
    """Whether there is a run in the folder, or what is left of one: checkpoints."""
    if (folder / MANIFEST).exists():
        return True
    return next((folder / CHECKPOINTS).glob(f"step_*/{STATE}"), None) is not None


def check_free(folder: Path) -> None:
    """ConfigurationError: a run would write into files or folders that are none of a run."""
    if holds_run(folder):
        return
    for name in (CHECKPOINTS, REPLAY, REPORT, VIDEOS, PICTURES, METRICS, CSV):
        path = folder / name
        full = any(path.iterdir()) if path.is_dir() else path.is_file() and path.stat().st_size
        if full or path.is_symlink():
            text = f"{shown(path)} is there already and is not of a run: set hydra.run.dir to"
            raise ConfigurationError(f"{text} a folder without one")


def set_aside(folder: Path, more: Sequence[str] = ()) -> Path | None:
    """Moves the run that a folder holds, if any, to ``previous/<time>`` inside it, so that a new
    one can start there and nothing is lost. Returns where it is now.

    more: names besides those that a Trainer writes, as they are there before it begins.
    """
    if not holds_run(folder):
        return None
    target = folder / PREVIOUS / time.strftime("%Y-%m-%d_%H-%M-%S")
    with disk_errors("run folder", folder):
        while target.exists():
            target = target.with_name(target.name + "_")
        target.mkdir(parents=True)
        for pattern in (*OF_TRAINER, *more):
            for path in folder.glob(pattern):
                path.rename(target / path.name)
    return target
