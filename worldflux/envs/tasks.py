"""Several tasks at once: one observation and action space that holds all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces as gs

from worldflux.config.env import EnvConfig
from worldflux.config.fields import near_miss
from worldflux.config.spaces import TASK_KEY, Space, Task
from worldflux.envs.spaces import SINGLE_KEY, gym_space
from worldflux.envs.wrappers import EncodedStep, Start, Step, Wrapper
from worldflux.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class TaskLayout:
    """How tasks share one space: they are numbered as listed, and as wide as the widest."""

    tasks: tuple[Task, ...]
    obs_dim: int
    action_dim: int

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> TaskLayout:
        """The smallest layout that holds these tasks."""
        widths = max(task.obs_dim for task in tasks), max(task.action_dim for task in tasks)
        return cls(tuple(tasks), *widths)

    @property
    def obs_spaces(self) -> dict[str, Space]:
        task = Space((), "int64", (len(self.tasks),))
        return {SINGLE_KEY: Space((self.obs_dim,)), TASK_KEY: task}

    @property
    def action_spaces(self) -> dict[str, Space]:
        return {"action": Space((self.action_dim,))}

    def index(self, task: Task) -> int:
        """The number of a task by its name; ConfigurationError where it does not fit in."""
        names = [known.name for known in self.tasks]
        if task.name not in names:
            text = f"env.id={task.name}: the model does not know this task."
            raise ConfigurationError(text + (near_miss(task.name, names) or f" It has {names}"))
        known = self.tasks[names.index(task.name)]
        if task.action_dim != known.action_dim or task.obs_dim > self.obs_dim:
            text = (
                f"env.id={task.name} has {task.obs_dim} observations and {task.action_dim} actions"
            )
            raise ConfigurationError(
                f"{text}; the model takes up to {self.obs_dim} and {known.action_dim} of this task"
            )
        return names.index(task.name)


def task_configs(config: EnvConfig) -> list[EnvConfig]:
    """The environment of each task, whose vectors are joined to one."""
    return [dataclasses.replace(config, id=name, tasks=(), flatten=True) for name in config.tasks]


def task_of(config: EnvConfig, env: EncodedStep) -> Task:
    """What one task's environment says of itself.

    Raises ConfigurationError unless it has a vector to observe and a vector to act with.
    """
    obs, actions = list(env.obs_spaces.values()), list(env.decode.spaces.values())
    if len(obs) > 1 or obs[0].discrete or len(obs[0].shape) != 1:
        raise ConfigurationError(f"env.tasks: {config.id} is not observed as one vector of numbers")
    if len(actions) > 1 or actions[0].discrete:
        raise ConfigurationError(
            f"env.tasks: {config.id} has no vector of continuous actions, which several tasks need"
        )
    return Task(config.id, obs[0].size, env.decode.flat_dim, env.episode_length)


class OneOfTasks(Wrapper):
    """One task in the spaces of all: its vector is followed by zeros, it acts in its first
    dimensions, and the key ``task`` says which it is."""

    def __init__(self, env: EncodedStep, index: int, layout: TaskLayout) -> None:
        super().__init__(env)
        (self._key,) = env.obs_spaces
        self._width = env.decode.flat_dim
        self._task = np.asarray(index, np.int64)
        self._padding = np.zeros(layout.obs_dim - env.obs_spaces[self._key].size, np.float32)
        self.obs_spaces, self.action_spaces = layout.obs_spaces, layout.action_spaces
        self.observation_space = gym_space(self.obs_spaces)
        self.action_space = gs.Box(-np.inf, np.inf, (layout.action_dim,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Start:
        obs, info = self.env.reset(seed=seed, options=options)
        return self.padded(obs), info

    def step(self, action: np.ndarray) -> Step:
        obs, reward, terminated, truncated, info = self.env.step(action[: self._width])
        return self.padded(obs), reward, terminated, truncated, info

    def padded(self, obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The task's vector in the observation that all tasks have."""
        return {SINGLE_KEY: np.concatenate([obs[self._key], self._padding]), TASK_KEY: self._task}
