"""Reading ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worldflux.config.files import parsed, wrong_kinds
from worldflux.run_folder.links import check_links
from worldflux.run_folder.names import METRICS

LONGEST = 2**20  # bytes of a line
_KINDS = {"step": int, "env_steps": int, "metrics": dict}


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All records of a run, oldest first; a last line cut off by a crash is left out, and so are
    damaged ones."""
    return [record for record in _records(folder) if record is not None]


def has_damage(folder: Path) -> bool:
    """Whether lines of a run's metrics cannot be read."""
    return any(record is None for record in _records(folder))


def _records(folder: Path) -> Iterator[dict[str, Any] | None]:
    """None for a damaged line."""
    path = folder / METRICS
    check_links(folder, (METRICS,))
    if not path.is_file():
        return
    with open(path, "rb") as file:
        while line := file.readline(LONGEST):
            if line.endswith(b"\n"):
                yield record_of(line)
            elif len(line) == LONGEST:
                while line and not line.endswith(b"\n"):
                    line = file.readline(LONGEST)
                yield None


def record_of(line: bytes) -> dict[str, Any] | None:
    """The record of a line, None where it is damaged."""
    try:
        record = parsed(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not record.keys() >= _KINDS.keys():
        return None
    values = record["metrics"].values() if isinstance(record["metrics"], dict) else ()
    numbers = all(value is None or isinstance(value, int | float) for value in values)
    return record if numbers and wrong_kinds(record, _KINDS) is None else None
