"""The result of a sweep: its jobs, and the score of each group of jobs that differ by seed only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldflux.core.statistics import stratified_iqm
from worldflux.errors import ConfigurationError
from worldflux.run_folder.state import Ending, RunState
from worldflux.sweep.jobs import SEED, rank, without_seed
from worldflux.sweep.record import SweepRecord, read_record
from worldflux.sweep.status import JobStatus, job_status, shared_overrides


@dataclass
class Group:
    """Jobs that differ in their seed only, or also in overrides by which they are not grouped.

    overrides: what they share, and what sets the groups apart. score: the interquartile mean of
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
    of earlier commands only that never began."""

    root: Path
    record: SweepRecord
    jobs: list[JobStatus]
    groups: list[Group]
    shared: dict[str, Any] = field(default_factory=dict)
    unstarted: list[str] = field(default_factory=list)


def summarize(
    root: Path,
    by: Sequence[str] = (),
    queued: Mapping[Path, str] | None = None,
    ends: Mapping[Path, Ending] | None = None,
) -> Summary:
    """The summary of the sweep in `root`. by: keys of overrides to group by; default: all but the
    seed. CheckpointError: it is no sweep. ConfigurationError: no job has such a key."""
    record = read_record(root)
    jobs, unstarted = [], []
    for name, overrides in record.jobs.items():
        job = job_status(root / name, overrides, queued, ends)
        if job.state == RunState.MISSING and name not in record.newest:
            unstarted.append(name)
        else:
            jobs.append(job)
    keys = sorted({key for job in jobs for key in job.overrides}, key=rank)
    for key in by:
        if key not in keys:
            raise ConfigurationError(f"no job of {root} sets {key!r}; they set {', '.join(keys)}")
    groups = _groups(jobs, list(by) or [key for key in keys if key != SEED])
    shared = {key: value for key, value in shared_overrides(jobs).items() if key not in by}
    return Summary(root, record, jobs, groups, shared, unstarted)


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
            stratum = repr(without_seed(job.overrides))
            strata.setdefault(stratum, []).append(job.score)
    if not strata:
        return
    group.score, group.interval = stratified_iqm(list(strata.values()))
