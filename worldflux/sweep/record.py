"""sweep.json: which jobs a sweep has, and the commands that asked for them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldflux.errors import CheckpointError
from worldflux.run_folder.disk import disk_errors, write_atomic
from worldflux.run_folder.state import claim
from worldflux.sweep.jobs import Job

SCHEMA = "worldflux.sweep.v1"
FILE = "sweep.json"


@dataclass
class Record:
    """jobs: folder name -> overrides (key -> value) of every job that was ever asked for.

    command: the words that continue the sweep, of the newest command; asked: the folder names of
    its jobs.
    """

    name: str
    command: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)


def note(root: Path, jobs: Sequence[Job], command: Sequence[str]) -> Record:
    """Adds the jobs of a command to the record of the sweep in `root`, and returns it."""
    with disk_errors("sweep record", root / FILE):
        root.mkdir(parents=True, exist_ok=True)
    with claim(root), disk_errors("sweep record", root / FILE):
        record = read_record(root) if (root / FILE).exists() else Record(root.name)
        record.command = list(command)
        record.asked = [job.name for job in jobs]
        record.jobs.update({job.name: dict(job.identity) for job in jobs})
        content = {"schema_version": SCHEMA, "changed": time.time(), **vars(record)}
        write_atomic(root / FILE, json.dumps(content, indent=2, default=str) + os.linesep)
    return record


def read_record(root: Path) -> Record:
    """The record of a sweep; CheckpointError says what is missing or wrong."""
    path = root / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA:
            raise CheckpointError(f"{path}: not a record of schema {SCHEMA!r}")
        return Record(**{key: content[key] for key in ("name", "command", "asked", "jobs")})
    except FileNotFoundError as error:
        raise CheckpointError(f"{root} is not a sweep: it has no {FILE}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
