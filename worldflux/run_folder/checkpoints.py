"""Which checkpoints a run has, and which one a path means. Loads no tensors and no torch."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worldflux.config.files import read_text, wrong_kinds
from worldflux.errors import CheckpointError
from worldflux.run_folder.disk import read_sealed
from worldflux.run_folder.names import BEST, CHECKPOINTS, HYDRA, LATEST, MODEL, OPTIMIZER, STATE

log = logging.getLogger(__name__)
SCHEMA = "worldflux.checkpoint.v1"
NAME_BYTES = 4096  # of the files that name a checkpoint
_KINDS = {"groups": list, "files": dict, "state": dict, "state.trainer": dict, "state.step": int}
# Names that checkpoints had in the folder of an older run.
_OLDER = re.compile(r"checkpoint_(best|final|\d+)\.pt")


def read_state(folder: Path) -> dict[str, Any]:
    """The checked content of a checkpoint's ``state.json``, arrays still as references."""
    try:
        document = read_sealed(folder / STATE)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {folder} is damaged: {STATE}: {error}") from error
    schema = document.get("schema_version")
    if schema != SCHEMA:
        raise CheckpointError(f"checkpoint {folder}: schema {schema!r}, expected {SCHEMA!r}")
    wrong = wrong_kinds(document, _KINDS)
    step = document["state"].get("step") if wrong is None else None
    if step is not None and folder.name.startswith("step_"):
        name = CheckpointFolder.name(step)
        wrong = None if folder.name == name else f"it is that of {name}"
    if wrong is None and set(document.get("files", ())) - {MODEL, OPTIMIZER}:
        wrong = f"files must be {MODEL} and {OPTIMIZER}"
    if wrong is not None:
        raise CheckpointError(f"checkpoint {folder} is damaged: {STATE}: {wrong}")
    return document


class CheckpointFolder:
    """The ``checkpoints`` folder of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def name(step: int) -> str:
        return f"step_{step:09d}"

    def folders(self) -> list[Path]:
        """All complete checkpoint folders, oldest first."""
        return sorted(path for path in self.folder.glob("step_*") if path.is_dir())

    def best(self) -> Path | None:
        """The one that `best` names; where that file is damaged, of another checkpoint or gone,
        what the newest one knows."""
        folders = {folder.name: folder for folder in self.folders()}
        newest, state = next(self.resumable(), (None, {}))
        step = (state.get("trainer") or {}).get("best_step")
        known = folders.get(self.name(step)) if isinstance(step, int) else None
        try:
            name, bound = [*read_text(self.folder / BEST, NAME_BYTES).split("\n"), ""][:2]
        except (OSError, ValueError):
            name = bound = ""
        folder = folders.get(name.strip())
        if folder is None:
            reason = "names no checkpoint"
        elif bound and binding(BEST, folder) not in ("", bound):
            reason = f"was not written for {folder.name}"
        elif not bound and newest and known not in (None, folder) and folder <= newest:
            reason = f"names {folder.name}"  # a file of an older version, which nothing binds
        else:
            return folder
        if known is not None or (self.folder / BEST).exists():
            text = f"the best is {known.name}" if known else "none is"
            log.warning("%s %s: %s", self.folder / BEST, reason, text)
        return known

    def resumable(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Folder and state of the checkpoints that a run can continue from, newest first."""
        for folder in reversed(self.folders()):
            try:
                state = read_state(folder)["state"]
            except CheckpointError:
                continue
            if state.get("resumable"):
                yield folder, state


def binding(pointer: str, folder: Path) -> str:
    """The second line of a file that names a checkpoint: its own name and the checksum of the
    weights that it is written for, so that another file's content or another checkpoint in its place
    shows. Empty for a checkpoint that is damaged: whoever reads that one reports it."""
    try:
        return f"{pointer} {read_state(folder)['files'][MODEL]['sha256']}"
    except (CheckpointError, LookupError, TypeError):
        return ""


def has_checkpoint(run: Path) -> bool:
    """Whether a run has a checkpoint that it can continue from, or a damaged one. The best one is
    no such checkpoint where it was saved without its replay."""
    for folder in CheckpointFolder(run / CHECKPOINTS).folders():
        try:
            if read_sealed(folder / STATE)["state"]["resumable"]:
                return True
        except (OSError, ValueError, LookupError, TypeError):
            return True  # resuming reports what is wrong with it
    return False


def no_checkpoint(run: Path) -> CheckpointError:
    """The error for a run that ended too early to be continued."""
    return CheckpointError(
        f"{run} has no checkpoint yet: it ended before its first one. Start it anew, without resume; "
        "resume=auto starts it anew by itself"
    )


def checkpoint_named(run: Path, name: str) -> Path:
    """A checkpoint of a run by name: ``best`` (the newest where nothing was evaluated yet),
    ``latest``, or a folder's. CheckpointError: there is none, and which there are."""
    checkpoints = CheckpointFolder(run / CHECKPOINTS)
    folders = checkpoints.folders()
    if not folders:
        raise CheckpointError(f"{run} has no checkpoint yet")
    choices = {BEST: checkpoints.best() or folders[-1], LATEST: folders[-1]}
    choices |= {folder.name: folder for folder in folders}
    if name not in choices:
        raise CheckpointError(f"{run} has no checkpoint {name!r}; it has {', '.join(choices)}")
    return choices[name]


def checkpoint_at(path: str | Path) -> Path:
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
        return checkpoint_named(path, BEST)
    if path.parent.name == CHECKPOINTS and path.name in (BEST, LATEST):
        return checkpoint_named(path.parent.parent, path.name)
    older = _OLDER.fullmatch(path.name)
    if older and not path.exists():
        name = {"best": BEST, "final": LATEST}.get(older.group(1))
        return checkpoint_named(path.parent, name or CheckpointFolder.name(int(older.group(1))))
    if path.is_file():
        raise CheckpointError(
            f"{path} is a file of an older version; train anew, or load its model"
        )
    raise CheckpointError(f"there is no checkpoint at {path}: run `worldflux train` first")


def run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint folder belongs to."""
    return checkpoint.resolve().parent.parent


def run_at(path: str | Path) -> Path:
    """The run folder that a path means: itself, or that of a checkpoint as in `checkpoint_at`."""
    path = Path(path)
    if (path / CHECKPOINTS).is_dir() or (path / HYDRA).is_dir():
        return path
    try:
        return checkpoint_at(path).parent.parent
    except CheckpointError as error:
        raise CheckpointError(f"nothing to resume: {error}") from None
