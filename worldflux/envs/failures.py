"""What goes wrong with environments, as one line each."""

from __future__ import annotations

import difflib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, find_highest_version, get_env_id, parse_env_id

from worldflux.config.targets import looked_for
from worldflux.errors import (
    ConfigurationError,
    EnvironmentUnavailableError,
    MissingDependencyError,
    WorldFluxError,
    described,
)

# Packages that gymnasium's own environments need: word in its error -> extra of ours.
NEEDS = {"box2d": "box2d", "mujoco": "mujoco", "pygame": "render"}


class EnvironmentFailed(RuntimeError):
    """An environment raised; the text says where, as tracebacks do not cross processes."""

    @classmethod
    def of(cls, error: BaseException) -> EnvironmentFailed:
        if isinstance(error, EnvironmentFailed):
            return error
        where = traceback.extract_tb(error.__traceback__)[-1]
        return cls(f"{described(error)} ({where.filename}:{where.lineno})")


class foreign_code:  # a class: a generator costs every step of every environment twice as much
    """What code that is not ours raises inside, `sys.exit()` too, becomes EnvironmentFailed; our
    own errors and Ctrl-C pass."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and not isinstance(error, KeyboardInterrupt | WorldFluxError):
            raise EnvironmentFailed.of(error) from error


class NoAnswer(WorldFluxError):
    """A call into an environment took longer than it may."""


@contextmanager
def time_limit(seconds: float, error: type[Exception] = TimeoutError) -> Iterator[None]:
    """Raises `error` inside after so many seconds; outside of a main thread, and where there are no
    such signals, it waits."""
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer"):
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise error(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def registered(env_id: str) -> EnvSpec | None:
    """What gymnasium.make would take for an id, also for ``module:Id`` and one without version;
    None: it is not registered, or its module not imported."""
    try:
        namespace, name, version = parse_env_id(env_id.rpartition(":")[2])
        if version is None:
            version = find_highest_version(namespace, name)
    except gym.error.Error:
        return None
    return gym.registry.get(get_env_id(namespace, name, version))


def missing(env_id: str, package: str, extra: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"env.id={env_id}: {package} is not installed; run: pip install 'worldflux[{extra}]'"
    )


def dependency_error(env_id: str, error: BaseException) -> MissingDependencyError:
    """For gymnasium's own complaint about a package that is not installed."""
    text = _one_line(error)
    for word, extra in NEEDS.items():
        if word in text.lower():
            return missing(env_id, word, extra)
    return MissingDependencyError(f"env.id={env_id}: {text}")


def make_error(env_id: str, kwargs: dict[str, Any], error: BaseException) -> WorldFluxError:
    """For what gymnasium, or the environment itself, raised while being made."""
    if isinstance(error, gym.error.DependencyNotInstalled):
        return dependency_error(env_id, error)
    if isinstance(error, gym.error.UnregisteredEnv):
        text = f"={env_id}: no such environment{_near(env_id)}"
        return ConfigurationError(text, key="env.id")
    if isinstance(error, ModuleNotFoundError) and ":" in env_id:
        module = env_id.partition(":")[0]
        name = error.name or getattr(error.__cause__, "name", None) or module
        text = f"={env_id}: cannot import module {name!r}"
        return ConfigurationError(text, key="env.id", hint=looked_for(module, name))
    if isinstance(error, ModuleNotFoundError) and (extra := _extra(env_id)):
        return missing(env_id, str(error.name), extra)
    if isinstance(error, TypeError) and kwargs and "argument" in str(error):
        return ConfigurationError(f"={kwargs}: {_one_line(error)}", key="env.kwargs")
    reason = described(error) if str(error) else EnvironmentFailed.of(error)
    text = f"={env_id} cannot be made: {reason}"
    return EnvironmentUnavailableError(text, key="env.id")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _extra(env_id: str) -> str | None:
    """The extra of ours that brings what an environment of gymnasium itself needs."""
    spec = registered(env_id)
    home = str(spec.entry_point) if spec is not None else ""
    if not home.startswith("gymnasium.envs."):
        return None
    return next((extra for word, extra in NEEDS.items() if word in home), None)


def _near(env_id: str) -> str:
    known = {known_id.lower(): known_id for known_id in gym.registry}
    bare = env_id.rpartition(":")[2].lower()
    close = difflib.get_close_matches(bare, known, n=1, cutoff=0.75)
    if close:
        return f"; did you mean {known[close[0]]!r}?"
    old = getattr(sys.modules.get("gym"), "envs", None)
    if bare in {str(known_id).lower() for known_id in getattr(old, "registry", ())}:
        return "; it is registered with the old gym: Gymnasium's API is needed, as shimmy adapts it"
    return "; if a package of yours registers it, name the package in env.import"
