"""A training around its loop: its parts, hooks, run folder, and how it begins and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from worldflux.config.training import TrainingConfig
from worldflux.core.agent import Agent, Carry
from worldflux.core.memory import is_out_of_memory
from worldflux.core.ranks import ALONE, Ranks
from worldflux.data.collect import Episode
from worldflux.data.sources import Source
from worldflux.errors import CheckpointError, ConfigurationError, DiskError, TrainingError
from worldflux.run_folder.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from worldflux.run_folder.state import RunState
from worldflux.training.bookkeeping import Bookkeeping, TrainerState
from worldflux.training.checkpointing import Checkpointing
from worldflux.training.evaluate import Evaluator
from worldflux.training.feeds import Feed, as_agent, default_training
from worldflux.training.manifest import environment_facts, run_manifest
from worldflux.training.parallel import join_episodes
from worldflux.training.progress import Progress, Status
from worldflux.training.run_writer import RunWriter
from worldflux.training.signals import StopSignals


class Callback:
    """Base class of hooks; override those you need. An epoch is one pass over finite data, or the
    whole training on a replay.

    name: that of its entry in the `callbacks` group; one with a name is saved in checkpoints.
    """

    name = ""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, for a run that is resumed: plain data, NumPy arrays and tensors (which
        come back as tensors)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""

    def on_train_begin(self, trainer: TrainingSession) -> None: ...
    def on_train_end(self, trainer: TrainingSession) -> None: ...
    def on_epoch_begin(self, trainer: TrainingSession) -> None: ...
    def on_epoch_end(self, trainer: TrainingSession) -> None: ...
    def on_step_begin(self, trainer: TrainingSession) -> None: ...
    def on_step_end(self, trainer: TrainingSession) -> None: ...


class TrainingSession:
    """What a Trainer holds besides its loop, and what callbacks may use of it."""

    def __init__(
        self,
        model: nn.Module | Agent,
        config: TrainingConfig | None = None,
        callbacks: Iterable[Callback] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: LRScheduler | None = None,
        *,
        run_dir: Path | None = None,
        evaluator: Evaluator | None = None,
        solved_return: float | None = None,
        facts: Mapping[str, Any] | None = None,
        loggers: Iterable[str] = ("tensorboard",),
        progress: Progress | None = None,
        degraded_modes: Callable[[], Iterable[str]] = tuple,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config = config or default_training(model)
        self.config.check_supported()
        if self.config.nproc != ranks.size:
            raise ConfigurationError(
                f"nproc={self.config.nproc}: a Trainer is one process; worldflux-run starts several"
            )
        self.ranks = ranks
        self.device = torch.device(self.config.resolve_device())
        self.agent = as_agent(model, self.config, self.device, optimizer, scheduler)
        self.callbacks = list(callbacks or ())
        self.evaluator = evaluator
        self.solved_return = solved_return
        self.facts = dict(facts or {})
        self.source: Source | None = None
        self.status = RunState.RUNNING
        self.error: Exception | None = None
        half = self.config.mixed_precision and self.config.mixed_precision_dtype == "float16"
        self.books = Bookkeeping(check_gradients=not half)
        folder = Path(run_dir or self.config.output_dir)
        self.folder = RunWriter(
            folder, loggers=loggers, ranks=ranks, config=self.facts.get("config")
        )
        self.checkpointing = Checkpointing(
            self.agent, self.books, self.folder, self.device, self.facts, self.callbacks
        )
        self._progress = progress
        self._degraded_modes = degraded_modes
        self._target = self.config.total_steps
        self._stop = StopSignals()
        self._begun = False
        self._first_step = 0  # updates done before this call of train
        self._inputs: tuple[dict[str, Tensor], Carry] = ({}, {})  # what the newest update took

    @property
    def state(self) -> TrainerState:
        return self.books.state

    @property
    def model(self) -> nn.Module:
        return self.agent.model

    def add_callback(self, callback: Callback) -> None:
        self.callbacks.append(callback)

    def sync_metrics(self) -> dict[str, float]:
        """Means of the training metrics since the last log, brought to the CPU now."""
        return self.books.sync()

    def progress(self) -> Status:
        """How far the training is."""
        return self.books.status(self._target, self.config.env_steps)

    def runtime_profile(self) -> dict[str, float | None]:
        return self.books.runtime_profile()

    def _show(self, phase: str) -> None:
        self.folder.logger.phase(phase)
        if self._progress is not None:
            self._progress.update(replace(self.progress(), phase=phase), force=True)

    @contextmanager
    def pausing(self, phase: str) -> Iterator[None]:
        """Something else is done meanwhile, which counts as no time of training; phase: what."""
        self._show(phase)
        with self.books.clock.pause():
            yield

    def log(self, metrics: Mapping[str, float]) -> None:
        """Logs numbers at the present update."""
        at = {"step": self.state.global_step, "env_steps": self.state.env_steps}
        self.folder.logger.scalars(metrics, **at)

    def show_pictures(self, pictures: Mapping[str, np.ndarray]) -> None:
        """Gives pictures of the present update to the loggers; see `Listener`."""
        at = {"step": self.state.global_step, "env_steps": self.state.env_steps}
        self.folder.logger.pictures(pictures, **at)

    def checkpoint(self) -> Checkpoint:
        """Everything that a run needs to continue, but the recorded steps."""
        return self.checkpointing.checkpoint(self.source)

    def save_checkpoint(self, path: str | Path) -> None:
        """Writes a checkpoint folder at `path`, without the replay of an environment: for that,
        resume from the run folder."""
        source = self.source if isinstance(self.source, Feed) else None
        write_checkpoint(Path(path), self.checkpointing.checkpoint(source))

    def load_checkpoint(self, path: str | Path) -> None:
        """Restores agent, counters and random streams from a checkpoint or run folder."""
        self.checkpointing.restore(load_checkpoint(Path(path))[1])

    def _note_episodes(self, source: Source, episodes: list[Episode]) -> None:
        every, env_steps = join_episodes(self.ranks, episodes, source.env_steps)
        self.books.note_episodes(every, env_steps, self.folder.logger)

    def _save(self, source: Source) -> None:
        self._note_episodes(source, source.settle())
        with self.books.clock.pause():
            self.checkpointing.save(source)
            self.folder.write_manifest(self._manifest())

    def _keep_best(self) -> None:
        with self.books.clock.pause():
            if self.checkpointing.keep_best():
                self.folder.write_manifest(self._manifest())

    def _begin(self, source: Source, resume_from: str | Path | None) -> None:
        try:
            self.checkpointing.begin(source, self.config.seed, resume_from)
            self.facts = {**environment_facts(), **self.facts}
            self.folder.write_manifest(self._manifest())
        except DiskError as error:  # nothing was trained yet: the mistake is the folder
            raise CheckpointError(str(error)) from error
        if self._progress is not None:
            self._progress.start()
            self._show("preparing the first update")

    @contextmanager
    def _outcome(self) -> Iterator[None]:
        """Notes how the training ends: in status and error, the manifest and for the callbacks."""
        self._begun, self.status, self.error = False, RunState.RUNNING, None
        status, error = RunState.FAILED, None
        try:
            yield
            status = RunState.STOPPED if self._stop.received else RunState.COMPLETED
        except KeyboardInterrupt:
            status = RunState.STOPPED
            raise
        except Exception as caught:
            error = out_of_memory(caught) or caught
            if error is not caught:
                raise error from caught
            raise
        finally:
            self.status, self.error = status, error
            if self._progress is not None:
                self._progress.stop()
            try:
                self.folder.finish(self._manifest(), error)
            finally:
                if self._begun:
                    self._call("on_train_end")

    def _manifest(self) -> dict[str, Any]:
        modes = self.all_degraded_modes()
        content = run_manifest(
            self.config, self.model, self.source, self.books, modes, self.status, self.error
        )
        return {**self.facts, **content}

    def all_degraded_modes(self) -> list[str]:
        """Names of everything that is not as it was configured, each once."""
        modes = [*getattr(self.source, "degraded_modes", ()), *self._degraded_modes()]
        modes += getattr(self.agent, "degraded_modes", ())
        modes += [*self.checkpointing.degraded_elsewhere, *self.folder.degraded_modes]
        if self.state.damaged_checkpoints:
            modes.append("damaged_checkpoint_skipped")
        return list(dict.fromkeys(modes))

    def _call(self, hook: str) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self)


def out_of_memory(error: Exception) -> TrainingError | None:
    """The one line for an error that means no memory is left; None for any other."""
    if is_out_of_memory(error):
        return TrainingError(f"out of memory; a smaller training.batch_size needs less ({error})")
    return None
