"""How a model's configuration meets the environment it acts in."""

from __future__ import annotations

from worldflux.config.model import WorldModelConfig
from worldflux.envs.vector import VectorEnv


def for_environment(model: WorldModelConfig, envs: VectorEnv) -> WorldModelConfig:
    """The model's configuration with what its environment decides;
    ConfigurationError where they do not fit."""
    fitted = model.with_spaces(envs.obs_spaces, envs.action_spaces, envs.tasks)
    if getattr(fitted, "episode_length", 0) is None and not envs.tasks:
        fitted = fitted.with_overrides(episode_length=envs.episode_length)
    return fitted
