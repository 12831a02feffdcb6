"""An environment that takes its time, so that a run of few updates lasts as long as a test needs it, on a
fast machine and on a busy one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Slow(gym.Env[np.ndarray, Any]):
    """Episodes of ten random observations; reward for the action that the first entry asks for.

    A step takes a fifth of a second while the file `hold` exists.
    """

    def __init__(self, hold: str = "") -> None:
        self.hold = Path(hold) if hold else None
        self.observation_space = spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, Any]:
        if self.hold is not None and self.hold.exists():
            time.sleep(0.2)
        reward = float((self.observation[0] > 0) == bool(action))
        self.steps += 1
        return self._observe(), reward, False, self.steps == 10, {}

    def _observe(self) -> np.ndarray:
        self.observation = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return self.observation


gym.register("Slow-v0", Slow)
