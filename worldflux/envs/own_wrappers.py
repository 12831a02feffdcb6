"""Wrappers of the user's own, named by the configuration."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from worldflux.config.fields import near_miss
from worldflux.envs.failures import described
from worldflux.envs.suites import GymEnv
from worldflux.errors import ConfigurationError, WorldFluxError


def wrapped(env: GymEnv, wrappers: Mapping[str, Mapping[str, Any]]) -> GymEnv:
    """The environment with the wrappers of ``env.wrappers`` around it, the first one innermost.

    Each is called with the environment and its arguments; ConfigurationError names the one that
    cannot be imported or made, or that gives no environment.
    """
    for name, wrapper in wrappers.items():
        key = f"env.wrappers.{name}"
        arguments = {word: value for word, value in wrapper.items() if word != "_target_"}
        make = _target(key, wrapper["_target_"])
        try:
            outer = make(env, **arguments)
        except (KeyboardInterrupt, WorldFluxError):
            raise
        except BaseException as error:  # foreign code: sys.exit() too
            raise ConfigurationError(f"cannot be made: {described(error)}", key=key) from error
        if not isinstance(outer, gym.Env):
            text = f"must give a Gymnasium environment, got {type(outer).__name__}"
            raise ConfigurationError(text, key=key)
        env = outer
    return env


def _target(key: str, target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        content = importlib.import_module(module)
    except (KeyboardInterrupt, WorldFluxError):
        raise
    except BaseException as error:
        text = str(error) if isinstance(error, ImportError) else described(error)
        raise ConfigurationError(f"={target}: {text}", key=f"{key}._target_") from error
    if not callable(getattr(content, name, None)):
        text = f"={target}: {module} has no class or function {name!r}."
        raise ConfigurationError(text, key=f"{key}._target_", hint=near_miss(name, vars(content)))
    return getattr(content, name)
