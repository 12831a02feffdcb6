"""How many updates an environment step is worth, exactly."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

from worldflux.config.data import DataConfig


class UpdateRatio:
    """Environment steps owed before each update, exactly.

    The first update is due at once, the n-th one ``(n - 1) / ratio`` environment steps later
    (ratio: updates per environment step; None: nothing is collected after the first update). Kept
    as a fraction, so that no rounding error gathers.
    """

    def __init__(self, updates_per_step: Fraction | None) -> None:
        self.updates_per_step = updates_per_step

    def steps_before(self, update: int) -> int:
        """Environment steps between the first update and update number `update` (from 1)."""
        if self.updates_per_step is None:
            return 0
        return ceil((update - 1) / self.updates_per_step)


def updates_per_step(data: DataConfig, batch_size: int, sequence_length: int) -> Fraction | None:
    """Updates per environment step that the config asks for, exactly; None: nothing is collected
    between updates."""
    if data.train_ratio is not None:
        return Fraction(str(data.train_ratio)) / (batch_size * sequence_length)
    if data.collect_steps_per_update is not None:
        steps = Fraction(str(data.collect_steps_per_update))
        return 1 / steps if steps else None
    raise data.refuse("collect_steps_per_update", "or train_ratio must be given")
