"""worldflux.toml as the settings of `worldflux-run`.

`settings` says which Hydra key every value of the file sets; `worldflux train` hands them to
Hydra as overrides, `worldflux convert` writes them as an experiment. What the schema of a run has no
key for goes into the free mapping `project`, from where back.py takes it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf

from worldflux.config.fields import field_types, plain
from worldflux.config.groups import CHOICES
from worldflux.config.presets import conf_dir
from worldflux.models.families import family_of_type
from worldflux.project.schema import ProjectConfig
from worldflux.project.sections import SECTIONS

DMC = "dmc/"  # dmc/walker-walk is a task of the DeepMind Control Suite
FASTEST_EVALUATION = 100  # updates between two, at least
# Keys of a section that have a key of their own in a run; the others are kept in `project`.
HOMES = {
    "architecture": ("obs_shape", "action_dim", "hidden_dim", "action_type"),
    "training": (
        "total_steps",
        "batch_size",
        "sequence_length",
        "learning_rate",
        "device",
        "output_dir",
    ),
    "data": ("source", "buffer_capacity"),
    "gameplay": ("enabled", "fps", "max_frames"),
    "visualization": (
        "enabled",
        "host",
        "port",
        "refresh_ms",
        "history_max_points",
        "open_browser",
    ),
}


@dataclass(frozen=True)
class Setting:
    """A value for a Hydra key, and the key of worldflux.toml it comes from (None: from neither)."""

    value: Any
    source: str | None
    why: str = ""


def settings(config: ProjectConfig) -> dict[str, Setting]:
    """Hydra key -> value, groups first. The same file always gives the same run."""
    found = {
        "model": Setting(family_of_type(config.model_type).name, "model"),
        "model/size": Setting(config.size, "model"),
        **_environment(config),
    }
    if config.data.source == "random":
        found["data"] = Setting("random", "data.source")
    found |= _sizes(config) | _training(config) | _data(config)
    for section in ("gameplay", "visualization"):
        for key, value in getattr(config, section).to_dict().items():
            found[f"{section}.{key}"] = Setting(value, f"{section}.{key}")
    found["project"] = Setting(notes(config), None, "what a run has no key for")
    return found


def _environment(config: ProjectConfig) -> dict[str, Setting]:
    name = config.data.gym_env
    if config.data.source == "random":
        return {"env": Setting("none", "data.source")}
    limit = "online_collection.max_episode_steps"
    steps = config.online_collection.max_episode_steps
    if not config.online_collection.enabled:
        limit, steps = "data.episode_length", config.data.episode_length
    group = environment_group(config)
    found = {"env": Setting(group, "data.gym_env")}
    if group == "pixels":
        height, width = config.architecture.obs_shape[1:]
        found["env.image_size"] = Setting([height, width], "architecture.obs_shape")
    found["env.id"] = Setting(name.removeprefix(DMC), "data.gym_env")
    found["env.time_limit"] = Setting(steps, limit)
    return found


def environment_group(config: ProjectConfig) -> str:
    """The option of `conf/env` that prepares this environment."""
    name = config.data.gym_env
    if name.startswith(DMC):
        return "dmc"
    if name.startswith("ALE/"):
        return "atari100k"
    if "architecture.obs_shape" in config.given and len(config.architecture.obs_shape) == 3:
        return "pixels"
    return named_environments().get(name, "gym")


def named_environments() -> dict[str, str]:
    """Environment id -> the option of `conf/env` made for it."""
    found = {}
    for path in sorted((conf_dir() / "env").glob("*.yaml")):
        content = OmegaConf.load(path)
        if "defaults" not in content and "image_size" not in content:
            name = OmegaConf.to_container(content)["id"]  # type: ignore[index,call-overload]
            found[str(name)] = path.stem
    return found


def _sizes(config: ProjectConfig) -> dict[str, Setting]:
    """The model's sizes: those the file gives, and where no environment can tell them all."""
    wanted, alone = config.architecture, config.data.source == "random"
    found = {}
    for key in ("obs_shape", "action_dim", "hidden_dim"):
        name = f"architecture.{key}"
        if name in config.given or (alone and key != "hidden_dim"):
            found[f"model.{key}"] = Setting(plain(getattr(wanted, key)), name)
    if "episodic" in field_types(family_of_type(config.model_type).config_class()) and (
        config.data.source == "gym"
    ):
        ends = not config.data.gym_env.startswith(DMC)  # that suite's tasks only run out of time
        found["model.episodic"] = Setting(ends, None, "whether the task itself can end an episode")
    if wanted.action_type:
        found["model.action_type"] = Setting(wanted.action_type, "architecture.action_type")
    elif alone:
        kind = "discrete" if config.environment == "atari" else "continuous"
        found["model.action_type"] = Setting(kind, "environment")
    return found


def _training(config: ProjectConfig) -> dict[str, Setting]:
    found = {
        f"training.{key}": Setting(getattr(config.training, key), f"training.{key}")
        for key in HOMES["training"]
    }
    steps, parts = config.training.total_steps, family_of_type(config.model_type).evaluations
    interval = max(FASTEST_EVALUATION, steps // parts)
    why = f"total_steps / {parts}, but at least {FASTEST_EVALUATION}"
    found["training.eval_interval"] = Setting(interval, None, why)
    found["training.save_interval"] = Setting(max(interval, 1_000), None, "eval_interval or 1000")
    return found


def _data(config: ProjectConfig) -> dict[str, Setting]:
    data, online = config.data, config.online_collection
    room = data.buffer_capacity
    degrade = Setting("degrade", None, "goes on with what there is, and says so; --strict does not")
    if data.source == "random":
        return {
            "data.capacity": Setting(room, "data.buffer_capacity"),
            "data.on_env_failure": degrade,
        }
    if online.enabled:
        return {
            "data.capacity": Setting(room, "data.buffer_capacity"),
            "data.train_ratio": Setting(None, "online_collection.collect_steps_per_update"),
            "data.collect_steps_per_update": Setting(
                online.collect_steps_per_update, "online_collection.collect_steps_per_update"
            ),
            "data.prefill_steps": Setting(
                online.warmup_transitions, "online_collection.warmup_transitions"
            ),
            "data.on_env_failure": degrade,
        }
    steps = data.num_episodes * data.episode_length
    return {
        "data.capacity": Setting(max(room, steps), "data.buffer_capacity"),
        "data.train_ratio": Setting(None, "online_collection.enabled"),
        "data.collect_steps_per_update": Setting(0, "online_collection.enabled"),
        "data.prefill_steps": Setting(steps, "data.num_episodes"),
        "data.on_env_failure": degrade,
    }


def notes(config: ProjectConfig) -> dict[str, Any]:
    """What the file says and a run has no key for; values that are defaults are left out."""
    found: dict[str, Any] = {
        "project_name": config.project_name,
        "environment": config.environment,
        "model": config.model,
    }
    for section, cls in SECTIONS.items():
        record = getattr(config, section)
        kept = {
            key: plain(getattr(record, key))
            for key in field_types(cls)
            if key not in HOMES.get(section, ())
            and getattr(record, key) != cls.__dataclass_fields__[key].default  # type: ignore[attr-defined]
        }
        if kept:
            found[section] = kept
    return found


def overrides(found: Mapping[str, Setting]) -> list[str]:
    """The settings as Hydra overrides, in the grammar of its command line."""
    # A mapping whose keys are free has none yet: its plus adds them.
    return [
        f"{'++' if key == 'project' else ''}{key}={_spelled(item.value)}"
        for key, item in found.items()
    ]


def _spelled(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return QuotedString(text=value, quote=Quote.double).with_quotes()
    if isinstance(value, Mapping):
        items = (f"{key}: {_spelled(item)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_spelled, value)) + "]"
    return json.dumps(value)


def experiment(found: Mapping[str, Setting], title: str) -> str:
    """The settings as an experiment of `conf/experiment`, YAML text."""
    chosen = [{f"override /{k}": s.value} for k, s in found.items() if k in CHOICES]
    tree: dict[str, Any] = {}
    for key, item in found.items():
        if key in CHOICES:
            continue
        group, _, name = key.partition(".")
        if name:
            tree.setdefault(group, {})[name] = item.value
        else:
            tree[group] = item.value
    body = OmegaConf.to_yaml(OmegaConf.create({"defaults": chosen, **tree}))
    return f"# @package _global_\n# {title}\n{body}"
