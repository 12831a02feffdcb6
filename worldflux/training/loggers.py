"""Where a run's metrics go besides metrics.jsonl: one row for each switch of the `logger` group."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np

from worldflux.errors import MissingDependencyError

# Field of LoggerConfig -> `module:class` of its listener, made from a Destination.
LOGGERS = {
    "tensorboard": "worldflux.training.tensorboard:TensorBoard",
    "csv": "worldflux.training.csv_file:CsvFile",
    "wandb": "worldflux.training.wandb_run:WandbRun",
    "mlflow": "worldflux.training.mlflow_run:MlflowRun",
}
# Of the extra with the row's name.
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}
TRACKER_FAILED = "tracker_unavailable"  # a degraded mode of what is only shown


@dataclass(frozen=True)
class Destination:
    """What a logger is made for. folder: of the run. x_axis: ``env_steps`` or ``updates``, the axis
    of loggers that have one. purge_from: where a run goes on from a checkpoint, the x behind it.
    position: what this logger's `position` was at that checkpoint; None where it has none. trusted:
    whether this user made the run that goes on. config: the resolved configuration of the run."""

    folder: Path
    x_axis: str = "env_steps"
    purge_from: int | None = None
    position: Any = None
    trusted: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)

    def x(self, step: int, env_steps: int) -> int:
        """Where a record with these counters stands on the axis."""
        return env_steps if self.x_axis == "env_steps" else step


class Listener:
    """Gets everything that is logged, as it is logged; override what you need.

    scalars: a record as in metrics.jsonl. phase: training pauses for something else, such as
    ``evaluating``. pictures: images `[H, W, 3]` and videos `[T, H, W, 3]` or `[B, T, H, W, 3]`
    (rows below each other), uint8. position: everything to the disk; returns what the logger needs
    to cut later what comes after this point, as JSON has it. saved: what was logged up to the last
    `position` is part of a checkpoint now. degraded_modes: of this listener.
    """

    degraded_modes: Sequence[str] = ()

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        """ConfigurationError where a run could not begin here. settings: of the `logger` group."""

    def scalars(self, record: Mapping[str, Any]) -> None: ...

    def phase(self, phase: str) -> None: ...

    def pictures(
        self, pictures: Mapping[str, np.ndarray], *, step: int, env_steps: int
    ) -> None: ...

    def position(self) -> Any: ...

    def saved(self) -> None: ...

    def close(self) -> None: ...


def check_loggers(names: Iterable[str], settings: Mapping[str, Any]) -> None:
    """What the loggers of these names need is there. MissingDependencyError has the line that
    installs it."""
    for name in names:
        package = PACKAGES.get(name)
        if package is None:
            continue
        if importlib.util.find_spec(package) is None:
            text = f"logger.{name} needs {package}: pip install 'worldflux[{name}]'"
            raise MissingDependencyError(text)
        resolve_name(LOGGERS[name]).check(settings)


def make_loggers(
    names: Iterable[str], destination: Destination, positions: Mapping[str, Any] | None = None
) -> dict[str, Listener]:
    """The listeners of the table with these names. positions: theirs at the checkpoint."""
    positions = positions or {}
    return {
        name: resolve_name(LOGGERS[name])(replace(destination, position=positions.get(name)))
        for name in names
    }
