"""`worldflux-run -m`: plans a sweep, starts what is left of it and prints how it ended."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from worldflux import __version__
from worldflux.config import composition
from worldflux.config.groups import is_machine
from worldflux.config.overrides import command, key_of, override, typed
from worldflux.config.presets import conf_dir
from worldflux.config.run import RunConfig
from worldflux.errors import ConfigurationError
from worldflux.run_folder.checkpoints import has_checkpoint
from worldflux.run_folder.disk import shown
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.names import MANIFEST
from worldflux.run_folder.state import Ending, RunState
from worldflux.runner.continuation import changes, saved_config
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
    raw, default = (
        _raw(cfg.hydra.sweep)
        for cfg in (expansion.base, OmegaConf.load(conf_dir() / "runner.yaml"))
    )
    if raw["subdir"] != default["subdir"]:
        raise ConfigurationError("hydra.sweep.subdir: the overrides of a job determine its folder")
    in_words = any(key_of(word) == DIRECTORY for word in hydra)
    if options.name is not None and in_words:
        both = f"sweep={options.name} and {DIRECTORY} both name the sweep's folder"
        raise ConfigurationError(f"{both}: give one")
    placed = options.name is None and (in_words or raw["dir"] != default["dir"])
    dated = options.name is None and (not placed or "${now:" in str(raw["dir"]))
    root = _root(expansion, options.name, placed)
    words = list(overrides)
    if placed and dated:  # what continues the sweep names this folder, not that of another day
        words = [word for word in words if key_of(word) != DIRECTORY]
        words.append(override(DIRECTORY, shown(root)))
    name = [] if placed else [f"sweep={root.name}"]
    return SweepPlan(root, _jobs(expansion), hydra, [*flags, *name, *words], options, unnamed=dated)


def _raw(section: DictConfig) -> dict[str, Any]:
    content: Any = OmegaConf.to_container(section, resolve=False)
    return content


def _jobs(expansion: composition.Expansion) -> list[Job]:
    for item in expansion.overrides:
        key = item.get_key_element()
        if item.is_sweep_override() and is_machine(key):
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


def _root(expansion: composition.Expansion, name: str | None, placed: bool) -> Path:
    """The sweep's folder. placed: `hydra.sweep.dir` names it."""
    if placed:
        return Path(composition.named_folder(expansion.base, DIRECTORY)).resolve()
    outputs = Path(str(OmegaConf.select(expansion.base, "training.output_dir")))
    return (outputs / FOLDER / (name or time.strftime("%Y-%m-%d_%H-%M-%S"))).resolve()


def unfinished(plan: SweepPlan, expansion: composition.Expansion) -> list[RunConfig]:
    """The checked configurations of those of the plan's jobs that are not completed.

    ConfigurationError: a job that began already has other values now, though its overrides are the
    same.
    """
    jobs, configs = expansion.jobs or [], expansion.check()
    left = []
    for words, now, config in zip(jobs, plan.statuses(), configs, strict=True):
        if now.state in SETTLED or has_checkpoint(now.folder):
            _check_same_job(expansion, words, now.folder, config)
        if now.state != RunState.COMPLETED:
            left.append(config)
    return left


def _check_same_job(
    expansion: composition.Expansion, words: Sequence[str], folder: Path, config: RunConfig
) -> None:
    """An interpolation, an edited file or another --config-dir may give the same words other
    values; so may a new version of ours, with which a job goes on as it began."""
    manifest = read_manifest(folder) if (folder / MANIFEST).exists() else {}
    version = manifest.get("versions", {}).get("worldflux") or __version__
    if not isinstance(manifest.get("config"), dict) or version != __version__:
        return
    different = changes(saved_config(folder), config)
    weights = manifest["config"].get("init_from"), config.init_from
    if len({None if path is None else os.path.abspath(path) for path in weights}) > 1:
        different["init_from"] = weights
    _refuse_changed(expansion.source, words, folder, different)


def _check_queued(
    plan: SweepPlan, source: composition.Composition, launching: Launching, queued: Iterable[Path]
) -> None:
    """The same for jobs that wait at Slurm and have no manifest yet."""
    for job in plan.jobs:
        folder = plan.root / job.name
        submitted = launching.slurm.submitted(folder) if launching.slurm is not None else None
        if submitted is not None and folder in queued and not (folder / MANIFEST).exists():
            words = [*plan.hydra, *job.words]
            different = changes(submitted, source.check(words))
            _refuse_changed(source, words, folder, different)


def _refuse_changed(
    source: composition.Composition,
    words: Sequence[str],
    folder: Path,
    different: Mapping[str, tuple[Any, Any]],
) -> None:
    for key, (old, new) in different.items():
        if is_machine(key) or _is_of_the_job(source, words, key):
            continue
        text = f"is {typed(old)} in {shown(folder)} and {typed(new)} now, with the same overrides"
        hint = "write the value as an override, or name a new sweep"
        raise ConfigurationError(f"{text}: {hint}", key=key)


def _is_of_the_job(source: composition.Composition, words: Sequence[str], key: str) -> bool:
    """Whether a value follows from the clock, or from what Hydra knows only once the job runs."""
    node = OmegaConf.to_container(source.compose(words), resolve=False)
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return re.search(r"\$\{(now|hydra)\b", str(node)) is not None


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
        _check_queued(plan, source, launching, queued)
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
    root: Path, queued: Mapping[Path, str], ends: Mapping[Path, Ending] | None = None
) -> Summary:
    """Prints the table of a sweep and writes its files. ends: see `job_status`."""
    summary, files = write_report(root, queued=queued, ends=ends)
    print(f"\n{text(summary)}\n")
    print(" · ".join(shown(path) for path in files))
    if any(job.state != RunState.COMPLETED for job in summary.jobs):
        print(f"continue with: {command(PROGRAM, *summary.record.command)}")
    sys.stdout.flush()
    return summary
