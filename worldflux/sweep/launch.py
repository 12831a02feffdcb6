"""Starts jobs through a Hydra launcher: in this process, in several, or on a cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from hydra.utils import get_class
from omegaconf import DictConfig, open_dict

from worldflux.config.overrides import override
from worldflux.errors import ConfigurationError
from worldflux.run_folder.state import Ending, RunState
from worldflux.slurm.launcher import SlurmLauncher
from worldflux.sweep.jobs import Job
from worldflux.sweep.pool import Pool
from worldflux.sweep.work import PoolJob, train_job

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"


class Launching:
    """A launcher that is ready to start the jobs of one sweep.

    root: the sweep's folder. words: overrides of the `hydra` section. jobs: those to start; a
    recipe may bring its launcher along in them. To be made where Hydra is initialized.
    """

    def __init__(
        self, root: Path, config_name: str, words: Sequence[str], jobs: Sequence[Job]
    ) -> None:
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        # Jobs save their configuration themselves, once they have claimed their folder.
        folders = [override("hydra.sweep.dir", str(root)), "hydra.output_subdir=null"]
        self.root, self._config_name = root, config_name
        self.config: DictConfig = hydra.compose_config(
            config_name=config_name,
            overrides=[*words, *folders, *jobs[0].words],
            run_mode=RunMode.MULTIRUN,
            with_log_configuration=True,
        )
        _size_pool(self.config, len(jobs))
        self._callbacks = Callbacks(self.config)
        self._ends: dict[Path, Ending] = {}
        self._stop = root / f".stop-{socket.gethostname()}-{os.getpid()}"
        target = str(self.config.hydra.launcher._target_)
        self._pooled = target != BASIC and not issubclass(_launcher_class(target), SlurmLauncher)
        self._launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(
                config_loader=hydra.config_loader, callbacks=self._callbacks
            ),
            task_function=PoolJob(self._stop) if self._pooled else train_job,
            config=self.config,
        )

    @property
    def slurm(self) -> SlurmLauncher | None:
        """The launcher whose jobs outlive the command; None: it is another one."""
        return self._launcher if isinstance(self._launcher, SlurmLauncher) else None

    def queued(self, folders: Sequence[Path]) -> Mapping[Path, str]:
        """Those of the jobs' folders whose job waits or runs at Slurm, with its name there."""
        return {} if self.slurm is None else self.slurm.queued(folders)

    @property
    def ends(self) -> Mapping[Path, Ending]:
        """How started jobs ended that left no run."""
        return self._ends if self.slurm is None else self.slurm.ends

    def start(self, jobs: Sequence[Job]) -> None:
        """Starts the jobs and waits for them."""
        words = [[*job.words, override("hydra.sweep.subdir", job.name)] for job in jobs]
        self._callbacks.on_multirun_start(self.config, config_name=self._config_name)
        try:
            if self._pooled:
                pool = Pool({self.root / job.name: job for job in jobs}, self._stop)
                ended = pool.run(lambda: self._launcher.launch(words, initial_job_idx=0))
            else:
                ended = self._launcher.launch(words, initial_job_idx=0)
            for job, one in zip(jobs, ended, strict=True):
                if one.status != JobStatus.COMPLETED or one.return_value != RunState.COMPLETED:
                    self._ends[self.root / job.name] = Ending("its process ended early")
        finally:
            self._stop.unlink(missing_ok=True)
            self._callbacks.on_multirun_end(self.config, config_name=self._config_name)


def _launcher_class(target: str) -> type[Launcher]:
    """The class that hydra.launcher._target_ names; ConfigurationError: it is no launcher."""
    try:
        cls: type = get_class(target)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"={target}: {error}", key="hydra.launcher._target_") from error
    if not issubclass(cls, Launcher):
        raise ConfigurationError(f"={target} is no launcher", key="hydra.launcher._target_")
    return cls


def _size_pool(config: DictConfig, jobs: int) -> None:
    """As many of joblib's workers as there are jobs, at most one for each core, each with its share
    of the cores as threads (joblib sees to that), unless their number is set."""
    launcher = config.hydra.launcher
    if launcher._target_ != JOBLIB:
        return
    if launcher.n_jobs != -1 and launcher.n_jobs < 1:
        text = f"must be at least 1, or -1 for as many as there are cores; got {launcher.n_jobs}"
        raise ConfigurationError(f"hydra.launcher.n_jobs {text}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with open_dict(launcher):
        if launcher.n_jobs == -1:
            launcher.n_jobs = max(1, min(jobs, cores or 1))
        if launcher.batch_size == "auto":
            launcher.batch_size = "1"  # else short jobs make it hand several to one worker
