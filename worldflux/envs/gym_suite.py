"""Environments that are registered with Gymnasium."""

from __future__ import annotations

import importlib

import gymnasium as gym

from worldflux.config.env import EnvConfig
from worldflux.envs.failures import missing
from worldflux.envs.suites import GymEnv, choose_renderer
from worldflux.errors import ConfigurationError

# Packages whose environments register on import: id prefix -> (module, extra of ours).
REGISTERED_BY = {
    "ALE/": ("ale_py", "atari"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
}


def make(config: EnvConfig, render: bool) -> GymEnv:
    """`gymnasium.make`, with what brings the id imported first."""
    _register(config)
    kwargs = dict(config.kwargs)
    if config.time_limit is not None:
        kwargs.setdefault("max_episode_steps", -1)
    if render or config.obs == "pixels":
        kwargs.setdefault("render_mode", "rgb_array")
        choose_renderer()
    if config.id.startswith("ALE/") and config.action_repeat > 1:
        kwargs.setdefault("frameskip", 1)
    return gym.make(config.id, **kwargs)


def episode_steps(config: EnvConfig) -> int | None:
    """The registered limit, or that of env.kwargs."""
    try:
        return config.kwargs.get("max_episode_steps") or gym.spec(config.id).max_episode_steps
    except gym.error.Error:
        return None


def _register(config: EnvConfig) -> None:
    if config.import_module:
        try:
            importlib.import_module(config.import_module)
        except ImportError as error:
            raise ConfigurationError(f"env.import={config.import_module}: {error}") from error
    for prefix, (module, extra) in REGISTERED_BY.items():
        if config.id.startswith(prefix):
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise missing(config.id, module, extra) from error
