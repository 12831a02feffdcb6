"""metrics.jsonl, and whoever else listens.

``metrics.jsonl`` is the truth: one object per record with ``step`` (gradient updates),
``env_steps``, ``timestamp`` (Unix seconds), ``speed`` (updates per second, null where none was
measured) and ``metrics``. Loggers have one x axis: environment steps in runs that collect
experience, as published curves have, gradient updates in the others; both counters are logged as
``counters/env_steps`` and ``counters/updates``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from worldflux.run_folder.disk import disk_errors
from worldflux.run_folder.manifest import plain
from worldflux.run_folder.names import METRICS
from worldflux.training.loggers import Destination, Listener, make_loggers
from worldflux.training.pictures import keep_newest


class MetricLogger:
    """Writes the metrics of one run.

    loggers: names of the table in loggers.py that get them too. resume_at: byte length of
    ``metrics.jsonl`` at the checkpoint a run continues from (records behind it are cut off), None
    for a fresh run. positions: of the loggers at this checkpoint.
    """

    def __init__(
        self,
        destination: Destination,
        loggers: Iterable[str] = ("tensorboard",),
        *,
        resume_at: int | None = None,
        positions: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = destination.folder / METRICS
        with disk_errors("metrics", self.path):
            destination.folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            descriptor = os.open(self.path, flags, 0o666)
            size = os.fstat(descriptor).st_size
            size = min(resume_at or 0, size)
            os.ftruncate(descriptor, size)
            self._file = open(descriptor, "a", encoding="utf-8")
            with open(self.path, "rb") as written:
                self._digest = hashlib.file_digest(written, "sha256")
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                self._write("\n")  # damaged: it costs this line and not the next one
        try:
            self._loggers = make_loggers(loggers, destination, positions)
        except BaseException:
            self._file.close()
            raise
        self.listeners: list[Listener] = list(self._loggers.values())

    def scalars(
        self, metrics: Mapping[str, float], *, step: int, env_steps: int, speed: float | None = None
    ) -> None:
        """One record of named scalars at a point of the run."""
        record = plain(
            {
                "step": step,
                "env_steps": env_steps,
                "timestamp": time.time(),
                "speed": speed,
                "metrics": metrics,
            }
        )
        with disk_errors("metrics", self.path):
            self._write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
            if os.fstat(self._file.fileno()).st_nlink == 0:
                raise FileNotFoundError(errno.ENOENT, "it was deleted while the run was writing it")
        for listener in self.listeners:
            listener.scalars(record)

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._digest.update(text.encode())

    def checksum(self) -> str:
        """SHA-256 of ``metrics.jsonl`` as it was written: of the file where it is not damaged."""
        return self._digest.hexdigest()

    @property
    def takes_pictures(self) -> bool:
        """Whether `pictures` shows them to anybody."""
        return bool(self.listeners)

    def pictures(self, pictures: Mapping[str, np.ndarray], *, step: int, env_steps: int) -> None:
        """Keeps the newest pictures as files in the run folder and passes them on; see `Listener`."""
        keep_newest(self.path.parent, pictures)
        for listener in self.listeners if pictures else ():
            listener.pictures(pictures, step=step, env_steps=env_steps)

    def phase(self, phase: str) -> None:
        """Passes on to the listeners what the training does now; nothing is written."""
        for listener in self.listeners:
            listener.phase(phase)

    def position(self) -> dict[str, Any]:
        """Flushes everything to the disk and returns what a checkpoint says of it: the byte length
        and checksum of ``metrics.jsonl``, and the positions of the loggers."""
        with disk_errors("metrics", self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            return {
                "metrics_bytes": self.path.stat().st_size,
                "metrics_sha256": self.checksum(),
                "loggers": {name: one.position() for name, one in self._loggers.items()},
            }

    def saved(self) -> None:
        """What was logged up to the last `position` is part of a checkpoint now."""
        for listener in self._loggers.values():
            listener.saved()

    @property
    def degraded_modes(self) -> list[str]:
        """Of the loggers."""
        return [mode for one in self._loggers.values() for mode in one.degraded_modes]

    def close(self) -> None:
        with disk_errors("metrics", self.path), ExitStack() as stack:
            for close in (self._file.close, *(one.close for one in self._loggers.values())):
                stack.callback(close)
