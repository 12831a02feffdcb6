"""Environments whose every observation says where it comes from."""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Counting(gym.Env[np.ndarray, Any]):
    """obs = (episode seed mod 1000003, steps in this episode, last action); reward = steps.

    Episodes end after `length` steps: terminated, or truncated where `truncate`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(
        self,
        length: int = 5,
        truncate: bool = False,
        fail_at: int = -1,
        fail_to_make: bool = False,
        die: bool = False,
        drift: bool = False,
        action_space: spaces.Space[Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if fail_to_make:
            raise RuntimeError("no licence")
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = action_space or spaces.Discrete(3)
        self.render_mode = render_mode
        self.length, self.truncate, self.drift = length, truncate, drift
        self.fail_at, self.die = fail_at, die
        self.taken: Any = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        self.mark = float(time.time_ns() % 1000 if self.drift else (seed or 0) % 1000003)
        return self._obs(-1), {"noise": self.np_random.random()}

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.taken = action
        if self.steps == self.fail_at:
            if self.die:
                os._exit(1)
            raise ValueError("the robot fell over")
        ended = self.steps >= self.length
        obs = self._obs(action)
        return obs, float(self.steps), ended and not self.truncate, ended and self.truncate, {}

    def render(self) -> np.ndarray:
        return np.full((40, 60, 3), self.steps, np.uint8)

    def _obs(self, action: Any) -> np.ndarray:
        number = float(np.asarray(action).reshape(-1)[0])
        return np.array([self.mark, self.steps, number], np.float32)


class Showing(gym.Env[Any, Any]):
    """Gives a fixed observation in a given space and keeps the action it was given."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        observation: Any,
        action_space: spaces.Space[Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space, self.observation = observation_space, observation
        self.action_space = action_space or spaces.Discrete(2)
        self.taken: Any = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation, {}

    def step(self, action: Any) -> Any:
        self.taken = action
        return self.observation, 0.0, False, False, {}


class Flicker(gym.Env[np.ndarray, int]):
    """Frames of which every second one is black; action 0 counts as a no-op."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (32, 32, 3), np.uint8)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        return self._frame(), {}

    def step(self, action: int) -> Any:
        self.steps += 1
        return self._frame(), -2.5, False, False, {}

    def render(self) -> np.ndarray:
        return self._frame()

    def _frame(self) -> np.ndarray:
        return np.full((32, 32, 3), 0 if self.steps % 2 == 0 else self.steps, np.uint8)


gym.register("Counting-v0", entry_point=Counting)
gym.register("CountingLimited-v0", entry_point=Counting, max_episode_steps=4)
gym.register("Showing-v0", entry_point=Showing, disable_env_checker=True)
gym.register("Flicker-v0", entry_point=Flicker)


class Blind(Counting):
    """Draws nothing."""

    metadata = {"render_modes": []}  # noqa: RUF012
