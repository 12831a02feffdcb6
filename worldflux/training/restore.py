"""Finding the checkpoint that a training continues from, with all its processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from worldflux.core.ranks import Ranks
from worldflux.data.sources import Source
from worldflux.errors import CheckpointError, WorldFluxError
from worldflux.run_folder.checkpoint import (
    DAMAGE,
    Checkpoint,
    CheckpointStore,
    damage,
    load_checkpoint,
    read_checkpoint,
)
from worldflux.run_folder.checkpoints import run_of
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.names import CHECKPOINTS, REPLAY, STATE
from worldflux.training.feeds import Feed
from worldflux.training.parallel import of_rank, part_of_rank, replay_name

Load = Callable[[Path, Checkpoint], None]


def restore_source(
    path: Path,
    source: Source,
    store: CheckpointStore,
    ranks: Ranks,
    restore: Callable[[Checkpoint], None],
) -> tuple[Path, Checkpoint]:
    """Restores the source from a run folder's newest good checkpoint, or a checkpoint folder.

    Returns the run folder and the checkpoint, as this one of the ranks continues from it. store: of
    the run that continues; damaged checkpoints that were passed over are noted in it. restore: gets
    the checkpoint after the source; where it raises what damage raises, the one before is tried.
    """

    def load(folder: Path, checkpoint: Checkpoint) -> None:
        if "source" in checkpoint.state:
            source.load(run_of(folder) / replay_name(REPLAY, ranks))
            source.load_state_dict(part_of_rank(checkpoint.state, ranks)["source"])
        elif not isinstance(source, Feed):
            raise CheckpointError(
                f"{folder} was saved without its replay; resume from a run folder"
            )
        restore(of_rank(checkpoint, ranks))

    run = run_of(path) if (path / STATE).exists() else path
    try:
        manifest = read_manifest(run)
    except CheckpointError:
        manifest = {}  # written anew, from the checkpoint
    if manifest.get("training_config"):
        check_size(manifest, ranks.size, run)
    if ranks.first:
        if (path / CHECKPOINTS).resolve() == store.folder.resolve():
            store.tidy()
        folder, checkpoint = _lead(path, load, store.damaged, ranks)
    else:
        folder, checkpoint = _follow(load, ranks)
    return run_of(folder), of_rank(checkpoint, ranks)


def check_size(manifest: Mapping[str, Any], size: int, run: Path) -> None:
    """CheckpointError unless as many processes continue a run as trained it before."""
    trained_by = int(manifest["training_config"].get("nproc", 1))
    if trained_by != size:
        raise CheckpointError(
            f"{run} was trained by {trained_by} process{'es' * (trained_by > 1)} and continues with"
            f" as many: training.nproc must be {trained_by}, got {size}"
        )


# The first process proposes checkpoints until every process can load one; the others follow.


def _lead(path: Path, load: Load, damaged: list[str], ranks: Ranks) -> tuple[Path, Checkpoint]:
    def accept(folder: Path, checkpoint: Checkpoint) -> None:
        ranks.share_object(("try", folder.resolve()))
        for error in ranks.gather_objects(_objection(load, folder, checkpoint)):
            if error is not None:
                raise error

    try:
        folder, checkpoint = load_checkpoint(path, accept, damaged)
    except WorldFluxError as error:
        ranks.share_object(("stop", error))
        raise
    ranks.share_object(("go", None))
    return folder, checkpoint


def _follow(load: Load, ranks: Ranks) -> tuple[Path, Checkpoint]:
    folder, checkpoint = Path(), Checkpoint({})
    while True:
        verdict, value = ranks.share_object(None)
        if verdict == "stop":
            raise value
        if verdict == "go":
            return folder, checkpoint
        folder = value
        try:
            checkpoint = read_checkpoint(folder)
            error = _objection(load, folder, checkpoint)
        except WorldFluxError as damage:
            error = damage
        ranks.gather_objects(error)


def _objection(load: Load, folder: Path, checkpoint: Checkpoint) -> WorldFluxError | None:
    try:
        load(folder, checkpoint)
    except WorldFluxError as error:
        return error
    except torch.OutOfMemoryError:
        raise
    except DAMAGE as error:
        return CheckpointError(f"checkpoint {folder} is damaged: {damage(error)}")
    return None
