"""Where the trainer's batches come from: environments, recorded data or random noise."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from worldflux.core.spaces import Space, flat_action_dim
from worldflux.data.collect import Collector, Episode, random_actions
from worldflux.data.config import DataConfig
from worldflux.data.replay import SequenceReplay
from worldflux.errors import ConfigurationError, TrainingError, WorldFluxError

if TYPE_CHECKING:
    from worldflux.core.agent import Agent
    from worldflux.envs.vector import VectorEnv

log = logging.getLogger(__name__)

# Names that a source may put into `degraded_modes`.
ENV_UNAVAILABLE = "env_collection_unavailable"
RANDOM_FALLBACK = "random_replay_fallback"
ENV_RESET = "env_restore_reset"


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

    def load(self, folder: Path) -> None:
        """Restores the recorded steps. Call it before `load_state_dict`, which picks the save."""
        ...

    def close(self) -> None:
        """Ends environments and their processes."""
        ...


class UpdateRatio:
    """Environment steps owed before each update, exactly.

    The first update is due at once, the n-th one ``(n - 1) / ratio`` environment steps later
    (ratio: updates per environment step). Kept as a fraction, so that no rounding error gathers.
    """

    def __init__(self, updates_per_step: Fraction) -> None:
        self.updates_per_step = updates_per_step

    def steps_before(self, update: int) -> int:
        """Environment steps between the first update and update number `update` (from 1)."""
        return ceil((update - 1) / self.updates_per_step)

    def updates_at(self, steps: int) -> int:
        """Updates that are due in all, `steps` environment steps after the first one."""
        return 1 + int(steps * self.updates_per_step)


def updates_per_step(data: DataConfig, batch_size: int, sequence_length: int) -> Fraction:
    """Updates per environment step that the config asks for, exactly."""
    if data.train_ratio is not None:
        return Fraction(str(data.train_ratio)) / (batch_size * sequence_length)
    if data.collect_steps_per_update is not None:
        return 1 / Fraction(str(data.collect_steps_per_update))
    raise data.refuse("collect_steps_per_update or train_ratio must be given")


class GymSource:
    """Collects from environments into a sequence replay at a fixed ratio to the updates.

    Before the first update it takes `data.prefill_steps` random steps, and more where that is not
    yet enough for one batch. replay_context: extra steps in front of the `sequence_length`
    trained ones. When an environment fails, `data.on_env_failure` decides: ``error`` raises
    TrainingError; ``degrade`` goes on with what was collected (random noise where that is not
    enough for a batch) and says so.
    """

    def __init__(
        self,
        envs: VectorEnv,
        data: DataConfig,
        *,
        batch_size: int,
        sequence_length: int,
        replay_context: int = 0,
        entry_spaces: Mapping[str, Space] | None = None,
        seed: int = 0,
    ) -> None:
        entry_spaces = entry_spaces or {}
        clash = set(entry_spaces) & set(envs.obs_spaces)
        if clash:
            raise ConfigurationError(f"observation keys {sorted(clash)} are the agent's own")
        self.data_mode = "online"
        self.degraded_modes: list[str] = []
        self.ratio = UpdateRatio(updates_per_step(data, batch_size, sequence_length))
        seeds = np.random.SeedSequence([seed, 1]).generate_state(3).tolist()
        self.replay = SequenceReplay(
            spaces={**envs.obs_spaces, "action": Space((envs.action_dim,)), **entry_spaces},
            entries=entry_spaces,
            capacity=data.capacity,
            length=replay_context + sequence_length,
            num_envs=envs.num_envs,
            online=data.online,
            seed=seeds[0],
        )
        self.collector = Collector(envs, self.replay, seed=seeds[1])
        self._noise_seed = seeds[2]
        self._data = data
        self._batch_size = batch_size
        self._first_update: int | None = None  # environment steps when the first update came
        self._noise: RandomSource | None = None
        self._saved: str | None = None  # name of the replay save that state_dict belongs to
        self._folder: Path | None = None

    @property
    def env_steps(self) -> int:
        return self.collector.env_steps

    def advance(self, agent: Agent, updates: int) -> list[Episode]:
        if ENV_UNAVAILABLE in self.degraded_modes:
            return []
        try:
            return self._collect(agent, updates)
        except TrainingError as error:
            if self._data.on_env_failure != "degrade":
                raise
            self._do_without(str(error))
            return []

    def _collect(self, agent: Agent, updates: int) -> list[Episode]:
        episodes: list[Episode] = []
        if self._first_update is None:
            episodes += self.collector.collect(None, self._data.prefill_steps - self.env_steps)
            while not self.replay.ready(self._batch_size):
                episodes += self.collector.collect(None, self.replay.num_envs)
            self._first_update = self.env_steps
        target = self._first_update + self.ratio.steps_before(updates)
        return episodes + self.collector.collect(agent, target - self.env_steps)

    def _do_without(self, reason: str) -> None:
        """Goes on without environments, and says so."""
        self.degraded_modes.append(ENV_UNAVAILABLE)
        rest = f"the {len(self.replay)} steps collected so far"
        if not self.replay.ready(self._batch_size):
            self._make_noise()
            self.degraded_modes.append(RANDOM_FALLBACK)
            rest = "RANDOM NOISE"
        log.warning("%s; data.on_env_failure=degrade: training goes on with %s", reason, rest)

    def _make_noise(self) -> RandomSource:
        envs = self.collector.envs
        self._noise = RandomSource(
            envs.obs_spaces,
            envs.action_spaces,
            {key: self.replay.spaces[key] for key in self.replay.entries},
            length=self.replay.length,
            seed=self._noise_seed,
        )
        self.data_mode = self._noise.data_mode
        return self._noise

    def batch(self, batch_size: int) -> dict[str, np.ndarray]:
        return self._noise.batch(batch_size) if self._noise else self.replay.sample(batch_size)

    def write_back(self, stepid: np.ndarray, entries: Mapping[str, np.ndarray]) -> None:
        if self._noise is None:
            self.replay.update(stepid, entries)

    def state_dict(self) -> dict[str, Any]:
        return {
            "degraded_modes": list(self.degraded_modes),
            "first_update": self._first_update,
            "replay": self._saved,
            "collector": self.collector.state_dict(),
            "noise": self._noise.state_dict() if self._noise else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.degraded_modes = list(state["degraded_modes"])
        self._first_update = state["first_update"]
        if self._folder is not None and state["replay"] not in (None, self._saved):
            self._saved = state["replay"]
            self.replay.load(self._folder, self._saved)
        if state["noise"]:
            self._make_noise().load_state_dict(state["noise"])
        if ENV_UNAVAILABLE in self.degraded_modes:
            self.collector.env_steps = int(state["collector"]["env_steps"])
            return
        restored = self.collector.load_state_dict(state["collector"])
        if restored.all():
            return
        if ENV_RESET not in self.degraded_modes:
            self.degraded_modes.append(ENV_RESET)
        log.warning(
            "%d of %d environments did not come back to their stored observation and were reset",
            int((~restored).sum()),
            len(restored),
        )

    def save(self, folder: Path) -> None:
        self._saved = self.replay.save(folder)

    def load(self, folder: Path) -> None:
        self._folder = folder
        self._saved = self.replay.load(folder)

    def close(self) -> None:
        self.collector.envs.close()


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

    def load(self, folder: Path) -> None:
        """Nothing was recorded."""

    def close(self) -> None:
        """Nothing is open."""


def try_envs(make: Callable[[], VectorEnv], data: DataConfig) -> VectorEnv | None:
    """Calls `make()`; with `data.on_env_failure=degrade` a failure is told and gives None."""
    try:
        return make()
    except WorldFluxError as error:
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
) -> Source:
    """The source that `data.source` names (``gym`` or ``random``).

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
