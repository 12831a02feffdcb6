"""Recorded episodes from disk, in the place of an environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.config.data import DataConfig
from worldflux.data.collect import Episode
from worldflux.data.gym_source import ConsecutiveChunks
from worldflux.data.recorded.opening import RecordedSet
from worldflux.data.recorded.stream import Stream
from worldflux.data.sources import Sequences, Source
from worldflux.envs.vector import VectorEnv
from worldflux.errors import CheckpointError, ConfigurationError

if TYPE_CHECKING:
    from worldflux.core.agent import Agent


def make(
    data: DataConfig,
    envs: VectorEnv | None,
    sequences: Sequences,
    recorded: RecordedSet | None,
) -> DatasetSource:
    assert recorded is not None
    return DatasetSource(recorded, data, sequences)


class DatasetSource(Source):
    """Sequences of recorded episodes, drawn uniformly over all there are; read when they are drawn.

    They begin without the agent's latents, which no file has: each of them starts from the initial
    state, as a sequence of a buffer does. Its state is the random stream alone: the data are the
    files', which must be the same when a run goes on.
    """

    env_steps = 0

    def __init__(self, recorded: RecordedSet, data: DataConfig, sequences: Sequences) -> None:
        self.data_mode = "offline"
        self.degraded_modes: list[str] = []
        self._stream = Stream(recorded)
        self._digest = recorded.digest()
        self.data_provenance: dict[str, Any] = {
            "paths": list(recorded.paths),
            "episodes": len(recorded.lengths),
            "steps": recorded.steps,
            "digest": self._digest,
        }
        context = 0 if sequences.entry_spaces else sequences.replay_context
        trained = sequences.sequence_length
        self._length = context + data.consec * trained
        if not self._stream.windows(self._length):
            text = f"holds {len(self._stream)} steps: no sequence of {self._length} can be taken"
            raise ConfigurationError(text, key="data.path")
        self._rng = np.random.Generator(np.random.PCG64(sequences.seed))
        self._chunks = ConsecutiveChunks(self._sample, context, trained, data.consec)

    def _sample(self, batch_size: int) -> dict[str, np.ndarray]:
        firsts = self._rng.integers(self._stream.windows(self._length), size=batch_size)
        return self._stream.batch(firsts, self._length)

    def advance(self, agent: Agent, updates: int) -> list[Episode]:
        return []

    def batch(self, batch_size: int) -> dict[str, np.ndarray]:
        return self._chunks.batch(batch_size)

    def state_dict(self) -> dict[str, Any]:
        return {
            "rng": self._rng.bit_generator.state,
            "chunks": self._chunks.state_dict(),
            "digest": self._digest,
            "degraded_modes": list(self.degraded_modes),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["digest"] != self._digest:
            text = (
                f"data.path={', '.join(self.data_provenance['paths'])}: these are not the episodes"
            )
            raise CheckpointError(f"{text} that the run was trained on, or they have changed since")
        self._rng.bit_generator.state = state["rng"]
        self._chunks.load_state_dict(state["chunks"])
        self.degraded_modes = list(state["degraded_modes"])
