"""Everything that can be checked before a run folder exists."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins import file_config_source
from hydra._internal.core_plugins.basic_sweeper import BasicSweeperConf
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from worldflux.config import run as schema
from worldflux.config.files import check_yaml
from worldflux.config.groups import unknown_key
from worldflux.config.hydra_errors import translated
from worldflux.config.overrides import (
    check_single,
    parse_overrides,
    search_path,
    with_free_keys,
)
from worldflux.config.presets import conf_dir
from worldflux.config.run import RunConfig, run_config
from worldflux.errors import ConfigurationError, WorldFluxError

# 1.3 asks for this argument, later releases warn about it.
VERSION: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__[:4] == "1.3." else {}
# Editors of Windows begin a file with a mark, behind which Hydra does not see `# @package`.
_header = ConfigSource._get_header_dict
ConfigSource._get_header_dict = staticmethod(  # type: ignore[assignment]
    lambda text: _header(text.removeprefix("\ufeff"))
)
PARTS = ("run", "sweep", "job", "runtime", "overrides")  # typed ones of the `hydra` section
MOST_JOBS = 10_000
# Of Hydra's own, as for a.b.x=1 where a.b is a list or null; they name no key.
UNNAMED = (ValueError, TypeError, IndexError, AssertionError)
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's, for files that are text and do not stand for more than any memory."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            if path.exists():
                check_yaml(path)
        except UnicodeDecodeError as error:
            text = f"{path} is not UTF-8 ({error.reason}): save it as UTF-8"
            raise ConfigurationError(text) from error
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path}: {error}") from error
        return super().load_config(config_path)


# Hydra registers its own later, by the same name, and keeps the one that is there.
SourcesRegistry.instance().register(FileConfigSource)


@dataclass(frozen=True)
class Composition:
    """Where configurations are composed from: folder, name of the primary one, and the overrides
    that a flag of the command line stands for."""

    folder: Path
    name: str
    flags: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, config_dir: str | None, config_path: str | None = None, config_name: str = "config"
    ) -> Composition:
        """The one that the command line's flags name."""
        extra = [] if config_dir is None else [Path(config_dir)]
        if extra and not extra[0].is_dir():
            raise ConfigurationError(f"--config-dir {config_dir} is no folder")
        folder = Path(config_path).resolve() if config_path else conf_dir()
        if not folder.is_dir():
            raise ConfigurationError(f"--config-path {config_path} is no folder")
        if extra and not config_path and (extra[0] / f"{config_name}.yaml").is_file():
            # The primary configuration is looked for in one place only.
            folder, extra = extra[0].resolve(), [conf_dir()]
        return cls(folder, config_name, search_path(extra))

    @contextmanager
    def initialized(self) -> Iterator[None]:
        """Hydra, ready to compose, also inside of a job."""
        outer, job = GlobalHydra.instance().hydra, JobRuntime.instance().conf.copy()
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(self.folder), job_name="worldflux", **VERSION):
                yield
        finally:
            GlobalHydra.instance().hydra, JobRuntime.instance().conf = outer, job

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """One job's configuration, with its `hydra` section, unchecked."""
        parsed = check_single(overrides)
        with self.initialized():
            words = [*self.flags, *with_free_keys(parsed)]
            try:
                return compose(self.name, overrides=words, return_hydra_config=True)
            except (OmegaConfBaseException, UnicodeDecodeError, WorldFluxError):
                raise
            except UNNAMED as error:
                text = " ".join(str(error).split())
                misfit = self._misfit(words) or "these overrides"
                raise ConfigurationError(f"{misfit}: does not fit: {text}") from error

    def _misfit(self, words: Sequence[str]) -> str | None:
        """The override without which the others compose."""
        for index, word in enumerate(words):
            try:
                compose(self.name, overrides=[*words[:index], *words[index + 1 :]])
                return word
            except (OmegaConfBaseException, HydraException, *UNNAMED):
                continue
        return None

    def check(self, overrides: Sequence[str]) -> RunConfig:
        """The configuration of one job, checked; raises the first mistake."""
        return checked(self.compose(overrides))

    def expand(self, words: Sequence[str]) -> Expansion:
        """The jobs of a sweep with these overrides."""
        with self.initialized():
            overrides = parse_overrides(words, GlobalHydra.instance().config_loader())
            _check_not_empty(overrides)
        first = [
            next(_values(o)) if o.is_sweep_override() else str(o.input_line)
            for o in overrides
            if o.is_discrete_sweep() or not o.is_sweep_override()
        ]
        try:
            base = self.compose(first)
        except Exception:
            if len(first) == len(overrides):
                _check_count(overrides)
                swept = [override.is_sweep_override() for override in overrides]
                _check_jobs(self, list(_jobs_of(overrides)), swept)  # names the job
            raise
        for key, values in (OmegaConf.select(base, "hydra.sweeper.params") or {}).items():
            if key in {override.get_key_element() for override in overrides}:
                text = "is swept by the configuration itself: leave it out"
                raise ConfigurationError(text, key=key)
            swept_here = parse_overrides([f"{key}={values}"])
            _check_not_empty(swept_here)
            overrides = [*swept_here, *overrides]
        basic = OmegaConf.select(base, "hydra.sweeper._target_") == BASIC_SWEEPER
        if basic:
            known = [item.name for item in fields(BasicSweeperConf)]
            for name in map(str, base.hydra.sweeper):
                if name not in known:
                    raise unknown_key(f"hydra.sweeper.{name}", known)
        for item in overrides if basic else ():
            if item.is_sweep_override() and not item.is_discrete_sweep():
                text = "has no list of values; `worldflux search` draws from a range"
                raise ConfigurationError(f"{item.input_line} {text}")
        if basic:
            _check_count(overrides)
        return Expansion(self, base, overrides, list(_jobs_of(overrides)) if basic else None)


def run_dir(cfg: DictConfig) -> Path | None:
    """The folder that ``hydra.run.dir`` names, None where the clock is part of its name."""
    if "${now:" in OmegaConf.to_container(cfg.hydra.run, resolve=False)["dir"]:  # type: ignore
        return None
    return Path(cfg.hydra.run.dir)


def named_folder(cfg: DictConfig, key: str) -> str:
    """The folder that `hydra.run.dir` or `hydra.sweep.dir` names; ConfigurationError: it names none."""
    value = OmegaConf.select(cfg, key)
    if value is None or not str(value).strip():
        raise ConfigurationError("must name a folder", key=key)
    if str(value).startswith("~"):
        text = f"begins with ~, which only a shell reads as the home folder: {value}"
        raise ConfigurationError(text, key=key)
    path = os.path.abspath(str(value))
    if path != path.encode(errors="replace").decode():
        # A manifest, event files and YAML are UTF-8.
        raise ConfigurationError(f"must be a path in UTF-8, got {path!r}", key=key)
    return str(value)


def checked(cfg: DictConfig) -> RunConfig:
    """The run that a composition is; raises the first mistake.

    What Hydra knows only once a job runs is filled in, so that ${hydra:...} can be followed here;
    from now on the clock in the name of its folder stands still.
    """
    outer = HydraConfig.instance().cfg
    _check_hydra(cfg.hydra)
    HydraConfig.instance().set_config(cfg)
    try:
        with read_write(cfg.hydra), open_dict(cfg.hydra):
            cfg.hydra.job.num, cfg.hydra.job.id = 0, "0"
            cfg.hydra.runtime.output_dir = os.path.abspath(named_folder(cfg, "hydra.run.dir"))
        return run_config(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))
    finally:
        HydraConfig.instance().cfg = outer


def _check_hydra(section: DictConfig) -> None:
    """ConfigurationError for what a `+` added and Hydra never reads, and for a value that Hydra only
    asserts once the run has its folder."""
    for key, node in [("hydra", section), *((f"hydra.{name}", section[name]) for name in PARTS)]:
        known = [item.name for item in fields(OmegaConf.get_type(node))]  # type: ignore[arg-type]
        known += ["env"] * (key == "hydra")  # a group of Hydra's without a type
        for name in map(str, node):
            if name not in known:
                raise unknown_key(f"{key}.{name}", known)
    if not isinstance(section.verbose, bool | str | ListConfig):
        text = f"must be true, false or names of loggers, got {section.verbose}"
        raise ConfigurationError(text, key="hydra.verbose")


@dataclass(frozen=True)
class Expansion:
    """What `-m` asks for. base: a composition whose `hydra` section holds for all jobs. overrides:
    those of the command line, and those that the configuration itself sweeps. jobs: the overrides
    of each job; None where another sweeper than Hydra's own chooses the values while it runs."""

    source: Composition
    base: DictConfig
    overrides: list[Override]
    jobs: list[list[str]] | None

    def check(self, jobs: Sequence[list[str]] | None = None) -> list[RunConfig]:
        """The checked configurations of `jobs`, by default of all, each composed by itself, so that
        a key that only some of the swept families have is told with the job that lacks it."""
        if self.jobs is None:
            # What is swept is not known yet; what is fixed can be checked.
            fixed = [str(o.input_line) for o in self.overrides if not o.is_sweep_override()]
            return [self.source.check(fixed)]
        swept = [override.is_sweep_override() for override in self.overrides]
        return _check_jobs(self.source, self.jobs if jobs is None else jobs, swept)


def _jobs_of(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """The overrides of each job of a sweep: every combination, the last key changing first."""
    choices = [
        list(_values(o)) if o.is_sweep_override() else [str(o.input_line)] for o in overrides
    ]
    for job in itertools.product(*choices):
        yield list(job)


def _check_not_empty(overrides: Sequence[Override]) -> None:
    for item in overrides:
        try:
            empty = item.is_discrete_sweep() and next(_values(item), None) is None
        except ValueError as error:
            raise ConfigurationError(f"{item.input_line}: {error}") from None
        if empty:
            raise ConfigurationError(f"{item.input_line} has no values to sweep over")


def _check_count(overrides: Sequence[Override]) -> None:
    """ConfigurationError for more jobs than anybody means; a range() may have no end in sight."""
    count = 1
    for item in overrides:
        if item.is_discrete_sweep():
            count *= sum(1 for _ in itertools.islice(_values(item), MOST_JOBS + 1))
    if count > MOST_JOBS:
        raise ConfigurationError(f"a sweep has at most {MOST_JOBS:,} jobs, and this one has more")


def _values(override: Override) -> Iterator[str]:
    for value in override.sweep_string_iterator():
        yield f"{override.get_key_element()}={value}"


def _check_jobs(
    source: Composition, jobs: Sequence[list[str]], swept: Sequence[bool]
) -> list[RunConfig]:
    configs: list[RunConfig] = []
    for job in jobs:
        try:
            configs.append(source.check(job))
        except Exception as error:
            mistake = translated(error)
            if mistake is None:
                raise
            if job == jobs[0] and str(_mistake(source, jobs[-1])) == str(mistake):
                raise  # nothing that sets this job apart
            which = " ".join(itertools.compress(job, swept))
            raise mistake.labelled(f"job {which}: ") from None
    return configs


def _mistake(source: Composition, job: list[str]) -> WorldFluxError | None:
    try:
        source.check(job)
    except Exception as error:
        return translated(error)
    return None


def composed(overrides: Sequence[str], *folders: Path) -> RunConfig:
    """The configuration of one run of these overrides, checked; nothing is started.

    folders: more places to look for options in, as with --config-dir.
    """
    schema.register(*folders)
    return Composition(conf_dir(), "config", search_path(folders)).check(overrides)
