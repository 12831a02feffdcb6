"""sweep.json: which jobs a sweep has, and the newest command that started them."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from worldflux.config.files import read_document, wrong_kinds
from worldflux.errors import CheckpointError
from worldflux.run_folder.disk import disk_errors, write_atomic
from worldflux.run_folder.names import MANIFEST
from worldflux.run_folder.state import claim
from worldflux.sweep.jobs import Job

SCHEMA = "worldflux.sweep.v1"
FILE = "sweep.json"
KINDS = {"name": str, "command": list, "asked": list, "jobs": dict}
KEYS = ("name", "command", "asked", "jobs")  # of the file: a SweepRecord
GLOB = re.compile(r"[*?[]")
FOLDER = "multirun"  # of all sweeps, in the folder of outputs
SWEEPS = Path("outputs") / FOLDER


@dataclass
class SweepRecord:
    """jobs: folder name -> overrides (key -> value) of every job of any command.

    command: the words that continue the sweep, of the newest command; newest: the folder names of
    its jobs.
    """

    name: str
    command: list[str] = field(default_factory=list)
    newest: list[str] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)


def record_jobs(root: Path, jobs: Sequence[Job], command: Sequence[str]) -> None:
    """Adds the jobs of a command to the record of the sweep in `root`."""
    with disk_errors("sweep record", root / FILE):
        root.mkdir(parents=True, exist_ok=True)
    with claim(root), disk_errors("sweep record", root / FILE):
        record = read_record(root) if (root / FILE).exists() else SweepRecord(root.name)
        record.command = list(command)
        record.newest = [job.name for job in jobs]
        record.jobs.update({job.name: dict(job.identity) for job in jobs})
        content = dict(zip(KEYS, vars(record).values(), strict=True))
        content |= {"schema_version": SCHEMA, "changed": time.time()}
        write_atomic(root / FILE, json.dumps(content, indent=2, default=str) + os.linesep)


def read_record(root: Path) -> SweepRecord:
    """The record of a sweep; CheckpointError says what is missing or wrong."""
    path = root / FILE
    try:
        content = read_document(path)
        if content["schema_version"] != SCHEMA:
            raise CheckpointError(f"{path}: not a record of schema {SCHEMA!r}")
        jobs = content["jobs"].values() if isinstance(content["jobs"], dict) else ()
        wrong = wrong_kinds(content, KINDS)
        if wrong is None and not all(isinstance(job, dict) for job in jobs):
            wrong = "jobs must be mappings"
        if wrong is not None:
            raise CheckpointError(f"{path}: {wrong}")
        return SweepRecord(*(content[key] for key in KEYS))
    except FileNotFoundError as error:
        raise CheckpointError(f"{root} is not a sweep: it has no {FILE}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def runs_named(names: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The folders that names or globs of runs and sweeps mean, each once, and the folders of all
    runs in them that have begun. CheckpointError: a name means nothing."""
    tops = list(dict.fromkeys(folder for name in names for folder in _meant(name)))
    runs = []
    for top in tops:
        jobs = [top]
        if (top / FILE).exists():
            jobs = [top / name for name in read_record(top).jobs]
        runs += [job for job in jobs if (job / MANIFEST).exists()]
    return tops, list(dict.fromkeys(runs))


def _meant(name: str) -> list[Path]:
    if not GLOB.search(name) or Path(name).exists():
        return [folder_of(name)]
    paths = [Path(path) for path in sorted(glob(name, recursive=True))]
    known = [p.resolve() for p in paths if (p / FILE).exists() or (p / MANIFEST).exists()]
    if not known:
        raise CheckpointError(f"no run or sweep matches {name}")
    return known


def folder_of(name: str) -> Path:
    """The folder of a run or sweep: a path, or the name of a sweep in SWEEPS. CheckpointError if
    there is none."""
    folder = Path(name)
    for path in (folder, SWEEPS / name):
        if (path / FILE).exists() or (path / MANIFEST).exists():
            return path.resolve()
    if not folder.exists():
        known = sorted(path.parent.name for path in SWEEPS.glob(f"*/{FILE}"))
        hint = f"; sweeps in {SWEEPS}: {', '.join(known)}" if known else ""
        raise CheckpointError(f"no run or sweep at {name}{hint}")
    text = f"{name} is neither a run (it has no {MANIFEST}) nor a sweep (no {FILE})"
    inside = sorted({path.parent for path in folder.glob(f"*/{MANIFEST}")})
    raise CheckpointError(text + (f"; it holds {len(inside)} runs" if inside else ""))
