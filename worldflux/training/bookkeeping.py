"""Counters, running means and rates of a training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worldflux.config.files import wrong_kinds
from worldflux.data.collect import Episode
from worldflux.errors import CheckpointError
from worldflux.run_folder.manifest import plain
from worldflux.training.logger import MetricLogger
from worldflux.training.meter import TOTAL_LOSS, Meter
from worldflux.training.progress import Clock, Status

RECENT = 20  # episodes whose mean return is shown


@dataclass
class TrainerState:
    """Counters and results of a run; everything here survives a resume.

    metrics: the training metrics logged last, at update metrics_step. recent_returns: of the newest
    training episodes. elapsed: seconds.
    """

    global_step: int = 0
    env_steps: int = 0
    episodes: int = 0
    epoch: int = 0
    best_loss: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    metrics_step: int = -1
    should_stop: bool = False
    recent_returns: list[float] = field(default_factory=list)
    last_score: float | None = None
    last_eval_step: int = -1
    last_validation_step: int = -1
    best_score: float | None = None
    best_step: int | None = None
    elapsed: float = 0.0
    started: float | None = None
    damaged_checkpoints: list[str] = field(default_factory=list)

    @property
    def mean_return(self) -> float | None:
        """Mean of the newest training episodes."""
        recent = self.recent_returns
        return sum(recent) / len(recent) if recent else None


def _kind(default: Any) -> Any:
    """The types of a counter's value in a checkpoint, by its default."""
    if isinstance(default, float):
        return (int, float)
    return (int, float, type(None)) if default is None else type(default)


class Bookkeeping:
    """Counters, means over the log interval, and the clock of one training."""

    def __init__(self, check_gradients: bool = True) -> None:
        self.state = TrainerState()
        self.meter = Meter(check_gradients)
        self.clock = Clock()

    def note_update(self, metrics: Mapping[str, Tensor]) -> None:
        """Counts an update and adds its metrics to the means."""
        self.state.global_step += 1
        self.meter.add(metrics, self.state.global_step)
        self.clock.tick(self.state.global_step)

    def note_episodes(
        self, episodes: Iterable[Episode], env_steps: int, logger: MetricLogger
    ) -> None:
        """Counts and logs finished training episodes."""
        state = self.state
        state.env_steps = env_steps
        for episode in episodes:
            state.episodes += 1
            state.recent_returns = [*state.recent_returns, episode.return_][-RECENT:]
            values = {"episode/return": episode.return_, "episode/length": episode.length}
            if episode.task is not None:
                values[f"episode/return/{episode.task}"] = episode.return_
            logger.scalars(values, step=state.global_step, env_steps=episode.env_steps)

    def note_score(self, score: float) -> None:
        """Notes the evaluation of the present update; of equal scores the newest is the best, and
        one that is not finite never is."""
        state = self.state
        state.last_eval_step, state.last_score = state.global_step, score
        best = -math.inf if state.best_score is None else state.best_score
        # `not <`: a run that noted NaN as its best, before this was excluded, is healed.
        if math.isfinite(score) and not score < best:
            state.best_score, state.best_step = score, state.global_step

    def sync(self) -> dict[str, float]:
        """Means of the training metrics since the last log (those logged last, if no update was
        done since), brought to the CPU now. TrainingError if a loss was not finite."""
        means = self.meter.means()
        if self.meter.best_loss is not None:
            self.state.best_loss = float(self.meter.best_loss)
        return {f"train/{k}": v for k, v in means.items()} if means else dict(self.state.metrics)

    def log(self, logger: MetricLogger) -> None:
        """Writes the means since the last log, the counters and the rates."""
        state = self.state
        state.metrics, state.metrics_step = self.sync(), state.global_step
        self.meter.clear()
        updates, env_steps = self.clock.rates(state.global_step, state.env_steps)
        metrics = {
            **state.metrics,
            "counters/updates": state.global_step,
            "counters/env_steps": state.env_steps,
            "fps/update": updates,
            "fps/env": env_steps,
        }
        logger.scalars(metrics, step=state.global_step, env_steps=state.env_steps, speed=updates)

    def status(self, total_steps: int, env_steps: int | None) -> Status:
        """How far the training is, from numbers that are on the CPU already."""
        state = self.state
        status = Status(
            step=state.global_step,
            total_steps=total_steps,
            env_steps=state.env_steps,
            total_env_steps=env_steps,
            rate=self.clock.throughput(state.global_step),
            episode_return=state.mean_return,
            loss=state.metrics.get(f"train/{TOTAL_LOSS}"),
        )
        if status.fraction > 0:
            updates_left = state.global_step * (1 / status.fraction - 1)
            status.eta = self.clock.eta(state.global_step, updates_left)
        return status

    def runtime_profile(self) -> dict[str, float | None]:
        """Seconds to the first finished update, seconds in all, updates per second."""
        return {
            "ttfi_sec": self.clock.ttfi,
            "elapsed_sec": self.clock.elapsed(),
            "throughput_steps_per_sec": self.clock.throughput(self.state.global_step),
        }

    def state_dict(self) -> dict[str, Any]:
        self.sync()
        self.state.elapsed = self.clock.elapsed()
        return {"trainer": plain(self.state), "meter": self.meter.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        known = vars(TrainerState())
        wrong = wrong_kinds(state["trainer"], {key: _kind(known[key]) for key in known})
        if wrong is not None:
            raise CheckpointError(f"trainer.{wrong}")
        values = {key: value for key, value in state["trainer"].items() if key in known}
        self.state = TrainerState(**{**values, "should_stop": False})
        self.meter.load_state_dict(state["meter"], device)
        self.clock = Clock(self.state.elapsed)
