"""What a suite of environments offers, and what the suites share.

A suite is one module of this folder and one row of `worldflux.config.env.SUITES`.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from math import ceil
from typing import Any, Protocol, cast

import gymnasium as gym

from worldflux.config.env import SUITES, EnvConfig
from worldflux.errors import ConfigurationError

GymEnv = gym.Env[Any, Any]


class Suite(Protocol):
    """The functions of a suite's module."""

    def make(self, config: EnvConfig, render: bool) -> GymEnv:
        """The environment `config.id`, before any wrapper of ours.

        render: `render()` will be called. Raises MissingDependencyError with the line that
        installs what is missing, ConfigurationError for an id that the suite lacks.
        """
        ...

    def episode_steps(self, config: EnvConfig) -> int | None:
        """Environment steps after which the suite itself ends an episode, as far as is known
        without making it; None: no limit."""
        ...


def suite(config: EnvConfig) -> Suite:
    """The module that makes the environments of this config; ConfigurationError: there are none."""
    module = SUITES[config.suite].module
    if module is None:
        hint = "name one, such as env=pendulum"
        raise ConfigurationError("=none is no environment to act in", key="env", hint=hint)
    return cast(Suite, importlib.import_module(module))


def episode_length(config: EnvConfig) -> int | None:
    """Agent steps after which an episode of this environment is cut; None: no limit is known.

    Where the environment is at hand, `VectorEnv.episode_length` is better: limits that its entry
    point puts on are known only once it is made. Its module must have been imported.
    """
    if config.time_limit is not None or SUITES[config.suite].module is None:
        return config.time_limit
    steps = suite(config).episode_steps(config)
    return ceil(steps / config.action_repeat) if steps and steps > 0 else None


def choose_renderer() -> None:
    """Has MuJoCo (when it is imported first) draw without a screen where there is none."""
    if sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        return
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        return  # tasks run without; only pictures do not
    os.environ.setdefault("MUJOCO_GL", "egl")
