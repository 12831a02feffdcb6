"""`worldflux-run -m`: plans a sweep, starts what is left of it and prints how it ended."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from worldflux.config import composition
from worldflux.config.groups import is_machine
from worldflux.config.overrides import command, key_of
from worldflux.errors import ConfigurationError
from worldflux.run_folder.disk import shown
from worldflux.run_folder.state import RunState
from worldflux.sweep.jobs import Job, job_of
from worldflux.sweep.launch import Launching
from worldflux.sweep.record import FOLDER, record_jobs
from worldflux.sweep.report import jobs_text, text, write_report
from worldflux.sweep.status import SETTLED, JobStatus, counts, job_status, shared_overrides
from worldflux.sweep.summary import Summary
from worldflux.sweep.words import SweepWords

PROGRAM = "worldflux-run"
DIRECTORY = "hydra.sweep.dir"


@dataclass(frozen=True)
class SweepPlan:
    """A checked sweep. hydra: overrides of the `hydra` section, which hold for all jobs. command:
    what continues the sweep, as words after the program's name."""

    root: Path
    jobs: list[Job]
    hydra: list[str]
    command: list[str]
    options: SweepWords
    unnamed: bool  # the name was made of date and time

    @property
    def folders(self) -> list[Path]:
        """Those of the jobs, in their order."""
        return [self.root / job.name for job in self.jobs]

    def statuses(self, queued: Mapping[Path, str] | None = None) -> list[JobStatus]:
        """The jobs as they stand."""
        return [job_status(self.root / job.name, job.identity, queued) for job in self.jobs]

    def left(self, queued: Mapping[Path, str], but: Sequence[str] = ()) -> list[Job]:
        """The jobs to start: not those that are done, run or are queued, nor in a state of `but`."""
        pairs = zip(self.jobs, self.statuses(queued), strict=True)
        return [job for job, now in pairs if now.state not in (*SETTLED, *but)]


def plan(
    overrides: Sequence[str],
    expansion: composition.Expansion,
    options: SweepWords,
    flags: Sequence[str],
) -> SweepPlan:
    """The sweep of a command line. flags: what it has beside overrides."""
    hydra = [word for word in overrides if _of_hydra(word)]
    root = _root(expansion, options, hydra)
    named = options.name is not None or _names_folder(hydra)
    name = [] if options.name is None and named else [f"sweep={root.name}"]
    words = [*flags, *name, *overrides]
    return SweepPlan(root, _jobs(expansion), hydra, words, options, unnamed=not named)


def _jobs(expansion: composition.Expansion) -> list[Job]:
    for override in expansion.overrides:
        key = override.get_key_element()
        if key == "hydra.sweep.subdir":
            raise ConfigurationError(f"{key}: the overrides of a job determine its folder")
        if override.is_sweep_override() and is_machine(key):
            reason = "it is about the machine and names no job of its own"
            raise ConfigurationError(f"{key} cannot be swept: {reason}")
    jobs: dict[str, Job] = {}
    for words in expansion.jobs or []:
        words = [word for word in words if not _of_hydra(word)]
        job = job_of(words, composition.parse_overrides(words))
        if job.name in jobs:
            raise ConfigurationError(f"two jobs of the sweep are the same: {job.name}")
        jobs[job.name] = job
    return list(jobs.values())


def _of_hydra(word: str) -> bool:
    return re.match(r"hydra\b", key_of(word)) is not None


def _names_folder(hydra: Sequence[str]) -> bool:
    return any(key_of(word) == DIRECTORY for word in hydra)


def _root(expansion: composition.Expansion, options: SweepWords, hydra: Sequence[str]) -> Path:
    if _names_folder(hydra):
        if options.name is not None:
            both = f"sweep={options.name} and {DIRECTORY} both name the sweep's folder"
            raise ConfigurationError(f"{both}: give one")
        return Path(str(OmegaConf.select(expansion.base, DIRECTORY))).resolve()
    name = options.name or time.strftime("%Y-%m-%d_%H-%M-%S")
    outputs = Path(str(OmegaConf.select(expansion.base, "training.output_dir")))
    return (outputs / FOLDER / name).resolve()


def unfinished(plan: SweepPlan, jobs: Sequence[list[str]]) -> list[list[str]]:
    """Those of the plan's jobs, in its order, that are not completed."""
    pairs = zip(jobs, plan.statuses(), strict=True)
    return [job for job, now in pairs if now.state != RunState.COMPLETED]


def run(plan: SweepPlan, source: composition.Composition) -> int:
    """Starts the jobs that are left, and prints the sweep's end; returns the exit code: 1 if jobs
    of this command failed, or lost their process."""
    detach = plan.options.detach
    with source.initialized():
        words = [*source.flags, *plan.hydra]
        launching = Launching(plan.root, source.name, words, plan.left({}) or plan.jobs[:1])
        slurm = launching.slurm
        if slurm is not None:
            slurm.detach = detach
        elif detach:
            raise ConfigurationError(
                "sweep.detach needs jobs that outlive the command: add hydra/launcher=slurm"
            )
        queued = launching.queued(plan.folders)
        statuses = plan.statuses(queued)
        if not plan.options.dry_run:
            record_jobs(plan.root, plan.jobs, plan.command)
        print(f"sweep {plan.root.name} in {shown(plan.root)}: {counts(statuses)}", flush=True)
        if plan.options.dry_run:
            print(jobs_text(statuses, shared_overrides(statuses)))
            return 0
        continuation = command(PROGRAM, *plan.command)
        if detach:
            launching.start(plan.left(queued))
            print(f"come back with: {continuation}", flush=True)
            return 0
        if plan.unnamed:
            print(f"continue it with: {continuation}", flush=True)
        try:
            _start(plan, launching, queued)
            if slurm is not None:
                slurm.attach([folder for folder in plan.folders if folder in queued])
        finally:
            ended = finish(plan.root, launching.queued(plan.folders), launching.ends)
    bad = (RunState.FAILED, RunState.BROKEN_OFF)
    return int(
        any(
            job.state in bad or (job.state == RunState.MISSING and job.folder in launching.ends)
            for job in ended.jobs
            if job.folder in plan.folders
        )
    )


def _start(plan: SweepPlan, launching: Launching, queued: Mapping[Path, str]) -> None:
    """Starts what is left. When a process dies, a launcher may give up the other jobs with it: they
    are started once more, the dead ones too."""
    jobs = plan.left(queued)
    for last in (False, True):
        if not jobs:
            return
        before = plan.statuses(queued)
        try:
            launching.start(jobs)
            return
        except Exception as error:
            if last or plan.statuses(queued) == before:
                raise  # it did not even start
            print(f"the launcher ended early: {type(error).__name__}; starting what is left")
        jobs = plan.left(queued, but=(RunState.FAILED,))


def finish(
    root: Path, queued: Mapping[Path, str], ends: Mapping[Path, str] | None = None
) -> Summary:
    """Prints the table of a sweep and writes its files. ends: see `job_status`."""
    summary, files = write_report(root, queued=queued, ends=ends)
    print(f"\n{text(summary)}\n")
    print(" · ".join(shown(path) for path in files))
    if any(job.state != RunState.COMPLETED for job in summary.jobs):
        print(f"continue with: {command(PROGRAM, *summary.record.command)}")
    sys.stdout.flush()
    return summary
