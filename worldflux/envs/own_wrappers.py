"""Wrappers of the user's own, named by the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from worldflux.config.targets import Target
from worldflux.envs.suites import GymEnv
from worldflux.errors import ConfigurationError


def wrapped(env: GymEnv, wrappers: Mapping[str, Mapping[str, Any]]) -> GymEnv:
    """The environment with the wrappers of ``env.wrappers`` around it, the first one innermost.

    Each is called with the environment and its arguments; ConfigurationError names the one that
    cannot be imported or made, or that gives no environment.
    """
    for name, wrapper in wrappers.items():
        key = f"env.wrappers.{name}"
        outer = Target.of(key, wrapper, leading=1)(env)
        if not isinstance(outer, gym.Env):
            text = f"must give a Gymnasium environment, got {type(outer).__name__}"
            raise ConfigurationError(text, key=key)
        env = outer
    return env
