"""How far the jobs of a sweep are, as their folders show it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldflux.errors import CheckpointError
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.names import MANIFEST
from worldflux.run_folder.state import Ending, RunState, run_state
from worldflux.sweep.jobs import SEED

QUEUED = "queued"  # waits in a scheduler, such as Slurm's
# States of jobs that a command leaves alone.
SETTLED = (RunState.COMPLETED, RunState.RUNNING, QUEUED)
ORDER = (*SETTLED, RunState.STOPPED, RunState.BROKEN_OFF, RunState.FAILED, RunState.MISSING)


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


def job_status(
    folder: Path,
    overrides: Mapping[str, Any],
    queued: Mapping[Path, str] | None = None,
    ends: Mapping[Path, Ending] | None = None,
) -> JobStatus:
    """The status of the job in `folder`. queued: folders whose job waits or runs in a scheduler,
    with its name there. ends: how jobs of this command ended that left no reason of their own; one
    that left nothing at all has failed, unless it was cancelled."""
    try:
        state: str = run_state(folder)
        manifest = read_manifest(folder) if (folder / MANIFEST).exists() else {}
    except CheckpointError as error:
        return JobStatus(folder, overrides, RunState.FAILED, reason=str(error))
    scores, reason = manifest.get("scores", {}), None
    if state == RunState.FAILED:
        reason = " ".join(str(manifest.get("error")).split())
    elif state in (RunState.MISSING, RunState.BROKEN_OFF):
        end = (ends or {}).get(folder)
        reason = None if end is None else end.reason
        if state == RunState.MISSING and end is not None and not end.cancelled:
            state = RunState.FAILED
    where = None if state == RunState.COMPLETED else (queued or {}).get(folder)
    return JobStatus(
        folder,
        overrides,
        state=state if where is None or state in SETTLED else QUEUED,
        updates=manifest.get("global_step"),
        env_steps=manifest.get("env_steps"),
        score=scores.get("last"),
        best=scores.get("best"),
        seconds=manifest.get("runtime_profile", {}).get("elapsed_sec"),
        reason=reason,
        where=where,
    )


def shared_overrides(jobs: Sequence[JobStatus]) -> dict[str, Any]:
    """The overrides that all jobs have; of a single job all but its seed."""
    return {
        key: value
        for key, value in (jobs[0].overrides if jobs else {}).items()
        if all(key in job.overrides and job.overrides[key] == value for job in jobs)
        and not (key == SEED and len(jobs) == 1)
    }


def counts(jobs: Sequence[JobStatus]) -> str:
    """`6 jobs: 4 completed, 1 failed, 1 missing`."""
    states = Counter(str(job.state) for job in jobs)
    parts = [f"{states[state]} {state}" for state in ORDER if states[state]]
    return f"{len(jobs)} job{'s' * (len(jobs) != 1)}: {', '.join(parts)}"
