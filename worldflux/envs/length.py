"""How long an episode can be, which some agents choose their discount by."""

from __future__ import annotations

from math import ceil

import gymnasium as gym

from worldflux.config.env import EnvConfig

DMC_STEPS = 1_000  # control steps of every DeepMind Control task


def episode_length(config: EnvConfig) -> int | None:
    """Agent steps after which an episode of this environment is cut; None: it has no limit.

    The environment must have been made before, so that its module is imported.
    """
    if config.time_limit is not None:
        return config.time_limit
    if config.suite == "dmc":
        steps: int | None = DMC_STEPS
    else:
        try:
            steps = config.kwargs.get("max_episode_steps") or gym.spec(config.id).max_episode_steps
        except gym.error.Error:
            return None
    return ceil(steps / config.action_repeat) if steps and steps > 0 else None
