"""Where each value of a run comes from: a line of worldflux.toml, a flag, a preset or a default."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from omegaconf import OmegaConf

from worldflux.config.groups import RunConfig
from worldflux.config.options import ENVIRONMENT, rules
from worldflux.config.overrides import spelled
from worldflux.config.presets import conf_dir, size_fields
from worldflux.models.families import family_of_type
from worldflux.project.mapping import Setting, flat
from worldflux.project.schema import ProjectConfig

DEFAULT = "default"


def origins(
    run: RunConfig, config: ProjectConfig, settings: Mapping[str, Setting], flags: Mapping[str, str]
) -> dict[str, str]:
    """`group.key` -> where its value is from. flags: Hydra key -> the flag that set it."""
    recipes = _recipes(run, settings)

    def origin(key: str) -> str:
        group, _, name = key.partition(".")
        if key in flags:
            return flags[key]
        if key in settings:
            return _stated(settings[key], config, flags)
        if group == "model":
            follows = rules(type(run.model))[name].get("follows")
            if follows == ENVIRONMENT and name not in run.model.explicit:
                return "the environment"
            if follows not in (ENVIRONMENT, None):
                return str(follows)
        return recipes.get(key, DEFAULT)

    return {key: origin(key) for key in flat(run)}


def _stated(item: Setting, config: ProjectConfig, flags: Mapping[str, str]) -> str:
    if item.source is None:
        return f"worldflux train: {item.why}"
    if item.source in flags:  # a flag that stands for a key of the file
        return flags[item.source]
    if item.source in config.explicit:
        return config.where(item.source)
    return f"default of {config.path.name} ({item.source})"


def _recipes(run: RunConfig, settings: Mapping[str, Setting]) -> dict[str, str]:
    """`group.key` -> the file of `conf/` that sets it."""
    one, size = family_of_type(run.model.model_type), run.model.model_name
    sources = {
        f"model.{name}": f"preset model/size={size}" for name in size_fields(one.model_type, size)
    }
    options = {
        "model": one.name,
        "env": settings["env"].value if "env" in settings else "",
        "data": settings["data"].value if "data" in settings else one.name,
        "training": one.name,
    }
    folders = [conf_dir(), *([one.conf] if one.conf else [])]
    for (group, option), folder in itertools.product(options.items(), folders):
        for name in (f"{option}.yaml", f"{option}/{one.name}.yaml"):
            path = folder / group / name
            if path.is_file():
                for key in map(str, OmegaConf.load(path)):
                    sources.setdefault(f"{group}.{key}", f"{group}={option}")
    return sources


def shown(run: RunConfig, sources: Mapping[str, str]) -> str:
    """The configuration as text, each value with where it is from."""
    rows = [
        (f"{key} = {value if isinstance(value, str) else spelled(value)}", sources[key])
        for key, value in flat(run).items()
    ]
    width = min(60, max(len(left) for left, _ in rows))
    return "\n".join(f"{left:<{width}}  # {origin}" for left, origin in rows)
