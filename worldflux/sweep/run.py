"""`worldflux-run -m`: plans a sweep, starts what is left of it and tells how it ended."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from worldflux.config import composition
from worldflux.errors import ConfigurationError
from worldflux.run_folder.disk import shown
from worldflux.run_folder.state import RunState
from worldflux.sweep import record, table
from worldflux.sweep.jobs import Job, is_machine, job_of, key_of
from worldflux.sweep.launch import Launching
from worldflux.sweep.report import write_report
from worldflux.sweep.status import SETTLED, JobStatus, look, shared_of
from worldflux.sweep.summary import Summary, states
from worldflux.sweep.words import SweepWords

PROGRAM = "worldflux-run"
DIRECTORY = "hydra.sweep.dir"


@dataclass(frozen=True)
class Plan:
    """A checked sweep. words: overrides of the `hydra` section, which hold for all jobs. command:
    what continues the sweep, as words after the program's name."""

    root: Path
    jobs: list[Job]
    words: list[str]
    command: list[str]
    dry_run: bool
    detach: bool
    unnamed: bool  # the name was made of date and time

    def folder(self, job: Job) -> Path:
        return self.root / job.name

    def look(self, queued: Mapping[Path, str] | None = None) -> list[JobStatus]:
        """The jobs as they stand."""
        return [look(self.folder(job), job.identity, queued) for job in self.jobs]


def plan(
    overrides: Sequence[str],
    expansion: composition.Expansion,
    words: SweepWords,
    flags: Sequence[str],
) -> Plan:
    """What the command line asks for. flags: what it has beside overrides."""
    hydra = [word for word in overrides if _of_hydra(word)]
    root = _root(expansion, words, hydra)
    named = words.name is not None or any(key_of(word) == DIRECTORY for word in hydra)
    command = [*flags, *([] if words.name is None and named else [f"sweep={root.name}"])]
    return Plan(
        root=root,
        jobs=_jobs(expansion),
        words=hydra,
        command=[*command, *overrides],
        dry_run=words.dry_run,
        detach=words.detach,
        unnamed=not named,
    )


def _jobs(expansion: composition.Expansion) -> list[Job]:
    for override in expansion.overrides:
        key = override.get_key_element()
        if key == "hydra.sweep.subdir":
            raise ConfigurationError(f"{key}: the overrides of a job determine its folder")
        if override.is_sweep_override() and is_machine(key):
            text = "it is about the machine and names no job of its own"
            raise ConfigurationError(f"{key} cannot be swept: {text}")
    jobs: dict[str, Job] = {}
    for words in expansion.jobs or []:
        own = [word for word in words if not _of_hydra(word)]
        job = job_of(own, composition.parse_overrides(own))
        if job.name in jobs:
            raise ConfigurationError(f"two jobs of the sweep are the same: {job.name}")
        jobs[job.name] = job
    return list(jobs.values())


def _of_hydra(word: str) -> bool:
    return re.match(r"hydra\b", key_of(word)) is not None


def _root(expansion: composition.Expansion, words: SweepWords, hydra: Sequence[str]) -> Path:
    if any(key_of(word) == DIRECTORY for word in hydra):
        if words.name is not None:
            text = f"sweep={words.name} and {DIRECTORY} both name the sweep's folder: give one"
            raise ConfigurationError(text)
        return Path(str(OmegaConf.select(expansion.base, DIRECTORY))).resolve()
    name = words.name or time.strftime("%Y-%m-%d_%H-%M-%S")
    outputs = Path(str(OmegaConf.select(expansion.base, "training.output_dir")))
    return (outputs / "multirun" / name).resolve()


def unfinished(plan: Plan, jobs: Sequence[list[str]]) -> list[list[str]]:
    """Those of the plan's jobs, given in its order, that are not completed."""
    pairs = zip(jobs, plan.look(), strict=True)
    return [job for job, now in pairs if now.state != RunState.COMPLETED]


def run(plan: Plan, source: composition.Composition) -> int:
    """Starts the jobs that are left, and tells the sweep's end; returns the exit code: 1 if jobs of
    this command failed, or lost their process."""
    with source.initialized():
        some = [job for job, _ in _left(plan, {})] or plan.jobs[:1]
        words = [*source.flags, *plan.words]
        launching = Launching(plan.root, source.name, words, some)
        scheduler = launching.scheduler
        if scheduler is not None:
            scheduler.detach = plan.detach
        elif plan.detach:
            text = "sweep.detach needs jobs that outlive the command: add hydra/launcher=slurm"
            raise ConfigurationError(text)
        folders = [plan.folder(job) for job in plan.jobs]
        queued = {} if scheduler is None else scheduler.queued(folders)
        found = plan.look(queued)
        if not plan.dry_run:
            record.note(plan.root, plan.jobs, plan.command)
        print(f"sweep {plan.root.name} in {shown(plan.root)}: {states(found)}", flush=True)
        if plan.dry_run:
            print(table.jobs_text(found, shared_of(found)))
            return 0
        if plan.unnamed and not plan.detach:
            print(f"continue it with: {continuation(plan.command)}", flush=True)
        if plan.detach:
            launching.start([job for job, _ in _left(plan, queued)])
            print(f"come back with: {continuation(plan.command)}", flush=True)
            return 0
        try:
            _start(plan, launching, queued)
            if scheduler is not None:
                scheduler.attach([folder for folder in folders if folder in queued])
        finally:
            queued = {} if scheduler is None else scheduler.queued(folders)
            ended = finish(plan.root, queued)
    own = {job.name for job in plan.jobs}
    bad = (RunState.FAILED, RunState.BROKEN_OFF)
    return int(any(job.state in bad and job.name in own for job in ended.jobs))


def _left(plan: Plan, queued: Mapping[Path, str]) -> list[tuple[Job, JobStatus]]:
    pairs = zip(plan.jobs, plan.look(queued), strict=True)
    return [(job, now) for job, now in pairs if now.state not in SETTLED]


def _start(plan: Plan, launching: Launching, queued: Mapping[Path, str]) -> None:
    """Starts what is left. When a process dies, a launcher may give up the other jobs with it: they
    are started once more, the dead ones too."""
    left = [job for job, _ in _left(plan, queued)]
    for last in (False, True):
        if not left:
            return
        before = plan.look(queued)
        try:
            launching.start(left)
            return
        except Exception as error:
            if last or plan.look(queued) == before:
                raise  # it did not even start
            print(f"the launcher ended early: {type(error).__name__}; starting what is left")
        done = (*SETTLED, RunState.FAILED)
        left = [job for job, now in _left(plan, queued) if now.state not in done]


def finish(root: Path, queued: Mapping[Path, str]) -> Summary:
    """Prints the table of a sweep and writes its files."""
    summary, files = write_report(root, queued=queued)
    print(f"\n{table.text(summary)}\n")
    print(" · ".join(shown(path) for path in files))
    if summary.unfinished:
        print(f"continue with: {continuation(summary.record.command)}")
    sys.stdout.flush()
    return summary


def continuation(command: Sequence[str]) -> str:
    """The command line that continues a sweep, to be typed as it is."""
    return shlex.join([PROGRAM, *command])
