"""A run as a job of Hydra: composed and checked once, then trained in its folder."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, configure_log, env_override, run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from worldflux.config.composition import Composition, checked, run_dir
from worldflux.config.run import RunConfig
from worldflux.errors import ConfigurationError, RunBusyError, WorldFluxError
from worldflux.models.hub import is_address
from worldflux.run_folder.checkpoints import has_checkpoint
from worldflux.run_folder.names import HYDRA, LOG, MANIFEST
from worldflux.run_folder.previous import BEFORE_TRAINER, HELD, check_free, set_aside
from worldflux.run_folder.state import claim
from worldflux.runner.continuation import AUTO
from worldflux.runner.parts import Parts
from worldflux.runner.preflight import check_run
from worldflux.runner.slurm_task import slurm_task

log = logging.getLogger("worldflux.run")

WRITTEN = (MANIFEST, HYDRA, LOG)  # a folder that has one of them is that of another run


@dataclass(frozen=True)
class Job:
    """One run. cfg: as Hydra composed it, with the `hydra` section; config: the same, checked."""

    source: Composition
    cfg: DictConfig
    config: RunConfig

    @classmethod
    def compose(cls, source: Composition, overrides: Sequence[str]) -> Job:
        """The job of these overrides; raises the first mistake."""
        cfg = source.compose(overrides)
        if cfg.hydra.mode == RunMode.MULTIRUN:
            raise ConfigurationError("hydra.mode=MULTIRUN: -m starts a sweep; leave hydra.mode out")
        return cls(source, cfg, checked(cfg))

    @property
    def folder(self) -> Path:
        """Where it runs."""
        return Path(self.cfg.hydra.runtime.output_dir)

    @property
    def launched(self) -> bool:
        """Whether a file or recipe hands it to a launcher."""
        return bool(self.cfg.hydra.runtime.choices["hydra/launcher"] != "basic")

    def start(self, parts: Parts) -> Path:
        """Checks what the run needs of this machine, trains, and returns the folder. Nothing is
        written before the checks are over and the folder is claimed; a WorldFluxError ends the run
        as it is."""
        check_alone()
        try:
            fresh = self.config.resume is None or (
                self.config.resume == AUTO and not has_checkpoint(self.folder)
            )
            if fresh:
                check_free(self.folder)
            callbacks = Callbacks(self.cfg)
            with env_override(self.cfg.hydra.job.env_set):
                check_run(self.config, parts)
            task = slurm_task(self.config.training.nproc)
            if task is not None and task.rank > 0:  # the folder is that of the first task
                from worldflux.runner.processes import run_task

                run_task(self.config, None, task)
                return self.folder
            with ExitStack() as claims:
                job = self._claimed(claims)
                moved = set_aside(job.folder, BEFORE_TRAINER) if fresh else None
                if moved is not None:
                    job = job._from_moved(moved)
                if job.cfg.hydra.job.chdir:
                    job = replace(job, config=anchored(job.config, Path.cwd()))
                job._run(parts, moved, callbacks)
                return job.folder
        finally:
            parts.close()

    def _claimed(self, claims: ExitStack) -> Job:
        """The job in a folder that it alone writes: where the clock names the folder, runs of the
        same second get one each."""
        dated, folder = run_dir(self.cfg) is None, self.folder
        for number in itertools.count():
            job = self if number == 0 else self._in(folder.with_name(f"{folder.name}_{number}"))
            with ExitStack() as attempt:
                try:
                    attempt.enter_context(claim(job.folder))
                except RunBusyError:
                    if dated:
                        continue
                    raise
                if not dated or not any((job.folder / name).exists() for name in WRITTEN):
                    claims.enter_context(attempt.pop_all())
                    return job
        raise AssertionError

    def _in(self, folder: Path) -> Job:
        with read_write(self.cfg.hydra):
            self.cfg.hydra.run.dir = str(folder)
        return replace(self, config=checked(self.cfg))

    def _from_moved(self, moved: Path) -> Job:
        """The job with the weights of the run that has just moved, where it begins with these."""
        weights, folder = self.config.init_from, self.folder.absolute()
        if weights is None or not Path(weights).absolute().is_relative_to(folder):
            return self
        there = str(moved / Path(weights).absolute().relative_to(folder))
        return replace(self, config=replace(self.config, init_from=there))

    def _run(self, parts: Parts, moved: Path | None, callbacks: Callbacks) -> None:
        """As `hydra.main` runs a job, but with the configuration that was composed already.
        moved: where the folder's earlier run is now."""
        errors: list[WorldFluxError] = []

        def task(cfg: DictConfig) -> float | None:
            if moved is not None:
                log.warning(HELD, self.folder, moved)
            try:
                return train(self.config, self.folder, parts)
            except WorldFluxError as error:
                errors.append(error)  # kept from Hydra, which would print more than its line
                return None

        with self.source.initialized():
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            configure_log(self.cfg.hydra.hydra_logging, self.cfg.hydra.verbose)
            with read_write(self.cfg.hydra):
                self.cfg.hydra.mode = RunMode.RUN
            callbacks.on_run_start(config=self.cfg, config_name=self.source.name)
            ended: JobReturn = run_job(
                hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=callbacks),
                task_function=task,
                config=self.cfg,
                job_dir_key="hydra.run.dir",
                job_subdir_key=None,
            )
            callbacks.on_run_end(config=self.cfg, config_name=self.source.name, job_return=ended)
        if errors:
            raise errors[0]
        _ = ended.return_value  # raises what the job raised


def check_alone() -> None:
    """ConfigurationError where several commands would be rivals for one folder."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        text = "torchrun starts this command several times: start it once, without torchrun"
        raise ConfigurationError(f"{text}; training.nproc=N starts the processes of a run")


def anchored(config: RunConfig, cwd: Path) -> RunConfig:
    """The configuration with its paths absolute, for a job that changes its working directory."""

    def absolute(path: str | None) -> str | None:
        return path if path in (None, AUTO) or is_address(str(path)) else str(cwd / str(path))

    there = [str(cwd / path) if (cwd / path).exists() else path for path in config.data.paths]
    data = config.data.with_paths(there)
    anchor = absolute(config.resume), absolute(config.init_from)
    return replace(config, data=data, resume=anchor[0], init_from=anchor[1])


def train(config: RunConfig, folder: Path, parts: Parts | None = None) -> float:
    """Trains inside of a job of Hydra, in `training.nproc` processes; returns the evaluation score."""
    if config.training.nproc > 1:
        from worldflux.runner.processes import launch

        log_config = OmegaConf.to_container(HydraConfig.get().job_logging, resolve=True)
        return launch(config, folder, log_config)  # type: ignore[arg-type]
    from worldflux.runner.run import run

    return run(config, folder, parts)
