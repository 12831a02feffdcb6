"""Writes the folder of a run: its metrics, checkpoints, replay and manifest."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from worldflux.core.ranks import ALONE, Ranks
from worldflux.data.sources import Source
from worldflux.errors import CheckpointError, DiskError
from worldflux.run_folder.checkpoint import Checkpoint, CheckpointStore, check_files
from worldflux.run_folder.disk import disk_errors
from worldflux.run_folder.manifest import read_manifest, write_manifest
from worldflux.run_folder.metrics import has_damage
from worldflux.run_folder.names import CHECKPOINTS, METRICS, REPLAY
from worldflux.run_folder.previous import HELD, set_aside
from worldflux.run_folder.state import Claim
from worldflux.run_folder.trust import is_signed
from worldflux.training.logger import MetricLogger
from worldflux.training.loggers import Destination
from worldflux.training.parallel import part_of_rank, replay_name

DAMAGED_METRICS = "damaged_metrics"  # a degraded mode: lines of the curve are lost

DAMAGED_BEST = "damaged_best_checkpoint"  # a degraded mode

log = logging.getLogger("worldflux.training")


class RunWriter:
    """Writes one run; in the processes beside the first one, only their replay.

    path: the folder. loggers: names of those that get the metrics too. keep: resumable checkpoints kept.
    claim: of the folder, checked before each write where it is set. saved_at: when the newest
    checkpoint was written, by the monotonic clock, which took save_seconds. ranks: the processes
    that train the run. config: the run's, for loggers.
    """

    def __init__(
        self,
        path: Path,
        *,
        loggers: Iterable[str] = ("tensorboard",),
        keep: int | None = 2,
        ranks: Ranks = ALONE,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.config = config or {}
        self.ranks = ranks
        self.replay = path / replay_name(REPLAY, ranks)
        self.store = CheckpointStore(path / CHECKPOINTS, keep)
        self.loggers = tuple(loggers)
        self.saved_step = -1
        self.best_step = -1
        self.degraded_modes: list[str] = []
        self.claim: Claim | None = None
        self.saved_at = time.monotonic()
        self.save_seconds = 0.0
        self._logger: MetricLogger | None = None

    @property
    def is_open(self) -> bool:
        return self._logger is not None

    @property
    def logger(self) -> MetricLogger:
        if not self.ranks.first:
            return _Silence()
        if self._logger is None:
            raise RuntimeError("the run folder is not open")
        return self._logger

    def start(self, x_axis: str) -> None:
        """Begins a new run here; one that is here already is moved aside."""
        if self.ranks.first:
            if moved := set_aside(self.path):
                log.warning(HELD, self.path, moved)
            self._open(self._destination(x_axis))

    def extend(self, x_axis: str) -> None:
        """Goes on with the run of this process."""
        if self.ranks.first:
            metrics = self.path / METRICS
            end = metrics.stat().st_size if metrics.exists() else 0
            self._open(self._destination(x_axis), resume_at=end)

    def resume(self, x_axis: str, step: int, x: int, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint of this folder; what is newer than it is cut off."""
        self.saved_step = step
        if not self.ranks.first:
            return
        self.store.forget_after(step)
        best = state["trainer"]["best_step"]
        if best is not None and (self.store.folder / self.store.name(best)).is_dir():
            self.store.mark_best(best)
            self.best_step = best
            self._check_best(self.store.folder / self.store.name(best))
        metrics, end = self.path / METRICS, state["metrics_bytes"]
        damaged = not metrics.is_file() or metrics.stat().st_size < end or has_damage(self.path)
        ours = self._is_ours()
        destination = self._destination(x_axis, purge_from=x + 1, trusted=ours)
        self._open(destination, resume_at=end, positions=state.get("loggers"))
        if damaged or state.get("metrics_sha256") not in (None, self.logger.checksum()):
            self.degraded_modes.append(DAMAGED_METRICS)

    def _check_best(self, folder: Path) -> None:
        """Whether the best checkpoint, which the run itself does not read, is whole."""
        try:
            check_files(folder)
        except CheckpointError as error:
            log.warning("the best checkpoint cannot be used: %s", error)
            self.degraded_modes.append(DAMAGED_BEST)

    def _is_ours(self) -> bool:
        try:
            return is_signed(read_manifest(self.path))
        except CheckpointError:
            return False

    def _destination(self, x_axis: str, **resumed: Any) -> Destination:
        return Destination(self.path, x_axis, config=self.config, **resumed)

    def _open(self, destination: Destination, **resumed: Any) -> None:
        self._logger = MetricLogger(destination, self.loggers, **resumed)

    def save(self, step: int, source: Source, checkpoint: Callable[[], Checkpoint]) -> None:
        """Saves replay and checkpoint of this step, once; all processes together."""
        if step == self.saved_step:
            return
        begun = time.monotonic()
        self._check()
        with disk_errors("replay", self.replay):
            source.save(self.replay)
        content = checkpoint()
        newest: list[dict[str, Any]] = []
        if self.ranks.first:
            self.store.save(step, content)
            kept = itertools.islice(self.store.resumable(), self.store.keep)
            newest = [state for _, state in kept]
        # Only now: until its checkpoint was complete, this save was no way to go on.
        newest = self.ranks.share_object(newest)
        parts = [part_of_rank(state, self.ranks) for state in newest]
        source.keep_saves(self.replay, [part["source"] for part in parts])
        if self._logger is not None:
            self._logger.saved()
            new = set(self._logger.degraded_modes) - set(self.degraded_modes)
            self.degraded_modes += sorted(new)
        self.saved_step = step
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - begun

    def keep_best(self, step: int, checkpoint: Callable[[], Checkpoint]) -> None:
        """Points ``best`` at this step, saving it first (without replay) where it is not yet."""
        if self.ranks.first:
            self._check()
            if step != self.saved_step:
                self.store.save(step, checkpoint(), resumable=False)
            self.store.mark_best(step)
        self.best_step = step

    def write_manifest(self, content: Mapping[str, Any]) -> None:
        if self.ranks.first:
            self._check()
            write_manifest(self.path, content)

    def finish(self, content: Mapping[str, Any], error: BaseException | None) -> None:
        """Writes the last manifest and closes. error: what ends the run; it matters more than a
        second one from here, and a disk that refuses is reported once."""
        try:
            try:
                self.write_manifest(content)
            finally:
                logger, self._logger = self._logger, None
                if logger is not None:
                    logger.close()
        except CheckpointError as second:
            if error is None:
                raise
            if not isinstance(error, DiskError):
                log.error("%s", second)

    def _check(self) -> None:
        if self.claim is not None:
            self.claim.check()


class _Silence(MetricLogger):
    """Logs nothing."""

    def __init__(self) -> None:
        self.listeners = []

    def scalars(self, metrics: Mapping[str, float], **at: float | None) -> None: ...
    def checksum(self) -> str:
        return ""

    def pictures(self, pictures: Mapping[str, Any], **at: int) -> None: ...
