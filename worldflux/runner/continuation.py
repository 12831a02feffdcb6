"""Whether a configuration goes on with the run that a folder holds."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from worldflux.config.groups import (
    OF_TRAINING,
    SPELLING,
    RunConfig,
    free_mappings,
    may_change,
)
from worldflux.config.options import ENVIRONMENT, rules
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.run_folder.checkpoints import has_checkpoint
from worldflux.run_folder.manifest import plain, read_manifest
from worldflux.run_folder.names import MANIFEST
from worldflux.run_folder.state import RunState, run_state

AUTO = "auto"  # resume=auto

# Where the weights came from counts only at the start; the model group repeats the training's values.
ASIDE = ("resume", "init_from", *(f"model.{name}" for name in OF_TRAINING))
# What of the model its spaces describe, besides the fields that follow the environment.
DESCRIPTIONS = ("observation_modalities", "action_spec")

log = logging.getLogger(__name__)


def changes(saved: Mapping[str, Any], config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The values of a saved and a new configuration that differ, by key as the user writes it.

    What the new one leaves to the environment is no difference, nor is a key that only one of them
    has: it is that of another version.
    """
    before, after = dict(_leaves("", saved)), dict(_leaves("", plain(config)))
    for name, rule in rules(type(config.model)).items():
        follows = rule.get("follows") == ENVIRONMENT or name in DESCRIPTIONS
        if follows and name not in config.model.explicit:
            after.pop(f"model.{name}", None)
    if after.get("model.episode_length", 0) is None:
        del after["model.episode_length"]
    return {
        key: (value, after[key])
        for key, value in before.items()
        if key in after and after[key] != value and not _within(key, ASIDE)
    }


def saved_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration with which a run was trained last, its model as it met the
    environment."""
    manifest = read_manifest(folder)
    config = manifest.get("config")
    if not isinstance(config, dict):
        raise ConfigurationError(f"{folder} was not started by worldflux-run: it cannot be resumed")
    return {**config, "model": manifest.get("model_config", config.get("model"))}


def check_same_run(folder: Path, config: RunConfig) -> None:
    """ConfigurationError names a setting that would make it another run."""
    for key, (old, new) in changes(saved_config(folder), config).items():
        if not may_change(key):
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


def remembered(folder: Path) -> dict[str, Any]:
    """The settings, by key, that may change on resume, as the run was trained last."""
    return {key: value for key, value in _leaves("", saved_config(folder)) if may_change(key)}


def changed_settings(folder: Path, config: RunConfig) -> dict[str, Any]:
    """The settings, by key, that a configuration changes in a run which it continues."""
    new = changes(saved_config(folder), config)
    return {key: after for key, (_, after) in new.items() if key != "training.output_dir"}


def newest_unfinished(output_dir: Path, config: RunConfig) -> Path | None:
    """The run of this configuration in ``output_dir/<date>/<time>/`` that was written last, is
    neither complete nor running and has a checkpoint; None if there is none."""
    runs = sorted(output_dir.glob(f"*/*/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    for folder in (path.parent for path in reversed(runs)):
        try:
            if run_state(folder) in (RunState.COMPLETED, RunState.RUNNING):
                continue
            different = changes(saved_config(folder), config)
        except (CheckpointError, ConfigurationError) as error:
            log.warning("resume=auto passes over a run: %s", error)
            continue
        if all(may_change(key) for key in different) and has_checkpoint(folder):
            return folder
    return None


def _leaves(prefix: str, tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    free = free_mappings()
    for name, value in tree.items():
        key = f"{prefix}{SPELLING.get(name, name)}"
        if isinstance(value, dict) and key not in free:
            yield from _leaves(f"{key}.", value)
        else:
            yield key, value


def _within(key: str, keys: tuple[str, ...]) -> bool:
    return any(key == whole or key.startswith(f"{whole}.") for whole in keys)


def _shown(value: Any) -> str:
    words = {"None": "null", "True": "true", "False": "false"}
    return words.get(str(value), str(value))
