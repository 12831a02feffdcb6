"""worldflux.toml as overrides or an experiment of `worldflux-run`, and a run as a worldflux.toml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from omegaconf import OmegaConf

from worldflux.config.composition import composed
from worldflux.config.fields import field_types
from worldflux.config.overrides import override
from worldflux.config.run import RunConfig
from worldflux.project.mapping import UNSAID, Setting, flat, meaning, noted_file, settings
from worldflux.project.schema import TEXTS, parse
from worldflux.project.sections import SECTIONS


def overrides(values: Mapping[str, Setting]) -> list[str]:
    """The settings as Hydra overrides, in the grammar of its command line."""
    # A mapping whose keys are free has none yet: its plus adds them.
    return [
        override("++project" if key == "project" else key, item.value)
        for key, item in values.items()
    ]


def experiment(values: Mapping[str, Setting], title: str) -> str:
    """The settings as an experiment of `conf/experiment`, YAML text."""
    options: list[dict[str, Any]] = []
    tree: dict[str, Any] = {}
    for key, item in values.items():
        group, _, name = key.partition(".")
        if name:
            tree.setdefault(group, {})[name] = item.value
        elif isinstance(item.value, dict):
            tree[group] = item.value
        else:
            options.append({f"override /{key}": item.value})
    body = OmegaConf.to_yaml(OmegaConf.create({"defaults": options, **tree}))
    return f"# @package _global_\n# {title}\n{body}"


def to_toml(run: RunConfig, name: str) -> tuple[str, list[str]]:
    """The file's text, and a line for each value of the run that no key of it holds.

    name: the project's, where the run has none. Raises ConfigurationError for a run that no such
    file comes near.
    """
    file = noted_file(run, name)
    values: dict[str, Any] = {key: file[key] for key in TEXTS if key in file}
    for section, cls in SECTIONS.items():
        names = [key for key in field_types(cls) if f"{section}.{key}" in file]
        if names:
            values[section] = {key: file[f"{section}.{key}"] for key in names}
    text = tomlkit.dumps(values)
    config = parse(text, Path("worldflux.toml"))
    return text, lost(run, composed(overrides(settings(config))))


def lost(run: RunConfig, again: RunConfig) -> list[str]:
    """Where the run that the file gives differs from the one it was made of."""
    before, after = flat(run), flat(again)
    meant, meant_again = meaning(run), meaning(again)
    return [
        f"{key} = {before.get(key)}: worldflux train would take {after.get(key)}"
        for key in {**before, **after}
        if key not in UNSAID
        and before.get(key) != after.get(key)
        and meant.get(key) != meant_again.get(key)
    ]
