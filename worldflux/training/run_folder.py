"""The folder that a run is: its metrics, checkpoints, replay and manifest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from worldflux.core.disk import disk_errors
from worldflux.data.sources import Source
from worldflux.errors import CheckpointError
from worldflux.training.checkpoint import Checkpoint, CheckpointStore, read_checkpoint
from worldflux.training.feeds import Feed
from worldflux.training.logger import METRICS, MetricLogger
from worldflux.training.manifest import FILE, write_manifest

log = logging.getLogger("worldflux.training")

CHECKPOINTS, REPLAY = "checkpoints", "replay"
CONTENTS = (
    FILE,
    METRICS,
    CHECKPOINTS,
    REPLAY,
    "events.out.tfevents.*",
    "pictures",
    "videos",
    "report",
)


class RunFolder:
    """Writes one run.

    path: the folder. tensorboard: also write TensorBoard events. keep: resumable checkpoints kept.
    """

    def __init__(self, path: Path, *, tensorboard: bool = True, keep: int | None = 3) -> None:
        self.path = path
        self.store = CheckpointStore(path / CHECKPOINTS, keep)
        self.tensorboard = tensorboard
        self.saved_step = -1
        self.best_step = -1
        self._logger: MetricLogger | None = None

    @property
    def is_open(self) -> bool:
        return self._logger is not None

    @property
    def logger(self) -> MetricLogger:
        if self._logger is None:
            raise RuntimeError("the run folder is not open")
        return self._logger

    def start(self, x_axis: str) -> None:
        """Begins a new run here; one that is here already is moved aside."""
        set_aside(self.path)
        self._logger = MetricLogger(self.path, x_axis=x_axis, tensorboard=self.tensorboard)

    def extend(self, x_axis: str) -> None:
        """Goes on with the run of this process."""
        end = (self.path / METRICS).stat().st_size if (self.path / METRICS).exists() else 0
        self._logger = MetricLogger(
            self.path, x_axis=x_axis, tensorboard=self.tensorboard, resume_at=end
        )

    def resume(self, x_axis: str, step: int, x: int, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint of this folder; what is newer than it is cut off."""
        self.store.forget_after(step)
        best = state["trainer"]["best_step"]
        if best is not None and (self.store.folder / self.store.name(best)).is_dir():
            self.store.mark_best(best)
            self.best_step = best
        self.saved_step = step
        self._logger = MetricLogger(
            self.path,
            x_axis=x_axis,
            tensorboard=self.tensorboard,
            resume_at=state["metrics_bytes"],
            purge_from=x + 1,
        )

    def save(self, step: int, source: Source, checkpoint: Callable[[], Checkpoint]) -> None:
        """Saves replay and checkpoint of this step, once."""
        if step == self.saved_step:
            return
        with disk_errors("replay", self.path / REPLAY):
            source.save(self.path / REPLAY)
        self.store.save(step, checkpoint())
        self.saved_step = step

    def keep_best(self, step: int, checkpoint: Callable[[], Checkpoint]) -> None:
        """Points ``best`` at this step, saving it first (without replay) where it is not yet."""
        if step != self.saved_step:
            self.store.save(step, checkpoint(), resumable=False)
        self.store.mark_best(step)
        self.best_step = step

    def write_manifest(self, content: Mapping[str, Any]) -> None:
        write_manifest(self.path, content)

    def close(self) -> None:
        if self._logger is not None:
            self._logger.close()
            self._logger = None


def set_aside(folder: Path) -> None:
    """Moves the run that a folder holds, if any, to ``previous/<time>`` inside it, so that a new
    one can start there and nothing is lost."""
    if not (folder / FILE).exists() and not (folder / CHECKPOINTS).exists():
        return
    target = folder / "previous" / time.strftime("%Y-%m-%d_%H-%M-%S")
    with disk_errors("run folder", folder):
        while target.exists():
            target = target.with_name(target.name + "_")
        target.mkdir(parents=True)
        for pattern in CONTENTS:
            for path in folder.glob(pattern):
                path.rename(target / path.name)
    log.warning("%s held a run already; it is now in %s", folder, target)


def restore_from(path: Path, source: Source, store: CheckpointStore) -> tuple[Path, Checkpoint]:
    """Restores the source from a run folder's newest good checkpoint, or a checkpoint folder.

    Returns the run folder and the checkpoint. store: where damaged checkpoints that were passed
    over are noted.
    """

    def load(folder: Path, checkpoint: Checkpoint) -> None:
        if "source" in checkpoint.state:
            source.load(run_of(folder) / REPLAY)
            source.load_state_dict(checkpoint.state["source"])
        elif not isinstance(source, Feed):
            raise CheckpointError(
                f"{folder} was saved without its replay; resume from a run folder"
            )

    if (path / CHECKPOINTS).is_dir():
        newest = CheckpointStore(path / CHECKPOINTS)
        folder, checkpoint = newest.load_latest(load)
        store.damaged += newest.damaged
    else:
        folder, checkpoint = path, read_checkpoint(path)
        load(folder, checkpoint)
    return run_of(folder), checkpoint


def run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint folder belongs to."""
    return checkpoint.resolve().parent.parent
