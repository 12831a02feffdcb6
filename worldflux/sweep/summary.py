"""The result of a sweep: its jobs, and the score of each group of jobs that differ by seed only."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.core.statistics import iqm, stratified_interval
from worldflux.errors import ConfigurationError
from worldflux.run_folder.disk import disk_errors, write_atomic
from worldflux.run_folder.state import RunState
from worldflux.sweep.jobs import SEED, rank, typed
from worldflux.sweep.record import Record, read_record
from worldflux.sweep.status import QUEUED, JobStatus, look, shared_of

CSV = "sweep.csv"
ORDER = (
    RunState.COMPLETED,
    RunState.RUNNING,
    QUEUED,
    RunState.STOPPED,
    RunState.BROKEN_OFF,
    RunState.FAILED,
    RunState.MISSING,
)


@dataclass
class Group:
    """Jobs that differ in their seed only, or also in other overrides that were not asked for.

    overrides: what they share, and by which groups are told apart. score: the interquartile mean of
    the completed jobs' scores, over strata (jobs that share every override but the seed) their
    mean. interval: its 95 % stratified bootstrap interval; None for a single score.
    """

    overrides: dict[str, Any]
    jobs: list[JobStatus]
    score: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def completed(self) -> int:
        return sum(job.state == RunState.COMPLETED for job in self.jobs)


@dataclass
class Summary:
    """A sweep as it stands. shared: the overrides that all jobs have. unstarted: names of jobs
    that only earlier commands asked for and that never began."""

    root: Path
    record: Record
    jobs: list[JobStatus]
    groups: list[Group]
    shared: dict[str, Any] = field(default_factory=dict)
    unstarted: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(job.state == RunState.FAILED for job in self.jobs)

    @property
    def unfinished(self) -> int:
        return sum(job.state != RunState.COMPLETED for job in self.jobs)

    def states(self) -> str:
        """`6 jobs: 4 completed, 1 failed, 1 missing`."""
        return states(self.jobs)


def summarize(
    root: Path, by: Sequence[str] = (), queued: Mapping[Path, str] | None = None
) -> Summary:
    """The summary of the sweep in `root`. by: keys of overrides to group by; default: all but the
    seed. CheckpointError: it is no sweep. ConfigurationError: no job has such a key."""
    record = read_record(root)
    found = [look(root / name, overrides, queued) for name, overrides in record.jobs.items()]
    old = [job for job in found if job.state == RunState.MISSING and job.name not in record.asked]
    jobs = [job for job in found if job not in old]
    keys = sorted({key for job in jobs for key in job.overrides}, key=rank)
    for key in by:
        if key not in keys:
            raise ConfigurationError(f"no job of {root} sets {key!r}; they set {', '.join(keys)}")
    groups = _groups(jobs, list(by) or [key for key in keys if key != SEED])
    shared = {key: value for key, value in shared_of(jobs).items() if key not in by}
    return Summary(root, record, jobs, groups, shared, [job.name for job in old])


def _groups(jobs: Sequence[JobStatus], keys: Sequence[str]) -> list[Group]:
    groups: dict[str, Group] = {}
    for job in jobs:
        overrides = {key: job.overrides[key] for key in keys if key in job.overrides}
        groups.setdefault(repr(overrides), Group(overrides, [])).jobs.append(job)
    for group in groups.values():
        _score(group)
    return list(groups.values())


def _score(group: Group) -> None:
    strata: dict[str, list[float]] = {}
    for job in group.jobs:
        if job.state == RunState.COMPLETED and job.score is not None:
            stratum = repr({key: v for key, v in job.overrides.items() if key != SEED})
            strata.setdefault(stratum, []).append(job.score)
    if not strata:
        return
    values = list(strata.values())
    group.score = float(np.mean([iqm(np.array(scores)) for scores in values]))
    if max(map(len, values)) > 1:
        group.interval = stratified_interval(values, lambda draws: np.mean(draws, axis=0))


def states(jobs: Sequence[JobStatus]) -> str:
    """`6 jobs: 4 completed, 1 failed, 1 missing`."""
    counts = Counter(str(job.state) for job in jobs)
    parts = [f"{counts[state]} {state}" for state in ORDER if counts[state]]
    return f"{len(jobs)} job{'s' * (len(jobs) != 1)}: {', '.join(parts)}"


def write_csv(summary: Summary) -> Path:
    """Writes `sweep.csv`, one row for each job with a column for each override."""
    keys = sorted({key for job in summary.jobs for key in job.overrides}, key=rank)
    facts = ("state", "updates", "env_steps", "score", "best", "seconds", "reason")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["folder", *keys, *facts])
    for job in summary.jobs:
        values = [typed(job.overrides[key]) if key in job.overrides else "" for key in keys]
        told = ["" if value is None else str(value) for value in (getattr(job, f) for f in facts)]
        writer.writerow([job.name, *values, *told])
    path = summary.root / CSV
    with disk_errors("sweep table", path):
        write_atomic(path, file.getvalue())
    return path
