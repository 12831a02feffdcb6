"""Random noise in the place of data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.config.data import DataConfig
from worldflux.config.spaces import FLAGS, Space, flat_action_dim
from worldflux.data.collect import Episode, random_actions
from worldflux.data.sources import ENV_UNAVAILABLE, RANDOM_FALLBACK, Sequences, Source
from worldflux.envs.vector import VectorEnv

if TYPE_CHECKING:
    from worldflux.core.agent import Agent
    from worldflux.data.recorded.opening import RecordedSet


def make(
    data: DataConfig,
    envs: VectorEnv | None,
    sequences: Sequences,
    recorded: RecordedSet | None = None,
) -> RandomSource:
    return RandomSource(sequences)


class RandomSource(Source):
    """Random noise in the shape of real data: for smoke tests, never for a score.

    `data.source=random` names it; as a fallback for environments that cannot be made its
    degraded_modes say so.
    """

    env_steps: int = 0  # other ones in a run that went on with noise

    def __init__(self, sequences: Sequences, *, fallback: bool = False) -> None:
        self.data_mode = "random"
        self.degraded_modes = [ENV_UNAVAILABLE, RANDOM_FALLBACK] if fallback else []
        self._sequences = sequences
        self._rng = np.random.Generator(np.random.PCG64(sequences.seed))

    def advance(self, agent: Agent, updates: int) -> list[Episode]:
        return []

    def batch(self, batch_size: int) -> dict[str, np.ndarray]:
        like = self._sequences
        shape = (batch_size, like.length)
        batch = {key: self._noise(space, shape) for key, space in like.obs_spaces.items()}
        action = random_actions(like.action_spaces, batch_size * like.length, self._rng)
        batch["action"] = action.reshape(*shape, flat_action_dim(like.action_spaces))
        batch["reward"] = self._rng.standard_normal(shape, np.float32)
        batch |= {flag: np.zeros(shape, bool) for flag in FLAGS}
        batch["is_first"][:, 0] = True
        for key, space in like.entry_spaces.items():
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

    def state_dict(self) -> dict[str, Any]:
        return {
            "rng": self._rng.bit_generator.state,
            "degraded_modes": list(self.degraded_modes),
            "env_steps": self.env_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "collector" in state:  # of a run whose environment cannot be made any more
            self.env_steps = int(state["collector"]["env_steps"])
            modes = [*state["degraded_modes"], *self.degraded_modes]
            self.degraded_modes = list(dict.fromkeys(modes))
            return
        self.env_steps = int(state.get("env_steps", 0))
        self._rng.bit_generator.state = state["rng"]
        self.degraded_modes = list(state["degraded_modes"])
