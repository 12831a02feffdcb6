"""The launcher that makes every job of a sweep a job of Slurm."""

from __future__ import annotations

import fcntl
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from worldflux.config.slurm import slurm_config
from worldflux.errors import ConfigurationError
from worldflux.run_folder.disk import disk_errors, shown
from worldflux.run_folder.state import Ending, RunState, run_state
from worldflux.slurm import queue
from worldflux.slurm.job import SlurmJob
from worldflux.slurm.queue import SlurmError
from worldflux.slurm.submission import LOG, Submission, alive, read, submit

log = logging.getLogger("worldflux.slurm")

SPOOL = ".slurm"  # in the sweep's folder: what submitit writes, and the logs
SETTLING = 30.0  # seconds that a network file system may take to show what a job wrote last
# What Slurm or submitit expands in the path of a log.
EXPANDED = re.compile(r"\\|%(\d*[A-Za-z]|%)")
PATIENCE = 600.0  # seconds without an answer of Slurm after which waiting for jobs is given up


class SlurmLauncher(Launcher):
    """Submits jobs, and waits until none of them is queued or runs.

    detach: only submits. A job that Slurm already queues or runs is never submitted again.
    """

    def __init__(self, **_: Any) -> None:
        # Hydra words the errors of a constructor anew; hence `setup` reads the values.
        self.detach = False
        self.ends: dict[Path, Ending] = {}  # how jobs ended that did not complete their run

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Raises ConfigurationError for a wrong value, SlurmError where Slurm is missing."""
        self.context, self.task, self.config = hydra_context, task_function, config
        values = OmegaConf.to_container(config.hydra.launcher, resolve=True)
        assert isinstance(values, dict)
        self.slurm = slurm_config({str(k): v for k, v in values.items() if k != "_target_"})
        queue.check_installed()
        if EXPANDED.search(str(self.root)):
            text = "Slurm would read '%' with a letter, and a backslash, in the path of the logs as"
            raise ConfigurationError(f"{text} something else: {self.root}; name another folder")

    @property
    def root(self) -> Path:
        """The sweep's folder."""
        return Path(str(self.config.hydra.sweep.dir)).absolute()

    def queued(self, folders: Sequence[Path]) -> Mapping[Path, str]:
        """Those of the folders whose job Slurm queues or runs, with its id and state there."""
        jobs = alive(folders).items()
        return {folder: f"Slurm job {id}, {status}" for folder, (id, status) in jobs}

    def submitted(self, folder: Path) -> dict[str, Any] | None:
        """The configuration that a job of Slurm is to train in a folder, where it is known."""
        record = read(folder)
        return None if record is None else record.config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Submits the jobs, as one array, and waits for them unless `detach`."""
        setup_globals()
        jobs = list(self._jobs(job_overrides, initial_job_idx))
        folders = [job.folder for job in jobs]
        with self._one_submission():
            queued = alive(folders)
            new = [job for job in jobs if job.folder not in queued]
            ids = submit(new, self.slurm, f"worldflux-{self.root.name}", self.root / SPOOL)
        for job, id in zip(new, ids, strict=True):
            log.info("Slurm job %s: %s/%s", id, shown(job.folder), LOG)
        if not self.detach:
            self.attach(folders)
        return [_job_return(job) for job in jobs]

    def attach(self, folders: Sequence[Path]) -> None:
        """Waits until none of these folders' jobs is queued or runs, and logs how they end.

        SlurmError: Slurm has not answered for a long time. Then, and on Ctrl-C, the jobs go on.
        """
        try:
            self._watch(folders)
        except (KeyboardInterrupt, SlurmError):
            jobs = (read(folder) for folder in folders)
            arrays = sorted({job.id.split("_")[0] for job in jobs if job and job.id}, key=int)
            text = "the jobs go on without this command; scancel %s ends them"
            log.warning(text, " ".join(arrays))
            raise

    def _watch(self, folders: Sequence[Path]) -> None:
        began = answered = time.monotonic()
        waiting, last = list(folders), ""
        submissions = {folder: read(folder) for folder in waiting}
        while waiting:
            try:
                jobs = alive(waiting)
                self._note_ends({f: submissions[f] for f in waiting if f not in jobs})
            except SlurmError as error:
                log.warning("%s; the jobs are not touched", error)
                if time.monotonic() - answered > PATIENCE:
                    raise
                time.sleep(self.slurm.poll_s)
                continue
            answered = time.monotonic()
            waiting = list(jobs)
            line = _line([status for _, status in jobs.values()], len(folders) - len(jobs))
            if line != last:
                log.info("%s", line)
                last = line
            if waiting:
                # A sweep of minutes is watched closely, one of days is not.
                time.sleep(min(self.slurm.poll_s, 1 + 0.05 * (answered - began)))

    def _note_ends(self, submissions: Mapping[Path, Submission | None]) -> None:
        """A line for each job that ended without completing its run, and why."""
        ids = {folder: one.id for folder, one in submissions.items() if one and one.id}
        statuses = queue.statuses(ids.values())
        for folder, id in ids.items():
            if (state := _settled(folder)) != RunState.COMPLETED:
                reason = f"Slurm job {id}: {statuses[id]}; see {shown(folder)}/{LOG}"
                self.ends[folder] = Ending(reason, statuses[id].state == "CANCELLED")
                text = "Slurm job %s ended (%s), its run is %s; the log: %s/%s"
                log.warning(text, id, statuses[id], state, shown(folder), LOG)

    def _jobs(self, job_overrides: Sequence[Sequence[str]], first: int) -> Iterator[SlurmJob]:
        singletons = Singleton.get_state()
        for number, overrides in enumerate(job_overrides, first):
            config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            config.hydra.job.num = number
            self._check_ranks(config.training.nproc)
            folder = self.root / str(config.hydra.sweep.subdir)
            yield SlurmJob(self.task, config, self.context, singletons, folder)

    def _check_ranks(self, nproc: int) -> None:
        tasks = self.slurm.nodes * self.slurm.tasks_per_node
        if tasks not in (1, nproc):
            text = f"hydra.launcher asks for {tasks} tasks (nodes times tasks_per_node)"
            raise ConfigurationError(f"{text}, which train one run: set training.nproc={tasks}")

    @contextmanager
    def _one_submission(self) -> Iterator[None]:
        """Two commands at once look and submit one after the other."""
        path = self.root / SPOOL / "submission.lock"
        with disk_errors("sweep folder", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "w")
        with file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield


def _settled(folder: Path) -> RunState:
    """The state of a run whose job has ended, once the disk shows its end."""
    end = time.monotonic() + SETTLING
    while (state := run_state(folder)) == RunState.RUNNING and time.monotonic() < end:
        time.sleep(0.5)
    return state


def _line(statuses: Sequence[queue.QueueStatus], ended: int) -> str:
    waiting = sum(status.queued for status in statuses)
    parts = {"running": len(statuses) - waiting, "queued": waiting, "ended": ended}
    return "Slurm: " + ", ".join(f"{count} {word}" for word, count in parts.items() if count)


def _job_return(job: SlurmJob) -> JobReturn:
    """The job for Hydra; the value is the state of its run."""
    done = JobReturn(cfg=job.config, working_dir=str(Path.cwd()), status=JobStatus.COMPLETED)
    done.return_value = str(run_state(job.folder))
    return done
