"""Whether a configuration goes on with the run that a folder holds."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from worldflux.config.files import ALIASES, check_yaml, environment_hidden, has_aliases
from worldflux.config.groups import (
    FIELDS,
    MACHINE_GROUPS,
    OF_TRAINING,
    SPELLING,
    RunConfig,
    free_mappings,
    leaves,
    may_change,
)
from worldflux.config.options import ENVIRONMENT, rules
from worldflux.config.overrides import value_of
from worldflux.config.run import composed_schema, run_config
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.models.families import family_of_type, is_model_type
from worldflux.run_folder.checkpoints import has_checkpoint
from worldflux.run_folder.links import check_links
from worldflux.run_folder.manifest import manifest_or_copy, plain, warn_of_change, warn_once
from worldflux.run_folder.names import HYDRA, MANIFEST, SAVED_CONFIG
from worldflux.run_folder.state import RunState, run_state
from worldflux.run_folder.trust import (
    OF_MODEL,
    check_modules,
    is_signed,
    modules_of,
    sent_away,
)

AUTO = "auto"  # resume=auto

# Where the weights came from counts only at the start; the model group repeats the training's values.
ASIDE = ("resume", "init_from", *(f"model.{name}" for name in OF_TRAINING))
# Of the model, what its spaces describe beside the fields that are declared to follow them.
DESCRIPTIONS = ("observation_modalities", "action_spec", "episode_length")
# Whose entries name code of the user's own.
OWN_CODE = ("env.wrappers", "callbacks", *(f"model.{name}" for name in OF_MODEL))

log = logging.getLogger(__name__)


def changes(saved: Mapping[str, Any], config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The values of a saved and a new configuration that differ, by key as the user writes it.

    What the new one leaves to the environment is no difference, nor is a key that only one of them
    has: it is that of another version.
    """
    before, after = dict(leaves(saved)), dict(leaves(chosen(config)))
    return {
        key: (value, after[key])
        for key, value in before.items()
        if key in after and after[key] != value and not _within(key, ASIDE)
    }


def chosen(config: RunConfig) -> dict[str, Any]:
    """A configuration as plain data, without what its model leaves to the environment."""
    content = plain(config)
    model = {
        name: value
        for name, value in content["model"].items()
        if not _decided(type(config.model), name)
        or (name in config.model.explicit and value is not None)
    }
    return {**content, "model": model}


def _decided(cls: type, name: str) -> bool:
    """Whether the environment decides a field of the model where nothing else does."""
    return name in DESCRIPTIONS or rules(cls).get(name, {}).get("follows") == ENVIRONMENT


def saved_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration with which a run was trained last, by its manifest; where that has
    none, what Hydra saved at the run's start, and a line says so. ConfigurationError: neither."""
    manifest = _manifest(folder)
    config = manifest.get("config")
    if not isinstance(config, dict):
        if not (folder / SAVED_CONFIG).is_file():
            text = f"{folder} was not started by worldflux-run: it cannot be resumed"
            raise ConfigurationError(text)
        warn_once(
            f"{folder} has no configuration in its {MANIFEST}; {SAVED_CONFIG} is read instead"
        )
        with environment_hidden():
            return chosen(run_config(typed(folder / SAVED_CONFIG)))
    return {**config, "model": manifest.get("model_config") or _without_defaults(config["model"])}


def named_modules(overrides: Iterable[Override]) -> list[str]:
    """The modules that a command line names: in them it trusts."""
    fields = {"env.import": "import_module", "env.id": "id", "env.tasks": "tasks"}
    env: dict[str, Any] = {}
    targets: dict[str, Any] = {}
    for item in overrides:
        key = item.get_key_element().lstrip("+")
        if key in fields:
            env[fields[key]] = value_of(item)
        elif _within(key, OWN_CODE):
            targets[key] = {key.rpartition(".")[2]: value_of(item)}
    return modules_of({"env": env, "callbacks": targets})


def _manifest(folder: Path) -> dict[str, Any]:
    check_links(folder, (HYDRA, SAVED_CONFIG, MANIFEST))
    try:
        return manifest_or_copy(folder, warn=False)
    except CheckpointError as error:
        if (folder / SAVED_CONFIG).is_file():
            if (folder / MANIFEST).exists():
                warn_once(str(error))
        elif (folder / MANIFEST).exists():
            raise
        return {}


def _without_defaults(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's saved configuration without defaults where the environment decides."""
    cls = family_of_type(model["model_type"]).config_class()
    defaults = plain(cls())
    return {
        name: value
        for name, value in model.items()
        if not (_decided(cls, name) and value == defaults.get(name))
    }


def loaded(path: Path) -> Any:
    """The content of a YAML file that somebody else may have written, with its references."""
    try:
        check_yaml(path)
        return OmegaConf.load(path)
    except (OSError, ValueError, YAMLError, RecursionError) as error:
        raise ConfigurationError(f"{path}: {' '.join(str(error).split())}") from error


def check_aliases(folder: Path) -> None:
    """ConfigurationError where the configuration that Hydra saved is none that Hydra writes: a file
    that takes all memory of who reads it. One that cannot be read is left to who needs it."""
    saved = folder / SAVED_CONFIG
    try:
        repeated = saved.is_file() and has_aliases(saved)
    except (OSError, ValueError):
        return
    if repeated:
        raise ConfigurationError(f"{saved}: it has more than {ALIASES} aliases (*name)")


def typed(saved: Path) -> DictConfig:
    """A configuration that Hydra saved, with the schema it was composed by."""
    content = loaded(saved)
    kind = OmegaConf.select(content, "model.model_type")
    if not isinstance(content, DictConfig) or not is_model_type(str(kind)):
        raise ConfigurationError(f"{saved} is no configuration of a run")
    return OmegaConf.merge(_schema(kind), content)  # type: ignore[return-value]


def saved_job(folder: Path, named: Collection[str] = ()) -> DictConfig:
    """`saved_config` as Hydra composes it: overrides may change it, and the values that the model
    group repeats follow the training's.

    named: modules that the command line names: they may be imported though another user made the
    run. The page of a run that is not this user's is not taken over.
    """
    content = dict(saved_config(folder))
    manifest = _manifest(folder)
    callbacks = {"callbacks": content.get("callbacks")}
    if not (is_signed(manifest) or {*modules_of(callbacks)} <= {*named}):
        text = "worldflux-run: %s is not signed as a run of yours: its callbacks are left out"
        print(text % folder, file=sys.stderr)
        content["callbacks"] = {}
    check_modules(
        folder,
        manifest,
        content,
        named,
        "name it on this command line (env.id=), in Python trust=True",
    )
    warn_of_change(folder, manifest)
    page = content.get("visualization") or {}
    if page.get("enabled") and not is_signed(manifest):
        text = "worldflux-run: %s is not signed as a run of yours: its page on %s is left out"
        print(text % (folder, page.get("host")), file=sys.stderr)
        content["visualization"] = None
    if (away := sent_away(content)) and not is_signed(manifest):
        text = "worldflux-run: %s is not signed as a run of yours: its logger.%s is left out"
        print(text % (folder, ", logger.".join(away)), file=sys.stderr)
        content["logger"] = {k: v for k, v in content["logger"].items() if k not in away}
    schema = _schema(content["model"]["model_type"])
    values: dict[str, Any] = {}
    for group in schema:
        value = content.get(str(group))
        if isinstance(value, dict) and group not in free_mappings():
            value = {SPELLING.get(key, key): item for key, item in value.items()}
            value = {key: item for key, item in value.items() if key in schema[group].keys()}
        if value is not None or (group in content and group not in MACHINE_GROUPS):
            values[str(group)] = value
    values["model"] |= {name: f"${{training.{name}}}" for name in OF_TRAINING}
    values["model"] |= _followed(content)
    return OmegaConf.merge(schema, values)  # type: ignore[return-value]


def _followed(content: Mapping[str, Any]) -> dict[str, str]:
    """References for the values of the model that are, by their rules, those of another group's key:
    what changes that one changes them."""
    references: dict[str, str] = {}
    for name, rule in rules(family_of_type(content["model"]["model_type"]).config_class()).items():
        group, _, key = rule.get("follows", "").partition(".")
        if key and group in content and name in content["model"]:
            if content["model"][name] == (content[group] or {}).get(FIELDS.get(key, key)):
                references[name] = f"${{{group}.{key}}}"
    return references


def _schema(model_type: str) -> DictConfig:
    return composed_schema(family_of_type(model_type).config_class())


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


def _within(key: str, keys: tuple[str, ...]) -> bool:
    return any(key == whole or key.startswith(f"{whole}.") for whole in keys)


def _shown(value: Any) -> str:
    words = {"None": "null", "True": "true", "False": "false"}
    return words.get(str(value), str(value))
