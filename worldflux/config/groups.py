"""The one table of a run's groups: the fields of RunConfig and of the groups' classes.

What differs by group or key is declared at its field, with `option`; everything else that knows
groups asks here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from worldflux.config.base import CheckedConfig
from worldflux.config.data import DataConfig
from worldflux.config.env import EnvConfig
from worldflux.config.fields import field_types, near_miss
from worldflux.config.loggers import LoggerConfig, RunLabels
from worldflux.config.model import WorldModelConfig
from worldflux.config.options import option, rules
from worldflux.config.page import Gameplay, Visualization
from worldflux.config.slurm import GROUP as LAUNCHER
from worldflux.config.slurm import SlurmConfig
from worldflux.config.targets import no_target
from worldflux.config.training import TrainingConfig
from worldflux.errors import ConfigurationError
from worldflux.models.families import DEFAULT, families

# Python cannot name a field `import`; YAML and the command line can.
SPELLING = {"import_module": "import"}
FIELDS = {key: name for name, key in SPELLING.items()}
CALLBACKS = "callbacks"  # a group whose keys are the user's own
EXPERIMENT = "experiment"  # recipes over all groups: an option of none, added with a plus


@dataclass
class RunConfig:
    """One run, checked and typed."""

    model: WorldModelConfig = option(
        folders=("model", "model/size"),
        help="The family of the model, its size and every one of its fields.",
    )
    env: EnvConfig = option(
        folders=("env",),
        help="Which environment, and how its observations and actions are prepared.",
    )
    data: DataConfig = option(
        folders=("data",), help="Where experience comes from, and how much of it each update uses."
    )
    training: TrainingConfig = option(
        folders=("training",), help="Length, batches, optimizer, seed, evaluation and saving."
    )
    logger: LoggerConfig = option(
        folders=("logger",), machine=True, help="Where metrics go besides metrics.jsonl."
    )
    run: RunLabels = option(
        factory=RunLabels, folders=(), machine=True, help="Name, group, tags and notes of the run."
    )
    gameplay: Gameplay = option(
        factory=Gameplay,
        folders=("dashboard",),
        machine=True,
        help="Frames of the environment on the live page.",
    )
    visualization: Visualization = option(
        factory=Visualization, folders=("dashboard",), machine=True, help="The live page of a run."
    )
    callbacks: dict[str, Any] = option(
        factory=dict,
        folders=("callbacks",),
        resumable=True,
        help="Callbacks of your own, by a name of yours: {_target_: module.Class, ARGUMENT: value}; see docs/callbacks.md.",
    )
    project: dict[str, Any] = option(
        factory=dict,
        machine=True,
        help="What a worldflux.toml says beyond the other groups; worldflux train and convert write it.",
    )
    resume: str | None = option(
        None,
        help="Run folder to continue, or auto: this configuration's newest unfinished run, else a new one.",
    )
    init_from: str | None = option(
        None,
        help="Model folder, run or checkpoint whose weights a new run begins with; everything else is fresh.",
    )

    def __post_init__(self) -> None:
        for name in ("resume", "init_from"):
            if getattr(self, name) == "":
                raise ConfigurationError("must name a folder, got an empty text", key=name)
        for name, entry in self.callbacks.items():
            if text := no_target(entry):
                raise ConfigurationError(text, key=f"callbacks.{name}")
        # Evaluation acts too, so this holds whatever the data source is.
        if getattr(self.model, "actor_critic", True) is False:
            text = "must be true: a run acts in its environment"
            raise ConfigurationError(text, key="model.actor_critic")


TOP = tuple(field_types(RunConfig))
# Group -> its class; of the model what all families have.
GROUPS: dict[str, type[CheckedConfig]] = {
    name: field_types(RunConfig)[name]
    for name, rule in rules(RunConfig).items()
    if "folders" in rule and name != CALLBACKS
}
# What GROUP=OPTION chooses: the folders of `conf/`.
CHOICES = tuple(
    dict.fromkeys(
        folder for rule in rules(RunConfig).values() for folder in rule.get("folders", ())
    )
)
MACHINE_GROUPS = tuple(name for name, rule in rules(RunConfig).items() if "machine" in rule)
MACHINE_TRAINING = tuple(n for n, rule in rules(TrainingConfig).items() if "machine" in rule)
# Keys of the model group that repeat those of the training group.
OF_TRAINING = tuple(
    name
    for name, rule in rules(WorldModelConfig).items()
    if rule.get("follows") == f"training.{name}"
)


def schemas(model: type[WorldModelConfig] | None = None) -> dict[str, type[CheckedConfig]]:
    """Every group with its class. The model's is by default the first family's, and stands last as
    it repeats keys of the others."""
    others = {name: cls for name, cls in GROUPS.items() if name != "model"}
    return {**others, "model": model or DEFAULT.config_class()}


def keys_of(cls: type) -> list[str]:
    """Keys that a group of this class has in YAML and on the command line."""
    hidden: set[str] = set()
    if issubclass(cls, WorldModelConfig):
        hidden = {"latent_type", "dynamics_type", *cls.inert, *cls.derived}
    return [SPELLING.get(name, name) for name in field_types(cls) if name not in hidden]


def free_mappings() -> set[str]:
    """Mappings whose keys are the user's own: they have no schema, and can be added and removed."""
    classes: list[tuple[str, type]] = [("", RunConfig), (LAUNCHER, SlurmConfig), *GROUPS.items()]
    classes += [("model", one.config_class()) for one in families()]
    return {f"{group}.{name}".lstrip(".") for group, cls in classes for name in _mappings(cls)}


def _mappings(cls: type) -> Iterator[str]:
    return (
        name for name, hint in field_types(cls).items() if getattr(hint, "__origin__", 0) is dict
    )


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a configuration as plain data, by key as the user writes it; a mapping whose
    keys are the user's own is one value."""
    free = free_mappings()
    for name, value in tree.items():
        key = f"{prefix}{SPELLING.get(name, name)}"
        if isinstance(value, dict) and key not in free:
            yield from leaves(value, f"{key}.")
        else:
            yield key, value


def is_machine(key: str) -> bool:
    """Whether a key, or the choice of an option, says only where or how a job runs and what it
    writes beside its results: it makes no other job, cannot be swept, and may change on resume."""
    return re.split(r"[./]", key)[0] == "hydra" or _declares(key, "machine")


def may_change(key: str) -> bool:
    """Whether a key may have another value when a run is resumed: how far, where and how it is
    computed, what is measured and written. Everything else would make it another run."""
    return _declares(key, "resumable") or _declares(key, "machine")


def _declares(key: str, trait: str) -> bool:
    root, *rest = key.split(".")
    for name, rule in rules(RunConfig).items():
        if root == name or root in rule.get("folders", ()):
            field = FIELDS.get(rest[0], rest[0]) if rest else ""
            classes = [GROUPS[name]] if name in GROUPS else []
            if name == "model":
                classes += [family.config_class() for family in families()]
            if trait in rule or any(trait in rules(cls).get(field, ()) for cls in classes):
                return True
    return False


def unknown_key(key: str, known: list[str]) -> ConfigurationError:
    """The mistake of a key that no schema has."""
    name, where = key.rpartition(".")[2], key.rpartition(".")[0]
    text = f"unknown key '{key}'"
    if close := near_miss(name, known):
        return ConfigurationError(f"{text}.", hint=close)
    for other, cls in schemas().items():
        if name in keys_of(cls):
            return ConfigurationError(f"{text}.", hint=f"Did you mean: '{other}.{name}'?")
    if len(known) > 12:
        part = "hydra" if where.startswith("hydra") else "job"
        return ConfigurationError(text, hint=f"worldflux-run --cfg {part} shows all there are")
    return ConfigurationError(text, hint=f"{where or 'the top level'} has {', '.join(known)}")
