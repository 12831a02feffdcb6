"""Environments that are registered with Gymnasium."""

from __future__ import annotations

import importlib
from contextlib import suppress

import gymnasium as gym

from worldflux.config.env import EnvConfig
from worldflux.config.targets import import_named, looked_for
from worldflux.envs.failures import missing, registered
from worldflux.envs.suites import GymEnv, choose_renderer
from worldflux.errors import ConfigurationError, WorldFluxError, described

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
    spec = registered(config.id)
    if spec is not None and "frameskip" in spec.kwargs and config.action_repeat > 1:
        kwargs.setdefault("frameskip", 1)  # Atari repeats actions itself
    try:
        return gym.make(config.id, **kwargs)
    except TypeError as error:
        # It draws nothing, which only matters where its frames are observed.
        ours = "'render_mode'" in str(error) and "render_mode" not in config.kwargs
        if not ours or config.obs == "pixels":
            raise
        del kwargs["render_mode"]
        return gym.make(config.id, **kwargs)


def episode_steps(config: EnvConfig) -> int | None:
    """The registered limit, or that of env.kwargs."""
    spec = registered(config.id)
    return config.kwargs.get("max_episode_steps") or (spec.max_episode_steps if spec else None)


def _import(module: str) -> None:
    try:
        import_named(module)
    except (KeyboardInterrupt, WorldFluxError):
        raise
    except BaseException as error:  # foreign code: sys.exit() too
        text = str(error) if isinstance(error, ImportError) else described(error)
        hint = looked_for(module, error.name) if isinstance(error, ModuleNotFoundError) else ""
        raise ConfigurationError(f"={module}: {text}", key="env.import", hint=hint) from error


def _register(config: EnvConfig) -> None:
    if config.import_module:
        _import(config.import_module)
    module, _, name = config.id.rpartition(":")
    if module:
        with suppress(ModuleNotFoundError):  # gymnasium.make tells it
            import_named(module)
    for prefix, (module, extra) in REGISTERED_BY.items():
        if name.startswith(prefix):
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise missing(config.id, module, extra) from error
