"""Tasks of the DeepMind Control Suite as Gymnasium environments."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
from collections.abc import Mapping
from importlib.metadata import version
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces as gs

from worldflux.config.env import EnvConfig
from worldflux.envs.failures import missing
from worldflux.envs.suites import choose_renderer
from worldflux.errors import ConfigurationError, MissingDependencyError

# Short names of domains in published task lists.
SHORT = {"cup": "ball_in_cup", "pointmass": "point_mass"}
# Domains whose camera 0 does not follow the body.
CAMERAS = {"quadruped": 2}
PICTURE_SIZE = (64, 64)  # of observations, where env.image_size says nothing
VIDEO_SIZE = (240, 320)
EPISODE_STEPS = 1_000  # control steps of every task

Observation = dict[str, Any]  # of arrays, as gymnasium types a Dict space


def make(config: EnvConfig, render: bool) -> DeepMindControl:
    """The task `domain-task` (``walker-walk``, ``cup-catch``; underscores do as well).

    env.kwargs are DeepMindControl's keywords. Raises MissingDependencyError without dm_control or
    with a MuJoCo that it does not work with, ConfigurationError for a task that the suite lacks.
    """
    suite = _suite(config.id)
    domain, task = find_task(config.id, suite.ALL_TASKS)
    pixels = config.obs == "pixels"
    size = config.image_size or PICTURE_SIZE if pixels else VIDEO_SIZE
    return DeepMindControl(suite, domain, task, size=size, render=render or pixels, **config.kwargs)


def episode_steps(config: EnvConfig) -> int:
    """The same for every task."""
    return EPISODE_STEPS


def find_task(env_id: str, tasks: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    """(domain, task) that an id such as ``walker-walk`` names; tasks: all (domain, task)."""
    known = {_plain(f"{domain}_{task}"): (domain, task) for domain, task in tasks}
    first, _, rest = _plain(env_id).partition("_")
    name = f"{SHORT.get(first, first)}_{rest}" if rest else first
    if name in known:
        return known[name]
    if of_domain := [f"{domain}-{task}" for domain, task in tasks if _plain(domain) == name]:
        reason = f"; there are {', '.join(of_domain)}"
    elif close := difflib.get_close_matches(name, known, n=1):
        reason = f"; did you mean {'-'.join(known[close[0]])!r}?"
    else:
        reason = "; expected domain-task, for example walker-walk"
    raise ConfigurationError(f"env.id={env_id}: no such DeepMind Control task{reason}")


class DeepMindControl(gym.Env[Observation, np.ndarray]):
    """One task of the suite; one step is one control step, 1,000 make an episode.

    Observations are a Dict of the task's own arrays in its own order (empty ones are left out, a
    slash in a name becomes an underscore). An episode ends truncated at the task's time limit and
    terminated only where the task says that nothing can follow (discount 0; of the suite, LQR).

    `reset(seed=)` decides the whole episode; without a seed the episodes go on from the last one.
    size: height and width of `render()`. camera: its number (None: 0, or 2 for quadruped, as
    published). shadows=False draws neither shadows nor reflections nor antialiasing: several times
    faster on a CPU, but not the pictures of published results.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        suite: ModuleType,
        domain: str,
        task: str,
        *,
        size: tuple[int, int] = VIDEO_SIZE,
        render: bool = False,
        camera: int | None = None,
        shadows: bool = True,
    ) -> None:
        self.render_mode = "rgb_array" if render else None
        # The seed here decides LQR's masses and springs, which are part of the task.
        self._env = _load(suite, domain, task)
        self._size = size
        self._camera = CAMERAS.get(domain, 0) if camera is None else camera
        cameras = self._env.physics.model.ncam
        if not -1 <= self._camera < max(cameras, 1):
            raise ConfigurationError(
                f"env.kwargs.camera must be -1 (free) to {cameras - 1} in {domain}, got {camera}"
            )
        self._max_episode_steps = EPISODE_STEPS  # by the name that Gymnasium's TimeLimit has for it
        self._flags = {} if shadows else {"shadow": False, "reflection": False}
        specs = self._env.observation_spec()
        self._names = {key: key.replace("/", "_") for key in specs if np.prod(specs[key].shape)}
        if "reward" in self._names:
            self._names["reward"] = "obs_reward"
        self.observation_space = gs.Dict(
            [
                (name, gs.Box(-np.inf, np.inf, specs[key].shape, np.float32))
                for key, name in self._names.items()
            ]
        )
        action = self._env.action_spec()
        low, high = (np.broadcast_to(x, action.shape) for x in (action.minimum, action.maximum))
        self.action_space = gs.Box(low, high, action.shape, np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            # The task draws from this stream when an episode begins; it has no public setter.
            self._env.task._random = np.random.RandomState(seed)
        return self._observe(self._env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        now = self._env.step(action)
        over = now.last()
        terminated = over and now.discount == 0
        obs = self._observe(now.observation)
        return obs, float(now.reward), terminated, over and not terminated, {}

    def render(self) -> np.ndarray:
        """Frame `[H, W, 3]` uint8."""
        physics = self._env.physics
        if self._flags:
            physics.model.vis.quality.offsamples = 0  # read when the first frame is drawn
        return physics.render(*self._size, self._camera, render_flag_overrides=self._flags)

    def close(self) -> None:
        self._env.close()

    def _observe(self, observation: Mapping[str, Any]) -> Observation:
        return {name: np.asarray(observation[key], np.float32) for key, name in self._names.items()}


def _suite(env_id: str) -> ModuleType:
    choose_renderer()
    try:
        return importlib.import_module("dm_control.suite")
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("dm_control", "mujoco"):
            raise missing(env_id, "dm_control", "dmc") from error
        renderer = os.environ.get("MUJOCO_GL", "")
        raise MissingDependencyError(
            f"env.id={env_id}: dm_control cannot be imported with MUJOCO_GL={renderer!r}: {error}"
        ) from error


def _load(suite: ModuleType, domain: str, task: str) -> Any:
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)  # each walker would warn that MuJoCo deprecates a word of its XML
    try:
        return suite.load(domain, task, task_kwargs={"random": 0})
    except AttributeError as error:
        # dm_control mirrors MuJoCo's structures by name, so that another MuJoCo breaks it so.
        pair = f"dm_control {version('dm_control')} does not work with mujoco {version('mujoco')}"
        raise MissingDependencyError(f"{pair}; run: pip install 'worldflux[dmc]'") from error
    finally:
        absl.setLevel(level)


def _plain(name: str) -> str:
    return name.replace("-", "_").lower()
