"""One job of a sweep, in the process that trains it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from worldflux.config.groups import MACHINE_GROUPS, MACHINE_TRAINING
from worldflux.errors import CheckpointError, RunBusyError, WorldFluxError
from worldflux.run_folder.checkpoints import has_checkpoint
from worldflux.run_folder.manifest import SCHEMA, plain, read_manifest, write_manifest
from worldflux.run_folder.names import HYDRA, LOG, MANIFEST
from worldflux.run_folder.state import RunState, claim
from worldflux.run_folder.trust import modules_of
from worldflux.runner.slurm_task import slurm_task
from worldflux.training.signals import Stopped

if TYPE_CHECKING:
    from worldflux.config.run import RunConfig

log = logging.getLogger("worldflux.sweep")


def train_job(cfg: DictConfig) -> str:
    """Trains the job that Hydra composed, in its folder, and returns the state it ends in.

    A completed job is left as it is, one with a checkpoint continues from it, any other starts. An
    error is reported in the job's log and its manifest, and never reaches the other jobs; stop
    signals and Ctrl-C do.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    task = slurm_task(cfg.training.nproc)
    if task is not None and task.rank > 0:
        return _train_rank(cfg, folder)
    try:
        with claim(folder):
            if _status(folder) == RunState.COMPLETED:
                log.info("completed by another command meanwhile")
                return RunState.COMPLETED
            try:
                if not has_checkpoint(folder):
                    _save_config(cfg, folder)
                _start(cfg, folder)
            except WorldFluxError as error:
                log.error("%s", " ".join(str(error).split()))
                _note_failure(folder, error)
            except Exception as error:
                log.exception("the job ended with a bug")
                _note_failure(folder, error)
            else:
                return RunState.COMPLETED
    except RunBusyError as error:
        log.info("%s", error)
        return RunState.RUNNING
    return RunState.FAILED


def _train_rank(cfg: DictConfig, folder: Path) -> str:
    """Trains the job as a rank beside the first one, which claims the folder and records the end."""
    if _status(folder) == RunState.COMPLETED:
        return RunState.COMPLETED
    try:
        _start(cfg, folder)
    except WorldFluxError as error:
        log.error("%s", " ".join(str(error).split()))
        return RunState.FAILED
    return RunState.COMPLETED


def _start(cfg: DictConfig, folder: Path) -> None:
    from worldflux.config import run as schema
    from worldflux.runner import run
    from worldflux.runner.job import anchored

    config = schema.run_config(cfg)
    if HydraConfig.get().job.chdir:
        config = anchored(config, Path(HydraConfig.get().runtime.cwd))
    if config.run.group is None:
        config = replace(config, run=replace(config.run, group=folder.parent.name))
    if has_checkpoint(folder):
        config = _continued(config, folder)
    if config.training.nproc > 1:
        from worldflux.runner import processes

        log_config = OmegaConf.to_container(HydraConfig.get().job_logging, resolve=True)
        processes.launch(config, folder, log_config)  # type: ignore[arg-type]
    else:
        run.run(config, folder)


def _continued(requested: RunConfig, folder: Path) -> RunConfig:
    """The configuration that the run was started with, with the machine's part of this command.
    Defaults may have changed since then, with another version; the run goes on as it began."""
    from worldflux.runner import resume

    began = resume.config_of(folder, modules_of(plain(requested)))
    machine = {name: getattr(requested.training, name) for name in MACHINE_TRAINING}
    return replace(
        began,
        model=began.model.with_overrides(device=requested.training.device),
        training=began.training.with_updates(**machine),
        callbacks=requested.callbacks,
        **{name: getattr(requested, name) for name in MACHINE_GROUPS},
    )


class PoolJob:
    """`train_job` in a worker process that takes one job after the other, beside others.

    stop: a file that the driver makes so that no further job starts; it also sends SIGUSR1 to the
    running ones, which then write their checkpoint.
    """

    def __init__(self, stop: Path) -> None:
        self.stop = stop

    def __call__(self, cfg: DictConfig) -> str:
        folder = Path(HydraConfig.get().runtime.output_dir)
        # Ctrl-C in a terminal reaches every process; what it means to the jobs, the driver decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, lambda number, frame: None)  # outside of training
        if self.stop.exists():
            return RunState.MISSING
        try:
            with _output_to(folder / LOG):
                return train_job(cfg)
        except (Stopped, KeyboardInterrupt):
            return RunState.STOPPED


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """What jobs print goes to their log: a terminal has one line at a time to show."""
    root = logging.getLogger()
    console = [h for h in root.handlers if type(h) is logging.StreamHandler]
    for handler in console:
        root.removeHandler(handler)
    with open(path, "a", buffering=1, encoding="utf-8") as file:
        with redirect_stdout(file), redirect_stderr(file):
            yield


def _save_config(cfg: DictConfig, folder: Path) -> None:
    """What Hydra saves of a job. Here, because only the process that has claimed the folder may."""
    hydra = HydraConfig.get()
    saved = folder / HYDRA
    saved.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, saved / "config.yaml")
    OmegaConf.save(OmegaConf.create({"hydra": hydra}), saved / "hydra.yaml")
    OmegaConf.save(hydra.overrides.task, saved / "overrides.yaml")


def _status(folder: Path) -> str | None:
    return read_manifest(folder)["status"] if (folder / MANIFEST).exists() else None


def _note_failure(folder: Path, error: Exception) -> None:
    """Leaves the reason in the manifest, also where the trainer had not begun to write it."""
    try:
        content = (
            read_manifest(folder) if (folder / MANIFEST).exists() else {"schema_version": SCHEMA}
        )
        reason = f"{type(error).__name__}: {error}"
        write_manifest(folder, {**content, "status": RunState.FAILED, "error": reason})
    except CheckpointError as second:
        log.error("%s", second)
