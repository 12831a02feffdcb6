"""`resume=RUN`: continue a stopped run with the configuration it was started with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override, Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from worldflux.cli.arguments import Arguments
from worldflux.config import composition
from worldflux.config.groups import CHOICES
from worldflux.config.overrides import value_of
from worldflux.config.presets import conf_dir
from worldflux.config.run import RunConfig, composed_schema
from worldflux.errors import ConfigurationError, RunBusyError
from worldflux.models.families import family_of_type, is_model_type
from worldflux.run_folder.checkpoints import has_checkpoint, no_checkpoint
from worldflux.run_folder.disk import shown
from worldflux.run_folder.names import MANIFEST, SAVED_CONFIG
from worldflux.run_folder.state import claimed_by
from worldflux.runner.continuation import (
    changed_settings,
    continues,
    newest_unfinished,
    remembered,
)

CONFIG_NAME = "resume"
SAVED = Path(SAVED_CONFIG)


def requested(overrides: list[Override]) -> str | None:
    """The run folder that `resume=` names, None if there is none."""
    for override in overrides:
        if override.get_key_element() == "resume":
            if override.is_sweep_override():
                raise ConfigurationError("resume takes one run; resume the runs one by one")
            value = value_of(override)
            return None if value is None else str(value)
    return None


def prepare(run: str, overrides: list[Override], multirun: bool) -> list[str]:
    """Registers the run's saved configuration and returns the overrides that continue it."""
    if multirun:
        text = "resume continues one run, in this process: leave out -m and hydra/launcher"
        raise ConfigurationError(text)
    folder = Path(run)
    saved = folder / SAVED
    if not saved.is_file():
        raise ConfigurationError(f"resume={run} is no run: {_why(folder)}")
    groups = [o for o in overrides if "/" in o.get_key_element() or _chooses_group(o)]
    if groups:
        word = groups[0].input_line
        text = f"{word}: a resumed run keeps its own groups; single values can be changed"
        raise ConfigurationError(text)
    if not has_checkpoint(folder):
        raise no_checkpoint(folder)
    ConfigStore.instance().store(name="saved_run", node=_remembering(typed(saved), folder))
    rest = [str(o.input_line) for o in overrides if o.get_key_element() != "resume"]
    path = str(folder.resolve())
    return [*rest, f"resume={_quoted(run)}", f"hydra.run.dir={_quoted(path)}"]


def automatic(asked: Arguments) -> tuple[str | None, list[str]]:
    """For `resume=auto`: the run to continue, and the overrides that continue it; None and those
    given where there is none.

    Where ``hydra.run.dir`` names a folder (one without a clock in it), that is the place to look;
    else the run of this configuration in the output folder that was written last and is not
    complete. ConfigurationError: the folder named holds a run of another configuration.
    """
    source = composition.Composition.of(asked.config_dir, asked.config_path, asked.config_name)
    cfg = source.compose(asked.overrides)
    place, config = composition.run_dir(cfg), composition.checked(cfg)
    if place is None:
        found = newest_unfinished(Path(config.training.output_dir), config)
    else:
        holder = claimed_by(place)
        if holder is not None:
            raise RunBusyError(f"resume=auto: {place} is being written by {holder}")
        found = place if continues(place, config) else None
    if found is None:
        print("worldflux-run: resume=auto: nothing to continue, a new run begins", file=sys.stderr)
        return None, list(asked.overrides)
    print(f"worldflux-run: resume=auto continues {shown(found)}", file=sys.stderr)
    words = [
        word
        for word in asked.overrides
        if word.lstrip("+~").startswith("hydra.") and not word.startswith("hydra.run.dir=")
    ]
    changed = changed_settings(found, config)
    words += [f"{key}={_literal(value)}" for key, value in changed.items() if _scalar(value)]
    return str(found), words


def _literal(value: Any) -> str:
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def config_of(folder: Path) -> RunConfig:
    """The configuration that the run in `folder` was started with, to continue it."""
    overrides = prepare(str(folder), [], multirun=False)
    return composition.Composition(conf_dir(), CONFIG_NAME).check(overrides)


def _chooses_group(override: Override) -> bool:
    return override.get_key_element() in CHOICES


def _why(folder: Path) -> str:
    if not folder.exists():
        return "there is no such folder"
    if not folder.is_dir():
        return "it is a file"
    runs = sorted(path.parents[1] for path in folder.glob(f"*/{SAVED}"))
    if runs:
        return f"it holds {len(runs)} runs, for example {runs[0]}"
    return f"{SAVED} is missing in it"


def typed(saved: Path) -> DictConfig:
    """A saved configuration with the schema it was composed by."""
    content = OmegaConf.load(saved)
    kind = OmegaConf.select(content, "model.model_type")
    if not isinstance(content, DictConfig) or not is_model_type(str(kind)):
        raise ConfigurationError(f"{saved} is no configuration of a run")
    schema = composed_schema()
    schema = composed_schema(family_of_type(kind).config_class())
    return OmegaConf.merge(schema, content)  # type: ignore[return-value]


def _remembering(config: DictConfig, folder: Path) -> DictConfig:
    """With the settings that an earlier resume changed."""
    if not (folder / MANIFEST).exists():
        return config
    for key, value in remembered(folder).items():
        if _scalar(value) and OmegaConf.select(config, key, default=value) != value:
            OmegaConf.update(config, key, value)
    return config


def _quoted(text: str) -> str:
    return QuotedString(text=text, quote=Quote.single).with_quotes()
