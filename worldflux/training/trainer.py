"""The training loop: collect, sample, update, write back, log, evaluate, save."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldflux.core.agent import Agent
from worldflux.data.collect import Episode
from worldflux.data.sources import Source
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.training.callbacks import Callback
from worldflux.training.checkpoint import (
    Checkpoint,
    CheckpointStore,
    disk_errors,
    find_checkpoint,
    write_checkpoint,
)
from worldflux.training.config import TrainingConfig
from worldflux.training.evaluate import Evaluation
from worldflux.training.feeds import Feed, as_source
from worldflux.training.logger import MetricLogger
from worldflux.training.manifest import (
    environment_facts,
    plain,
    run_manifest,
    set_aside,
    write_manifest,
)
from worldflux.training.meter import TOTAL_LOSS, Meter
from worldflux.training.progress import Clock, Progress, Status
from worldflux.training.seed import derive_seed, isolated_rng, rng_state, set_rng_state, set_seed
from worldflux.training.signals import StopSignals

log = logging.getLogger("worldflux.training")

EVALUATION, TRAINING = 0, 1  # paths of derived seeds

# (agent, seed, should_stop) -> result, or None when it was told to stop
Evaluator = Callable[[Agent, int, Callable[[], bool]], Evaluation | None]


@dataclass
class TrainerState:
    """Counters and results of a run; everything here survives a resume."""

    global_step: int = 0
    env_steps: int = 0
    episodes: int = 0
    epoch: int = 0
    best_loss: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    metrics_step: int = -1
    should_stop: bool = False
    last_return: float | None = None
    last_score: float | None = None
    last_eval_step: int = -1
    best_score: float | None = None
    best_step: int | None = None
    elapsed: float = 0.0
    started: float | None = None


class Trainer:
    """Trains an agent on a source of experience.

    model: a world model (its agent is made by ``model.make_agent``) or an agent. config: defaults
    to ``TrainingConfig()``. optimizer, scheduler: used by the agent instead of the configured ones.

    The runner also gives: run_dir (default ``config.output_dir``), evaluator (greedy evaluation;
    without one nothing is evaluated and no checkpoint is ``best``), facts (more manifest content),
    tensorboard, progress (the live line).
    """

    def __init__(
        self,
        model: nn.Module | Agent,
        config: TrainingConfig | None = None,
        callbacks: Iterable[Callback] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any | None = None,
        *,
        run_dir: Path | None = None,
        evaluator: Evaluator | None = None,
        facts: Mapping[str, Any] | None = None,
        tensorboard: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.config = config or TrainingConfig()
        self.config.check_supported()
        self.device = torch.device(self.config.resolve_device())
        self.agent = as_agent(model, self.config, self.device, optimizer, scheduler)
        self.callbacks = list(callbacks or ())
        self.run_dir = Path(run_dir or self.config.output_dir)
        self.evaluator = evaluator
        self.facts = dict(facts or {})
        self.tensorboard = tensorboard
        self.state = TrainerState()
        self.store = CheckpointStore(self.run_dir / "checkpoints")
        half = self.config.mixed_precision and self.config.mixed_precision_dtype == "float16"
        self.meter = Meter(check_gradients=not half)
        self.source: Source | None = None
        self.logger: MetricLogger | None = None
        self._progress = progress
        self._target = self.config.total_steps
        self._stop = StopSignals()
        self._saved_step = -1
        self._marked_step = -1
        self._batch: dict[str, Tensor] = {}
        self._error: str | None = None
        self._clock = Clock()

    @property
    def model(self) -> nn.Module:
        return self.agent.model

    def add_callback(self, callback: Callback) -> None:
        self.callbacks.append(callback)

    def train(
        self, data: Any, num_steps: int | None = None, resume_from: str | Path | None = None
    ) -> nn.Module:
        """Trains until `num_steps` updates (default ``config.total_steps``) have been done in all,
        counting those before a resume, or ``config.env_steps`` environment steps.

        data: a Source; or an object with ``sample(batch_size=, seq_len=, device=)``; or an iterable
        of batches. resume_from: a run folder or a checkpoint folder.

        SIGTERM, SIGUSR1 and SIGUSR2 end it with a checkpoint and SystemExit(0), Ctrl-C with a
        checkpoint and KeyboardInterrupt. TrainingError: a value was not finite.
        """
        self._target = self.config.total_steps if num_steps is None else num_steps
        self.source = as_source(data, self.agent, self.config)
        status = "failed"
        with StopSignals() as self._stop:
            try:
                self._open(resume_from)
                self._call("on_train_begin")
                self._loop(self.source)
                self._finish()
                status = "stopped" if self._stop.received else "completed"
                self._call("on_train_end")
            except KeyboardInterrupt:
                status = "stopped"
                raise
            except Exception as error:
                self._error = f"{type(error).__name__}: {error}"
                raise
            finally:
                self._close(status)
        if self._stop.received:
            self._leave(self._stop.received)
        return self.model

    def _loop(self, source: Source) -> None:
        config, state = self.config, self.state
        context = self.agent.replay_context
        rows = config.batch_size * config.gradient_accumulation_steps
        self._evaluate_if_due()
        self._keep_best()
        self._call("on_epoch_begin")
        while not self._done():
            self._call("on_step_begin")
            self._note_episodes(source.advance(self.agent, state.global_step))
            arrays = source.batch(rows)
            stepid = arrays.pop("stepid", None)
            self._batch = self._to_device(arrays)
            metrics, entries = self.agent.update(self._batch)
            if entries and stepid is not None:
                fresh = {key: value.float().cpu().numpy() for key, value in entries.items()}
                source.write_back(stepid[:, context:], fresh)
            state.global_step += 1
            self.meter.add(metrics, state.global_step)
            self._clock.first_update()
            if due(state.global_step, config.log_interval):
                self._log()
            self._call("on_step_end")
            self._evaluate_if_due()
            if due(state.global_step, config.save_interval):
                self._save()
            self._keep_best()
            if self._progress is not None and self._progress.due():
                self._progress.update(self.progress())
        self._call("on_epoch_end")

    def _done(self) -> bool:
        state, limit = self.state, self.config.env_steps
        if self._stop.received or state.should_stop or state.global_step >= self._target:
            return True
        return limit is not None and state.env_steps >= limit

    def _finish(self) -> None:
        """Saves first: the last log record and evaluation of a run whose end falls between two
        intervals belong to this end, and a run that is continued shall not know of them."""
        state = self.state
        if self._saved_step != state.global_step and state.global_step:
            self._save()
        if not self._stop.received:
            if state.metrics_step != state.global_step and state.global_step:
                self._log()
            if self.evaluator is not None and state.last_eval_step != state.global_step:
                self._evaluate()
        self._keep_best()

    # Logging

    def _note_episodes(self, episodes: Iterable[Episode]) -> None:
        assert self.source is not None and self.logger is not None
        state = self.state
        state.env_steps = self.source.env_steps
        for episode in episodes:
            state.episodes += 1
            state.last_return = float(episode.return_)
            values = {"episode/return": state.last_return, "episode/length": episode.length}
            at = getattr(episode, "env_steps", state.env_steps)
            self.logger.scalars(values, step=state.global_step, env_steps=at)

    def sync_metrics(self) -> dict[str, float]:
        """Means of the training metrics since the last log (or those logged last, if no update was
        done since), brought to the CPU now."""
        means = self.meter.means()
        if self.meter.best_loss is not None:
            self.state.best_loss = float(self.meter.best_loss)
        return {f"train/{k}": v for k, v in means.items()} if means else dict(self.state.metrics)

    def _log(self) -> None:
        assert self.logger is not None
        state = self.state
        state.metrics, state.metrics_step = self.sync_metrics(), state.global_step
        self.meter.clear()
        metrics = dict(state.metrics)
        updates, env = self._clock.rates(state.global_step, state.env_steps)
        metrics["counters/updates"] = state.global_step
        metrics["counters/env_steps"] = state.env_steps
        metrics["fps/update"], metrics["fps/env"] = updates, env
        self.logger.scalars(
            metrics, step=state.global_step, env_steps=state.env_steps, speed=updates
        )

    def progress(self) -> Status:
        """How far the run is, from numbers that are on the CPU already."""
        state = self.state
        status = Status(
            step=state.global_step,
            total_steps=self._target,
            env_steps=state.env_steps,
            total_env_steps=self.config.env_steps,
            rate=self._clock.throughput(state.global_step),
            episode_return=state.last_return,
            loss=state.metrics.get(f"train/{TOTAL_LOSS}"),
        )
        status.eta = self._clock.eta(status.fraction)
        return status

    # Evaluation

    def _evaluate_if_due(self) -> None:
        step = self.state.global_step
        fresh = self.state.last_eval_step != step
        if self.evaluator and fresh and step and due(step, self.config.eval_interval):
            self._evaluate()

    def _evaluate(self) -> None:
        assert self.evaluator is not None and self.logger is not None
        state = self.state
        self.meter.check()
        if self._stop.received:
            return
        with self._clock.pause():
            if self._progress is not None:
                status = self.progress()
                status.phase = "evaluating"
                self._progress.update(status)
            seed = derive_seed(self.config.seed, EVALUATION, state.global_step)
            result = self.evaluator(self.agent, seed, lambda: self._stop.received is not None)
            if result is None:
                return
            state.last_eval_step, state.last_score = state.global_step, result.mean
            if state.best_score is None or result.mean >= state.best_score:
                state.best_score, state.best_step = result.mean, state.global_step
            at = {"step": state.global_step, "env_steps": state.env_steps}
            self.logger.scalars(result.metrics(), **at)
            if self._batch:
                with isolated_rng(seed, getattr(self.agent, "generator", None)):
                    pictures = self.agent.report(self._batch)
                self.logger.pictures({f"report/{k}": v for k, v in pictures.items()}, **at)
        log.info(
            "update %d, %d env steps: evaluation return %.4g over %d episodes",
            state.global_step,
            state.env_steps,
            result.mean,
            len(result.returns),
        )

    def evaluate(self, data: Any, num_batches: int = 10) -> dict[str, float]:
        """Mean losses of the world model over batches of data, without training on them."""
        feed = Feed(data, self.model, self.config.sequence_length)
        meter = Meter()
        with isolated_rng(self.config.seed), torch.no_grad():
            for _ in range(num_batches):
                output = self.model.loss(feed.raw(self.config.batch_size))
                meter.add({"loss": output.loss, **output.components}, self.state.global_step)
        return meter.means()

    # Checkpoints

    def checkpoint(self, resumable: bool = True) -> Checkpoint:
        """Everything that a run needs to continue; without the source's part if not `resumable`."""
        self.sync_metrics()
        self.state.elapsed = self._clock.elapsed()
        state: dict[str, Any] = {
            "trainer": plain(self.state),
            "meter": self.meter.state_dict(),
            "rng": rng_state(),
        }
        if self.logger is not None:
            state["metrics_bytes"] = self.logger.position()
        if resumable and self.source is not None:
            state["source"] = self.source.state_dict()
        return Checkpoint(self.agent.state_dict(), state)

    def save_checkpoint(self, path: str | Path) -> None:
        """Writes a checkpoint folder at `path`."""
        write_checkpoint(Path(path), self.checkpoint())

    def load_checkpoint(self, path: str | Path) -> None:
        """Restores agent, counters and random streams from a checkpoint or run folder."""
        _, checkpoint = find_checkpoint(Path(path))
        self._restore(checkpoint)

    def _save(self) -> None:
        assert self.source is not None
        step = self.state.global_step
        if step == self._saved_step:
            return
        with self._clock.pause():
            self.meter.check()
            with disk_errors("replay", self.run_dir / "replay"):
                self.source.save(self.run_dir / "replay", self.store.name(step))
            self.store.save(step, self.checkpoint())
            self._saved_step = step
            self._write_manifest("running")

    def _keep_best(self) -> None:
        state = self.state
        if state.best_step != state.global_step or self._marked_step == state.global_step:
            return
        with self._clock.pause():
            if self._saved_step != state.global_step:
                checkpoint = self.checkpoint(resumable=False)
                self.store.save(state.global_step, checkpoint, resumable=False)
            self.store.mark_best(state.global_step)
            self._marked_step = state.global_step
            self._write_manifest("running")

    def _open(self, resume_from: str | Path | None) -> None:
        assert self.source is not None
        config, state = self.config, self.state
        resume_at = purge_from = None
        x_axis = "env_steps" if self.source.data_mode == "online" else "updates"
        if resume_from is None:
            set_aside(self.run_dir)
            set_seed(derive_seed(config.seed, TRAINING))
            state.started = time.time()
        else:
            folder, checkpoint = find_checkpoint(Path(resume_from), self.store)
            run = folder.parent.parent
            if "source" in checkpoint.state:
                self.source.load(run / "replay", folder.name)
                self.source.load_state_dict(checkpoint.state["source"])
            self._restore(checkpoint)
            state.env_steps = self.source.env_steps
            if run.resolve() == self.run_dir.resolve():
                resume_at = checkpoint.state.get("metrics_bytes")
                purge_from = getattr(state, "env_steps" if x_axis == "env_steps" else "global_step")
                self.store.forget_after(state.global_step)
                self._saved_step = state.global_step
            log.info("resumed from %s at update %d", folder, state.global_step)
        self.logger = MetricLogger(
            self.run_dir,
            x_axis=x_axis,
            tensorboard=self.tensorboard,
            resume_at=resume_at,
            purge_from=None if purge_from is None else purge_from + 1,
        )
        if resume_from is not None:
            # Again, last: building sources and writers may have drawn numbers.
            set_rng_state(checkpoint.state["rng"])
        self.facts = {**environment_facts(), **self.facts}
        self._clock.start(state.global_step, state.env_steps, self.progress().fraction)
        self._write_manifest("running")
        if self._progress is not None:
            self._progress.start()

    def _restore(self, checkpoint: Checkpoint) -> None:
        saved = checkpoint.state
        self.agent.load_state_dict(checkpoint.agent)
        known = vars(TrainerState())
        values = {key: value for key, value in saved["trainer"].items() if key in known}
        self.state = TrainerState(**values)
        self.state.should_stop = False
        self.meter.load_state_dict(saved["meter"], self.device)
        self._clock = Clock(self.state.elapsed)
        set_rng_state(saved["rng"])

    def _close(self, status: str) -> None:
        if self._progress is not None:
            self._progress.stop()
        try:
            self._write_manifest(status)
            if self.logger is not None:
                self.logger.close()
        except CheckpointError as error:
            # The error that ends the run, if there is one, matters more than this one.
            log.error("%s", error)

    def _leave(self, received: signal.Signals) -> None:
        log.info("stopped by %s at update %d", received.name, self.state.global_step)
        if received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(0)

    def _write_manifest(self, status: str) -> None:
        self.state.elapsed = self._clock.elapsed()
        ended = None if status == "running" else time.time()
        content = run_manifest(self, status, ended, self._error)
        write_manifest(self.run_dir, content)

    def runtime_profile(self) -> dict[str, float | None]:
        """Seconds to the first finished update, seconds in all, updates per second."""
        return {
            "ttfi_sec": self._clock.ttfi,
            "elapsed_sec": self._clock.elapsed(),
            "throughput_steps_per_sec": self._clock.throughput(self.state.global_step),
        }

    def _to_device(self, arrays: Mapping[str, np.ndarray | Tensor]) -> dict[str, Tensor]:
        tensors = {key: torch.as_tensor(value) for key, value in arrays.items()}
        if self.device.type != "cuda":
            return {key: value.to(self.device) for key, value in tensors.items()}
        return {
            key: value.pin_memory().to(self.device, non_blocking=True)
            for key, value in tensors.items()
        }

    def _call(self, hook: str) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self)


def due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def as_agent(
    model: Any, config: TrainingConfig, device: torch.device, optimizer: Any, scheduler: Any
) -> Agent:
    """The agent of a world model; an agent is returned as it is."""
    given = {"optimizer": optimizer, "scheduler": scheduler}
    given = {name: value for name, value in given.items() if value is not None}
    if hasattr(model, "make_agent"):
        return model.make_agent(config, device, **given)
    if given:
        names = " and ".join(given)
        raise ConfigurationError(f"{names}: the agent has its own; give a world model instead")
    if not (hasattr(model, "update") and hasattr(model, "act")):
        raise ConfigurationError(
            f"model: expected a world model or an agent, got {type(model).__name__}"
        )
    return model


def train(
    model: nn.Module,
    data: Any,
    total_steps: int | None = None,
    batch_size: int = 16,
    sequence_length: int = 50,
    learning_rate: float = 3e-4,
    grad_clip: float = 100.0,
    output_dir: str = "./outputs",
    device: str = "auto",
    **kwargs: Any,
) -> nn.Module:
    """Trains a model on data and returns it; further keywords are TrainingConfig fields."""
    if total_steps is not None:
        kwargs["total_steps"] = total_steps
    config = TrainingConfig(
        batch_size=batch_size,
        sequence_length=sequence_length,
        learning_rate=learning_rate,
        grad_clip=grad_clip,
        output_dir=output_dir,
        device=device,
        **kwargs,
    )
    return Trainer(model, config).train(data)
