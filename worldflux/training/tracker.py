"""Loggers that send a run to a tracker, which cannot take back what it was given.

They get what a checkpoint has made final: records wait for the next checkpoint of the run, and at the
orderly end of the process the rest follows. A run that was killed and goes on so repeats nothing.
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from worldflux.errors import ConfigurationError
from worldflux.run_folder.metrics import read_metrics
from worldflux.training.loggers import TRACKER_FAILED, Destination, Listener
from worldflux.training.pictures import encode, video_frames

log = logging.getLogger("worldflux.training")


@dataclass
class Entry:
    """A record as in metrics.jsonl, its number there, and the pictures of its point of the run as PNG
    or GIF bytes."""

    number: int
    record: Mapping[str, Any]
    pictures: dict[str, bytes] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers; NaN for those that were not finite."""
        values = self.record["metrics"].items()
        return {name: math.nan if value is None else value for name, value in values}


class Tracker(Listener):
    """A run at a tracker: a new one, or with the id of the checkpoint the same as before.

    name: of its row in the table. errors: what the tracker raises where it cannot be reached.
    """

    name: ClassVar[str]
    errors: ClassVar[tuple[type[Exception], ...]]

    def __init__(self, destination: Destination) -> None:
        self.to = destination
        self.labels: Mapping[str, Any] = destination.config.get("run") or {}
        self.settings: Mapping[str, Any] = destination.config.get("logger") or {}
        position = destination.position if destination.trusted else None
        known = position.get("id") if isinstance(position, dict) else None
        self.id: str | None = known if isinstance(known, str) else None
        self._pending: list[Entry] = []
        records = read_metrics(destination.folder)
        try:
            there = self.begin()
        except self.errors as error:
            text = f"cannot begin: {_line(error)}"
            raise ConfigurationError(text, key=f"logger.{self.name}") from error
        if there is None:
            there = len(records)
        if there > len(records):
            more = there - len(records)
            text = "%s has %d records from after the checkpoint, which cannot be taken back there"
            log.warning(text, self.name, more)
        self._number = min(there, len(records))
        for record in records[self._number :]:
            self.scalars(record)
        self._deliver()

    @property
    def title(self) -> str:
        """What a person calls the run."""
        return str(self.labels.get("name") or Path(self.to.folder).resolve().name)

    @abstractmethod
    def begin(self) -> int | None:
        """Begins the run, or goes on with that of `id`, and sets `id`. Returns how many records the
        tracker has of it; None: it does not say, they are those of the checkpoint."""

    @abstractmethod
    def send(self, entries: list[Entry]) -> None:
        """Gives the tracker these entries, oldest first."""

    @abstractmethod
    def end(self) -> None:
        """The process ends, the run may go on in another one."""

    def scalars(self, record: Mapping[str, Any]) -> None:
        self._pending.append(Entry(self._number, record))
        self._number += 1

    def pictures(self, pictures: Mapping[str, np.ndarray], *, step: int, env_steps: int) -> None:
        if not self._pending:
            record = {"step": step, "env_steps": env_steps, "metrics": {}}
            self._pending.append(Entry(self._number, record))
        made = {name: encode(video_frames(picture)) for name, picture in pictures.items()}
        self._pending[-1].pictures.update(made)

    def position(self) -> dict[str, Any]:
        return {"id": self.id}

    def saved(self) -> None:
        self._deliver()

    def close(self) -> None:
        self._deliver()
        try:
            self.end()
        except self.errors as error:
            log.warning("%s: %s", self.name, _line(error))

    def _deliver(self) -> None:
        """What cannot be sent now is tried again with the next checkpoint."""
        if not self._pending:
            return
        try:
            self.send(self._pending)
        except self.errors as error:
            text = "%s cannot be reached, its records wait for the next checkpoint: %s"
            log.warning(text, self.name, _line(error))
            self.degraded_modes = (TRACKER_FAILED,)
        else:
            self._pending = []


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
