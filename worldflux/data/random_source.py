"""Random noise in the place of data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.config.spaces import Space, flat_action_dim
from worldflux.data.collect import Episode, random_actions

if TYPE_CHECKING:
    from worldflux.core.agent import Agent


class RandomSource:
    """Random noise in the shape of real data: for smoke tests, never for a score.

    `data.source=random` asks for it by name; as a fallback it comes with degraded_modes.
    """

    env_steps = 0

    def __init__(
        self,
        obs_spaces: Mapping[str, Space],
        action_spaces: Mapping[str, Space],
        entry_spaces: Mapping[str, Space] | None = None,
        *,
        length: int,
        seed: int = 0,
        degraded_modes: tuple[str, ...] = (),
    ) -> None:
        self.data_mode = "random"
        self.degraded_modes = list(degraded_modes)
        self._obs_spaces = dict(obs_spaces)
        self._action_spaces = dict(action_spaces)
        self._entry_spaces = dict(entry_spaces or {})
        self._length = length
        self._rng = np.random.Generator(np.random.PCG64(seed))

    def advance(self, agent: Agent, updates: int) -> list[Episode]:
        return []

    def batch(self, batch_size: int) -> dict[str, np.ndarray]:
        shape = (batch_size, self._length)
        rows = batch_size * self._length
        batch = {key: self._noise(space, shape) for key, space in self._obs_spaces.items()}
        action = random_actions(self._action_spaces, rows, self._rng)
        batch["action"] = action.reshape(*shape, flat_action_dim(self._action_spaces))
        batch["reward"] = self._rng.standard_normal(shape, np.float32)
        batch["is_first"] = np.zeros(shape, bool)
        batch["is_first"][:, 0] = True
        batch["is_last"] = np.zeros(shape, bool)
        batch["is_terminal"] = np.zeros(shape, bool)
        for key, space in self._entry_spaces.items():
            batch[key] = np.zeros((*shape, *space.shape), space.dtype)
        batch["stepid"] = np.full(shape, -1, np.int64)
        return batch

    def _noise(self, space: Space, lead: tuple[int, ...]) -> np.ndarray:
        shape = (*lead, *space.shape)
        if space.discrete:
            classes = np.array(space.classes).reshape(space.shape)
            return self._rng.integers(classes, size=shape).astype(space.dtype)
        if space.dtype == "uint8":
            return self._rng.integers(256, size=shape, dtype=np.uint8)
        return self._rng.standard_normal(shape, np.float32).astype(space.dtype)

    def write_back(self, stepid: np.ndarray, entries: Mapping[str, np.ndarray]) -> None:
        """Noise keeps nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self._rng.bit_generator.state, "degraded_modes": list(self.degraded_modes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self.degraded_modes = list(state["degraded_modes"])

    def save(self, folder: Path) -> None:
        """Nothing is recorded."""

    def keep_saves(self, folder: Path, states: list[Mapping[str, Any]]) -> None:
        pass

    def load(self, folder: Path) -> None:
        """Nothing was recorded."""

    def close(self) -> None:
        """Nothing is open."""
