"""Earlier runs of a folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from worldflux.run_folder.disk import disk_errors
from worldflux.run_folder.names import CHECKPOINTS, MANIFEST, OF_TRAINER, PREVIOUS

log = logging.getLogger("worldflux.training")


def set_aside(folder: Path, more: Sequence[str] = ()) -> None:
    """Moves the run that a folder holds, if any, to ``previous/<time>`` inside it, so that a new
    one can start there and nothing is lost.

    more: names besides those that a Trainer writes, as they are there before it begins.
    """
    if not (folder / MANIFEST).exists() and not (folder / CHECKPOINTS).exists():
        return
    target = folder / PREVIOUS / time.strftime("%Y-%m-%d_%H-%M-%S")
    with disk_errors("run folder", folder):
        while target.exists():
            target = target.with_name(target.name + "_")
        target.mkdir(parents=True)
        for pattern in (*OF_TRAINER, *more):
            for path in folder.glob(pattern):
                path.rename(target / path.name)
    log.warning("%s held a run already; it is now in %s", folder, target)
