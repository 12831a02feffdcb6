"""Greedy evaluation in environments made for it, and the interval of a mean return."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from worldflux.config.env import EnvConfig
from worldflux.core.agent import Agent, Carry, Policy
from worldflux.core.statistics import bootstrap_interval
from worldflux.envs.make import make_envs
from worldflux.envs.tasks import TaskLayout
from worldflux.envs.vector import VectorEnv
from worldflux.errors import EnvironmentUnavailableError, TrainingError
from worldflux.training.bookkeeping import Bookkeeping
from worldflux.training.logger import MetricLogger
from worldflux.training.seed import isolated_rng

MAX_ENVS = 10
BORROWED = (
    "evaluation: not even one more copy can be made (%s); it plays in the environments of the"
    " training, whose episodes go on after it (training.eval_envs=0 does so from the start)"
)
PATIENCE = 60.0  # seconds without an ended episode, before a line says so

log = logging.getLogger("worldflux.training")


@dataclass
class Evaluation:
    """Finished evaluation episodes, in the order (environment, episode).

    by_task: returns of each task, where there are several.
    """

    returns: list[float]
    lengths: list[int]
    frames: list[np.ndarray] = field(default_factory=list, repr=False)
    by_task: dict[str, list[float]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    def interval(self) -> tuple[float, float]:
        return bootstrap_interval(self.returns)

    def metrics(self) -> dict[str, float]:
        low, high = self.interval()
        return {
            "eval/return": self.mean,
            "eval/return_low": low,
            "eval/return_high": high,
            "eval/return_std": float(np.std(self.returns)),
            "eval/length": float(np.mean(self.lengths)),
            "eval/episodes": float(len(self.returns)),
            **{f"eval/return/{task}": mean for task, mean in self.task_means().items()},
        }

    def task_means(self) -> dict[str, float]:
        """Mean return of each task, where there are several."""
        return {task: float(np.mean(returns)) for task, returns in self.by_task.items()}


class Evaluator(Protocol):
    """Evaluates an agent; the result is None when should_stop() became true meanwhile."""

    def __call__(
        self, agent: Agent, seed: int, should_stop: Callable[[], bool], /
    ) -> Evaluation | None: ...


def quotas(episodes: int, num_envs: int) -> np.ndarray:
    """Episodes that each environment contributes `[N]`, as equal as possible."""
    return np.full(num_envs, episodes // num_envs) + (np.arange(num_envs) < episodes % num_envs)


def evaluate(
    agent: Policy,
    make_envs: Callable[[int, int], AbstractContextManager[VectorEnv]],
    *,
    episodes: int,
    seed: int,
    record: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    explore: bool = False,
    time_limit: int | None = None,
) -> Evaluation | None:
    """Plays whole episodes with the agent's greedy policy, so many of each task.

    Every environment contributes its first episodes, a number fixed beforehand: taking whichever
    end first would favour short ones. The global random streams are left as they were.

    make_envs: `(num_envs, seed)` to a vector environment, of so many where that can be, which is left
    at the end. time_limit: agent steps after which an episode is cut.
    record: keep the frames of environment 0's first episode. should_stop: called at every step; when
    it returns True the evaluation ends without a result (None).
    """
    generator = getattr(agent, "generator", None)
    with make_envs(min(episodes, MAX_ENVS), seed) as envs, isolated_rng(seed, generator):
        task_numbers: list[int] = envs.task_numbers or [0] * envs.num_envs
        played = sorted(set(task_numbers))
        copies = envs.num_envs // len(played)
        quota = np.repeat(quotas(episodes, copies), len(played))  # the tasks take turns
        returns: list[list[float]] = [[] for _ in range(envs.num_envs)]
        lengths: list[list[int]] = [[] for _ in range(envs.num_envs)]
        score = np.zeros(envs.num_envs)
        length = np.zeros(envs.num_envs, np.int64)
        frames: list[np.ndarray] = []
        carry = agent.initial_carry(envs.num_envs)
        notice = time.monotonic() + PATIENCE
        step: Mapping[str, Any] = envs.reset()
        while True:
            first, last = step["is_first"], step["is_last"]
            score = np.where(first, 0.0, score + envs.raw_reward)
            length = np.where(first, 0, length + 1)
            if record and not returns[0] and (frame := envs.render()) is not None:
                frames.append(frame)
            cut = ~last & (length >= time_limit) if time_limit else np.zeros_like(last)
            for index in np.flatnonzero(last | cut):
                if len(returns[index]) < quota[index]:
                    returns[index].append(float(score[index]))
                    lengths[index].append(int(length[index]))
            if all(len(done) == number for done, number in zip(returns, quota, strict=True)):
                by_task = _by_task(envs, task_numbers, returns) if len(played) > 1 else {}
                return Evaluation(list(chain(*returns)), list(chain(*lengths)), frames, by_task)
            if should_stop():
                return None
            if not any(returns) and time.monotonic() > notice:
                notice = math.inf
                text = "no episode has ended within %g s (%d steps); training.eval_time_limit=N cuts them"
                log.warning("evaluating %s: " + text, envs.name, PATIENCE, length.max())
            if cut.any():
                step = envs.reset_where(cut)
                score[cut], length[cut] = 0.0, 0
            carry, action, _ = agent.act(carry, step, explore)
            step = envs.step(action)


@dataclass
class GreedyEvaluator:
    """`evaluate` in environments made anew each time: what a Trainer calls at its intervals.

    env: the environment, as a run's ``env`` group. episodes: of each task, where there are several.
    mode: ``sync`` or ``async`` environments. layout: see `make_envs`. copies: environments at once, of
    each task; None: one per episode, at most 10, and as many as can be made. time_limit: agent steps
    after which an episode is cut. borrow: `(seed)` to the environments of the training, lent for one
    evaluation; played in where copies is 0, and where it is None and not even one more can be made.
    """

    env: EnvConfig
    episodes: int = 10
    mode: str = "sync"
    layout: TaskLayout | None = None
    copies: int | None = None
    time_limit: int | None = None
    borrow: Callable[[int], AbstractContextManager[VectorEnv] | None] = lambda seed: None
    _room: int | None = field(default=None, init=False, repr=False)

    def __call__(
        self,
        agent: Policy,
        seed: int,
        should_stop: Callable[[], bool] = lambda: False,
        *,
        record: bool = False,
    ) -> Evaluation | None:
        def opened(num_envs: int, env_seed: int) -> AbstractContextManager[VectorEnv]:
            none = self.copies == 0 or self._room == 0
            if none and not record and (lent := self.borrow(env_seed)) is not None:
                return lent
            count = self.copies or max(1, num_envs // max(1, len(self.env.tasks)))
            return self._make(min(count, self.episodes), env_seed, record)

        return evaluate(
            agent,
            opened,
            episodes=self.episodes,
            seed=seed,
            record=record,
            should_stop=should_stop,
            time_limit=self.time_limit,
        )

    def _make(self, count: int, seed: int, render: bool) -> AbstractContextManager[VectorEnv]:
        """So many environments; fewer from now on where no more can be made, as of a simulator that
        allows two, and those of the training where it allows one."""
        kwargs: dict[str, Any] = {"mode": self.mode, "seed": seed, "layout": self.layout}
        count = min(count, self._room or count)
        while True:
            try:
                envs = make_envs(
                    self.env, num_envs=count, render=render, fewer=self.copies is None, **kwargs
                )
                if not self.env.tasks and envs.num_envs < count:
                    self._room = envs.num_envs
                return envs
            except EnvironmentUnavailableError as error:
                if count == 1 and self.copies is None and not render:
                    if (lent := self.borrow(seed)) is not None:
                        log.warning(BORROWED, error)
                        self._room = 0
                        return lent
                if count == 1 or self.copies is not None:
                    raise TrainingError(f"evaluation: {error}") from error
                text = "evaluation: %d copies cannot be made (%s); training.eval_envs=%d is tried"
                log.warning(text, count, error, count // 2)
            self._room = count = count // 2


def evaluate_now(
    evaluator: Evaluator,
    agent: Agent,
    seed: int,
    books: Bookkeeping,
    logger: MetricLogger,
    inputs: tuple[Mapping[str, Tensor], Carry],
    should_stop: Callable[[], bool],
) -> None:
    """Evaluates at the present update; notes the score and logs result and pictures.

    inputs: batch and carry of the last update, of which the agent draws pictures; may be empty.
    """
    state = books.state
    with books.clock.pause():
        result = evaluator(agent, seed, should_stop)
        if result is None:
            return
        books.note_score(result.mean)
        at = {"step": state.global_step, "env_steps": state.env_steps}
        logger.scalars(result.metrics(), **at)
        if inputs[0] and logger.takes_pictures:
            with isolated_rng(seed, getattr(agent, "generator", None)):
                pictures = agent.report(*inputs)
            logger.pictures({f"report/{k}": v for k, v in pictures.items()}, **at)
    log.info(
        "update %d, %d env steps: evaluation return %.4g over %d episodes%s",
        state.global_step,
        state.env_steps,
        result.mean,
        len(result.returns),
        "".join(f" · {name} {mean:.4g}" for name, mean in result.task_means().items()),
    )


def _by_task(
    envs: VectorEnv, numbers: list[int], returns: list[list[float]]
) -> dict[str, list[float]]:
    names = [task.name for task in envs.tasks]
    by_task: dict[str, list[float]] = {names[number]: [] for number in numbers}
    for number, of_one in zip(numbers, returns, strict=True):
        by_task[names[number]] += of_one
    return by_task
