"""One job of a sweep, in the process that trains it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from worldflux.cli.continuation import has_checkpoint
from worldflux.cli.slurm_ranks import slurm_task
from worldflux.errors import CheckpointError, RunBusyError, WorldFluxError
from worldflux.sweep.jobs import is_machine, key_of
from worldflux.training.manifest import FILE, SCHEMA, read_manifest, write_manifest
from worldflux.training.run_state import RunState, claim

log = logging.getLogger("worldflux.sweep")


def train_job(cfg: DictConfig) -> str:
    """Trains the job that Hydra composed, in its folder, and returns the state it ends in.

    A completed job is left as it is, one with a checkpoint continues from it, any other starts. An
    error is told in the job's log and its manifest, and never reaches the other jobs; stop signals
    and Ctrl-C do.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    task = slurm_task(cfg.training.nproc)
    if task is not None and task.rank > 0:
        return _help(cfg, folder)
    try:
        with claim(folder):
            if _status(folder) == RunState.COMPLETED:
                log.info("completed by another command meanwhile")
                return RunState.COMPLETED
            try:
                _train(cfg, folder)
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


def _help(cfg: DictConfig, folder: Path) -> str:
    """Trains the job as a rank beside the first one, which claims the folder and tells the end."""
    if _status(folder) == RunState.COMPLETED:
        return RunState.COMPLETED
    try:
        _start(cfg, folder)
    except WorldFluxError as error:
        log.error("%s", " ".join(str(error).split()))
        return RunState.FAILED
    return RunState.COMPLETED


def _train(cfg: DictConfig, folder: Path) -> None:
    if not has_checkpoint(folder):
        _save_config(cfg, folder)
    _start(cfg, folder)


def _start(cfg: DictConfig, folder: Path) -> None:
    from worldflux.cli import run, schema

    config = _continued(folder) if has_checkpoint(folder) else schema.run_config(cfg)
    if config.training.nproc > 1:
        from worldflux.cli import launch

        told = OmegaConf.to_container(HydraConfig.get().job_logging, resolve=True)
        launch.launch(config, folder, told)  # type: ignore[arg-type]
    else:
        run.run(config, folder)


def _continued(folder: Path) -> Any:
    """The configuration the run was started with, and what this command says of the machine."""
    from worldflux.cli import resume

    words = [word for word in HydraConfig.get().overrides.task if is_machine(key_of(word))]
    return resume.config_of(folder, words)


def _save_config(cfg: DictConfig, folder: Path) -> None:
    """What Hydra saves of a job. Here, because only the process that has claimed the folder may."""
    hydra = HydraConfig.get()
    saved = folder / ".hydra"
    saved.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, saved / "config.yaml")
    OmegaConf.save(OmegaConf.create({"hydra": hydra}), saved / "hydra.yaml")
    OmegaConf.save(hydra.overrides.task, saved / "overrides.yaml")


def _status(folder: Path) -> str | None:
    return read_manifest(folder)["status"] if (folder / FILE).exists() else None


def _note_failure(folder: Path, error: Exception) -> None:
    """Leaves the reason in the manifest, where the trainer had not begun to write it itself."""
    try:
        content = read_manifest(folder) if (folder / FILE).exists() else {"schema_version": SCHEMA}
        if content.get("status") != RunState.FAILED:
            reason = f"{type(error).__name__}: {error}"
            write_manifest(folder, {**content, "status": RunState.FAILED, "error": reason})
    except CheckpointError as second:
        log.error("%s", second)
