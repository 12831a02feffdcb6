"""What one key of a step looks like: its shape, type and, for discrete keys, its classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

# What a step holds beside its observations, whose keys must be others.
FLAGS = ("is_first", "is_last", "is_terminal")
STEP_KEYS = ("action", "reward", *FLAGS, "stepid", "consec")
TASK_KEY = "task"  # observation key of multi-task environments: which task it is


@dataclass(frozen=True)
class Task:
    """One task of a multi-task environment: its own widths, and agent steps of an episode."""

    name: str
    obs_dim: int
    action_dim: int
    episode_length: int | None


@dataclass(frozen=True)
class Space:
    """Shape and type of one observation or action key, without batch or time.

    shape: element shape; images are channels first, ``(C, H, W)``.
    dtype: numpy dtype name, ``uint8`` for images.
    classes: empty for continuous keys; for discrete keys the number of classes of each of the
        ``prod(shape)`` entries (one entry for a scalar).
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    classes: tuple[int, ...] = ()

    @property
    def discrete(self) -> bool:
        return bool(self.classes)

    @property
    def image(self) -> bool:
        return len(self.shape) == 3 and not self.classes

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def flat_dim(self) -> int:
        """Width of the flat float encoding: one-hot per discrete entry, raw values otherwise."""
        return sum(self.classes) if self.classes else self.size


def flat_action_dim(spaces: Mapping[str, Space]) -> int:
    """Width A of the flat action vector: all action keys, sorted by name, concatenated."""
    return sum(space.flat_dim for space in spaces.values())
