"""Where a run's metrics go besides metrics.jsonl: one row for each switch of the `logger` group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np

# Field of LoggerConfig -> `module:class` of its listener, made from a Destination.
LOGGERS = {
    "tensorboard": "worldflux.training.tensorboard:TensorBoard",
    "csv": "worldflux.training.csv_file:CsvFile",
}


@dataclass(frozen=True)
class Destination:
    """What a logger is made for. folder: of the run. x_axis: ``env_steps`` or ``updates``, the axis
    of loggers that have one. purge_from: where a run goes on from a checkpoint, the x behind it.
    position: what this logger's `position` was at that checkpoint; None where it has none."""

    folder: Path
    x_axis: str = "env_steps"
    purge_from: int | None = None
    position: Any = None

    def x(self, step: int, env_steps: int) -> int:
        """Where a record with these counters stands on the axis."""
        return env_steps if self.x_axis == "env_steps" else step


class Listener:
    """Gets everything that is logged, as it is logged; override what you need.

    scalars: a record as in metrics.jsonl. phase: training pauses for something else, such as
    ``evaluating``. pictures: images `[H, W, 3]` and videos `[T, H, W, 3]` or `[B, T, H, W, 3]`
    (rows below each other), uint8. position: everything to the disk; returns what the logger needs
    to cut later what comes after this point, as JSON has it.
    """

    def scalars(self, record: Mapping[str, Any]) -> None: ...

    def phase(self, phase: str) -> None: ...

    def pictures(
        self, pictures: Mapping[str, np.ndarray], *, step: int, env_steps: int
    ) -> None: ...

    def position(self) -> Any: ...

    def close(self) -> None: ...


def make_loggers(
    names: Iterable[str], destination: Destination, positions: Mapping[str, Any] | None = None
) -> dict[str, Listener]:
    """The listeners of the table with these names. positions: theirs at the checkpoint."""
    positions = positions or {}
    return {
        name: resolve_name(LOGGERS[name])(replace(destination, position=positions.get(name)))
        for name in names
    }
