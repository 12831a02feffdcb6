"""The border to an environment: what it returns is checked against what it declares.

Accepted: for a Box any numbers of its shape (axes of length 1 may be added or missing), also lists;
for discrete spaces whole numbers of any type; as reward one number, also in an array; as flag a
bool, 0 or 1. Bounds of vectors are not enforced, simulators overshoot them. Refused: what is not
finite as float32, a discrete value out of range, another shape, fractions where a uint8 picture is
declared, and a picture on another scale than its bounds (0..255 where 0..1 is declared).
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces as gs

from worldflux.envs.failures import EnvironmentFailed
from worldflux.envs.spaces import SINGLE_KEY, discrete_entries, is_picture, leaves
from worldflux.envs.suites import GymEnv

LARGEST = float(np.finfo(np.float32).max)
INTERFACE = "expected by the Gymnasium API; older environments have the old gym API"

# What is wrong with a value, behind the name of what it is; None: nothing.
Check = Callable[[Any], str | None]


class Gate(gym.Wrapper[Any, Any, Any, Any]):
    """Checks every observation, reward and flag; EnvironmentFailed names the first that is wrong,
    its value and the step of the episode.

    observed=False: nobody reads the observation, so it is not checked.
    """

    def __init__(self, env: GymEnv, observed: bool = True) -> None:
        super().__init__(env)
        every = leaves(env.observation_space, SINGLE_KEY) if observed else ()
        self._leaves = [
            (leaf, check) for leaf in every if (check := checker(leaf.space)) is not None
        ]
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(seed=seed, options=options)
        self._steps = 0
        if not isinstance(result, tuple) or len(result) != 2:
            raise EnvironmentFailed(f"reset() returned no (observation, info): {INTERFACE}")
        self._check_observation(result[0])
        return result

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        try:
            obs, reward, terminated, truncated, info = self.env.step(action)
        except (TypeError, ValueError) as error:
            if "unpack" in str(error):
                text = "step() returned no (observation, reward, terminated, truncated, info)"
                raise EnvironmentFailed(f"{text}: {INTERFACE} ({error})") from error
            raise
        if type(reward) is not float or not -LARGEST <= reward <= LARGEST:
            reward = self._number(reward)
        if type(terminated) is not bool:
            terminated = self._flag("terminated", terminated)
        if type(truncated) is not bool:
            truncated = self._flag("truncated", truncated)
        self._check_observation(obs)
        return obs, reward, terminated, truncated, info

    def _check_observation(self, obs: Any) -> None:
        for leaf, check in self._leaves:
            try:
                value = leaf.take(obs)
            except (LookupError, TypeError) as error:
                text = f"observation {leaf.name!r} is missing in {_brief(obs)}"
                raise self._refusal(text) from error
            if reason := check(value):
                raise self._refusal(f"observation {leaf.name!r} {reason}")

    def _number(self, reward: Any) -> float:
        x = _array(reward)
        if x is None or x.size != 1 or not -LARGEST <= (value := float(x.item())) <= LARGEST:
            raise self._refusal(f"reward is {_brief(reward)}, expected one finite float32 number")
        return value

    def _flag(self, name: str, flag: Any) -> bool:
        x = _array(flag)
        if x is None or x.size != 1 or x.item() not in (0, 1):
            raise self._refusal(f"{name} is {_brief(flag)}, expected true or false")
        return bool(x.item())

    def _refusal(self, text: str) -> EnvironmentFailed:
        return EnvironmentFailed(f"{text} (step {self._steps} of its episode)")


def checker(space: gs.Space[Any]) -> Check | None:
    """The check of one array's values; None where the space is none that is observed."""
    if isinstance(space, gs.Box):
        return _picture(space) if is_picture(space) else _vector(space.shape)
    entries = discrete_entries(space)
    return None if entries is None else _discrete(space.shape or (), entries[0].classes, entries[1])


def _vector(shape: tuple[int, ...]) -> Check:
    def check(value: Any) -> str | None:
        # What most environments return, in a third of the time: of large numbers it knows nothing.
        if type(value) is np.ndarray and value.dtype == np.float32 and value.shape == shape:
            if value.ndim == 1 and isfinite(value.dot(value)):
                return None
        x = _array(value)
        if x is None or (x.shape != shape and not _same_shape(x.shape, shape)):
            return _mismatch(value, shape)
        # One pass: a NaN fails the comparison as well.
        if x.dtype.kind == "f" and x.size:
            if not np.maximum.reduce(np.abs(x), axis=None) <= LARGEST:
                return _not_finite(x)
        return None

    return check


def _picture(space: gs.Box) -> Check:
    shape, whole = space.shape, space.dtype == np.uint8
    low, high = float(space.low.min()), float(space.high.max())
    vector = _vector(shape)

    def check(value: Any) -> str | None:
        if reason := vector(value):
            return reason
        x = np.asarray(value)
        if whole and x.dtype.kind == "f":
            return f"holds {x.dtype} numbers, expected uint8: it is declared as {space}"
        # Floats may pass their bounds a little, as they do after interpolation.
        slack = high - low if x.dtype.kind == "f" else 0.0
        if x.dtype == np.uint8 and low <= 0 and high >= 255:
            return None
        if x.min() < low - slack or x.max() > high + slack:
            return f"has values {x.min()} to {x.max()}, expected {low:g} to {high:g} as declared"
        return None

    return check


def _discrete(shape: tuple[int, ...], classes: tuple[int, ...], start: np.ndarray) -> Check:
    first, counts = start.reshape(-1), np.asarray(classes)
    low, end = int(first[0]), int(first[0]) + classes[0]

    def check(value: Any) -> str | None:
        if shape == () and isinstance(value, int | np.integer):
            return None if low <= value < end else _out_of_range(value, low, end)
        x = _array(value)
        if x is None or x.size != len(classes) or not _same_shape(x.shape, shape):
            return _mismatch(value, shape)
        flat = x.reshape(-1)
        inside = (flat >= first) & (flat < first + counts)
        if x.dtype.kind == "f":
            inside &= flat == np.floor(flat)
        if inside.all():
            return None
        worst = int(np.argmin(inside))
        return _out_of_range(flat[worst], int(first[worst]), int(first[worst] + counts[worst]))

    return check


def _array(value: Any) -> np.ndarray | None:
    """The value as an array of numbers; None where it is none."""
    try:
        x = np.asarray(value)
    except Exception:  # ragged lists, tensors of another device
        return None
    return x if x.dtype.kind in "biuf" else None


def _same_shape(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return [n for n in shape if n != 1] == [n for n in declared if n != 1]


def _mismatch(value: Any, shape: tuple[int, ...]) -> str:
    return f"is {_brief(value)}, expected numbers of shape {shape}"


def _not_finite(x: np.ndarray) -> str:
    flat = x.reshape(-1)
    place = int(np.argmin(np.abs(flat) <= LARGEST))
    where = f" at {tuple(map(int, np.unravel_index(place, x.shape)))}" if x.ndim else ""
    return f"is {flat[place]:g}{where}, expected finite float32 numbers"


def _out_of_range(value: Any, low: int, end: int) -> str:
    return f"is {value}, expected a whole number from {low} to {end - 1}"


def _brief(value: Any) -> str:
    """A value in a few words: arrays by type and shape."""
    if isinstance(value, np.ndarray) and value.size > 1:
        return f"an array of {value.dtype} and shape {value.shape}"
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(repr, list(value)[:5])) or 'nothing'}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
