"""Where the trainer's batches come from: the interface of a source, and how one is made.

A source is one file of this folder and one row of `worldflux.config.data.SOURCES`. A ReplayBuffer of
Python's reaches the trainer through worldflux/training/feeds.py.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from worldflux.config.data import SOURCES, DataConfig
from worldflux.config.spaces import Space
from worldflux.data.collect import Episode
from worldflux.envs.vector import VectorEnv
from worldflux.errors import MissingDependencyError, TrainingError

if TYPE_CHECKING:
    from worldflux.core.agent import Agent
    from worldflux.data.recorded.opening import RecordedSet

log = logging.getLogger(__name__)

# Names that a source may put into `degraded_modes`.
ENV_UNAVAILABLE = "env_collection_unavailable"
RANDOM_FALLBACK = "random_replay_fallback"
ENV_RESET = "env_restore_reset"


@dataclass(frozen=True)
class Sequences:
    """The sequences that an agent trains on.

    entry_spaces: what the agent stores beside each step. batch_size: sequences of one update, and
    replay_context extra steps in front of the sequence_length trained ones. ranks: processes that
    share what `data` counts, of which this is number `rank`; environments, batch_size and seed are
    those of this process.
    """

    obs_spaces: Mapping[str, Space]
    action_spaces: Mapping[str, Space]
    entry_spaces: Mapping[str, Space]
    batch_size: int
    sequence_length: int
    replay_context: int = 0
    seed: int = 0
    ranks: int = 1
    rank: int = 0

    @property
    def length(self) -> int:
        """Steps of one sequence, C + T."""
        return self.replay_context + self.sequence_length


class Source(Protocol):
    """What the trainer sees of data.

    data_mode: ``online`` (environments), ``offline`` (recorded) or ``random`` (noise).
    degraded_modes: names of what differs from the configuration; empty when all is well.
    env_steps: environment steps taken so far.
    should_stop: set by the trainer; where it becomes true before the first update, `advance` may
    return early with `ready` false: there is no batch yet, and the same call later goes on.
    A source that inherits from this class records nothing and holds nothing open, unless it says.
    """

    data_mode: str
    degraded_modes: list[str]
    should_stop: Callable[[], bool] = staticmethod(lambda: False)
    ready: bool = True

    @property
    def env_steps(self) -> int: ...

    def advance(self, agent: Agent, updates: int) -> list[Episode]:
        """Collects what is owed before update number `updates` (from 1).

        Returns the episodes that ended meanwhile. The environments may still be at its last step.
        """
        ...

    def settle(self) -> list[Episode]:
        """Waits for what `advance` left under way; returns the episodes that ended meanwhile."""
        return []

    def batch(self, batch_size: int) -> dict[str, np.ndarray]:
        """Sequences `[B, C+T, ...]`: observation keys, action, reward, is_*, entries, stepid."""
        ...

    def write_back(self, stepid: np.ndarray, entries: Mapping[str, np.ndarray]) -> None:
        """Stores fresh entries `[B, T, ...]` of the steps `stepid [B, T]`."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """A tree of JSON values, arrays and tensors: all but the recorded steps."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`; what did not come back as it was is named in degraded_modes."""
        ...

    def lent(self, seed: int) -> AbstractContextManager[VectorEnv] | None:
        """The environments it collects from, to play other episodes in, those of `seed`; its own go
        on after that. None: it has none."""
        return None

    def save(self, folder: Path) -> None:
        """Writes the recorded steps. Call it before `state_dict`, which names this save."""
        return None

    def keep_saves(self, folder: Path, states: list[Mapping[str, Any]]) -> None:
        """Removes the saves that belong to none of these `state_dict`s."""
        return None

    def load(self, folder: Path) -> None:
        """Where the recorded steps are; `load_state_dict`, called next, reads the save it names."""
        return None

    def close(self) -> None:
        """Ends environments and their processes."""
        return None


class SourceModule(Protocol):
    """What the file of a source offers."""

    def make(
        self,
        data: DataConfig,
        envs: VectorEnv | None,
        sequences: Sequences,
        recorded: RecordedSet | None,
    ) -> Source:
        """envs None: they could not be made and `data.on_env_failure=degrade`, or there are none to be
        made. recorded: the episodes of `data.path`, for sources that read it."""
        ...


def make_source(
    data: DataConfig,
    envs: VectorEnv | None,
    sequences: Sequences,
    recorded: RecordedSet | None = None,
) -> Source:
    """The source that `data.source` names; arguments as for `SourceModule.make`."""
    module: SourceModule = importlib.import_module(SOURCES[data.source])
    return module.make(data, envs, sequences, recorded)


def try_envs(make: Callable[[], VectorEnv], data: DataConfig) -> VectorEnv | None:
    """Calls `make()`. With `data.on_env_failure=degrade` an environment whose package is missing,
    or which refuses to start, is logged and gives None; a wrong id or argument stays an error."""
    try:
        return make()
    except (MissingDependencyError, TrainingError) as error:
        if data.on_env_failure != "degrade":
            raise
        log.warning("%s; data.on_env_failure=degrade: training goes on with RANDOM NOISE", error)
        return None
