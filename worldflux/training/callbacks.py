"""Hooks into training, and the ready-made ones of the public API.

Hooks get the trainer; ``trainer.state`` has the counters and the latest logged metrics, and setting
``trainer.state.should_stop`` ends training after the current update. At the end ``trainer.status``
is completed, stopped or failed, then with ``trainer.error``.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

from worldflux.errors import ConfigurationError, MissingDependencyError
from worldflux.training.meter import TOTAL_LOSS
from worldflux.training.progress import Progress
from worldflux.training.run_writer import RunWriter
from worldflux.training.session import Callback as Callback
from worldflux.training.session import TrainingSession

log = logging.getLogger("worldflux.training")


def every(interval: int, name: str) -> int:
    if interval < 1:
        raise ConfigurationError(f"{name}: expected at least 1, got {interval}")
    return interval


class LoggingCallback(Callback):
    """Writes the latest metrics to the Python log, and to Weights & Biases with `use_wandb`."""

    def __init__(
        self,
        log_interval: int = 100,
        use_wandb: bool = False,
        wandb_project: str | None = None,
        wandb_run_name: str | None = None,
    ) -> None:
        self.log_interval = every(log_interval, "log_interval")
        self.project, self.run_name = wandb_project, wandb_run_name
        self._wandb: ModuleType | None = None
        if use_wandb:
            try:
                self._wandb = importlib.import_module("wandb")
            except ImportError as error:
                raise MissingDependencyError(
                    "use_wandb needs wandb: pip install 'worldflux[wandb]'"
                ) from error
        self._run: Any = None

    def on_train_begin(self, trainer: TrainingSession) -> None:
        if self._wandb is not None:
            self._run = self._wandb.init(project=self.project, name=self.run_name)

    def on_step_end(self, trainer: TrainingSession) -> None:
        step = trainer.state.global_step
        if step % self.log_interval:
            return
        metrics = trainer.sync_metrics()
        values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        log.info("step %d: %s", step, values)
        if self._run is not None:
            self._run.log(metrics, step=step)

    def on_train_end(self, trainer: TrainingSession) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None


class CheckpointCallback(Callback):
    """Checkpoints at intervals under ``output_dir/checkpoints``.

    save_best: also keep the checkpoint with the best evaluation score, or, where nothing is
    evaluated, the lowest logged training loss. max_checkpoints: how many are kept (None: all).
    """

    def __init__(
        self,
        save_interval: int = 10000,
        output_dir: str = "./outputs",
        save_best: bool = True,
        max_checkpoints: int | None = 5,
    ) -> None:
        self.save_interval = every(save_interval, "save_interval")
        self.save_best = save_best
        self.folder = RunWriter(Path(output_dir), keep=max_checkpoints)
        self._best: float | None = None

    def on_train_begin(self, trainer: TrainingSession) -> None:
        if self.folder.path.resolve() == trainer.folder.path.resolve():
            trainer.folder.store.keep = self.folder.store.keep
            self.folder = trainer.folder

    def on_step_end(self, trainer: TrainingSession) -> None:
        step = trainer.state.global_step
        if step % self.save_interval or trainer.source is None:
            return
        self.folder.save(step, trainer.source, trainer.checkpoint)
        score = self._score(trainer)
        if self.save_best and score is not None and (self._best is None or score > self._best):
            self._best = score
            self.folder.store.mark_best(step)

    @staticmethod
    def _score(trainer: TrainingSession) -> float | None:
        if trainer.state.last_score is not None:
            return trainer.state.last_score
        loss = trainer.sync_metrics().get(f"train/{TOTAL_LOSS}")
        return None if loss is None else -loss


class EarlyStoppingCallback(Callback):
    """Stops when a metric has not fallen by `min_delta` for `patience` updates.

    monitor: a metric name as logged (``train/loss/dyn``); ``loss`` is the total training loss. Only
    values synced for logging are looked at, so the grain is ``log_interval``.
    """

    def __init__(
        self, patience: int = 5000, min_delta: float = 0.0001, monitor: str = "loss"
    ) -> None:
        self.patience = every(patience, "patience")
        self.min_delta = min_delta
        self.monitor = f"train/{TOTAL_LOSS}" if monitor == "loss" else monitor
        self.best: float | None = None
        self.best_step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_step = state["best"], state["best_step"]

    def on_train_begin(self, trainer: TrainingSession) -> None:
        if self.best is None:
            self.best_step = trainer.state.global_step

    def on_step_end(self, trainer: TrainingSession) -> None:
        state = trainer.state
        if state.metrics_step != state.global_step:
            return
        if self.monitor not in state.metrics:
            names = ", ".join(sorted(state.metrics))
            raise ConfigurationError(f"monitor: no metric {self.monitor!r} (logged: {names})")
        value = state.metrics[self.monitor]
        if self.best is None or value < self.best - self.min_delta:
            self.best, self.best_step = value, state.global_step
        elif state.global_step - self.best_step >= self.patience:
            log.info("%s has not improved for %d updates", self.monitor, self.patience)
            state.should_stop = True


class ProgressCallback(Callback):
    """The live progress line of `worldflux-run`, for trainings started from Python."""

    def __init__(self, desc: str = "Training") -> None:
        self.desc = desc
        self._progress: Progress | None = None

    def on_train_begin(self, trainer: TrainingSession) -> None:
        self._progress = Progress(self.desc)
        self._progress.start()

    def on_step_end(self, trainer: TrainingSession) -> None:
        if self._progress is not None:
            self._progress.update(trainer.progress())

    def on_train_end(self, trainer: TrainingSession) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
