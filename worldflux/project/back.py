"""A run's configuration as a worldflux.toml, and what of it that file cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit

from worldflux.config.composition import composed
from worldflux.config.fields import field_types, plain
from worldflux.config.presets import size_fields
from worldflux.config.run import RunConfig
from worldflux.data.ratio import updates_per_step
from worldflux.envs.suites import episode_length
from worldflux.errors import ConfigurationError
from worldflux.models.families import family_of_type
from worldflux.project.convert import DMC, overrides, settings
from worldflux.project.origins import flat
from worldflux.project.schema import TEXTS, parse
from worldflux.project.sections import SECTIONS

UNLIMITED = 1_000_000  # steps of an episode whose environment has no limit
# Keys that say the same in another way where only they differ.
RATIO = ("data.train_ratio", "data.collect_steps_per_update")


def to_toml(run: RunConfig, name: str) -> tuple[str, list[str]]:
    """The file's text, and a line for each value of the run that it cannot say.

    name: the project's, where the run has none. Raises ConfigurationError for a run that no such
    file comes near (another family).
    """
    values = _values(run, name)
    text = write(values)
    config = parse(text, Path("worldflux.toml"))
    return text, lost(run, composed(overrides(settings(config))))


def write(values: Mapping[str, Any]) -> str:
    """The text of a worldflux.toml with these values."""
    document = tomlkit.document()
    for key, value in values.items():
        if isinstance(value, Mapping):
            table = tomlkit.table()
            table.update(value)
            document.add(key, table)
        else:
            document.add(key, tomlkit.item(value))
    return tomlkit.dumps(document)


def lost(run: RunConfig, again: RunConfig) -> list[str]:
    """Where the run that the file gives differs from the one it was made of."""
    before, after = flat(run), flat(again)
    differing = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    if _ratio(run) == _ratio(again):
        differing = [key for key in differing if key not in RATIO]
    if run.env.time_limit is None and again.env.time_limit == (
        episode_length(run.env) or UNLIMITED
    ):
        differing = [key for key in differing if key != "env.time_limit"]
    return [
        f"{key} = {before.get(key)}: worldflux train would take {after.get(key)}"
        for key in differing
        if key not in ("project", "model.observation_modalities", "model.action_spec")
    ]


def _ratio(run: RunConfig) -> Any:
    if run.data.source != "gym":
        return None
    training = run.training
    return updates_per_step(run.data, training.effective_batch_size(), training.sequence_length)


def _values(run: RunConfig, name: str) -> dict[str, Any]:
    model = run.model
    told: dict[str, Any] = {key: value for key, value in run.project.items()}
    values: dict[str, Any] = {
        "project_name": told.get("project_name", name),
        "environment": told.get("environment", "custom"),
        "model": told.get("model", ""),
    }
    named = f"{family_of_type(model.model_type).toml_name}:{model.model_name}"
    if not _names(values["model"], model.model_type, model.model_name):
        values["model"] = named
    for section, cls in SECTIONS.items():
        found = {**told.get(section, {}), **_section(section, run)}
        values[section] = {key: found[key] for key in field_types(cls) if key in found}
    return {key: value for key, value in values.items() if key in TEXTS or value}


def _names(text: str, model_type: str, size: str) -> bool:
    from worldflux.models.factory import resolve

    try:
        kind, named = resolve(text)
    except ConfigurationError:
        return False
    return kind.model_type == model_type and size_fields(model_type, named)["model_name"] == size


def _section(section: str, run: RunConfig) -> dict[str, Any]:
    makers = {
        "architecture": _architecture,
        "training": _training,
        "data": _data,
        "online_collection": _online,
        "gameplay": lambda run: run.gameplay.to_dict(),
        "visualization": lambda run: run.visualization.to_dict(),
    }
    return makers[section](run) if section in makers else {}


def _architecture(run: RunConfig) -> dict[str, Any]:
    model = run.model
    found: dict[str, Any] = {
        key: plain(getattr(model, key))
        for key in ("obs_shape", "action_dim", "action_type")
        if key in model.explicit
    }
    if run.env.suite == "none":
        kind = "discrete" if run.project.get("environment") == "atari" else "continuous"
        if found.get("action_type") == kind:
            del found["action_type"]
    elif found.get("action_type") not in (None, "discrete", "continuous"):
        del found["action_type"]
    if model.hidden_dim != size_fields(model.model_type, model.model_name)["hidden_dim"]:
        found["hidden_dim"] = model.hidden_dim
    return found


def _training(run: RunConfig) -> dict[str, Any]:
    keys = ("total_steps", "batch_size", "sequence_length", "learning_rate", "device", "output_dir")
    return {key: getattr(run.training, key) for key in keys}


def _data(run: RunConfig) -> dict[str, Any]:
    data, told = run.data, run.project.get("data", {})
    found: dict[str, Any] = {"source": data.source, "buffer_capacity": data.capacity}
    if data.source == "gym":
        found["gym_env"] = f"{DMC}{run.env.id}" if run.env.suite == "dmc" else run.env.id
        if _ratio(run) is None:
            length = run.env.time_limit or episode_length(run.env) or UNLIMITED
            found["episode_length"] = length
            found["num_episodes"] = max(1, data.prefill_steps // length)
    elif run.env.suite != "none" and "gym_env" not in told:
        found["gym_env"] = run.env.id
    return found


def _online(run: RunConfig) -> dict[str, Any]:
    if run.data.source != "gym":
        return {}
    ratio = _ratio(run)
    if ratio is None:
        return {"enabled": False}
    return {
        "enabled": True,
        "warmup_transitions": run.data.prefill_steps,
        "collect_steps_per_update": max(1, round(1 / ratio)),
        "max_episode_steps": run.env.time_limit or episode_length(run.env) or UNLIMITED,
    }
