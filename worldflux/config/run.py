"""The typed shape of one run: what Hydra composes, and what a run is given."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from worldflux.config.base import CheckedConfig
from worldflux.config.data import DataConfig
from worldflux.config.env import EnvConfig
from worldflux.config.fields import field_types, near_miss
from worldflux.config.model import WorldModelConfig
from worldflux.config.presets import conf_dir, size_names
from worldflux.config.slurm import SlurmConfig
from worldflux.config.training import LoggerConfig, TrainingConfig
from worldflux.errors import ConfigurationError
from worldflux.models.families import (
    DEFAULT,
    OURS,
    Family,
    conf_folders,
    families,
    family_of_type,
    is_model_type,
    warn_broken,
)
from worldflux.project.sections import Gameplay, Section, Visualization

# Python cannot name a field `import`; YAML and the command line can.
SPELLING = {"import_module": "import"}
# What the environment decides unless the user does.
FROM_ENVIRONMENT = (
    "obs_shape",
    "action_dim",
    "action_type",
    "num_tasks",
    "task_names",
    "task_action_dims",
    "task_episode_lengths",
)
# The training group's values, which the model group only repeats.
OF_TRAINING = ("learning_rate", "grad_clip", "device")
# Mappings whose keys are the user's own.
FREE = (
    "env.kwargs",
    "model.observation_modalities",
    "model.action_spec",
    "model.loss_scales",
    "project",
    "hydra.launcher.additional_parameters",
)


@dataclass
class RunConfig:
    """One run, checked and typed.

    resume: a run folder to continue, or ``auto``. init_from: a model folder, run or checkpoint whose
    weights a new run begins with.

    project: what a worldflux.toml says beyond the other groups, see worldflux/project/convert.py.
    """

    model: WorldModelConfig
    env: EnvConfig
    data: DataConfig
    training: TrainingConfig
    logger: LoggerConfig
    gameplay: Gameplay = field(default_factory=Gameplay)
    visualization: Visualization = field(default_factory=Visualization)
    project: dict[str, Any] = field(default_factory=dict)
    resume: str | None = None
    init_from: str | None = None

    def __post_init__(self) -> None:
        # Evaluation acts too, so this holds whatever the data source is.
        if getattr(self.model, "actor_critic", True) is False:
            raise ConfigurationError(
                "model.actor_critic must be true: a run acts in its environment"
            )


Group = CheckedConfig | Section
GROUPS: dict[str, type[Group]] = {
    "env": EnvConfig,
    "data": DataConfig,
    "training": TrainingConfig,
    "logger": LoggerConfig,
    "gameplay": Gameplay,
    "visualization": Visualization,
}


@dataclass
class _Composed:
    """The composed configuration as Hydra knows it; the groups bring their own schemas."""

    model: Any = MISSING
    env: Any = MISSING
    data: Any = MISSING
    training: Any = MISSING
    logger: Any = MISSING
    gameplay: Any = MISSING
    visualization: Any = MISSING
    project: dict[str, Any] = field(default_factory=dict)
    resume: str | None = None
    init_from: str | None = None


def keys_of(cls: type) -> list[str]:
    """Keys that a group of this class has in YAML and on the command line."""
    hidden: set[str] = set()
    if issubclass(cls, WorldModelConfig):
        hidden = {"latent_type", "dynamics_type", *cls.inert, *cls.derived}
    return [SPELLING.get(name, name) for name in field_types(cls) if name not in hidden]


def hydra_schema(cls: type, **defaults: str) -> DictConfig:
    """`cls` as a typed node, with its keys spelled as in YAML. defaults: other ones for some keys,
    which may be interpolations or MISSING."""
    return OmegaConf.structured(_spelled(cls, tuple(defaults.items())))


@functools.cache  # nodes of one schema merge only if they have the very same class
def _spelled(cls: Any, other: tuple[tuple[str, str], ...]) -> type:
    annotations: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    keys = keys_of(cls)
    for item in dataclasses.fields(cls):
        key = SPELLING.get(item.name, item.name)
        if key not in keys:
            continue
        annotations[key] = field_types(cls)[item.name]
        factory = item.default_factory
        if factory is not dataclasses.MISSING:
            defaults[key] = field(default_factory=factory)
        else:
            defaults[key] = dict(other).get(key, item.default)
    made = type(cls.__name__, (), {"__annotations__": annotations, **defaults})
    # No generated methods: their source could not name the keyword `import`.
    return dataclass(init=False, repr=False, eq=False)(made)


def model_schema(cls: type[WorldModelConfig]) -> DictConfig:
    """The schema of a family's `model` group: what the environment and the training group decide
    need not stand in its YAML."""
    training = {name: f"${{training.{name}}}" for name in OF_TRAINING}
    return hydra_schema(cls, **dict.fromkeys(FROM_ENVIRONMENT, MISSING), **training)


def composed_schema() -> DictConfig:
    """The schema of the whole configuration; the model's family is still open."""
    schema = OmegaConf.structured(_Composed)
    schema.env = hydra_schema(EnvConfig, id=MISSING)
    for name in ("data", "training", "logger", "gameplay", "visualization"):
        schema[name] = hydra_schema(GROUPS[name])
    return schema


def register(*folders: Path) -> None:
    """Gives Hydra the schemas that `conf/` refers to, and what installed families leave to us.

    folders: more places that options are looked for in.
    """
    store = ConfigStore.instance()
    store.store(name="base_config", node=composed_schema())
    for one in families():
        try:
            store.store(name=f"base_{one.name}", node=model_schema(one.config_class()))
        except Exception as error:  # a type that OmegaConf does not know, for example
            if one in OURS:
                raise
            warn_broken(f"the installed family {one.name!r} has no usable schema: {error!r}")
            continue
        if one not in OURS:
            _register_defaults(one, [conf_dir(), *conf_folders().values(), *folders])
    slurm = hydra_schema(SlurmConfig)
    with open_dict(slurm):
        slurm["_target_"] = "hydra_plugins.worldflux_slurm.SlurmLauncher"
    store.store(name="base_slurm", node=slurm)


def _register_defaults(family: Family, folders: Sequence[Path]) -> None:
    """Options of an installed family for which there is no YAML file."""
    sizes = [{"size": name} for name in size_names(family.model_type, aliases=False)[:1]]
    options: dict[str, dict[str, Any]] = {
        "model": {"defaults": [f"/base_{family.name}@_here_", "_self_", *sizes]},
        "training": {},
        "data": {"prefill_steps": 1_000, "collect_steps_per_update": 1.0},
        "env/dmc": {"action_repeat": 1, "flatten": True},
        "env/pixels": {"frame_stack": 1},
    }
    for group, node in options.items():
        # Hydra would take the node for the schema of a file that has its name.
        if not any((folder / group / f"{family.name}.yaml").is_file() for folder in folders):
            ConfigStore.instance().store(name=family.name, group=group, node=node)


def run_config(cfg: DictConfig) -> RunConfig:
    """The composed configuration, checked and typed.

    Raises ConfigurationError for keys the schema lacks, values that are missing, out of range or
    contradict each other; OmegaConf's own errors for interpolations that lead nowhere.
    """
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    assert isinstance(plain, dict)
    values = {str(key): value for key, value in plain.items()}
    _check_keys("", values, [*(f.name for f in dataclasses.fields(RunConfig))])
    for name, value in values.items():
        if name not in ("resume", "init_from") and not isinstance(value, dict):
            raise ConfigurationError(f"{name} must be a group of options, got {value!r}")
    kind = str(values["model"].get("model_type"))
    if not is_model_type(kind):
        options = ", ".join(one.model_type for one in families())
        raise ConfigurationError(f"model.model_type must be one of {options}; got {kind!r}")
    family = family_of_type(kind).config_class()
    declared = getattr(OmegaConf.get_type(cfg.model), "__name__", "dict")
    if declared not in (family.__name__, "dict"):
        raise ConfigurationError(f"model.model_type cannot be {kind!r} in a {declared}: set model=")
    classes = {**GROUPS, "model": family}
    groups = {name: _typed(name, cls, values[name]) for name, cls in classes.items()}
    rest = {name: values[name] for name in ("project", "resume", "init_from")}
    config = RunConfig(**groups, **rest)  # type: ignore[arg-type]
    _check_together(config)
    return config


def _check_keys(group: str, values: Mapping[str, Any], known: list[str]) -> None:
    prefix = f"{group}." if group else ""
    for key in values:
        if key not in known:
            raise ConfigurationError(unknown_key(f"{prefix}{key}", known))
    for key in known:
        if key not in values:
            text = f"{prefix}{key} is missing: '~' cannot remove what the schema has"
            raise ConfigurationError(text)


def unknown_key(key: str, known: list[str]) -> str:
    """The line for a key that no schema has."""
    group, _, name = key.rpartition(".")
    text = f"unknown key '{key}'"
    close = near_miss(name, known)
    if close:
        return f"{text}.{close}"
    elsewhere = [f"{g}.{name}" for g, cls in all_groups().items() if name in keys_of(cls)]
    if elsewhere:
        return f"{text}. Did you mean: '{elsewhere[0]}'?"
    if len(known) > 12:
        part = "hydra" if group.startswith("hydra") else "job"
        return f"{text}; worldflux-run --cfg {part} shows all there are"
    return f"{text}; {group or 'the top level'} has {', '.join(known)}"


def all_groups() -> dict[str, type[Group]]:
    """Every group with its class; of the families the first."""
    return {"model": DEFAULT.config_class(), **GROUPS}


def _typed(group: str, cls: type[Group], values: dict[str, Any]) -> Group:
    _check_keys(group, values, keys_of(cls))
    given = {}
    for key, value in values.items():
        if value == MISSING:
            if group == "model" and key in FROM_ENVIRONMENT:
                continue
            if (group, key) == ("env", "id") and values["tasks"]:
                continue
            raise ConfigurationError(f"{group}.{key} must be given, e.g. {group}.{key}=...")
        given[{v: k for k, v in SPELLING.items()}.get(key, key)] = value
    try:
        return cls(**given)
    except ConfigurationError as error:
        raise ConfigurationError(in_group(group, cls, str(error))) from None


def in_group(group: str, cls: type, text: str) -> str:
    """A class's complaint with the key as the user writes it."""
    text = re.sub(r"^\[[^\]]*\] ", "", text)
    first = re.match(r"\w+", text)
    if first and first.group() in field_types(cls):
        text = SPELLING.get(first.group(), first.group()) + text[first.end() :]
        return f"{group}.{text}"
    return f"{group}: {text}"


def _check_together(config: RunConfig) -> None:
    model, training, data = config.model, config.training, config.data
    for name in OF_TRAINING:
        if getattr(model, name) != getattr(training, name):
            text = f"model.{name} follows training.{name} in a run; set training.{name}"
            raise ConfigurationError(text)
    if model.dtype != "float32":
        text = "model.dtype is of a model used by itself; a run takes training.mixed_precision=true"
        raise ConfigurationError(f"{text} training.mixed_precision_dtype={model.dtype}")
    if getattr(model, "actor_critic", True) is False:
        raise ConfigurationError("model.actor_critic must be true in a run: it is what acts")
    if config.env.suite == "none":
        _check_without_environment(config)
    elif data.source == "gym":
        _check_capacity(config)
    ratio = data.train_ratio is not None or data.collect_steps_per_update is not None
    if data.source == "gym" and not ratio:
        raise ConfigurationError("data.train_ratio or data.collect_steps_per_update must be given")
    try:
        training.check_supported()
    except ConfigurationError as error:
        raise ConfigurationError(in_group("training", TrainingConfig, str(error))) from None


def _check_without_environment(config: RunConfig) -> None:
    if config.data.source != "random":
        raise ConfigurationError("env=none has nothing to collect from: set data=random")
    for name in ("obs_shape", "action_dim", "action_type"):
        if name not in config.model._given:
            raise ConfigurationError(f"model.{name} must be given with env=none")


def _check_capacity(config: RunConfig) -> None:
    """One batch must fit: a replay that never has enough would be filled for ever."""
    data, training = config.data, config.training
    length = data.consec * training.sequence_length + getattr(config.model, "replay_context", 0)
    rows = length + ceil(training.effective_batch_size() / training.num_envs) - 1
    if data.capacity < rows * training.num_envs:
        text = f"data.capacity must be >= {rows * training.num_envs} for a batch of "
        text += f"{training.effective_batch_size()} sequences of {length} steps"
        if training.num_envs > 1:
            text += f" in {training.num_envs} environments"
        raise ConfigurationError(f"{text}, got {data.capacity}")
