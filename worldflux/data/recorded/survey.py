"""Goes once through a set of recorded episodes: ranges, returns, and what is wrong with its rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldflux.data.recorded.encoding import SLACK, no_choices
from worldflux.data.recorded.opening import RecordedSet, space_words
from worldflux.data.recorded.parts import Episodes, Steps
from worldflux.data.recorded.stream import Stream
from worldflux.errors import BufferError

ROWS = 4_096  # that are looked at together
MOST = 20  # damages that are listed


@dataclass
class Column:
    """What one key holds: its space in words, and its smallest, largest and mean number."""

    form: str
    low: float = np.inf
    high: float = -np.inf
    total: float = 0.0
    count: int = 0

    def add(self, values: np.ndarray) -> None:
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if finite.size:
            self.low, self.high = (
                min(self.low, float(finite.min())),
                max(self.high, float(finite.max())),
            )
            self.total += float(finite.sum(dtype=np.float64))
            self.count += finite.size

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else np.nan


@dataclass
class Survey:
    """returns, lengths `[E]`: undiscounted, and in actions. terminated: episodes that ended in a
    terminal state. damages: a line each, with file, key and row; more: how many are not listed."""

    columns: dict[str, Column] = field(default_factory=dict)
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    terminated: int = 0
    damages: list[str] = field(default_factory=list)
    more: int = 0

    def note(self, damage: str) -> None:
        if len(self.damages) < MOST:
            self.damages.append(damage)
        else:
            self.more += 1

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        columns = {
            key: {
                "form": one.form,
                "min": _plain(one.low),
                "max": _plain(one.high),
                "mean": _plain(one.mean),
            }
            for key, one in self.columns.items()
        }
        return {
            "episodes": len(self.lengths),
            "steps": sum(self.lengths),
            "terminated": self.terminated,
            "columns": columns,
            "returns": self.returns,
            "lengths": self.lengths,
            "damages": self.damages,
            "damages_not_listed": self.more,
        }


def _plain(number: float) -> float | None:
    return number if np.isfinite(number) else None


def survey(recorded: RecordedSet) -> Survey:
    """Reads every row once."""
    forms = {key: space_words(space) for key, space in recorded.obs_spaces.items()}
    acts = [space_words(space) for space in recorded.action_spaces.values()]
    forms |= {"action": ", ".join(acts), "reward": "float32"}
    result = Survey({key: Column(form) for key, form in forms.items()})
    for part, episode in recorded.episodes:
        _episode(recorded.parts[part], int(episode), result)
    return result


def _episode(part: Episodes, episode: int, result: Survey) -> None:
    total, terminal = 0.0, False
    try:
        for start, steps in _pieces(part, episode):
            total += float(steps["reward"].sum(dtype=np.float64))
            terminal |= bool(steps["is_terminal"].any())
            _look(part, episode, start, steps, result)
    except (BufferError, OSError, ValueError, TypeError, LookupError, RuntimeError) as error:
        result.note(f"{part.name}: episode {episode} cannot be read: {error}")
    result.returns.append(total)
    result.lengths.append(int(part.lengths[episode]) - 1)
    result.terminated += terminal


def _pieces(part: Episodes, episode: int) -> Iterator[tuple[int, Steps]]:
    rows = int(part.lengths[episode])
    for start in range(0, rows, ROWS):
        yield start, part.read(episode, start, min(rows, start + ROWS))


def _look(part: Episodes, episode: int, start: int, steps: Steps, result: Survey) -> None:
    for key, column in result.columns.items():
        values = steps[key]
        column.add(values)
        if values.dtype.kind == "f":
            bad = ~np.isfinite(values.reshape(len(values), -1)).all(1)
            if bad.any():
                row = start + int(np.argmax(bad))
                where = f"{part.name}: {key}: {bad.sum()} rows not finite"
                result.note(f"{where}, the first is row {row} of episode {episode}")
    wrong = no_choices(steps["action"], part.action_spaces)
    if wrong is not None:
        result.note(f"{part.name}: action: {wrong} in episode {episode}")
    elif np.abs(np.nan_to_num(steps["action"])).max(initial=0) > 1 + SLACK:
        result.note(f"{part.name}: action: beyond [-1, 1] in episode {episode}")


def rate(recorded: RecordedSet, batch_size: int, length: int, seconds: float) -> float:
    """Batches `[batch_size, length]` a second that can be read, drawn as in training."""
    stream, rng = Stream(recorded), np.random.default_rng(0)
    windows = stream.windows(length)
    if not windows:
        raise BufferError(f"no sequence of {length} steps can be taken from {len(stream)}")
    batches, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        stream.batch(rng.integers(windows, size=batch_size), length)
        batches += 1
    return batches / (time.perf_counter() - begin)
