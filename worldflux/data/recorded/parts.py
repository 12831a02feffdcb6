"""What a file of recorded episodes gives: rows of the step dict, read where they lie."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.files import parsed, read_text
from worldflux.config.spaces import FLAGS, Space, flat_action_dim
from worldflux.data.recorded.encoding import Column, Rows
from worldflux.errors import BufferError

Steps = dict[str, np.ndarray]
DIGEST_ROWS = 16  # of an episode, which a digest reads


def json_mapping(path: Path) -> Mapping[str, Any]:
    """What the metadata beside a recording say; BufferError: it is damaged or no JSON mapping."""
    try:
        content = parsed(read_text(path))
    except (OSError, ValueError) as error:
        raise BufferError(f"{path}: damaged or no JSON: {error}") from error
    if not isinstance(content, dict):
        raise BufferError(f"{path}: expected a mapping")
    return content


class Episodes(ABC):
    """The episodes of one file, each L + 1 rows of the step dict: reward and flags arrived with the
    row's observation, and its action was taken after it; none (zeros) after the last one.

    name: the file, as it was named. lengths `[E]`: rows of each episode.
    """

    name: str
    obs_spaces: Mapping[str, Space]
    action_spaces: Mapping[str, Space]
    lengths: np.ndarray

    @abstractmethod
    def read(self, episode: int, start: int, stop: int) -> Steps:
        """Rows start..stop of an episode, each key `[n, ...]`."""

    @property
    def takes(self) -> bool:
        """Whether `take` is there: rows of many episodes cost one look-up of a key."""
        return False

    def take(self, episodes: np.ndarray, rows: np.ndarray) -> Steps:
        """Single rows of episodes, `[n]` both: each key `[n, ...]`."""
        raise NotImplementedError

    def taken(self, episodes: np.ndarray, rows: np.ndarray) -> Steps:
        """As `take`; errors as those of `rows`."""
        try:
            steps = self.take(episodes, rows)
        except (OSError, ValueError, TypeError, LookupError, RuntimeError) as error:
            raise BufferError(f"{self.name}: cannot be read: {error}") from error
        for key, row in _not_finite(steps):
            text = f"{self.name}: {key}: not finite in row {rows[row]} of episode {episodes[row]}"
            raise BufferError(text)
        return steps

    def rows(self, episode: int, start: int, stop: int) -> Steps:
        """As `read`; BufferError names the file, the key and the row of what is no number."""
        try:
            steps = self.read(episode, start, stop)
        except (OSError, ValueError, TypeError, LookupError, RuntimeError) as error:
            text = f"{self.name}: episode {episode} cannot be read: {error}"
            raise BufferError(text) from error
        for key, row in _not_finite(steps):
            text = f"{self.name}: {key}: not finite in row {start + row} of episode {episode}"
            raise BufferError(text)
        return steps

    @property
    def action_dim(self) -> int:
        return flat_action_dim(self.action_spaces)

    def terminates(self) -> bool:
        """Whether the task itself ended an episode."""
        ends = (int(rows) - 1 for rows in self.lengths)
        return any(
            self.read(episode, end, end + 1)["is_terminal"][0] for episode, end in enumerate(ends)
        )

    def digest(self) -> str:
        """A checksum of the lengths, and of some rows of the first, the last and episodes between."""
        sha = hashlib.sha256(np.asarray(self.lengths, "<i8").tobytes())
        count = len(self.lengths)
        for episode in sorted({int(n) for n in np.linspace(0, count - 1, min(count, 8))}):
            rows = int(self.lengths[episode])
            for start in {0, max(0, rows - DIGEST_ROWS)}:
                steps = self.rows(episode, start, min(rows, start + DIGEST_ROWS))
                for key in sorted(steps):
                    sha.update(key.encode() + np.ascontiguousarray(steps[key]).tobytes())
        return sha.hexdigest()


def _not_finite(steps: Steps) -> Iterator[tuple[str, int]]:
    """Keys that hold what is no number, each with the first such row."""
    for key, values in steps.items():
        if values.dtype.kind == "f" and not np.isfinite(values.sum(dtype=np.float64)):
            wrong = ~np.isfinite(values.reshape(len(values), -1)).all(1)
            if wrong.any():
                yield key, int(np.argmax(wrong))


class StepColumns(Episodes):
    """Columns of the step dict, episode after episode. columns: key -> its rows, encoded already."""

    def __init__(
        self,
        name: str,
        obs_spaces: Mapping[str, Space],
        action_spaces: Mapping[str, Space],
        columns: Mapping[str, Rows],
        is_first: np.ndarray,
    ) -> None:
        self.name, self.obs_spaces, self.action_spaces = name, obs_spaces, action_spaces
        self._columns, self._rows = columns, len(is_first)
        begins = np.flatnonzero(is_first)
        if len(is_first) and (not len(begins) or begins[0]):
            begins = np.concatenate([[0], begins])  # the rest of an episode whose start is gone
        self._begins = begins
        self.lengths = np.diff(begins, append=len(is_first))

    def terminates(self) -> bool:
        return bool(self._columns["is_terminal"](0, self._rows).any())

    @property
    def takes(self) -> bool:
        columns = self._columns.values()
        return all(isinstance(x, Column) and isinstance(x.array, np.ndarray) for x in columns)

    def take(self, episodes: np.ndarray, rows: np.ndarray) -> Steps:
        places = self._begins[episodes] + rows
        columns = self._columns.items()
        steps = {key: x.take(places) for key, x in columns if isinstance(x, Column)}
        steps["is_first"], steps["is_last"] = rows == 0, rows == self.lengths[episodes] - 1
        steps["action"] = np.where(steps["is_last"][:, None], np.float32(0), steps["action"])
        return steps

    def read(self, episode: int, start: int, stop: int) -> Steps:
        begin, rows = int(self._begins[episode]), int(self.lengths[episode])
        steps = {key: read(begin + start, begin + stop) for key, read in self._columns.items()}
        steps["is_first"] = np.arange(start, stop) == 0
        steps["is_last"] = np.arange(start, stop) == rows - 1
        if stop == rows:
            steps["action"] = np.concatenate([steps["action"][:-1], 0 * steps["action"][-1:]])
        return steps


class Transitions(Episodes):
    """L actions of each episode, each with the reward that followed it, and its observations.

    counts `[E]`: L; terminated `[E]`: the episode ended in a terminal state. get: `(key, episode,
    start, stop)` to encoded rows of an observation key, ``action`` or ``reward``. final: whether
    there are L + 1 observations. Where not, an episode that terminated ends with its last observation
    once more, so that its last reward and its end are learned; of another one the last action is left
    out, as what came of it is not known.
    """

    def __init__(
        self,
        name: str,
        obs_spaces: Mapping[str, Space],
        action_spaces: Mapping[str, Space],
        counts: np.ndarray,
        terminated: np.ndarray,
        get: Callable[[str, int, int, int], np.ndarray],
        *,
        final: bool = True,
    ) -> None:
        self.name, self.obs_spaces, self.action_spaces = name, obs_spaces, action_spaces
        self._counts, self._terminated, self._get, self._final = counts, terminated, get, final
        self.lengths = counts + 1 if final else counts + np.asarray(terminated, np.int64)

    def terminates(self) -> bool:
        return bool(np.any(self._terminated))

    def read(self, episode: int, start: int, stop: int) -> Steps:
        count, rows = int(self._counts[episode]), int(self.lengths[episode])
        seen = count + 1 if self._final else count
        steps: Steps = {}
        for key in self.obs_spaces:
            steps[key] = self._get(key, episode, min(start, seen - 1), min(stop, seen))
            if stop > seen and stop - start > 1:
                steps[key] = np.concatenate([steps[key], steps[key][-1:]])
        acted = self._get("action", episode, start, min(stop, rows - 1))
        none = np.zeros((stop - start - len(acted), self.action_dim), np.float32)
        steps["action"] = np.concatenate([acted, none]) if len(none) else acted
        first = max(start, 1)
        reward = np.zeros(stop - start, np.float32)
        reward[first - start :] = self._get("reward", episode, first - 1, stop - 1)
        steps["reward"] = reward
        place = np.arange(start, stop)
        steps |= dict(zip(FLAGS, (place == 0, place == rows - 1, place == rows - 1), strict=True))
        steps["is_terminal"] &= bool(self._terminated[episode])
        return steps
