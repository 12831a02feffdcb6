"""How far the jobs of a sweep are, as their folders tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldflux.errors import CheckpointError
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.names import MANIFEST
from worldflux.run_folder.state import RunState, run_state
from worldflux.sweep.jobs import SEED

QUEUED = "queued"  # waits in a scheduler, such as Slurm's
# States of jobs that a command leaves alone.
SETTLED = (RunState.COMPLETED, RunState.RUNNING, QUEUED)


@dataclass
class JobStatus:
    """One job as it stands. state: a RunState, or ``queued``. score: the newest evaluation's mean
    return. where: who runs it or queues it, for a reader. seconds: of training so far."""

    folder: Path
    overrides: Mapping[str, Any]
    state: str
    updates: int | None = None
    env_steps: int | None = None
    score: float | None = None
    best: float | None = None
    seconds: float | None = None
    reason: str | None = None
    where: str | None = None

    @property
    def name(self) -> str:
        return self.folder.name


def look(
    folder: Path, overrides: Mapping[str, Any], elsewhere: Mapping[Path, str] | None = None
) -> JobStatus:
    """The status of the job in `folder`. elsewhere: folders that wait in a scheduler, with the
    name they have there."""
    found = JobStatus(folder, overrides, RunState.MISSING)
    try:
        found.state = run_state(folder)
        manifest = read_manifest(folder) if (folder / MANIFEST).exists() else {}
    except CheckpointError as error:
        found.state, found.reason = RunState.FAILED, str(error)
        return found
    scores = manifest.get("scores", {})
    found.updates, found.env_steps = manifest.get("global_step"), manifest.get("env_steps")
    found.score, found.best = scores.get("last"), scores.get("best")
    found.seconds = manifest.get("runtime_profile", {}).get("elapsed_sec")
    if found.state == RunState.FAILED:
        found.reason = " ".join(str(manifest.get("error")).split())
    if elsewhere and folder in elsewhere and found.state != RunState.COMPLETED:
        found.where = elsewhere[folder]
        if found.state not in SETTLED:
            found.state = QUEUED
    return found


def shared_of(jobs: Sequence[JobStatus]) -> dict[str, Any]:
    """The overrides that all jobs have; of a single job all but its seed."""
    return {
        key: value
        for key, value in (jobs[0].overrides if jobs else {}).items()
        if all(key in job.overrides and job.overrides[key] == value for job in jobs)
        and not (key == SEED and len(jobs) == 1)
    }
