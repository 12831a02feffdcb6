"""Sequence replay: every window of consecutive steps of each environment, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.spaces import FLAGS, Space
from worldflux.data.replay_files import ReplayFiles
from worldflux.errors import BufferError, ConfigurationError

SEGMENT_BYTES = 16 * 2**20
# Of the layout of what is saved
ROWS = "steps per environment (data.capacity / training.num_envs)"
EXTRA = "environments with one step more"
STEP_SPACES = {"reward": Space((), "float32"), **dict.fromkeys(FLAGS, Space((), "bool"))}


class SequenceReplay:
    """The replay of a run: keeps its newest `capacity` steps and samples windows of `length`.

    Each environment keeps ``capacity // num_envs`` steps, and the last ones one more where that leaves
    a remainder, so that `capacity` steps are held in all. Every window of `length`
    consecutive steps of one environment can be sampled, also across episode borders, which the
    model handles by is_first. Sampling is uniform with replacement over all windows; with
    `online`, each environment's steps are cut into windows that follow one another without
    overlap, and each of these is handed out once, first come first served, before any uniform
    one (a window that left the memory unseen is not).

    spaces: observation keys, ``action`` (flat, `[A]`) and the agent's entries; reward and the
    is_* flags are added. entries: the keys that `update` writes. Memory is taken in segments of
    about 16 MB as steps arrive; `nbytes` is what is held and `max_nbytes` what it will be when
    full.
    """

    def __init__(
        self,
        *,
        spaces: Mapping[str, Space],
        capacity: int,
        length: int,
        num_envs: int = 1,
        online: bool = True,
        seed: int = 0,
        entries: Iterable[str] = (),
    ) -> None:
        for key in spaces:
            if key in STEP_SPACES or key == "stepid":
                raise ConfigurationError(f"replay key {key!r} is reserved for the step itself")
        if length < 1:
            raise ConfigurationError(f"replay: sequences of {length} steps cannot be sampled")
        if capacity // num_envs < length:
            raise ConfigurationError(
                f"data.capacity={capacity}: {num_envs} environments and sequences of {length} "
                f"steps (with replay context) need at least {num_envs * length}"
            )
        self.spaces = {**spaces, **STEP_SPACES}
        self.entries = frozenset(entries)
        self.length = length
        self.num_envs = num_envs
        self.online = online
        self.added = 0  # steps added so far, of each environment
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._queue: deque[tuple[int, int]] = deque()  # (environment, first step) of windows
        self._step_bytes = sum(_step_bytes(space) for space in self.spaces.values())
        self.segments: list[dict[str, np.ndarray]] = []  # key -> [N, rows of this segment, ...]
        self.versions: list[list[int]] = []  # of each segment: rows written, windows written back
        self._hold(capacity)

    def _hold(self, capacity: int) -> None:
        """Lays out memory and files of an empty replay."""
        self.capacity = capacity
        rows, extra = divmod(capacity, self.num_envs)
        # What each environment keeps. The newest `capacity` steps: those of one moment come in order.
        self.kept = [rows + (env >= self.num_envs - extra) for env in range(self.num_envs)]
        self.rows = max(self.kept)  # of the ring
        fitting = SEGMENT_BYTES // (self._step_bytes * self.num_envs)
        self.segment_rows = min(self.rows, max(fitting, self.length))
        layout = {
            "num_envs": self.num_envs,
            ROWS: self.rows,
            **({EXTRA: extra} if extra else {}),
            "segment rows": self.segment_rows,
            "spaces": {key: [list(s.shape), s.dtype] for key, s in sorted(self.spaces.items())},
        }
        groups = {"steps": [key for key in self.spaces if key not in self.entries]}
        if self.entries:
            groups["entries"] = sorted(self.entries)
        self._files = ReplayFiles(layout, groups)

    def __len__(self) -> int:
        """Steps held, over all environments."""
        return sum(min(self.added, kept) for kept in self.kept)

    @property
    def windows(self) -> int:
        """Windows that can be sampled."""
        return sum(max(0, min(self.added, kept) - self.length + 1) for kept in self.kept)

    @property
    def nbytes(self) -> int:
        """Bytes of memory held now."""
        return sum(array.nbytes for segment in self.segments for array in segment.values())

    @property
    def max_nbytes(self) -> int:
        """Bytes of memory held when full."""
        return self._step_bytes * self.rows * self.num_envs

    def oldest(self, env: int) -> int:
        """Number of the oldest step of an environment that is still held."""
        return max(0, self.added - self.kept[env])

    def ready(self, batch_size: int) -> bool:
        """Whether there are as many windows as one batch takes."""
        return self.windows >= max(1, batch_size)

    def add(self, step: Mapping[str, np.ndarray]) -> None:
        """Appends one step of every environment: each key `[N, ...]`."""
        slot = self.added % self.rows
        index, row = divmod(slot, self.segment_rows)
        if index == len(self.segments):
            self._grow()
        segment = self.segments[index]
        for key, array in segment.items():
            array[:, row] = step[key]
        self.versions[index][0] += 1
        self.added += 1
        # The very first step is in no online window: those begin one step after it.
        if self.online and self.added > self.length and (self.added - 1) % self.length == 0:
            first = self.added - self.length
            self._queue.extend((env, first) for env in range(self.num_envs))
            while self._queue[0][1] < self.oldest(self._queue[0][0]):
                self._queue.popleft()

    def sample(self, batch_size: int) -> dict[str, np.ndarray]:
        """Draws windows: each key `[B, length, ...]`, and `stepid [B, length]` int64.

        is_first is True at index 0 of every window; is_last is also True where the next step of
        the window begins an episode (one that was abandoned without an end). `stepid` names the
        steps for `update`. Raises BufferError while there is no window.
        """
        if self.windows < 1:
            raise BufferError(
                f"replay holds {len(self)} steps; {self.length} of one environment are needed "
                "to sample a sequence"
            )
        envs, firsts = self._draw(batch_size)
        batch = {
            key: np.empty((batch_size, self.length, *space.shape), space.dtype)
            for key, space in self.spaces.items()
        }
        for b, (env, first) in enumerate(zip(envs, firsts, strict=True)):
            for segment, rows, part in self._pieces(first, self.length):
                for key, array in self.segments[segment].items():
                    batch[key][b, part] = array[env, rows]
        batch["is_last"][:, :-1] |= batch["is_first"][:, 1:]
        batch["is_first"][:, 0] = True
        steps = np.array(firsts, np.int64)[:, None] + np.arange(self.length)
        batch["stepid"] = steps * self.num_envs + np.array(envs, np.int64)[:, None]
        return batch

    def update(self, stepid: np.ndarray, entries: Mapping[str, np.ndarray]) -> None:
        """Writes fresh entries back: each `[B, T, ...]` for the steps `stepid [B, T]`.

        `stepid` is (a slice in time of) what `sample` gave. Steps that left the memory meanwhile
        are skipped; where windows overlap the last one counts.
        """
        unknown = set(entries) - self.entries
        if unknown:
            raise BufferError(f"replay: {sorted(unknown)} are not among its entries")
        length = stepid.shape[1]
        for b in range(stepid.shape[0]):
            first, env = divmod(int(stepid[b, 0]), self.num_envs)
            gone = min(length, max(0, self.oldest(env) - first))
            for segment, rows, part in self._pieces(first + gone, length - gone):
                held = self.segments[segment]
                source = slice(part.start + gone, part.stop + gone)
                for key, values in entries.items():
                    held[key][env, rows] = values[b, source]
                self.versions[segment][1] += 1

    def save(self, folder: Path) -> str:
        """Writes contents, sampler and online queue; only what changed since the last save.

        The save is complete or absent: its files get new names, and its index, renamed into place
        last, says which belong together. Saves before it stay until `replay_files.keep_saves`. No pickle.
        Returns the name by which `load` finds this save.
        """
        return self._files.save(folder, self.segments, self.versions, self.sampler_state())

    def load(self, folder: Path, tag: str | None = None) -> str:
        """Restores a save exactly (None: the newest) and returns its name.

        Raises BufferError where it is damaged or was made for other spaces or another capacity. A save
        of a version that rounded the capacity down to a multiple of the environments goes on with it.
        """
        stored, rows = self._files.stored_layout(folder, tag), self.capacity // self.num_envs
        if (stored.get(ROWS), stored.get(EXTRA)) == (rows, None) and self.rows > rows:
            self._hold(rows * self.num_envs)
        save = self._files.load(folder, tag, self._new_segment)
        self.segments, self.versions = save.segments, save.versions
        self.added = int(save.sampler["added"])
        self._rng.bit_generator.state = save.sampler["rng"]
        # Online windows of another length are dropped.
        same = save.sampler["length"] == self.length
        self._queue = deque((env, first) for env, first in save.sampler["queue"] if same)
        return save.tag

    def sampler_state(self) -> dict[str, Any]:
        """Counters, random stream and online queue, as JSON values."""
        return {
            "added": self.added,
            "length": self.length,
            "rng": self._rng.bit_generator.state,
            "queue": [list(window) for window in self._queue],
        }

    def _new_segment(self, index: int) -> dict[str, np.ndarray]:
        """Memory for one segment: each key `[N, rows, ...]`."""
        rows = min(self.segment_rows, self.rows - index * self.segment_rows)
        return {
            key: np.zeros((self.num_envs, rows, *space.shape), space.dtype)
            for key, space in self.spaces.items()
        }

    def _grow(self) -> None:
        try:
            self.segments.append(self._new_segment(len(self.segments)))
        except MemoryError as error:
            raise BufferError(
                f"no memory for more than {len(self)} replay steps ({self.nbytes / 2**30:.1f} "
                f"GiB); data.capacity={self.capacity} needs {self.max_nbytes / 2**30:.1f} GiB"
            ) from error
        self.versions.append([0, 0])

    def _draw(self, batch_size: int) -> tuple[list[int], list[int]]:
        """Environments and first steps of the windows of one batch."""
        newest: list[tuple[int, int]] = []
        while self._queue and len(newest) < batch_size:
            window = self._queue.popleft()
            if window[1] >= self.oldest(window[0]):
                newest.append(window)
        drawn = self._rng.integers(self.windows, size=batch_size - len(newest))
        # The newest come first, so that what some environments keep beyond the others comes last.
        places, envs = np.divmod(self.windows - 1 - drawn, self.num_envs)
        envs, starts = self.num_envs - 1 - envs, self.added - self.length - places
        return (
            [env for env, _ in newest] + envs.tolist(),
            [first for _, first in newest] + starts.tolist(),
        )

    def _pieces(self, first: int, length: int) -> Iterator[tuple[int, slice, slice]]:
        """Where steps first..first+length lie: (segment, rows in it, part of the window)."""
        done = 0
        while done < length:
            slot = (first + done) % self.rows
            segment, row = divmod(slot, self.segment_rows)
            end = min(self.segment_rows, self.rows - segment * self.segment_rows)
            count = min(length - done, end - row)
            yield segment, slice(row, row + count), slice(done, done + count)
            done += count


def _step_bytes(space: Space) -> int:
    return max(1, space.size) * np.dtype(space.dtype).itemsize
