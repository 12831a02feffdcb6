"""`worldflux-run`: the one entry point that trains.

Hydra composes and runs the jobs. Around it stands what a person needs: every configuration is
checked before anything is created on disk, and every mistake is told in one line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from worldflux import __version__
from worldflux.cli import arguments
from worldflux.cli.guarded import guarded_hydra
from worldflux.cli.help import help_text
from worldflux.config import composition
from worldflux.config import run as schema
from worldflux.config.presets import conf_dir
from worldflux.config.run import RunConfig
from worldflux.dashboard.server import check_installed
from worldflux.errors import ConfigurationError, WorldFluxError
from worldflux.runner import resume
from worldflux.runner.continuation import AUTO, check_same_run
from worldflux.runner.preflight import check_environment, check_machine
from worldflux.sweep import words as sweep_words

if TYPE_CHECKING:
    from worldflux.project.runtime import Project

PROGRAM = "worldflux-run"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    0 fine, 1 jobs of a sweep failed, 2 the user's input is wrong, 3 training stopped itself, 130
    Ctrl-C. A bug keeps its traceback and gives 1. HYDRA_FULL_ERROR=1 gives every traceback in full.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded_hydra(PROGRAM, lambda: start(words))


def start(words: list[str], project: Project | None = None) -> int:
    """Checks and runs a command line of `worldflux-run`; a project adds its own files to the run."""
    own, words = sweep_words.take(arguments.plain_paths(words))
    asked = arguments.parse(words)
    if not asked.multirun and not asked.show and _is_for_a_launcher(asked.overrides):
        asked, words = replace(asked, multirun=True), ["-m", *words]
    if own is not None and not asked.multirun:
        raise ConfigurationError("sweep names and steers a sweep: add -m")
    if asked.version or asked.help:
        print(help_text(asked.config_dir) if asked.help else f"worldflux {__version__}\n", end="")
        return 0
    schema.register(*([Path(asked.config_dir)] if asked.config_dir else []))
    if asked.completion:
        return _hydra(words, asked.config_name, None)
    overrides = composition.parse_overrides(asked.overrides)
    run = resume.requested(overrides)
    flags = [word for word in words if word not in asked.overrides]
    if run == AUTO:
        # Each job of a sweep looks into its own folder, and --cfg job shows what was asked.
        run = None
        if not (asked.multirun or asked.show):
            run, given = resume.automatic(asked)
            overrides = composition.parse_overrides(given)
    if run is not None:
        asked = asked.with_overrides(
            resume.prepare(run, overrides, asked.multirun), resume.CONFIG_NAME
        )
        words = [*flags, *asked.overrides]
    if asked.multirun and not asked.show:
        return _sweep(asked, own or sweep_words.SweepWords(), words)
    if asked.config or not asked.show:
        configs = [_source(asked).check(asked.overrides)]
        if run is not None:
            check_same_run(Path(run), configs[0])
        if project is not None:
            project.prepare(configs[0])
        if not asked.show:
            check_trainable(configs, project)
            if _joined_another(configs[0]):
                return 0
    if project is not None:
        project.begin()
    return _hydra(words, asked.config_name, project)


def _source(asked: arguments.Arguments) -> composition.Composition:
    return composition.Composition.of(asked.config_dir, asked.config_path, asked.config_name)


def _is_for_a_launcher(overrides: Sequence[str]) -> bool:
    """A launcher other than this process was asked for: Hydra has them in sweeps only, so that one
    run is a sweep of one job."""
    return any(
        word.startswith("hydra/launcher=") and word != "hydra/launcher=basic" for word in overrides
    )


def _sweep(asked: arguments.Arguments, own: sweep_words.SweepWords, words: list[str]) -> int:
    expansion = _source(asked).expand(asked.overrides)
    if expansion.jobs is None:
        if own != sweep_words.SweepWords():
            raise ConfigurationError("sweep.* is for hydra/sweeper=basic, which lists its jobs")
        check_trainable(expansion.check())
        return _hydra(words, asked.config_name, None)
    from worldflux.sweep import run as sweep

    flags = [word for word in words if word not in asked.overrides]
    plan = sweep.plan(asked.overrides, expansion, own, flags)
    check_trainable(expansion.check(sweep.unfinished(plan, expansion.jobs)))
    return sweep.run(plan, expansion.source)


def check_trainable(configs: list[RunConfig], project: Project | None = None) -> None:
    """The models and environments of all jobs exist here, and fit each other."""
    seen: list[tuple[object, ...]] = []
    for config in configs:
        if config.visualization.enabled and config.data.on_env_failure != "degrade":
            check_installed()
        check_machine(config)
        facts = (config.env, config.model, config.data.on_env_failure, config.init_from)
        if facts not in seen:
            seen.append(facts)
            if project is None or project.data is None:
                check_environment(config)


def _joined_another(config: RunConfig) -> bool:
    """Trains as a task of a Slurm step beside the first one, whose run folder it takes."""
    from worldflux.runner.slurm_task import slurm_task

    task = slurm_task(config.training.nproc)
    if task is None or task.rank == 0:
        return False
    from worldflux.runner.processes import run_task

    run_task(config, None, task)
    return True


def _hydra(words: list[str], config_name: str, project: Project | None) -> int:
    failures: list[WorldFluxError] = []

    def job(cfg: DictConfig) -> float | None:
        try:
            return train(cfg, project)
        except WorldFluxError as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # the sweep goes on, and Hydra reports the first failure at its end
            failures.append(error)  # a single run: told by `report`, in one line
            return None

    hydra_main = hydra.main(str(conf_dir()), config_name, **composition.VERSION)
    before, sys.argv = sys.argv, [PROGRAM, *words]
    try:
        hydra_main(job)()
    finally:
        sys.argv = before
    if failures:
        raise failures[0]
    return 0


def train(cfg: DictConfig, project: Project | None = None) -> float:
    """One job: the checked configuration goes to the runner. Returns the evaluation score."""
    config, hydra_config = schema.run_config(cfg), HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    if config.training.nproc > 1:
        if project is not None:
            raise ConfigurationError("training.nproc must be 1 with the files of a worldflux.toml")
        from worldflux.runner.processes import launch

        log_config = OmegaConf.to_container(hydra_config.job_logging, resolve=True)
        return launch(config, folder, log_config)  # type: ignore[arg-type]
    from worldflux.runner.run import run

    if project is None:
        return run(config, folder)
    return run(config, folder, project)


if __name__ == "__main__":
    sys.exit(main())
