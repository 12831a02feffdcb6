"""What Hydra composes: the schemas of all groups, and the checked run that a composition is."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, BooleanNode, DictConfig, OmegaConf, open_dict
from omegaconf.errors import ValidationError

from worldflux.config.base import CheckedConfig
from worldflux.config.data import COLLECTING
from worldflux.config.fields import field_types, per_class
from worldflux.config.groups import (
    CALLBACKS,
    FIELDS,
    GROUPS,
    OF_TRAINING,
    SPELLING,
    TOP,
    RunConfig,
    keys_of,
    schemas,
    unknown_key,
)
from worldflux.config.options import ENVIRONMENT, USER, rules
from worldflux.config.presets import conf_dir, size_names
from worldflux.config.slurm import SlurmConfig
from worldflux.errors import ConfigurationError
from worldflux.models.families import (
    OURS,
    Family,
    conf_folders,
    families,
    family_of_type,
    is_model_type,
    warn_broken,
)

__all__ = ["RunConfig", "composed_schema", "hydra_schema", "keys_of", "register", "run_config"]

JSON = "worldflux.json"  # a resolver, for mappings that no override can spell
OmegaConf.register_new_resolver(JSON, lambda text: json.loads(unquote(text)), replace=True)


def _fact(env_id: str, of: str, value: Any, otherwise: Any = None) -> Any:
    """A value that holds for one task, or one choice: `value` where env_id names it (also as
    ``module:Id`` or without version), else `otherwise`."""
    name = str(env_id).rpartition(":")[2]
    return value if name in (of, of.rpartition("-v")[0]) else otherwise


OmegaConf.register_new_resolver("fact", _fact, replace=True)


@per_class  # nodes of one schema merge only if they have the very same class
def _spelled(cls: type) -> type:
    """A class's fields with their keys spelled as in YAML. What another key, the environment or the
    user decides in a run has no default of its own; a group brings its own schema."""
    annotations: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for item in dataclasses.fields(cls):
        key, rule = SPELLING.get(item.name, item.name), rules(cls)[item.name]
        if key not in keys_of(cls):
            continue
        hint = field_types(cls)[item.name]
        # OmegaConf takes any number for a bool; the group's class does not.
        of_group = isinstance(hint, type) and issubclass(hint, CheckedConfig)
        annotations[key] = Any if of_group or hint is bool else hint
        if of_group or rule.get("follows") in (ENVIRONMENT, USER):
            defaults[key] = MISSING
        elif "follows" in rule:
            defaults[key] = f"${{{rule['follows']}}}"
        elif item.default_factory is not dataclasses.MISSING:
            defaults[key] = dataclasses.field(default_factory=item.default_factory)
        else:
            defaults[key] = item.default
    made = type(cls.__name__, (), {"__annotations__": annotations, **defaults})
    # No generated methods: their source could not name the keyword `import`.
    node: type = dataclasses.dataclass(init=False, repr=False, eq=False)(made)
    if issubclass(cls, CheckedConfig):
        _DECLARED[node] = cls
    return node


_DECLARED: dict[type, type[CheckedConfig]] = {}


def declared_by(node: object) -> type[CheckedConfig] | None:
    """The group's class whose schema a type of OmegaConf's nodes is; None: it is of none."""
    return _DECLARED.get(node) if isinstance(node, type) else None


def hydra_schema(cls: type) -> DictConfig:
    """A group's class as a typed node."""
    return OmegaConf.structured(_spelled(cls))


def composed_schema(model: type[CheckedConfig] | None = None) -> DictConfig:
    """The schema of the whole configuration. model: the family's class; None leaves it open."""
    schema = hydra_schema(RunConfig)
    for name, cls in GROUPS.items():
        if name != "model":
            schema[name] = hydra_schema(cls)
    if model is not None:
        schema.model = hydra_schema(model)
    return schema


# Hydra's store copies what it is given and what it gives.
_stored = per_class(hydra_schema)
_stored_whole = functools.cache(composed_schema)


def register(*folders: Path) -> None:
    """Gives Hydra the schemas that `conf/` refers to, and what installed families leave to us.

    folders: more places that options are looked for in.
    """
    store = ConfigStore.instance()
    store.store(name="base_config", node=_stored_whole())
    for one in families():
        try:
            store.store(name=f"base_{one.name}", node=_stored(one.config_class()))
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
        "data/mixed": {"prefill_steps": 1_000, "collect_steps_per_update": 1.0},
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
    _check_keys("", values, list(TOP))
    for name in (*GROUPS, CALLBACKS, "project"):
        if not isinstance(values[name], dict):
            raise ConfigurationError(f"must be a group of options, got {values[name]!r}", key=name)
    kind = str(values["model"].get("model_type"))
    if not is_model_type(kind):
        options = ", ".join(one.model_type for one in families())
        raise ConfigurationError(f"must be one of {options}; got {kind!r}", key="model.model_type")
    family = family_of_type(kind).config_class()
    chosen = declared_by(OmegaConf.get_type(cfg.model))
    if chosen is not None and chosen is not family:
        text = f"cannot be {kind!r} in a {chosen.__name__}: set model="
        raise ConfigurationError(text, key="model.model_type")
    typed = {name: _typed(name, cls, values[name]) for name, cls in schemas(family).items()}
    config = RunConfig(**{**values, **typed})
    _check_together(config)
    if config.training.eval_interval == 0 and config.resume is None:
        # That of a task's own file waits for an evaluation, as it may for one that comes on resume.
        if config.env.solved_return is not None and not OmegaConf.is_interpolation(
            cfg.env, "solved_return"
        ):
            text = "needs evaluations, and training.eval_interval=0 switches them off"
            raise ConfigurationError(text, key="env.solved_return")
    return config


def _check_keys(group: str, values: Mapping[str, Any], known: list[str]) -> None:
    prefix = f"{group}." if group else ""
    for key in values:
        if key not in known:
            raise unknown_key(f"{prefix}{key}", known)
    for key in known:
        if key not in values:
            text = "is missing: neither '~' nor a primary configuration may leave it out"
            raise ConfigurationError(text, key=f"{prefix}{key}")


def _typed(group: str, cls: type[CheckedConfig], values: dict[str, Any]) -> CheckedConfig:
    _check_keys(group, values, keys_of(cls))
    explicit = {}
    for key, value in values.items():
        name = FIELDS.get(key, key)
        if value != MISSING:
            explicit[name] = _boolean(value) if field_types(cls)[name] is bool else value
        elif rules(cls)[name].get("follows") != ENVIRONMENT and not (
            (group, key) == ("env", "id") and values["tasks"]
        ):
            raise ConfigurationError(f"must be given, e.g. {group}.{key}=...", key=f"{group}.{key}")
    try:
        return cls(**explicit)
    except ConfigurationError as error:
        raise error.within(group, SPELLING) from None


def _boolean(value: Any) -> Any:
    """A text of YAML for true or false, as a variable of the environment may hold it."""
    with suppress(ValidationError):
        return BooleanNode().validate_and_convert(value) if isinstance(value, str) else value
    return value


def _check_together(config: RunConfig) -> None:
    model, training, data = config.model, config.training, config.data
    if training.sequence_length < model.shortest_sequence:
        text = f"must be >= {model.shortest_sequence} for {model.model_type}"
        key = "training.sequence_length"
        raise ConfigurationError(f"{text}, got {training.sequence_length}", key=key)
    for name in OF_TRAINING:
        if getattr(model, name) != getattr(training, name):
            text, hint = f"follows training.{name} in a run", f"set training.{name}"
            raise ConfigurationError(text, key=f"model.{name}", hint=hint)
    if model.dtype != "float32":
        text = "is of a model used by itself; a run takes training.mixed_precision=true"
        text = f"{text} training.mixed_precision_dtype={model.dtype}"
        raise ConfigurationError(text, key="model.dtype")
    if config.env.suite == "none":
        _check_without_environment(config)
    elif data.source in COLLECTING:
        _check_capacity(config)
        _check_prefill(config)
        _check_ratio(config)
    if data.source == "mixed" and training.effective_batch_size() < 2 * training.nproc:
        text = "must be 2 or more: one collected and one recorded sequence"
        raise ConfigurationError(text, key="training.batch_size")
    if data.source == "dataset" and training.env_steps is not None:
        text = "counts steps in an environment, and data=dataset takes none"
        raise ConfigurationError(text, key="training.env_steps", hint="set training.total_steps")
    ratio = data.train_ratio is not None or data.collect_steps_per_update is not None
    if data.source in COLLECTING and not ratio:
        text = "or data.collect_steps_per_update must be given"
        raise ConfigurationError(text, key="data.train_ratio")
    try:
        training.check_supported()
    except ConfigurationError as error:
        raise error.within("training") from None


def _check_without_environment(config: RunConfig) -> None:
    if config.data.source == "dataset":
        return
    if config.data.source != "random":
        text = "=none has nothing to collect from: set data=random, or data=dataset"
        raise ConfigurationError(text, key="env")
    for name in ("obs_shape", "action_dim", "action_type"):
        if name not in config.model.explicit:
            raise ConfigurationError("must be given with env=none", key=f"model.{name}")


def _check_prefill(config: RunConfig) -> None:
    """What is collected before the first update is kept, and is not the whole run."""
    data, limit = config.data, config.training.env_steps
    for key, bound in (("data.capacity", data.capacity), ("training.env_steps", limit)):
        if bound is not None and bound < data.prefill_steps:
            text = f"must be >= data.prefill_steps ({data.prefill_steps}), got {bound}"
            raise ConfigurationError(text, key=key)


def _check_ratio(config: RunConfig) -> None:
    """What is collected from one update to the next is not forgotten before it."""
    data, training = config.data, config.training
    key, steps = "collect_steps_per_update", data.collect_steps_per_update
    if data.train_ratio is not None:
        batch = training.effective_batch_size() * training.sequence_length
        key, steps = "train_ratio", batch / data.train_ratio
    if steps is not None and steps > data.capacity:
        text = f"means {steps:g} environment steps for each update"
        raise ConfigurationError(f"{text}, and data.capacity is {data.capacity}", key=f"data.{key}")


def _check_capacity(config: RunConfig) -> None:
    """One batch must fit: a replay that never has enough would be filled for ever."""
    data, training = config.data, config.training
    length = data.consec * training.sequence_length + getattr(config.model, "replay_context", 0)
    rows = length + ceil(training.effective_batch_size() / training.num_envs) - 1
    if data.capacity < rows * training.num_envs:
        text = f"must be >= {rows * training.num_envs} for a batch of "
        text += f"{training.effective_batch_size()} sequences of {length} steps"
        if training.num_envs > 1:
            text += f" in {training.num_envs} environments"
        raise ConfigurationError(f"{text}, got {data.capacity}", key="data.capacity")
