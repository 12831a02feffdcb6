"""Collecting from environments while training."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.config.data import DataConfig
from worldflux.config.spaces import Space
from worldflux.data.collect import Collector, Episode
from worldflux.data.random_source import RandomSource
from worldflux.data.ratio import UpdateRatio, updates_per_step
from worldflux.data.recorder import Recorder
from worldflux.data.replay import SequenceReplay
from worldflux.data.replay_files import check_index, index_checksum, keep_saves
from worldflux.data.sources import (
    ENV_RESET,
    ENV_UNAVAILABLE,
    RANDOM_FALLBACK,
    Sequences,
    Source,
)
from worldflux.envs.vector import VectorEnv
from worldflux.errors import ConfigurationError, TrainingError

if TYPE_CHECKING:
    from worldflux.core.agent import Agent
    from worldflux.data.recorded.opening import RecordedSet

log = logging.getLogger(__name__)


def make(
    data: DataConfig,
    envs: VectorEnv | None,
    sequences: Sequences,
    recorded: RecordedSet | None = None,
) -> Source:
    """Random noise, which says so, where there are no environments."""
    if envs is None:
        return RandomSource(sequences, fallback=True)
    return GymSource(envs, data, sequences)


class ConsecutiveChunks:
    """Batches of sampled sequences: each of them makes `consec`, one after another.

    With consec above 1 a key ``consec`` `[B, C+T]` counts them from 0. An agent that is updated on
    them in this order goes on, from the second one, with its latest state instead of the replayed.
    """

    def __init__(
        self,
        sample: Callable[[int], dict[str, np.ndarray]],
        context: int,
        length: int,
        consec: int,
    ) -> None:
        self._sample = sample
        self._extent, self._length, self._consec = context + length, length, consec
        self._whole: dict[str, np.ndarray] = {}  # the sequences being cut
        self._next = 0

    def batch(self, batch_size: int) -> dict[str, np.ndarray]:
        """The next chunk `[B, C+T, ...]` of sequences `[B, C+consec*T, ...]`."""
        if self._consec == 1:
            return self._sample(batch_size)
        if self._next == 0:
            self._whole = self._sample(batch_size)
        begin = self._next * self._length
        part = slice(begin, begin + self._extent)
        batch = {key: np.ascontiguousarray(value[:, part]) for key, value in self._whole.items()}
        batch["consec"] = np.full((batch_size, self._extent), self._next, np.int32)
        self._next = (self._next + 1) % self._consec
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"next": self._next, "whole": dict(self._whole) if self._next else {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._next = int(state["next"])
        self._whole = {key: np.asarray(value).copy() for key, value in state["whole"].items()}


class GymSource(Source):
    """Collects from environments into a sequence replay at a fixed ratio to the updates.

    Before the first update it takes `data.prefill_steps` random steps, and more where that is not
    yet enough for one batch; `data.pretrain_updates` are made on them before the ratio counts.
    With `data.collect_steps_per_update=0` nothing is collected after that (data_mode ``offline``).
    When an environment fails, `data.on_env_failure` decides: ``error`` raises TrainingError;
    ``degrade`` goes on with what was collected (random noise where that is not enough for a batch)
    and says so.
    """

    def __init__(self, envs: VectorEnv, data: DataConfig, sequences: Sequences) -> None:
        entry_spaces, ranks = sequences.entry_spaces, sequences.ranks
        clash = set(entry_spaces) & set(envs.obs_spaces)
        if clash:
            raise ConfigurationError(f"observation keys {sorted(clash)} are the agent's own")
        self.degraded_modes: list[str] = []
        trained, context = sequences.sequence_length, sequences.replay_context
        updates = updates_per_step(data, sequences.batch_size * ranks, trained)
        # Of one update this process collects a share: so many more updates per step of it.
        self.ratio = UpdateRatio(None if updates is None else updates * ranks)
        self.data_mode = "offline" if updates is None else "online"
        seeds = np.random.SeedSequence([sequences.seed, 1]).generate_state(3).tolist()
        self.replay = SequenceReplay(
            spaces={**envs.obs_spaces, "action": Space((envs.action_dim,)), **entry_spaces},
            entries=entry_spaces,
            capacity=share_of(data.capacity, envs.num_envs, sequences),
            length=context + data.consec * trained,
            num_envs=envs.num_envs,
            online=data.online,
            seed=seeds[0],
        )
        _state_memory(self.replay)
        self.collector = Collector(envs, self.replay, seed=seeds[1])
        if data.record:
            spaces = envs.obs_spaces, envs.action_spaces
            self.collector.recorder = Recorder(*spaces, envs.num_envs)
        self._chunks = ConsecutiveChunks(self.replay.sample, context, trained, data.consec)
        self._noise_like = replace(
            sequences, obs_spaces=envs.obs_spaces, action_spaces=envs.action_spaces, seed=seeds[2]
        )
        self._data = data
        self._prefill = ceil(data.prefill_steps / ranks)
        self._batch_size = sequences.batch_size
        self._first_update: int | None = None  # environment steps when the first update came
        self._noise: RandomSource | None = None
        self._saved: str | None = None  # name of the replay save that state_dict belongs to
        self._index: str | None = None  # checksum of the index of that save
        self._folder: Path | None = None

    @property
    def env_steps(self) -> int:
        return self.collector.env_steps

    def advance(self, agent: Agent, updates: int) -> list[Episode]:
        return self._or_without(lambda: self._collect(agent, updates))

    def settle(self) -> list[Episode]:
        return self._or_without(self.collector.settle)

    def _or_without(self, collect: Callable[[], list[Episode]]) -> list[Episode]:
        if ENV_UNAVAILABLE in self.degraded_modes:
            return []
        try:
            return collect()
        except TrainingError as error:
            if self._data.on_env_failure != "degrade":
                raise
            self._do_without(str(error))
            return []

    def _collect(self, agent: Agent, updates: int) -> list[Episode]:
        episodes: list[Episode] = []
        if self._first_update is None:
            self.ready = False
            missing, stops = self._prefill - self.env_steps, self.should_stop
            episodes += self.collector.collect(None, missing, should_stop=stops)
            while not stops() and not self.replay.ready(self._batch_size):
                episodes += self.collector.collect(None, self.replay.num_envs)
            if stops():
                return episodes
            self.ready, self._first_update = True, self.env_steps
        owed = self.ratio.steps_before(max(1, updates - self._data.pretrain_updates))
        target = self._first_update + owed
        return episodes + self.collector.collect(agent, target - self.env_steps)

    def _do_without(self, reason: str) -> None:
        """Goes on without environments, and says so."""
        self.ready = True
        self.degraded_modes.append(ENV_UNAVAILABLE)
        rest = f"the {len(self.replay)} steps collected so far"
        if not self.replay.ready(self._batch_size):
            self._make_noise()
            self.degraded_modes.append(RANDOM_FALLBACK)
            rest = "RANDOM NOISE"
        log.warning("%s; data.on_env_failure=degrade: training goes on with %s", reason, rest)

    def _make_noise(self) -> RandomSource:
        self._noise = RandomSource(self._noise_like)
        self.data_mode = self._noise.data_mode
        return self._noise

    def batch(self, batch_size: int) -> dict[str, np.ndarray]:
        return (self._noise or self._chunks).batch(batch_size)

    def write_back(self, stepid: np.ndarray, entries: Mapping[str, np.ndarray]) -> None:
        if self._noise is None:
            self.replay.update(stepid, entries)

    def state_dict(self) -> dict[str, Any]:
        return {
            "degraded_modes": list(self.degraded_modes),
            "first_update": self._first_update,
            "replay": self._saved,
            "replay_index": self._index,
            "collector": self.collector.state_dict(),
            "chunks": self._chunks.state_dict(),
            "noise": self._noise.state_dict() if self._noise else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.degraded_modes = list(state["degraded_modes"])
        self._first_update = state["first_update"]
        if self._folder is not None and state["replay"] is not None:
            check_index(self._folder, state["replay"], state.get("replay_index"))
            self._saved = self.replay.load(self._folder, state["replay"])
            self._index = state.get("replay_index")
        self._chunks.load_state_dict(state["chunks"])
        if state["noise"]:
            self._make_noise().load_state_dict(state["noise"])
        if ENV_UNAVAILABLE in self.degraded_modes:
            self.collector.env_steps = int(state["collector"]["env_steps"])
            return
        self._come_back(state["collector"])

    def _come_back(self, collector: Mapping[str, Any]) -> None:
        restored = self.collector.load_state_dict(collector)
        if restored.all():
            return
        if ENV_RESET not in self.degraded_modes:
            self.degraded_modes.append(ENV_RESET)
        log.warning(
            "%d of %d environments did not come back to their stored observation and were reset",
            int((~restored).sum()),
            len(restored),
        )

    def lent(self, seed: int) -> AbstractContextManager[VectorEnv] | None:
        return None if ENV_UNAVAILABLE in self.degraded_modes else self._lent(seed)

    @contextmanager
    def _lent(self, seed: int) -> Iterator[VectorEnv]:
        before = self.collector.state_dict()
        try:
            self.collector.envs.begin_anew(seed)
            yield self.collector.envs
        except KeyboardInterrupt:  # one of them may hang
            raise
        except BaseException:
            self._come_back(before)
            raise
        self._come_back(before)

    def save(self, folder: Path) -> None:
        self._saved = self.replay.save(folder)
        self._index = index_checksum(folder, self._saved)
        if self.collector.recorder is not None:
            self.collector.recorder.write(folder)

    def keep_saves(self, folder: Path, states: list[Mapping[str, Any]]) -> None:
        keep_saves(folder, {state["replay"] for state in states})

    def load(self, folder: Path) -> None:
        # Not the newest save: it may be damaged, or newer than the state that comes next.
        self._folder = folder

    def close(self) -> None:
        self.collector.envs.close()


def share_of(capacity: int, envs: int, sequences: Sequences) -> int:
    """The steps that this process keeps of what all keep together: as with one process, what does
    not divide by the environments goes to the last ones."""
    rows, extra = divmod(capacity, envs * sequences.ranks)
    behind = envs * (sequences.ranks - 1 - sequences.rank)  # environments of the processes after it
    return rows * envs + min(envs, max(0, extra - behind))


def _state_memory(replay: SequenceReplay) -> None:
    """Says how much memory the full replay will take, and warns where the machine has less."""
    gib = 2**30
    text = f"replay: {replay.capacity:,} steps take {replay.max_nbytes / gib:.2f} GiB when full"
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        machine = replay.max_nbytes
    if replay.max_nbytes > machine:
        log.warning("%s, the machine has %.2f GiB: lower data.capacity", text, machine / gib)
    else:
        log.info("%s", text)
