"""Where each value of a run comes from: a line of worldflux.toml, a flag, a preset or a default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from worldflux.config.base import CheckedConfig
from worldflux.config.fields import field_types, plain
from worldflux.config.groups import SPELLING, RunConfig
from worldflux.config.options import ENVIRONMENT, rules
from worldflux.config.presets import conf_dir, size_fields
from worldflux.models.families import family_of_type
from worldflux.project.convert import Setting
from worldflux.project.schema import ProjectConfig

DEFAULT = "default"


def flat(config: RunConfig) -> dict[str, Any]:
    """`group.key` -> value of a run, spelled as on the command line."""
    found: dict[str, Any] = {}
    for group, record in vars(config).items():
        if not isinstance(record, CheckedConfig):
            if record:
                found[group] = record
            continue
        for name in field_types(type(record)):
            found[f"{group}.{SPELLING.get(name, name)}"] = plain(getattr(record, name))
    return found


def origins(
    run: RunConfig,
    config: ProjectConfig,
    settings: Mapping[str, Setting],
    flags: Mapping[str, str],
) -> dict[str, str]:
    """`group.key` -> where its value is from. flags: Hydra key -> the flag that set it."""
    recipes = _recipes(run, settings)
    return {key: _origin(key, run, config, settings, flags, recipes) for key in flat(run)}


def _origin(
    key: str,
    run: RunConfig,
    config: ProjectConfig,
    settings: Mapping[str, Setting],
    flags: Mapping[str, str],
    recipes: Mapping[str, str],
) -> str:
    group, _, name = key.partition(".")
    if key in flags:
        return flags[key]
    if key in settings:
        return _told(settings[key], config, flags)
    if group == "model":
        follows = rules(type(run.model))[name].get("follows")
        if follows == ENVIRONMENT and name not in run.model.explicit:
            return "the environment"
        if follows not in (ENVIRONMENT, None):
            return str(follows)
    return recipes.get(key, DEFAULT)


def _told(item: Setting, config: ProjectConfig, flags: Mapping[str, str]) -> str:
    if item.source is None:
        return f"worldflux train: {item.why}"
    if item.source in flags:  # a flag that stands for a key of the file
        return flags[item.source]
    if item.source in config.given:
        return config.where(item.source)
    return f"default of {config.path.name} ({item.source})"


def _recipes(run: RunConfig, settings: Mapping[str, Setting]) -> dict[str, str]:
    """`group.key` -> the file of `conf/` that sets it."""
    family = family_of_type(run.model.model_type).name
    size = run.model.model_name
    found = {
        f"model.{name}": f"preset model/size={size}"
        for name in size_fields(run.model.model_type, size)
    }
    chosen = {
        "model": family,
        "env": settings["env"].value if "env" in settings else "",
        "data": settings["data"].value if "data" in settings else family,
        "training": family,
    }
    for group, option in chosen.items():
        for path in (
            conf_dir() / group / f"{option}.yaml",
            conf_dir() / group / option / f"{family}.yaml",
        ):
            if path.is_file():
                for name in map(str, OmegaConf.load(path)):
                    found.setdefault(f"{group}.{name}", f"{group}={option}")
    return found


def shown(run: RunConfig, told: Mapping[str, str]) -> str:
    """The configuration as text, each value with where it is from."""
    rows = [(f"{key} = {_text(value)}", told[key]) for key, value in flat(run).items()]
    width = min(60, max(len(left) for left, _ in rows))
    return "\n".join(f"{left:<{width}}  # {origin}" for left, origin in rows)


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
