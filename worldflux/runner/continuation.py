"""Whether a configuration goes on with the run that a folder holds."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from worldflux.config.run import (
    FREE,
    FROM_ENVIRONMENT,
    OF_TRAINING,
    SPELLING,
    RunConfig,
    composed_schema,
    model_schema,
    run_config,
)
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.models.families import family_of_type, is_model_type
from worldflux.run_folder.disk import read_sealed
from worldflux.run_folder.manifest import FILE, plain, read_manifest
from worldflux.run_folder.state import RunState, run_state

AUTO = "auto"  # resume=auto
SAVED = Path(".hydra") / "config.yaml"

# What may change on resume: how far, where and how it is computed, what is measured and written.
# Everything else would make it another run.
CHANGEABLE = (
    "training.total_steps",
    "training.env_steps",
    "env.solved_return",
    "data.on_env_failure",
    "training.device",
    "training.compile_model",
    "training.mixed_precision",
    "training.mixed_precision_dtype",
    "training.env_mode",
    "training.log_interval",
    "training.eval_interval",
    "training.eval_episodes",
    "training.save_interval",
    "training.save_seconds",
    "training.output_dir",
    "logger",
    "gameplay",
    "visualization",
    "project",
)
# Where the weights came from counts only at the start; the model group repeats the training's values.
ASIDE = ("resume", "init_from", *(f"model.{name}" for name in OF_TRAINING))
# Of the model, what its environment decides where nothing else does.
DECIDED = (*FROM_ENVIRONMENT, "observation_modalities", "action_spec", "episode_length")

log = logging.getLogger(__name__)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The values of two resolved configurations that differ, by key as the user writes it.

    A key that only one of them has is that of another version, and no difference.
    """
    before, after = dict(_leaves("", old)), dict(_leaves("", new))
    return {
        key: (value, after[key])
        for key, value in before.items()
        if key in after and after[key] != value and not _within(key, ASIDE)
    }


def chosen(config: RunConfig) -> dict[str, Any]:
    """A configuration to compare with a run's: without what is left to the environment."""
    content = plain(config)
    left = {key for key, value in content["model"].items() if key in DECIDED and value is None}
    left |= set(DECIDED) - config.model._given
    model = {key: value for key, value in content["model"].items() if key not in left}
    return {**content, "model": model}


def changeable(key: str) -> bool:
    """Whether a key may have another value on resume."""
    return _within(key, CHANGEABLE)


def saved_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration with which a run was trained last, by its manifest; where that has
    none, what Hydra saved at the run's start, and a line says so. ConfigurationError: neither."""
    manifest = read_manifest(folder) if (folder / FILE).exists() else {}
    config = manifest.get("config")
    if not isinstance(config, dict):
        if not (folder / SAVED).is_file():
            text = f"{folder} was not started by worldflux-run: it cannot be resumed"
            raise ConfigurationError(text)
        _warn_once(f"{folder} has no configuration in its {FILE}; {SAVED} is read instead")
        return chosen(run_config(typed(folder / SAVED)))
    met = manifest.get("model_config") or {}
    # Manifests of earlier versions have the defaults here where the environment decided.
    model = {key: value for key, value in config["model"].items() if key not in DECIDED}
    return {**config, "model": model | {key: met[key] for key in DECIDED if key in met}}


@functools.cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)


def typed(saved: Path) -> DictConfig:
    """A configuration that Hydra saved, with the schema it was composed by."""
    content = OmegaConf.load(saved)
    kind = OmegaConf.select(content, "model.model_type")
    if not isinstance(content, DictConfig) or not is_model_type(str(kind)):
        raise ConfigurationError(f"{saved} is no configuration of a run")
    return OmegaConf.merge(_schema(kind), content)  # type: ignore[return-value]


def saved_job(folder: Path) -> DictConfig:
    """`saved_config` as Hydra composes it: overrides may change it, and the values that the model
    group repeats follow the training's."""
    content = saved_config(folder)
    schema = _schema(content["model"]["model_type"])
    values: dict[str, Any] = {}
    for group in schema:
        value = content.get(str(group))
        if isinstance(value, dict) and group not in FREE:
            value = {SPELLING.get(key, key): item for key, item in value.items()}
            value = {key: item for key, item in value.items() if key in schema[group].keys()}
        values[str(group)] = value
    values["model"] |= {name: f"${{training.{name}}}" for name in OF_TRAINING}
    return OmegaConf.merge(schema, values)  # type: ignore[return-value]


def _schema(model_type: str) -> DictConfig:
    schema = composed_schema()
    schema.model = model_schema(family_of_type(model_type).config_class())
    return schema


def check_same_run(folder: Path, config: RunConfig) -> None:
    """ConfigurationError names a setting that would make it another run."""
    for key, (old, new) in changes(saved_config(folder), chosen(config)).items():
        if not changeable(key):
            raise ConfigurationError(
                f"{key} cannot change on resume: it is {_shown(old)} in {folder}, not "
                f"{_shown(new)}; init_from={folder} starts a new run from its weights"
            )


def continues(folder: Path, config: RunConfig) -> bool:
    """Whether there is something in the folder to go on with: a run that has a checkpoint.

    ConfigurationError: there is, but it is the run of another configuration.
    """
    if not has_checkpoint(folder):
        return False
    check_same_run(folder, config)
    return True


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has a checkpoint that it can continue from, or a damaged one. The best one is
    no such checkpoint where it was saved without its replay. Without torch."""
    for path in (folder / "checkpoints").glob("step_*"):
        try:
            if read_sealed(path / "state.json")["state"]["resumable"]:
                return True
        except (OSError, ValueError, KeyError):
            return True  # resuming reports what is wrong with it
    return False


def changed_settings(folder: Path, config: RunConfig) -> dict[str, Any]:
    """The settings, by key, that a configuration changes in a run which it continues."""
    new = changes(saved_config(folder), chosen(config))
    return {key: after for key, (_, after) in new.items() if key != "training.output_dir"}


def newest_unfinished(output_dir: Path, config: RunConfig) -> Path | None:
    """The run of this configuration in ``output_dir/<date>/<time>/`` that was written last, is
    neither complete nor running and has a checkpoint; None if there is none."""
    new = chosen(config)
    runs = sorted(output_dir.glob(f"*/*/{FILE}"), key=lambda path: path.stat().st_mtime)
    for folder in (path.parent for path in reversed(runs)):
        try:
            if run_state(folder) in (RunState.COMPLETED, RunState.RUNNING):
                continue
            different = changes(saved_config(folder), new)
        except (CheckpointError, ConfigurationError) as error:
            log.warning("resume=auto passes over a run: %s", error)
            continue
        if all(changeable(key) for key in different) and has_checkpoint(folder):
            return folder
    return None


def _leaves(prefix: str, tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{prefix}{SPELLING.get(name, name)}"
        if isinstance(value, dict) and key not in FREE:
            yield from _leaves(f"{key}.", value)
        else:
            yield key, value


def _within(key: str, keys: tuple[str, ...]) -> bool:
    return any(key == whole or key.startswith(f"{whole}.") for whole in keys)


def _shown(value: Any) -> str:
    words = {"None": "null", "True": "true", "False": "false"}
    return words.get(str(value), str(value))
