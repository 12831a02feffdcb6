"""`resume=RUN`: continue a stopped run with the configuration it was trained with."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf, open_dict, read_write

from worldflux.config.composition import Composition, checked, run_dir
from worldflux.config.groups import CHOICES, RunConfig
from worldflux.config.overrides import override, parse_overrides, value_of, with_free_keys
from worldflux.config.run import run_config
from worldflux.errors import ConfigurationError, RunBusyError
from worldflux.run_folder.checkpoints import has_checkpoint, no_checkpoint
from worldflux.run_folder.disk import shown
from worldflux.run_folder.manifest import plain
from worldflux.run_folder.names import MANIFEST, SAVED_CONFIG
from worldflux.run_folder.state import claimed_by
from worldflux.run_folder.trust import modules_of
from worldflux.runner.continuation import (
    AUTO,
    changed_settings,
    check_aliases,
    check_same_run,
    continues,
    named_modules,
    newest_unfinished,
    saved_config,
    saved_job,
)
from worldflux.runner.job import Job

CONFIG_NAME = "resume"


@dataclass(frozen=True)
class Request:
    """What a command line, or a call from Python, asks to be trained. source, overrides: what its
    configuration is composed from. run: the folder that it continues, `auto`, or None."""

    source: Composition
    overrides: list[str]
    run: str | None

    @classmethod
    def of(
        cls,
        words: Sequence[str],
        *,
        config_dir: str | None = None,
        config_path: str | None = None,
        config_name: str = "config",
        trust: bool = False,
    ) -> Request:
        """The request of these overrides; `resume=` has its own primary configuration.

        trust: the modules that the run to continue names may be imported whoever made it.
        """
        parsed = parse_overrides(words)
        overrides, run = with_free_keys(parsed), requested(parsed)
        if run not in (None, AUTO):
            config_name, overrides = CONFIG_NAME, prepare(str(run), parsed, trust)
        return cls(Composition.of(config_dir, config_path, config_name), overrides, run)

    def job(self) -> Job:
        """The job, composed and checked; raises the first mistake."""
        job = Job.compose(self.source, self.overrides)
        if self.run == AUTO:
            return automatic(job)
        if self.run is not None:
            check_same_run(Path(self.run), job.config)
        return job


def requested(overrides: Sequence[Override]) -> str | None:
    """The run folder that `resume=` names, None if there is none."""
    for item in overrides:
        if item.get_key_element() == "resume":
            if item.is_sweep_override():
                raise ConfigurationError("resume takes one run; resume the runs one by one")
            value = value_of(item)
            return None if value is None else str(value)
    return None


def prepare(run: str, overrides: Sequence[Override], trust: bool = False) -> list[str]:
    """Registers the configuration that the run was trained with, for the primary configuration
    CONFIG_NAME, and returns the overrides that continue it. trust: see `Request.of`."""
    folder = Path(run)
    begun = any((folder / name).is_file() for name in (MANIFEST, SAVED_CONFIG))
    if not (begun or has_checkpoint(folder)):
        raise ConfigurationError(f"resume={run} is no run: {_why(folder)}")
    for item in overrides:
        if item.get_key_element() == "init_from" and value_of(item) is not None:
            text = (
                "a resumed run goes on from its own weights; leave out one of resume and init_from"
            )
            raise ConfigurationError(f"{item.input_line}: {text}")
        if "/" in item.get_key_element() or item.get_key_element() in CHOICES:
            text = "a resumed run keeps its own groups; single values can be changed"
            raise ConfigurationError(f"{item.input_line}: {text}")
    if not has_checkpoint(folder):
        raise no_checkpoint(folder)
    check_aliases(folder)
    named = named_modules(overrides)
    if trust:
        named += modules_of(saved_config(folder))
    ConfigStore.instance().store(name="saved_run", node=saved_job(folder, named))
    rest = with_free_keys([item for item in overrides if item.get_key_element() != "resume"])
    return [*rest, override("resume", run), override("hydra.run.dir", str(folder.resolve()))]


def automatic(job: Job) -> Job:
    """For `resume=auto`: the job that continues a run; the same job where there is none.

    Where ``hydra.run.dir`` names a folder (one without a clock in it), that is the place to look;
    else the run of this configuration in the output folder that was written last and is not
    complete. ConfigurationError: the folder named holds a run of another configuration.
    """
    folder = run_dir(job.cfg)
    if folder is None:
        run = newest_unfinished(Path(job.config.training.output_dir), job.config)
    else:
        holder = claimed_by(folder)
        if holder is not None:
            raise RunBusyError(f"resume=auto: {folder} is being written by {holder}")
        run = folder if continues(folder, job.config) else None
    if run is None:
        print("worldflux-run: resume=auto: nothing to continue, a new run begins", file=sys.stderr)
        return job
    print(f"worldflux-run: resume=auto continues {shown(run)}", file=sys.stderr)
    return _continuing(job, run)


def _continuing(job: Job, run: Path) -> Job:
    """The job with the configuration of a run, and what may change as the job has it."""
    saved, cfg = saved_job(run, modules_of(plain(job.config))), job.cfg
    saved.callbacks = cfg.callbacks
    for key, value in changed_settings(run, job.config).items():
        if not isinstance(value, dict | list):
            OmegaConf.update(saved, key, value)
    saved.resume = str(run)
    with open_dict(cfg), read_write(cfg.hydra):
        for group in saved:
            cfg[group] = saved._get_node(group)
        cfg.hydra.run.dir, cfg.hydra.output_subdir = str(run.resolve()), None
    return replace(job, config=checked(cfg))


def config_of(folder: Path, named: Collection[str] = ()) -> RunConfig:
    """The configuration that the run in `folder` was trained with, to continue it. named: modules
    that it may import whoever made it."""
    saved = saved_job(folder, named)
    saved.resume = str(folder)
    return run_config(saved)


def _why(folder: Path) -> str:
    if not folder.exists():
        return "there is no such folder"
    if not folder.is_dir():
        return "it is a file"
    runs = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if runs:
        return f"it holds {len(runs)} runs, for example {runs[0]}"
    return f"{MANIFEST} or {SAVED_CONFIG} is missing in it"
