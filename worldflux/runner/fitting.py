"""How a model's configuration meets the environment it acts in."""

from __future__ import annotations

from worldflux.config.env import EnvConfig
from worldflux.config.model import WorldModelConfig
from worldflux.envs.suites import episode_length
from worldflux.envs.vector import VectorEnv


def for_environment(model: WorldModelConfig, env: EnvConfig, envs: VectorEnv) -> WorldModelConfig:
    """The model's configuration with what its environment decides, `envs` made from `env`;
    ConfigurationError where they do not fit."""
    fitted = model.with_spaces(envs.obs_spaces, envs.action_spaces, envs.tasks)
    if getattr(fitted, "episode_length", 0) is None and not envs.tasks:
        fitted = fitted.with_overrides(episode_length=episode_length(env))
    return fitted
