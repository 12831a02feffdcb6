"""metrics.csv: the numbers of metrics.jsonl as a table, a row for each."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from typing import Any

from worldflux.run_folder.disk import disk_errors
from worldflux.run_folder.metrics import read_metrics
from worldflux.run_folder.names import CSV
from worldflux.training.loggers import Destination, Listener

COLUMNS = ("env_steps", "step", "timestamp", "metric", "value")


class CsvFile(Listener):
    """Writes the table anew from metrics.jsonl when a run begins or goes on, and then adds to it. A
    number that is not finite is an empty field."""

    def __init__(self, destination: Destination) -> None:
        self._path = destination.folder / CSV
        with disk_errors("metrics", self._path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            descriptor = os.open(self._path, flags, 0o666)
            self._file = open(descriptor, "w", encoding="utf-8", newline="")
            self._rows = csv.writer(self._file, lineterminator="\n")
            self._rows.writerow(COLUMNS)
            for record in read_metrics(destination.folder):
                self._write(record)
            self._file.flush()

    def scalars(self, record: Mapping[str, Any]) -> None:
        with disk_errors("metrics", self._path):
            self._write(record)
            self._file.flush()

    def _write(self, record: Mapping[str, Any]) -> None:
        at = [record["env_steps"], record["step"], record.get("timestamp")]
        self._rows.writerows([*at, name, value] for name, value in record["metrics"].items())

    def close(self) -> None:
        self._file.close()
