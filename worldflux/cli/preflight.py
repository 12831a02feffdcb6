"""Everything that can be checked before a run folder exists."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from worldflux.cli.arguments import Arguments
from worldflux.cli.schema import FREE, RunConfig, in_group, run_config
from worldflux.core.presets import conf_dir
from worldflux.errors import ConfigurationError

CHOICES = ("model", "model/size", "env", "data", "training", "logger", "dashboard")
# 1.3 asks for this argument, later releases warn about it.
VERSION: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__[:4] == "1.3." else {}
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def parse_overrides(words: Sequence[str]) -> list[Override]:
    """The overrides of a command line.

    ConfigurationError for what Hydra would take without a word, or answer with a traceback: a key
    given twice, a group set to null, a key of the schema removed.
    """
    parsed = OverridesParser.create().parse_overrides(overrides=list(words))
    seen: dict[str, str] = {}
    for override in parsed:
        key, word = override.get_key_element(), str(override.input_line)
        if key in seen:
            raise ConfigurationError(f"{key} is given twice: {seen[key]} and {word}")
        seen[key] = word
        if override.is_delete() and not key.startswith(tuple(f"{name}." for name in FREE)):
            raise ConfigurationError(f"{word}: what the schema has cannot be removed")
        if key in CHOICES and not override.is_sweep_override() and override.value() is None:
            raise ConfigurationError(
                f"{key} must name an option, not null; see worldflux-run --help"
            )
    return parsed


def jobs_of(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """The overrides of each job of a sweep: every combination, the last key changing first."""
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [str(override.input_line)]
        for override in overrides
    ]
    for job in itertools.product(*choices):
        yield list(job)


def check(arguments: Arguments) -> list[RunConfig]:
    """Composes and checks every job that the command line asks for; raises the first mistake."""
    if arguments.config_dir is not None and not Path(arguments.config_dir).is_dir():
        raise ConfigurationError(f"--config-dir {arguments.config_dir} is no folder")
    overrides, config_name = parse_overrides(arguments.overrides), arguments.config_name
    folder = Path(arguments.config_path).resolve() if arguments.config_path else conf_dir()
    search = []
    if arguments.config_dir is not None:
        search = [f"hydra.searchpath=['file://{Path(arguments.config_dir).resolve()}']"]
    if not arguments.multirun:
        return [_check_job(folder, config_name, [*search, *arguments.overrides])]
    fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
    base = _compose(folder, config_name, [*search, *fixed])
    for key, values in (OmegaConf.select(base, "hydra.sweeper.params") or {}).items():
        if key in {override.get_key_element() for override in overrides}:
            text = f"{key} is swept by the configuration itself"
            raise ConfigurationError(f"{text}: leave it out, or set hydra.sweeper.params instead")
        overrides = [*parse_overrides([f"{key}={values}"]), *overrides]
    if OmegaConf.select(base, "hydra.sweeper._target_") != BASIC_SWEEPER:
        # Other sweepers choose the values themselves; what is fixed can be checked.
        return [_check_job(folder, config_name, [*search, *fixed])]
    return [_check_job(folder, config_name, [*search, *job]) for job in jobs_of(overrides)]


def _compose(folder: Path, config_name: str, overrides: list[str]) -> DictConfig:
    with initialize_config_dir(str(folder), job_name="worldflux", **VERSION):
        return compose(config_name, overrides=overrides, return_hydra_config=True)


def _check_job(folder: Path, config_name: str, overrides: list[str]) -> RunConfig:
    cfg = _compose(folder, config_name, overrides)
    with open_dict(cfg.hydra):
        # What Hydra knows only once a job runs, so that ${hydra:...} can be followed here.
        cfg.hydra.job.num, cfg.hydra.job.id = 0, "0"
        cfg.hydra.runtime.output_dir = "${hydra.run.dir}"
    HydraConfig.instance().set_config(cfg)
    try:
        OmegaConf.to_container(cfg.hydra.run, resolve=True)
        return run_config(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))
    finally:
        HydraConfig.instance().cfg = None


def check_environment(config: RunConfig) -> None:
    """Makes one environment and closes it again: a wrong id, argument or shape shows here."""
    from worldflux.envs.make import make_envs

    if config.data.on_env_failure == "degrade":
        return  # the run itself tells it, and goes on
    envs = make_envs(config.env, num_envs=1, mode="sync", seed=config.training.seed)
    try:
        config.model.with_spaces(envs.obs_spaces, envs.action_spaces)
    except ConfigurationError as error:
        raise ConfigurationError(in_group("model", type(config.model), str(error))) from None
    finally:
        envs.close()
