"""Recorded episodes from disk, in the place of an environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.config.data import DataConfig
from worldflux.data.collect import Episode
from worldflux.data.gym_source import ConsecutiveChunks
from worldflux.data.recorded.opening import RecordedSet
from worldflux.data.recorded.parts import Steps
from worldflux.data.recorded.stream import Stream
from worldflux.data.sources import Sequences, Source
from worldflux.envs.vector import VectorEnv
from worldflux.errors import CheckpointError, ConfigurationError

if TYPE_CHECKING:
    from worldflux.core.agent import Agent

FRACTION = "data.validation_fraction"


def make(
    data: DataConfig,
    envs: VectorEnv | None,
    sequences: Sequences,
    recorded: RecordedSet | None,
) -> DatasetSource:
    assert recorded is not None
    return DatasetSource(recorded, data, sequences)


def split(recorded: RecordedSet, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Episodes to train on and those held out, `[E, 2]` each, the same in every run; ConfigurationError:
    one of them would be empty."""
    episodes = recorded.episodes
    if fraction == 0:
        return episodes, episodes[:0]
    count = max(1, round(fraction * len(episodes)))
    if count == len(episodes):
        text = f"leaves none of {len(episodes)} episodes to train on"
        raise ConfigurationError(text, key=FRACTION)
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(episodes))
    return episodes[np.sort(order[count:])], episodes[np.sort(order[:count])]


class HeldOut:
    """Episodes that a model is measured on and not trained. length: rows of a sequence."""

    def __init__(self, stream: Stream, length: int) -> None:
        self._stream, self._length = stream, length
        if not stream.windows(length):
            text = f"holds out {len(stream)} steps: no sequence of {length} can be taken"
            raise ConfigurationError(text, key=FRACTION)

    def batches(self, count: int, batch_size: int) -> list[Steps]:
        """The same batches `[B, T, ...]` every time, spread over all there are."""
        windows = self._stream.windows(self._length)
        firsts = np.linspace(0, windows - 1, count * batch_size).astype(np.int64)
        return [self._stream.batch(firsts[n::count], self._length) for n in range(count)]


class DatasetSource(Source):
    """Sequences of recorded episodes, drawn uniformly over all there are; read when they are drawn.

    They begin without the agent's latents, which no file has: each of them starts from the initial
    state, as a sequence of a buffer does. Its state is the random stream alone: the data are the
    files', which must be the same when a run goes on. held_out: the episodes that
    `data.validation_fraction` keeps from training; None: there are none. beside: as rows of batches
    whose others come from a replay, so with its entries (zeros, written back nowhere).
    """

    env_steps = 0

    def __init__(
        self,
        recorded: RecordedSet,
        data: DataConfig,
        sequences: Sequences,
        *,
        beside: bool = False,
    ) -> None:
        self.data_mode = "offline"
        self.degraded_modes: list[str] = []
        trained, held = split(recorded, data.validation_fraction)
        self._stream = Stream(recorded, trained)
        self._digest = recorded.digest()
        self.data_provenance: dict[str, Any] = {
            "paths": list(recorded.paths),
            "episodes": len(recorded.lengths),
            "held_out": len(held),
            "steps": recorded.steps,
            "digest": self._digest,
        }
        alone = 0 if sequences.entry_spaces else sequences.replay_context
        self._context = sequences.replay_context if beside else alone
        self._entries = sequences.entry_spaces if beside else {}
        self._length = self._context + data.consec * sequences.sequence_length
        if not self._stream.windows(self._length):
            text = f"holds {len(self._stream)} steps: no sequence of {self._length} can be taken"
            raise ConfigurationError(text, key="data.path")
        length = alone + sequences.sequence_length
        self.held_out = HeldOut(Stream(recorded, held), length) if len(held) else None
        self._rng = np.random.Generator(np.random.PCG64(sequences.seed))
        self._beside = beside
        chunks = self._context, sequences.sequence_length, data.consec
        self._chunks = ConsecutiveChunks(self._sample, *chunks)

    def _sample(self, batch_size: int) -> Steps:
        firsts = self._rng.integers(self._stream.windows(self._length), size=batch_size)
        batch = self._stream.batch(firsts, self._length)
        if self._entries:  # the latent before the trained steps is not known
            batch["is_first"][:, self._context] = True
        shape = (batch_size, self._length)
        for key, space in self._entries.items():
            batch[key] = np.zeros((*shape, *space.shape), space.dtype)
        if self._beside:
            batch["stepid"] = np.full(shape, -1, np.int64)
        return batch

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
