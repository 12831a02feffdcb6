"""Twenty environments more, each odd in one way of its own; their episodes return `RETURN`."""

from __future__ import annotations

import asyncio
import atexit
import gc
import locale
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

LENGTH, RETURN = 8, 8.0
F32 = np.float32
VECTOR = spaces.Box(-1, 1, (3,), F32)


class Plain(gym.Env[Any, Any]):
    """Eight steps of reward 1."""

    observation_space: spaces.Space[Any] = VECTOR
    action_space: spaces.Space[Any] = spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.t = render_mode, 0

    def obs(self) -> Any:
        space = self.observation_space
        assert isinstance(space, spaces.Box)
        return np.full(space.shape, self.t / 10, space.dtype)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.obs(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.obs(), 1.0, False, self.t == LENGTH, {}

    def render(self) -> Any:
        return np.full((64, 64, 3), self.t, np.uint8)


class Tensors(Plain):
    """Observation and reward are torch tensors, as of simulators on a GPU."""

    def obs(self) -> Any:
        import torch

        return torch.full((3,), self.t / 10)

    def step(self, action: Any) -> Any:
        import torch

        obs, _, terminated, truncated, info = super().step(action)
        return obs, torch.tensor(1.0), torch.tensor(terminated), torch.tensor(truncated), info


class FreshSpaces(Plain):
    """Its spaces are made anew each time that they are looked at."""

    @property
    def observation_space(self) -> spaces.Space[Any]:  # type: ignore[override]
        return spaces.Dict(b=spaces.Discrete(3), a=spaces.Box(-1, 1, (2,), F32))

    def obs(self) -> Any:
        return {"b": self.t % 3, "a": np.zeros(2, F32)}


class Wrapped(gym.Wrapper[Any, Any, Any, Any]):
    """A chain of Gymnasium's wrappers, some of which keep statistics and some of which came twice."""

    def __init__(self, render_mode: str | None = None) -> None:
        from gymnasium import wrappers

        env: gym.Env[Any, Any] = wrappers.TimeLimit(Continuous(render_mode), 20)
        env = wrappers.RecordEpisodeStatistics(wrappers.OrderEnforcing(env))
        env = wrappers.NormalizeObservation(wrappers.RescaleAction(env, F32(0), F32(1)))
        super().__init__(wrappers.FlattenObservation(env))


class Continuous(Plain):
    action_space = spaces.Box(-2, 2, (2,), F32)


class NoWidth(Plain):
    """Bounds that leave one observation and one action nothing to choose."""

    observation_space = spaces.Box(np.array([-1, 0.5], F32), np.array([1, 0.5], F32))
    action_space = spaces.Box(np.array([-1, 2], F32), np.array([1, 2], F32))

    def obs(self) -> Any:
        return np.array([self.t / 10, 0.5], F32)

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        return super().step(action)


class Many(Plain):
    """Thousands of choices."""

    observation_space, action_space = spaces.Discrete(5000), spaces.Discrete(3000)

    def obs(self) -> Any:
        return self.t * 600


class Planes(Plain):
    """A matrix of choices, and booleans."""

    observation_space = spaces.Box(0, 1, (4, 3), np.bool_)
    action_space = spaces.MultiDiscrete([[2, 3], [4, 1]])

    def obs(self) -> Any:
        return np.ones((4, 3), np.bool_)

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        return super().step(action)


class Halves(Plain):
    """float16, of which NumPy's masked arrays are."""

    observation_space = spaces.Box(-1, 1, (3,), np.float16)

    def obs(self) -> Any:
        return np.ma.masked_invalid(np.full(3, self.t / 10, np.float16))


class Names(Plain):
    """Keys of every spelling."""

    keys = (
        "a.b",
        "c/d",
        "größe",
        "my key",
        "=x",
        "'",
        "[0]",
        "image",
        "action",
        "reward ",
        "stepid2",
    )
    observation_space = spaces.Dict({key: spaces.Box(-1, 1, (1,), F32) for key in keys if key != "action"})  # fmt: skip

    def obs(self) -> Any:
        return {key: np.zeros(1, F32) for key in self.observation_space.spaces}  # type: ignore[attr-defined]


class Unusual(Plain):
    """Parts that no encoder takes, beside one that does."""

    observation_space = spaces.Dict(
        x=VECTOR, text=spaces.Text(9), list=spaces.Sequence(spaces.Discrete(3)), empty=spaces.Box(0, 1, (0,), F32)
    )  # fmt: skip

    def obs(self) -> Any:
        return {"x": np.zeros(3, F32), "text": "go", "list": (1, 2), "empty": np.zeros(0, F32)}


class Wide(Plain):
    """uint16 in picture shape, channels first."""

    observation_space = spaces.Box(0, 65535, (3, 64, 64), np.uint16)

    def obs(self) -> Any:
        return np.full((3, 64, 64), 1000 * self.t, np.uint16)


class Falsy(Plain):
    """An environment that is false, empty and equal to everything."""

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__


class Greedy(Plain):
    """It writes into the action that it was given, and into what it gave before."""

    action_space = spaces.Box(-1, 1, (2,), F32)
    last: Any = None

    def step(self, action: Any) -> Any:
        if self.last is not None:
            self.last[...] = 9
        action[...] = 7
        given = super().step(action)
        self.last = given[0]
        return given


class Errors(Plain):
    """NumPy's warnings, and Python's, are errors from now on."""

    def step(self, action: Any) -> Any:
        np.seterr(all="raise")
        warnings.simplefilter("error")
        return super().step(action)


class Torch(Plain):
    """torch computes otherwise from now on."""

    def step(self, action: Any) -> Any:
        import torch

        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(3)
        return super().step(action)


class Signals(Plain):
    """It takes the signals, the alarm and the exit."""

    def step(self, action: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD):
                signal.signal(number, signal.SIG_IGN)
        atexit.register(int)
        return super().step(action)


class Logs(Plain):
    """Logging is its own, and so are the locale, the collector and the environment's variables."""

    def step(self, action: Any) -> Any:
        logging.disable(logging.CRITICAL)
        logging.basicConfig(force=True, level=logging.DEBUG)
        locale.setlocale(locale.LC_ALL, "C")
        gc.disable()
        random.seed(0)
        os.environ.update({"OMP_NUM_THREADS": "7", "COLUMNS": "3", "TMPDIR": "/nowhere"})
        return super().step(action)


class Children(Plain):
    """A thread that waits for ever, a child, a pool's worker and an event loop."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        self.child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.loop = asyncio.new_event_loop()

    def step(self, action: Any) -> Any:
        self.loop.run_until_complete(asyncio.sleep(0))
        if self.t == 0 and not multiprocessing.current_process().daemon:
            context = multiprocessing.get_context("fork")
            worker = context.Process(target=int)
            worker.start()
            worker.join()
        return super().step(action)


class Forgetful(Plain):
    """Old signatures: `reset` without arguments, and no `render`."""

    metadata: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()

    def reset(self) -> Any:  # type: ignore[override]
        self.t = 0
        return self.obs(), {}


class Counts(Plain):
    """int8 actions, a reward of int, flags of NumPy, and an info that grows."""

    action_space = spaces.Discrete(3, dtype=np.int8)  # type: ignore[arg-type]

    def step(self, action: Any) -> Any:
        assert 0 <= action < 3
        obs, _, terminated, truncated, _ = super().step(action)
        info = {"success": self.t == LENGTH, "frame": np.zeros((100, 100)), "all": [{}] * self.t}
        return obs, 1, np.bool_(terminated), np.bool_(truncated), info


class Pieces(Plain):
    """Tuples in dictionaries in tuples, for actions too."""

    observation_space = spaces.Tuple((spaces.Dict(p=spaces.Tuple((VECTOR, spaces.Discrete(2)))), spaces.MultiBinary(2)))  # fmt: skip
    action_space = spaces.Dict(go=spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(2))), on=spaces.Discrete(3))  # fmt: skip

    def obs(self) -> Any:
        return ({"p": (np.zeros(3, F32), 1)}, np.ones(2, np.int8))

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        return super().step(action)


STRANGE: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Tensors, FreshSpaces, Wrapped, NoWidth, Many, Planes, Halves, Names, Unusual, Wide, Falsy, Greedy, Errors,
        Torch, Signals, Logs, Children, Forgetful, Counts, Pieces, Continuous,
    )
}  # fmt: skip
for name, kind in STRANGE.items():
    gym.register(f"Strange{name}-v0", kind, disable_env_checker=True)
