"""Where the checkpoint lies that a worldflux.toml or a flag names."""

from __future__ import annotations

import re
from pathlib import Path

from worldflux.errors import CheckpointError
from worldflux.run_folder.checkpoint import STATE, CheckpointStore
from worldflux.training.run_folder import CHECKPOINTS, choose_checkpoint

# Names that checkpoints had in the folder of an older run.
_OLDER = re.compile(r"checkpoint_(best|final|\d+)\.pt")


def find(path: str | Path) -> Path:
    """The checkpoint folder that a path means.

    A checkpoint folder; a run folder (its best checkpoint); ``checkpoints/best`` or
    ``checkpoints/latest`` of one; or, in a run folder, the names that older runs had:
    ``checkpoint_best.pt``, ``checkpoint_final.pt`` and ``checkpoint_<update>.pt``.
    CheckpointError says what is missing.
    """
    path = Path(path)
    if (path / STATE).is_file():
        return path
    if (path / CHECKPOINTS).is_dir():
        return choose_checkpoint(path, "best")
    if path.parent.name == CHECKPOINTS and path.name in ("best", "latest"):
        return choose_checkpoint(path.parent.parent, path.name)
    older = _OLDER.fullmatch(path.name)
    if older and not path.exists():
        name = {"best": "best", "final": "latest"}.get(older.group(1))
        return choose_checkpoint(path.parent, name or CheckpointStore.name(int(older.group(1))))
    if path.is_file():
        raise CheckpointError(
            f"{path} is a file of an older version; train anew, or load its model"
        )
    raise CheckpointError(f"there is no checkpoint at {path}: run `worldflux train` first")


def run_of(path: str | Path) -> Path:
    """The run folder that a path means: itself, or that of a checkpoint as in `find`."""
    path = Path(path)
    if (path / CHECKPOINTS).is_dir() or (path / ".hydra").is_dir():
        return path
    try:
        return find(path).parent.parent
    except CheckpointError as error:
        raise CheckpointError(f"nothing to resume: {error}") from None
