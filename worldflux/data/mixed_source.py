"""Collecting from environments, with a share of recorded sequences in every batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.config.data import DataConfig
from worldflux.data.collect import Collector, Episode
from worldflux.data.dataset_source import DatasetSource
from worldflux.data.gym_source import GymSource
from worldflux.data.recorded.opening import RecordedSet
from worldflux.data.sources import Sequences, Source
from worldflux.envs.vector import VectorEnv

if TYPE_CHECKING:
    from worldflux.core.agent import Agent


def make(
    data: DataConfig,
    envs: VectorEnv | None,
    sequences: Sequences,
    recorded: RecordedSet | None,
) -> Source:
    assert envs is not None and recorded is not None
    return MixedSource(envs, recorded, data, sequences)


class MixedSource(Source):
    """A GymSource of which `data.recorded_share` of every batch is replaced by recorded sequences.

    Those are as long, replay context included, and start from the initial state where the agent goes
    on from replayed latents; the last rows of a batch are the recorded ones.
    """

    def __init__(
        self, envs: VectorEnv, recorded: RecordedSet, data: DataConfig, sequences: Sequences
    ) -> None:
        self.online = GymSource(envs, data, sequences)
        self.recorded = DatasetSource(recorded, data, sequences, beside=True)
        self.data_provenance = self.recorded.data_provenance
        self.held_out = self.recorded.held_out
        self._share = data.recorded_share
        self._fresh = 0  # rows of the newest batch that are the replay's

    # What the trainer and the live page know of the collecting.
    @property
    def collector(self) -> Collector:
        return self.online.collector

    @property
    def data_mode(self) -> str:  # type: ignore[override]
        return self.online.data_mode

    @property
    def degraded_modes(self) -> list[str]:  # type: ignore[override]
        return self.online.degraded_modes

    @property
    def env_steps(self) -> int:
        return self.online.env_steps

    @property
    def ready(self) -> bool:  # type: ignore[override]
        return self.online.ready

    @property
    def should_stop(self) -> Callable[[], bool]:
        return self.online.should_stop

    @should_stop.setter
    def should_stop(self, stops: Callable[[], bool]) -> None:
        self.online.should_stop = stops

    def advance(self, agent: Agent, updates: int) -> list[Episode]:
        return self.online.advance(agent, updates)

    def settle(self) -> list[Episode]:
        return self.online.settle()

    def batch(self, batch_size: int) -> dict[str, np.ndarray]:
        count = min(batch_size - 1, max(1, round(self._share * batch_size)))
        self._fresh = batch_size - count
        fresh, recorded = self.online.batch(self._fresh), self.recorded.batch(count)
        return {key: np.concatenate([value, recorded[key]]) for key, value in fresh.items()}

    def write_back(self, stepid: np.ndarray, entries: Mapping[str, np.ndarray]) -> None:
        rows = slice(0, self._fresh)
        self.online.write_back(stepid[rows], {key: value[rows] for key, value in entries.items()})

    def state_dict(self) -> dict[str, Any]:
        return {"online": self.online.state_dict(), "recorded": self.recorded.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.recorded.load_state_dict(state["recorded"])
        self.online.load_state_dict(state["online"])

    def lent(self, seed: int) -> AbstractContextManager[VectorEnv] | None:
        return self.online.lent(seed)

    def save(self, folder: Path) -> None:
        self.online.save(folder)

    def keep_saves(self, folder: Path, states: list[Mapping[str, Any]]) -> None:
        self.online.keep_saves(folder, [state["online"] for state in states])

    def load(self, folder: Path) -> None:
        self.online.load(folder)

    def close(self) -> None:
        self.online.close()
