"""Environments in every form that is met, which record what they gave; and what they do wrong."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

ID = "tests.campaign.odd:CampaignOdd-v0"
F32 = np.float32
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "vector": spaces.Box(-1, 1, (3,), F32),
    "unbounded": spaces.Box(-np.inf, np.inf, (5,), F32),
    "float64": spaces.Box(-10, 10, (4,), np.float64),
    "ints": spaces.Box(-5, 5, (3,), np.int64),
    "bytes": spaces.Box(0, 255, (6,), np.uint8),
    "matrix": spaces.Box(-1, 1, (3, 2), F32),
    "grid": spaces.Box(0, 9, (5, 5, 3), np.uint8),
    "scalar": spaces.Box(-1, 1, (), F32),
    "one": spaces.Box(-1, 1, (1,), F32),
    "discrete": spaces.Discrete(7),
    "shifted": spaces.Discrete(5, start=-2),
    "several": spaces.MultiDiscrete([2, 5, 3]),
    "binary": spaces.MultiBinary(4),
    "dict": spaces.Dict(a=spaces.Box(-1, 1, (2,), F32), b=spaces.Discrete(3)),
    "nested": spaces.Dict(a=spaces.Dict(x=spaces.Box(-1, 1, (2,), F32)), z=spaces.Box(-1, 1, (1,), F32)),
    "tuple": spaces.Tuple((spaces.Box(-1, 1, (2,), F32), spaces.Discrete(2))),
    "names": spaces.Dict({"dyn": spaces.Box(-1, 1, (2,), F32), "policy": spaces.Box(-1, 1, (1,), F32)}),
    "hwc": spaces.Box(0, 255, (64, 64, 3), np.uint8),
    "chw": spaces.Box(0, 255, (3, 64, 64), np.uint8),
    "gray": spaces.Box(0, 255, (64, 64), np.uint8),
    "small": spaces.Box(0, 255, (32, 32, 1), np.uint8),
    "unit": spaces.Box(0, 1, (64, 64, 3), F32),
    "mixed": spaces.Dict(image=spaces.Box(0, 255, (64, 64, 3), np.uint8), v=spaces.Box(-1, 1, (2,), F32)),
}  # fmt: skip
ACTIONS: dict[str, spaces.Space[Any]] = {
    "two": spaces.Discrete(2),
    "five": spaces.Discrete(5, start=3),
    "box": spaces.Box(-1, 1, (2,), F32),
    "range": spaces.Box(np.array([0, -5], F32), np.array([10, 3], F32)),
    "float64": spaces.Box(-2, 2, (1,), np.float64),
    "several": spaces.MultiDiscrete([2, 3]),
    "binary": spaces.MultiBinary(2),
    "scalar": spaces.Box(-3, 1, (), F32),
    "matrix": spaces.Box(-1, 1, (2, 2), F32),
}
ENDS = ("truncated", "terminated", "both", "never", "one step", "random")
REWARDS = ("random", "int", "array", "bool", "numpy", "zero", "large", "listed")
FORMS = (
    "plain",
    "reused",
    "list",
    "extra axis",
    "read only",
    "strided",
    "info",
    "rng",
    "threads",
    "prints",
    "warns",
)
FAULTS = (
    "nan", "inf", "shape", "none", "reward nan", "reward inf", "reward 1e39", "reward none", "reward text", "four",
    "five none", "flag nan", "flag text", "flag two", "exit", "exit 0", "raise", "base", "interrupt", "reset raise",
    "reset exit", "reset bare", "os exit", "memory", "make raise", "make exit", "close raise", "close exit",
    "grad off", "chdir", "no umask", "closes output", "dict for array", "object", "range", "recursion", "unpicklable",
)  # fmt: skip
HARMLESS = ("close raise", "close exit", "grad off", "no umask", "closes output")  # the run goes on


class Odd(gym.Env[Any, Any]):
    """One of them. fault_at: the step of the process at which it does what is wrong."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        observation: str = "vector",
        action: str = "two",
        ends: str = "truncated",
        reward: str = "random",
        form: str = "plain",
        fault: str = "",
        length: int = 9,
        fault_at: int = 20,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space, self.action_space = OBSERVATIONS[observation], ACTIONS[action]
        self.ends, self.reward, self.form, self.render_mode = ends, reward, form, render_mode
        self.fault, self.fault_at, self.length = fault, fault_at, length
        self.rng = np.random.default_rng(
            [os.getpid(), id(self) % 2**31, time.monotonic_ns() % 2**31]
        )
        self.steps = self.t = 0
        self.buffer: Any = None
        self.path = Path(
            os.environ["CAMPAIGN_RECORDS"], f"{os.getpid()}-{id(self)}-{time.monotonic_ns()}"
        )
        self._fail("make")

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        if self.steps >= self.fault_at:
            self._fail("reset")
            if self.fault == "reset bare":
                return self._observe()
        obs = self._observe()
        self._record(reset=True, obs=obs, reward=0.0, terminated=False, truncated=False)
        return self._given(obs), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.t += 1
        obs, reward = self._observe(), self._reward()
        last = self.t >= (1 if self.ends == "one step" else self.length)
        if self.ends == "random":
            last = self.rng.random() < 0.2
        terminated = last and self.ends in ("terminated", "both", "one step", "random")
        truncated = last and self.ends in ("truncated", "both")
        if self.steps >= self.fault_at and self.fault:
            if self.fault == "five none":
                return None
            faulty = self._wrong(obs, reward, terminated, truncated)
            if faulty is not None:
                return faulty
        self._record(
            action=action,
            obs=obs,
            reward=reward,
            terminated=bool(terminated),
            truncated=bool(truncated),
        )
        given = {"int": int, "bool": bool, "numpy": np.float64, "array": lambda r: np.array([r])}
        value = given.get(self.reward, float)(reward) if self.reward != "listed" else [reward]
        info = {"x": object(), "y": np.zeros(3)} if self.form == "info" else {}
        flags = (
            (np.bool_(terminated), int(truncated))
            if self.form == "list"
            else (terminated, truncated)
        )
        return self._given(obs), value, *flags, info

    def render(self) -> Any:
        return np.zeros((64, 64, 3), np.uint8)

    def close(self) -> None:
        self._fail("close")

    def _observe(self) -> Any:
        return sampled(self.observation_space, self.rng)

    def _reward(self) -> float:
        kinds = {"int": 3.0, "bool": 1.0, "zero": 0.0, "large": 1e6}
        return kinds.get(self.reward, float(F32(self.rng.normal())))

    def _given(self, obs: Any) -> Any:
        """The observation in the form that this environment returns."""
        if self.form == "rng":
            np.random.seed(0)
        elif self.form == "threads":
            import torch

            torch.manual_seed(0)
        elif self.form == "prints":
            print("noise", flush=True)
        elif self.form == "warns":
            import warnings

            warnings.warn("noise", stacklevel=2)
        if not isinstance(obs, np.ndarray):
            return obs
        if self.form == "list":
            return obs.tolist()
        if self.form == "extra axis" and obs.dtype == F32:
            return obs[None]
        if self.form == "read only":
            obs = obs.copy()
            obs.flags.writeable = False
        if self.form == "strided" and obs.ndim:
            obs = np.repeat(obs, 2, axis=-1)[..., ::2]
        if self.form == "reused":
            if self.buffer is None:
                self.buffer = obs.copy()
            self.buffer[...] = obs
            return self.buffer
        return obs

    def _fail(self, where: str) -> None:
        kind = self.fault.removeprefix(f"{where} ") if self.fault.startswith(where) else ""
        if kind == "raise":
            raise RuntimeError(f"{where} does not work\nat all")
        if kind == "exit":
            sys.exit(0)

    def _wrong(self, obs: Any, reward: float, terminated: bool, truncated: bool) -> Any:
        fault = self.fault
        if fault in RAISES:
            RAISES[fault]()
        wrong_obs = {
            "nan": np.full(3, np.nan, F32), "inf": np.full(3, np.inf, F32), "shape": np.zeros(7, F32), "none": None,
            "dict for array": {"a": 1}, "object": [None, "x", {}], "range": 10**6,
        }  # fmt: skip
        rewards = {
            "reward nan": np.nan,
            "reward inf": np.inf,
            "reward 1e39": 1e39,
            "reward none": None,
            "reward text": "1",
        }
        flags = {"flag nan": np.nan, "flag text": "no", "flag two": 2}
        if fault == "four":
            return obs, reward, terminated, {}
        if fault in wrong_obs or fault in rewards or fault in flags:
            obs = wrong_obs.get(fault, obs)
            return obs, rewards.get(fault, reward), flags.get(fault, terminated), truncated, {}
        return None

    def _record(self, **event: Any) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps({name: plain(value) for name, value in event.items()}) + "\n")


def _memory() -> None:
    raise MemoryError("Unable to allocate 90 GiB")


def _base() -> None:
    class Unusual(BaseException):
        pass

    raise Unusual("unusual")


def _unpicklable() -> None:
    error = RuntimeError("bad")
    error.args = (lambda: 0,)
    raise error


def _interrupt() -> None:
    raise KeyboardInterrupt


def _recursion() -> None:
    _recursion()


def _raise() -> None:
    raise ValueError("the robot fell\nsecond line [/b] {x} %s")


def _grad_off() -> None:
    import torch

    torch.set_grad_enabled(False)


RAISES: dict[str, Any] = {
    "exit": lambda: sys.exit(7),
    "exit 0": lambda: sys.exit(0),
    "raise": _raise,
    "base": _base,
    "interrupt": _interrupt,
    "os exit": lambda: os._exit(7),
    "memory": _memory,
    "recursion": _recursion,
    "unpicklable": _unpicklable,
    "grad off": _grad_off,
    "chdir": lambda: os.chdir("/"),
    "no umask": lambda: os.umask(0o777),
    "closes output": lambda: sys.stdout.close(),
}


def sampled(space: spaces.Space[Any], rng: np.random.Generator) -> Any:
    """An element of a space, no two alike where there are enough."""
    if isinstance(space, spaces.Dict):
        return {key: sampled(inner, rng) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(sampled(inner, rng) for inner in space.spaces)
    if isinstance(space, spaces.Discrete):
        return int(space.start + rng.integers(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(space.nvec)
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(0, 2, space.shape).astype(np.int8)
    assert isinstance(space, spaces.Box)
    if space.dtype is not None and np.issubdtype(space.dtype, np.integer):
        low, high = space.low.astype(int), space.high.astype(int)
        return rng.integers(low, high, endpoint=True).astype(space.dtype)
    low, high = np.maximum(space.low, -100), np.minimum(space.high, 100)
    return (
        rng.uniform(low, high).astype(space.dtype)
        if space.shape
        else np.asarray(rng.uniform(low, high), space.dtype)
    )


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


gym.register("CampaignOdd-v0", Odd, disable_env_checker=True)
