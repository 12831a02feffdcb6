"""Episodes one after another, any window of which is a training sequence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldflux.config.spaces import FLAGS
from worldflux.data.recorded.opening import RecordedSet
from worldflux.data.recorded.parts import Steps


class Stream:
    """Some episodes of a set as one stream of rows. Windows may cross the border of an episode, which
    is_first marks, as is_last does the row before it.

    episodes `[E, 2]`: as `RecordedSet.episodes`, in their order here; None: all of them.
    """

    def __init__(self, recorded: RecordedSet, episodes: np.ndarray | None = None) -> None:
        self.episodes = recorded.episodes if episodes is None else episodes
        self._parts = recorded.parts
        self._takes = all(part.takes for part in self._parts)
        lengths = [self._parts[part].lengths[episode] for part, episode in self.episodes]
        self._ends = np.cumsum(np.array(lengths, np.int64))
        self._begins = self._ends - lengths
        obs = {key: (space.shape, space.dtype) for key, space in recorded.obs_spaces.items()}
        self._layout = {
            **obs,
            "action": ((recorded.parts[0].action_dim,), "float32"),
            "reward": ((), "float32"),
            **dict.fromkeys(FLAGS, ((), "bool")),
        }

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def windows(self, length: int) -> int:
        """Windows of so many rows."""
        return max(0, len(self) - length + 1)

    def batch(self, firsts: Sequence[int] | np.ndarray, length: int) -> Steps:
        """The windows that begin at these rows: each key `[B, length, ...]`, with is_first at index 0
        of each."""
        batch = {
            key: np.empty((len(firsts), length, *shape), dtype)
            for key, (shape, dtype) in self._layout.items()
        }
        if self._takes:
            self._take(batch, np.asarray(firsts)[:, None] + np.arange(length))
            batch["is_first"][:, 0] = True
            return batch
        for row, first in enumerate(firsts):
            self._fill({key: value[row] for key, value in batch.items()}, int(first))
        batch["is_first"][:, 0] = True
        return batch

    def _take(self, batch: Steps, rows: np.ndarray) -> None:
        """Fills `[B, T, ...]` with these rows of the stream `[B, T]`, part by part."""
        flat = rows.reshape(-1)
        places = np.searchsorted(self._ends, flat, side="right")
        parts, episodes = self.episodes[places].T
        inner = flat - self._begins[places]
        for index in np.unique(parts):
            chosen = np.flatnonzero(parts == index)
            steps = self._parts[index].taken(episodes[chosen], inner[chosen])
            for key, values in batch.items():
                values.reshape(len(flat), *values.shape[2:])[chosen] = steps[key]

    def _fill(self, window: Steps, first: int) -> None:
        length, done = len(window["reward"]), 0
        place = int(np.searchsorted(self._ends, first, side="right"))
        while done < length:
            end = int(self._ends[place])
            part, episode = (int(n) for n in self.episodes[place])
            rows = int(self._parts[part].lengths[episode])
            start = first + done - (end - rows)
            stop = min(rows, start + length - done)
            steps = self._parts[part].rows(episode, start, stop)
            for key, values in window.items():
                values[done : done + stop - start] = steps[key]
            done += stop - start
            place += 1
