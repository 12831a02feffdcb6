"""Recorded episodes that sequences are sampled from, in memory and as one .npz file."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from worldflux.config.spaces import FLAGS
from worldflux.data import buffer_file
from worldflux.data.recording import (
    AFTER_ACTION,
    ARRIVAL,
    CONVENTIONS,
    Recording,
    arrivals,
    copy_steps,
)
from worldflux.errors import BufferError, ConfigurationError, ShapeMismatchError

if TYPE_CHECKING:
    import torch

    from worldflux.core.state import Batch

SURELY_BYTES = 16  # larger values are none of 0..1, even of noise
TAIL = ("tail_rewards", "tail_terminations")
LAYOUT = {"obs": "BT...", "actions": "BTA", "rewards": "BT", "terminations": "BT"}

log = logging.getLogger(__name__)


class ReplayBuffer:
    """Recorded episodes: the newest `capacity` steps of them, to train from without environments.

    obs_shape: shape of one observation, images channels first `(C, H, W)`, whose values are 0..255
    where they are whole numbers and 0..1 where not (they are converted to obs_dtype). action_dim: width of
    the flat action (one-hot for discrete ones). Element t holds obs t, the action taken after
    it, and the reward and termination that arrived with it (`arrival`); recordings whose reward t
    followed action t (`after_action`) are converted when they come in. Sequences never cross the
    border of an episode. Sampling draws from NumPy's global stream, which `set_seed` seeds.

    Raises ConfigurationError for values that make no buffer.
    """

    data_mode = "offline"

    def __init__(
        self,
        capacity: int,
        obs_shape: tuple[int, ...],
        action_dim: int,
        obs_dtype: DTypeLike = np.float32,
    ) -> None:
        _check_positive(capacity=capacity, action_dim=action_dim)
        shape = obs_shape if isinstance(obs_shape, tuple | list) else ()
        if not shape or not all(map(_positive, shape)):
            raise ConfigurationError(f"obs_shape={obs_shape!r}: expected whole numbers above 0")
        self.capacity = int(capacity)
        self.obs_shape = tuple(int(n) for n in obs_shape)
        self.action_dim = int(action_dim)
        self.obs_dtype = np.dtype(obs_dtype)
        self.episodes: deque[Recording] = deque()  # oldest first
        self._rows = 0
        self._windows: dict[int, np.ndarray] = {}  # extent -> cumulative windows over episodes

    def __len__(self) -> int:
        return self._rows

    @property
    def num_episodes(self) -> int:
        return len(self.episodes)

    def add_episode(
        self,
        obs: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        dones: np.ndarray | None = None,
        *,
        truncations: np.ndarray | None = None,
        reward_convention: str = ARRIVAL,
    ) -> None:
        """Adds obs `[L, ...]`, actions `[L, A]`, rewards `[L]` and dones `[L]`.

        dones None: the last step is the end. A done in the middle begins another episode.
        truncations marks dones that are no terminal state (a time limit). With reward_convention
        ``after_action``, reward and done t are what followed action t; obs may then have a row
        more, the observation after the last action. What does not fit the capacity is dropped,
        oldest first. Raises ShapeMismatchError.
        """
        if reward_convention not in CONVENTIONS:
            raise ConfigurationError(
                f"reward_convention={reward_convention!r}: expected one of {CONVENTIONS}"
            )
        obs, actions = np.asarray(obs), np.asarray(actions)
        rewards = np.asarray(rewards, np.float32)
        length = len(rewards) if rewards.ndim == 1 else 0
        if length == 0:
            raise ShapeMismatchError(f"rewards have shape {rewards.shape}, expected (L,), L > 0")
        if dones is None:
            dones = np.arange(length) == length - 1
        dones = np.asarray(dones).astype(bool)
        cut = np.zeros(length, bool) if truncations is None else np.asarray(truncations, bool)
        final = reward_convention == AFTER_ACTION and len(obs) == length + 1
        self._check("obs", obs, (length + final, *self.obs_shape))
        self._check("actions", actions, (length, self.action_dim))
        self._check("dones", dones, (length,))
        self._check("truncations", cut, (length,))
        ends = [int(i) + 1 for i in np.flatnonzero(dones[:-1])] + [length]
        start = 0
        for end in ends:
            part = slice(start, end)
            fields = (obs[part], actions[part], rewards[part], dones[part], cut[part])
            if reward_convention == AFTER_ACTION:
                last = obs[end] if final and end == length else None
                self._append(arrivals(*fields, last))
            else:
                self._append(Recording(*fields))
            start = end

    def _check(self, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
        if array.shape != shape:
            raise ShapeMismatchError(f"{name} have shape {array.shape}, expected {shape}")

    def _append(self, episode: Recording) -> None:
        episode.obs = self._stored(episode.obs)
        episode.actions = np.array(episode.actions, np.float32)
        episode.rewards = np.array(episode.rewards, np.float32)
        if len(episode) > self.capacity:
            episode = episode.without_oldest(len(episode) - self.capacity)
        self.episodes.append(episode)
        self._rows += len(episode)
        while self._rows > self.capacity:
            excess, oldest = self._rows - self.capacity, self.episodes.popleft()
            self._rows -= min(excess, len(oldest))
            if len(oldest) > excess:
                self.episodes.appendleft(oldest.without_oldest(excess))
        self._windows.clear()

    def _stored(self, obs: np.ndarray) -> np.ndarray:
        """A copy in the buffer's type. Pictures are 0..255 in whole numbers and 0..1 in others, as
        models read them."""
        if len(self.obs_shape) != 3 or obs.dtype == self.obs_dtype == np.uint8:
            return np.array(obs, self.obs_dtype)
        if obs.dtype.kind == "b":
            obs = obs * np.uint8(255)
        low, high = obs.min(), obs.max()
        whole = obs.dtype.kind in "iu"
        if whole and not 0 <= low <= high <= 255:
            text = f"obs: pictures of whole numbers must lie in 0..255, got {low} to {high}"
            raise ConfigurationError(text)
        if not whole and high > SURELY_BYTES:
            log.warning("obs: pictures of floats are read as 0..1, these go up to %g", high)
        if whole == (self.obs_dtype.kind in "iu"):
            return np.array(obs, self.obs_dtype)
        scaled = obs / np.float32(255) if whole else np.clip(np.rint(obs * 255), 0, 255)
        return scaled.astype(self.obs_dtype)

    def ready_for_sequence(self, *, batch_size: int, seq_len: int) -> bool:
        """Whether at least `batch_size` different sequences of `seq_len` steps can be sampled."""
        return self._count(seq_len, tails=False)[-1] >= max(1, batch_size)

    def batch_layout(self) -> dict[str, str]:
        """Axes of the fields of a sampled Batch."""
        return dict(LAYOUT)

    def sample(self, batch_size: int, seq_len: int, device: str | torch.device = "cpu") -> Batch:
        """Draws sequences, uniformly over all there are, as tensors `[B, T, ...]` on `device`.

        extras holds is_first and is_last `[B, T]`. Raises BufferError if no episode has `seq_len`
        steps.
        """
        import torch

        from worldflux.core.state import Batch

        steps = self.sample_steps(batch_size, seq_len, tails=False)
        tensors = {key: torch.from_numpy(value).to(device) for key, value in steps.items()}
        return Batch(
            obs=tensors["obs"],
            actions=tensors["action"],
            rewards=tensors["reward"],
            terminations=tensors["is_terminal"].float(),
            extras={key: tensors[key] for key in ("is_first", "is_last")},
            layouts=self.batch_layout(),
            reward_convention=ARRIVAL,
        )

    def sample_steps(
        self, batch_size: int, seq_len: int, *, tails: bool = True
    ) -> dict[str, np.ndarray]:
        """Draws sequences as the step dict: obs, action, reward, is_first, is_last, is_terminal.

        tails: where the observation after an episode's last action was not recorded, sequences
        may end with a row that holds the last reward and termination and repeats the last
        observation, which stands for the missing one; else these two would never be seen.
        """
        if not (_positive(batch_size) and _positive(seq_len)):
            raise BufferError(
                f"batch_size={batch_size!r}, seq_len={seq_len!r}: expected whole numbers above 0"
            )
        count = self._count(seq_len, tails)
        if count[-1] < 1:
            longest = max(map(len, self.episodes), default=0)
            raise BufferError(
                f"the buffer holds {len(self)} steps in {self.num_episodes} episodes, the longest "
                f"of {longest}: no sequence of {seq_len} steps can be sampled"
            )
        shape = (batch_size, seq_len)
        batch = {
            "obs": np.empty((*shape, *self.obs_shape), self.obs_dtype),
            "action": np.zeros((*shape, self.action_dim), np.float32),
            "reward": np.empty(shape, np.float32),
            **{flag: np.zeros(shape, bool) for flag in FLAGS},
        }
        drawn = np.random.randint(count[-1], size=batch_size)
        places = np.searchsorted(count, drawn, side="right")
        starts = drawn - np.where(places > 0, count[places - 1], 0)
        for row, (place, start) in enumerate(zip(places, starts, strict=True)):
            sequence = {key: value[row] for key, value in batch.items()}
            copy_steps(self.episodes[place], int(start), sequence, tails=tails)
        return batch

    def _count(self, seq_len: int, tails: bool) -> np.ndarray:
        """Cumulative number of sequences over the episodes `[E]` (`[1]` zero without episodes)."""
        key = 2 * seq_len + tails
        if key not in self._windows:
            rows = [len(e) + (tails and e.tail is not None) for e in self.episodes] or [0]
            self._windows[key] = np.cumsum(np.maximum(np.array(rows) - seq_len + 1, 0))
        return self._windows[key]

    def save(self, path: str | Path) -> None:
        """Writes one compressed .npz (no pickle); a crash leaves the file of before."""
        buffer_file.write_npz(self._arrays(), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> ReplayBuffer:
        """Reads `save`'s file, or one of older collectors, whose rewards follow the action.

        Raises BufferError where the file is missing, damaged or contradicts itself.
        """
        return cls._of(buffer_file.read_npz(Path(path)))

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray], path: Path) -> ReplayBuffer:
        """The buffer of the arrays that `path` holds; BufferError where they contradict themselves."""
        return cls._of(buffer_file.checked(arrays, path))

    def to_parquet(self, path: str | Path, *, compression: str = "zstd") -> None:
        """Writes one Parquet file, a row per step. Needs pyarrow."""
        buffer_file.write_parquet(self._arrays(), Path(path), compression)

    @classmethod
    def from_parquet(cls, path: str | Path) -> ReplayBuffer:
        """Reads `to_parquet`'s file. Needs pyarrow."""
        return cls._of(buffer_file.read_parquet(Path(path)))

    def _arrays(self) -> dict[str, np.ndarray]:
        """All there is to store, see data/buffer_file.py."""
        tails = [episode.tail or (0.0, False) for episode in self.episodes]
        none = {
            "obs": np.zeros((0, *self.obs_shape), self.obs_dtype),
            "actions": np.zeros((0, self.action_dim), np.float32),
            "rewards": np.zeros(0, np.float32),
            "dones": np.zeros(0, np.float32),
            "truncations": np.zeros(0, bool),
        }
        steps = {
            name: np.concatenate([empty, *(getattr(episode, name) for episode in self.episodes)])
            for name, empty in none.items()
        }
        return {
            **steps,
            "obs_shape": np.array(self.obs_shape, np.int64),
            "action_dim": np.array(self.action_dim),
            "capacity": np.array(self.capacity),
            "reward_convention": np.array(ARRIVAL),
            "episode_starts": np.cumsum([0, *map(len, self.episodes)])[:-1].astype(np.int64),
            "episode_whole": np.array([e.whole for e in self.episodes], bool),
            "has_tail": np.array([e.tail is not None for e in self.episodes], bool),
            "tail_rewards": np.array([reward for reward, _ in tails], np.float32),
            "tail_terminations": np.array([terminal for _, terminal in tails], bool),
        }

    @classmethod
    def _of(cls, arrays: Mapping[str, np.ndarray]) -> ReplayBuffer:
        obs_shape = tuple(int(n) for n in np.atleast_1d(arrays["obs_shape"]))
        sizes = int(arrays["capacity"]), obs_shape, int(arrays["action_dim"])
        buffer = cls(*sizes, arrays["obs"].dtype)
        ends = [*arrays["episode_starts"][1:], len(arrays["rewards"])]
        for number, (start, end) in enumerate(zip(arrays["episode_starts"], ends, strict=True)):
            part = slice(int(start), int(end))
            truncations = arrays.get("truncations")
            buffer.add_episode(
                *(arrays[key][part] for key in buffer_file.STEPS),
                truncations=None if truncations is None else truncations[part],
                reward_convention=str(arrays["reward_convention"]),
            )
            if "has_tail" in arrays:
                episode = buffer.episodes[-1]
                episode.whole = bool(arrays["episode_whole"][number])
                if arrays["has_tail"][number]:
                    reward, terminal = (arrays[key][number] for key in TAIL)
                    episode.tail = (float(reward), bool(terminal))
        return buffer

    @classmethod
    def from_trajectories(
        cls,
        trajectories: Sequence[Mapping[str, np.ndarray]],
        capacity: int | None = None,
        *,
        reward_convention: str = ARRIVAL,
    ) -> ReplayBuffer:
        """A buffer of episodes {obs, actions, rewards[, dones, truncations]}, see `add_episode`.

        capacity None: just enough for all.
        """
        if not trajectories:
            raise ConfigurationError("trajectories: at least one episode is needed")
        for number, episode in enumerate(trajectories):
            missing = sorted({"obs", "actions", "rewards"} - set(episode))
            if missing:
                raise BufferError(f"trajectory {number}: missing keys {missing}")
        obs, actions = (np.asarray(trajectories[0][key]) for key in ("obs", "actions"))
        if obs.ndim < 2 or actions.ndim != 2:
            raise ShapeMismatchError(
                f"trajectory 0: obs have shape {obs.shape} and actions {actions.shape}, "
                "expected (L, ...) and (L, A)"
            )
        rows = sum(len(np.asarray(episode["obs"])) for episode in trajectories)
        dtype = np.uint8 if obs.dtype == np.uint8 else np.float32
        buffer = cls(capacity or rows, obs.shape[1:], actions.shape[1], dtype)
        for episode in trajectories:
            buffer.add_episode(
                episode["obs"],
                episode["actions"],
                episode["rewards"],
                episode.get("dones"),
                truncations=episode.get("truncations"),
                reward_convention=reward_convention,
            )
        return buffer


class TrajectoryDataset:
    """Sequences of a buffer as a map-style dataset for `torch.utils.data.DataLoader`.

    An item is a dict of tensors obs `[T, ...]`, actions `[T, A]`, rewards `[T]`, terminations
    `[T]`; reward t followed action t (`after_action`, what plain batches are taken to mean).
    Items are drawn at random, whatever their index.
    """

    def __init__(self, buffer: ReplayBuffer, seq_len: int, samples_per_epoch: int = 1000) -> None:
        _check_positive(seq_len=seq_len, samples_per_epoch=samples_per_epoch)
        self.buffer = buffer
        self.seq_len = seq_len
        self.samples_per_epoch = samples_per_epoch

    def __len__(self) -> int:
        return self.samples_per_epoch

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        import torch

        if not 0 <= index < self.samples_per_epoch:
            raise IndexError(index)
        steps = self.buffer.sample_steps(1, self.seq_len + 1)
        items = {
            "obs": steps["obs"][0, :-1],
            "actions": steps["action"][0, :-1],
            "rewards": steps["reward"][0, 1:],
            "terminations": steps["is_terminal"][0, 1:].astype(np.float32),
        }
        return {key: torch.from_numpy(value) for key, value in items.items()}


def create_random_buffer(
    capacity: int = 10_000,
    obs_shape: tuple[int, ...] = (3, 64, 64),
    action_dim: int = 6,
    num_episodes: int = 100,
    episode_length: int = 100,
    seed: int | None = None,
) -> ReplayBuffer:
    """A buffer of noise episodes, to test machinery. Its data_mode is ``random``."""
    rng = np.random.default_rng(seed)
    buffer = ReplayBuffer(capacity, obs_shape, action_dim)
    buffer.data_mode = "random"
    for _ in range(num_episodes):
        buffer.add_episode(
            rng.standard_normal((episode_length, *buffer.obs_shape), np.float32),
            rng.uniform(-1, 1, (episode_length, action_dim)),
            rng.standard_normal(episode_length, np.float32),
        )
    return buffer


def _check_positive(**values: object) -> None:
    for name, value in values.items():
        if not _positive(value):
            raise ConfigurationError(f"{name}={value!r}: expected a whole number above 0")


def _positive(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value > 0)
