"""The folder that a run is: its metrics, checkpoints, replay and manifest."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from worldflux.core.ranks import ALONE, Ranks
from worldflux.data.sources import Source
from worldflux.errors import CheckpointError, WorldFluxError
from worldflux.run_folder.checkpoint import STATE, Checkpoint, CheckpointStore, read_checkpoint
from worldflux.run_folder.disk import disk_errors
from worldflux.run_folder.manifest import FILE, read_manifest, write_manifest
from worldflux.run_folder.state import Claim
from worldflux.training.feeds import Feed
from worldflux.training.logger import METRICS, MetricLogger
from worldflux.training.parallel import Restoring, check_size, of_rank, replay_name, size_of

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
    claim: of the folder, checked before each write where it is set. saved_at: when the newest
    checkpoint was written, by the monotonic clock, which took save_seconds. ranks: the processes
    that train the run.
    """

    def __init__(
        self,
        path: Path,
        *,
        tensorboard: bool = True,
        keep: int | None = 2,
        ranks: Ranks = ALONE,
    ) -> None:
        self.path = path
        self.ranks = ranks
        self.replay = path / replay_name(REPLAY, ranks)
        self.store = CheckpointStore(path / CHECKPOINTS, keep)
        self.tensorboard = tensorboard
        self.saved_step = -1
        self.best_step = -1
        self.claim: Claim | None = None
        self.saved_at = time.monotonic()
        self.save_seconds = 0.0
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
        begun = time.monotonic()
        self._check()
        with disk_errors("replay", self.replay):
            source.save(self.replay)
        self.store.save(step, checkpoint())
        newest = [state for _, state in itertools.islice(self.store.resumable(), self.store.keep)]
        # Only now: until its checkpoint was complete, this save was no way to go on.
        self.ranks.share_object(newest)
        source.keep_saves(self.replay, [state["source"] for state in newest])
        self.saved_step = step
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - begun

    def keep_best(self, step: int, checkpoint: Callable[[], Checkpoint]) -> None:
        """Points ``best`` at this step, saving it first (without replay) where it is not yet."""
        self._check()
        if step != self.saved_step:
            self.store.save(step, checkpoint(), resumable=False)
        self.store.mark_best(step)
        self.best_step = step

    def write_manifest(self, content: Mapping[str, Any]) -> None:
        self._check()
        write_manifest(self.path, content)

    def _check(self) -> None:
        if self.claim is not None:
            self.claim.check()

    def close(self) -> None:
        if self._logger is not None:
            self._logger.close()
            self._logger = None


class WatchedFolder(RunFolder):
    """The run folder of the processes beside the first one: of it they write their replay only."""

    @property
    def logger(self) -> Any:
        return _Silence()

    def start(self, x_axis: str) -> None:
        pass

    def extend(self, x_axis: str) -> None:
        pass

    def resume(self, x_axis: str, step: int, x: int, state: Mapping[str, Any]) -> None:
        self.saved_step = step

    def save(self, step: int, source: Source, checkpoint: Callable[[], Checkpoint]) -> None:
        """Saves the replay, and gives the first process the rest."""
        if step == self.saved_step:
            return
        with disk_errors("replay", self.replay):
            source.save(self.replay)
        checkpoint()
        newest = self.ranks.share_object(None)
        own = [state["ranks"][self.ranks.rank - 1] for state in newest]
        source.keep_saves(self.replay, [state["source"] for state in own])
        self.saved_step = step

    def keep_best(self, step: int, checkpoint: Callable[[], Checkpoint]) -> None:
        self.best_step = step

    def write_manifest(self, content: Mapping[str, Any]) -> None:
        pass


class _Silence:
    """A MetricLogger that nobody hears."""

    def scalars(self, metrics: Mapping[str, float], **at: Any) -> None:
        pass

    def pictures(self, pictures: Mapping[str, Any], **at: Any) -> None:
        pass


def set_aside(folder: Path, more: Sequence[str] = ()) -> None:
    """Moves the run that a folder holds, if any, to ``previous/<time>`` inside it, so that a new
    one can start there and nothing is lost.

    more: names besides those that a Trainer writes, as they are there before it begins."""
    if not (folder / FILE).exists() and not (folder / CHECKPOINTS).exists():
        return
    target = folder / "previous" / time.strftime("%Y-%m-%d_%H-%M-%S")
    with disk_errors("run folder", folder):
        while target.exists():
            target = target.with_name(target.name + "_")
        target.mkdir(parents=True)
        for pattern in (*CONTENTS, *more):
            for path in folder.glob(pattern):
                path.rename(target / path.name)
    log.warning("%s held a run already; it is now in %s", folder, target)


def no_checkpoint(run: Path) -> CheckpointError:
    """What to do with a run that ended too early to be continued."""
    return CheckpointError(
        f"{run} has no checkpoint yet: it ended before its first one. Start it anew, without resume; "
        "resume=auto starts it anew by itself"
    )


def choose_checkpoint(run: Path, wanted: str) -> Path:
    """A checkpoint of a run by name: ``best`` (the newest where nothing was evaluated yet),
    ``latest``, or a folder's. CheckpointError: there is none, and which there are."""
    store = CheckpointStore(run / CHECKPOINTS)
    folders = store.folders()
    if not folders:
        raise CheckpointError(f"{run} has no checkpoint yet")
    if wanted == "best":
        return store.best() or folders[-1]
    if wanted == "latest":
        return folders[-1]
    for folder in folders:
        if folder.name == wanted:
            return folder
    names = ", ".join(folder.name for folder in folders)
    raise CheckpointError(f"{run} has no checkpoint {wanted!r}; it has best, latest, {names}")


def find_checkpoint(
    path: Path,
    accept: Callable[[Path, Checkpoint], None] | None = None,
    damaged: list[str] | None = None,
) -> tuple[Path, Checkpoint]:
    """The checkpoint that a path means: a checkpoint folder, or the newest good one of a run.

    accept: see `CheckpointStore.load_latest`. damaged: gets the names of those passed over.
    CheckpointError: there is none.
    """
    if (path / STATE).exists():
        checkpoint = read_checkpoint(path)
        if accept is not None:
            accept(path, checkpoint)
        return path, checkpoint
    store = CheckpointStore(path / CHECKPOINTS)
    if store.folders():
        try:
            return store.load_latest(accept)
        finally:
            if damaged is not None:
                damaged += store.damaged
    if (path / FILE).exists() or store.folder.is_dir():
        raise no_checkpoint(path)
    raise CheckpointError(f"{path} is neither a run folder nor a checkpoint")


def restore_from(
    path: Path, source: Source, store: CheckpointStore, ranks: Ranks = ALONE
) -> tuple[Path, Checkpoint]:
    """Restores the source from a run folder's newest good checkpoint, or a checkpoint folder.

    Returns the run folder and the checkpoint, as this one of the ranks goes on from it. store: of the run that goes on; damaged checkpoints
    that were passed over are noted in it.
    """

    def load(folder: Path, checkpoint: Checkpoint) -> None:
        if "source" in checkpoint.state:
            source.load(run_of(folder) / replay_name(REPLAY, ranks))
            source.load_state_dict(of_rank(checkpoint, ranks).state["source"])
        elif not isinstance(source, Feed):
            raise CheckpointError(
                f"{folder} was saved without its replay; resume from a run folder"
            )

    run = path if (path / FILE).exists() else run_of(path)
    if (run / FILE).exists():
        check_size(size_of(read_manifest(run)), ranks.size, run)
    restoring = Restoring(ranks, load)
    if not ranks.first:
        folder, checkpoint = restoring.follow()
        return run_of(folder), of_rank(checkpoint, ranks)
    try:
        if (path / CHECKPOINTS).resolve() == store.folder.resolve():
            store.tidy()
        folder, checkpoint = find_checkpoint(path, restoring.accept, store.damaged)
    except WorldFluxError as error:
        restoring.give_up(error)
        raise
    restoring.settle()
    return run_of(folder), checkpoint


def run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint folder belongs to."""
    return checkpoint.resolve().parent.parent
