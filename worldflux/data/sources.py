"""Where the trainer's batches come from: environments or random noise.

Recorded data (`ReplayBuffer`) reaches the trainer through worldflux/training/feeds.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from worldflux.config.data import DataConfig
from worldflux.config.spaces import Space
from worldflux.data.collect import Episode
from worldflux.data.gym_source import ENV_UNAVAILABLE, RANDOM_FALLBACK, GymSource
from worldflux.data.random_source import RandomSource
from worldflux.data.ratio import UpdateRatio, updates_per_step
from worldflux.errors import ConfigurationError, MissingDependencyError, TrainingError

if TYPE_CHECKING:
    from worldflux.core.agent import Agent
    from worldflux.envs.vector import VectorEnv

__all__ = [
    "GymSource",
    "RandomSource",
    "Source",
    "UpdateRatio",
    "make_source",
    "try_envs",
    "updates_per_step",
]

log = logging.getLogger(__name__)


class Source(Protocol):
    """What the trainer sees of data.

    data_mode: ``online`` (environments), ``offline`` (recorded) or ``random`` (noise).
    degraded_modes: names of what is not as it was asked for; empty when all is well.
    env_steps: environment steps taken so far.
    """

    data_mode: str
    degraded_modes: list[str]

    @property
    def env_steps(self) -> int: ...

    def advance(self, agent: Agent, updates: int) -> list[Episode]:
        """Collects what is owed before update number `updates` (from 1).

        Returns the episodes that ended meanwhile.
        """
        ...

    def batch(self, batch_size: int) -> dict[str, np.ndarray]:
        """Sequences `[B, C+T, ...]`: observation keys, action, reward, is_*, entries, stepid."""
        ...

    def write_back(self, stepid: np.ndarray, entries: Mapping[str, np.ndarray]) -> None:
        """Stores fresh entries `[B, T, ...]` of the steps `stepid [B, T]`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """A tree of JSON values, arrays and tensors: all but the recorded steps."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`; what did not come back as it was is named in degraded_modes."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the recorded steps. Call it before `state_dict`, which names this save."""
        ...

    def keep_saves(self, folder: Path, states: list[Mapping[str, Any]]) -> None:
        """Removes the saves that belong to none of these `state_dict`s."""
        ...

    def load(self, folder: Path) -> None:
        """Where the recorded steps are; `load_state_dict`, called next, reads the save it names."""
        ...

    def close(self) -> None:
        """Ends environments and their processes."""
        ...


def try_envs(make: Callable[[], VectorEnv], data: DataConfig) -> VectorEnv | None:
    """Calls `make()`. With `data.on_env_failure=degrade` an environment whose package is missing,
    or which refuses to start, is told and gives None; a wrong id or argument stays an error."""
    try:
        return make()
    except (MissingDependencyError, TrainingError) as error:
        if data.on_env_failure != "degrade":
            raise
        log.warning("%s; data.on_env_failure=degrade: training goes on with RANDOM NOISE", error)
        return None


def make_source(
    data: DataConfig,
    envs: VectorEnv | None,
    *,
    obs_spaces: Mapping[str, Space],
    action_spaces: Mapping[str, Space],
    entry_spaces: Mapping[str, Space],
    batch_size: int,
    sequence_length: int,
    replay_context: int = 0,
    seed: int = 0,
    ranks: int = 1,
) -> Source:
    """The source that `data.source` names (``gym`` or ``random``).

    ranks: processes that share what `data` counts; envs, batch_size and seed are this one's own.
    envs None with ``gym``: they could not be made and `data.on_env_failure=degrade`.
    """
    if data.source == "gym" and envs is not None:
        return GymSource(
            envs,
            data,
            batch_size=batch_size,
            sequence_length=sequence_length,
            replay_context=replay_context,
            entry_spaces=entry_spaces,
            seed=seed,
            ranks=ranks,
        )
    if data.source not in ("gym", "random"):
        raise ConfigurationError(f"data.source={data.source!r}: expected 'gym' or 'random'")
    return RandomSource(
        obs_spaces,
        action_spaces,
        entry_spaces,
        length=replay_context + sequence_length,
        seed=seed,
        degraded_modes=(ENV_UNAVAILABLE, RANDOM_FALLBACK) if data.source == "gym" else (),
    )
