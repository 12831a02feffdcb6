"""`slurm.json` in a job's folder: which Slurm job runs it.

It is written with a token before the job is submitted and completed with the job's id after, so that
a driver killed in between leaves no job that the next one would not find.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from worldflux.run_folder.disk import disk_errors, write_atomic
from worldflux.slurm import queue
from worldflux.slurm.queue import JobStatus

FILE = "slurm.json"
LOG = "slurm.log"


@dataclass(frozen=True)
class Record:
    """token: the comment of the submission, shared by all jobs of an array. index: the job's place
    in it. size: how many jobs it has. id: as squeue prints it, None before the submission."""

    token: str
    index: int
    size: int
    id: str | None = None

    def write(self, folder: Path) -> None:
        with disk_errors("record of the Slurm job", folder / FILE):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / FILE, json.dumps(asdict(self)) + "\n")


def read(folder: Path) -> Record | None:
    """The record of a job's folder; None where it was never submitted, or the file is damaged."""
    try:
        return Record(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def alive(folders: Iterable[Path]) -> dict[Path, tuple[str, JobStatus]]:
    """The jobs of these folders that Slurm queues or runs: their id and status.

    SlurmError: Slurm does not answer.
    """
    found = {folder: record for folder in folders if (record := read(folder)) is not None}
    records = {folder: record for folder, record in _with_ids(found).items() if record.id}
    told = queue.statuses({str(record.id) for record in records.values()})
    return {
        folder: (str(record.id), status)
        for folder, record in records.items()
        # After a cluster was set up anew, the id may be that of another job.
        if (status := told[str(record.id)]).alive and status.comment == record.token
    }


def _with_ids(records: Mapping[Path, Record]) -> dict[Path, Record]:
    """The records, with the ids of those whose driver died between submission and noting them."""
    tokens = {record.token for record in records.values() if record.id is None}
    if not tokens:
        return dict(records)
    found = queue.with_comment(tokens)
    result = {}
    for folder, record in records.items():
        if record.id is None and found.get(record.token):
            array = found[record.token][0].split("_")[0]
            record = replace(record, id=array if record.size == 1 else f"{array}_{record.index}")
        result[folder] = record
    return result
