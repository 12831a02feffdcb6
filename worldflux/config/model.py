"""The fields that every model family has, and how a configuration meets an environment."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from worldflux.config.base import CheckedConfig, read_json, read_yaml
from worldflux.config.fields import coerce, field_types, near_miss
from worldflux.config.modalities import (
    action_spaces_from,
    action_spec_of,
    action_type_of,
    complete_modalities,
    modalities_of,
    primary_shape,
    simple_action_spaces,
    spaces_of,
)
from worldflux.config.options import DEVICE, ENVIRONMENT, option
from worldflux.config.presets import size_fields
from worldflux.config.spaces import Space, Task, flat_action_dim
from worldflux.config.targets import no_target
from worldflux.errors import ConfigurationError
from worldflux.models.families import families, family_of_type, is_model_type

W = TypeVar("W", bound="WorldModelConfig")
LAYERS = 1_000  # of a network, and the like: each is made one after another
DTYPES = ("float32", "float16", "bfloat16")
ACTION_TYPES = ("continuous", "discrete", "hybrid")


class LatentType(str, Enum):
    DETERMINISTIC = "deterministic"
    GAUSSIAN = "gaussian"
    CATEGORICAL = "categorical"
    VQ = "vq"
    SIMNORM = "simnorm"


class DynamicsType(str, Enum):
    RSSM = "rssm"
    MLP = "mlp"
    TRANSFORMER = "transformer"
    SSM = "ssm"


def _not_built(action_type: str) -> str | None:
    if action_type not in ("none", "token", "latent", "text"):  # of other packages of this format
        return None
    return f"{action_type!r} is not built; there are {', '.join(ACTION_TYPES)}"


@dataclass
class WorldModelConfig(CheckedConfig):
    """Fields that every family has, checked on construction.

    Every complaint is a ConfigurationError that begins with `[model_name] `.
    """

    # Whether the shape of an observation must be given where no environment tells it.
    needs_obs_shape: ClassVar[bool] = False
    shortest_sequence: ClassVar[int] = 1  # that a batch may have
    largest: ClassVar[int] = 2**20  # a matrix of this width has a terabyte
    # Fields whose value follows from others unless it is given.
    derived: ClassVar[tuple[str, ...]] = ()
    # Keys of a run -> what the family's official code calls them; several stand for one of ours.
    official_names: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    # Fields of the common set that do nothing in a family, and why: other values are refused.
    inert: ClassVar[dict[str, str]] = {}
    # Parts in whose place one of the user's own can stand, and the tensors that a loss term may take.
    parts: ClassVar[tuple[str, ...]] = ()
    tensors: ClassVar[tuple[str, ...]] = ()
    # Beginnings of the names of weights that a model may begin without, fresh: see `of_weights`.
    optional: ClassVar[tuple[str, ...]] = ()

    model_type: str = option(
        "base", help="The family, as saved configurations name it; model= chooses it."
    )
    model_name: str = option(
        "unnamed", help="Name of the size preset, or of the model, for reports."
    )
    obs_shape: tuple[int, ...] = option(
        (3, 64, 64),
        at_least=1,
        at_most=2**20,
        follows=ENVIRONMENT,
        help="Shape of the only observation key, images channels first (C, H, W); with several keys that of the first image by name, else of the first key. Read off the environment.",
    )
    action_dim: int = option(
        6,
        at_least=1,
        follows=ENVIRONMENT,
        help="Width of the flat action, or the number of choices if discrete. Read off the environment.",
    )
    action_type: str = option(
        "continuous",
        check=_not_built,
        choices=ACTION_TYPES,
        follows=ENVIRONMENT,
        help="continuous, discrete or hybrid (several parts). Read off the environment.",
    )
    observation_modalities: dict[str, Any] = option(
        factory=dict,
        help="Observation keys: name -> {shape, kind, dtype, classes}; one key obs unless given. Read off the environment.",
    )
    action_spec: dict[str, Any] = option(
        factory=dict,
        help="Parts of the action: {kind, dim, discrete, num_actions, keys}; keys describes multi-discrete and named actions. Read off the environment.",
    )
    latent_type: LatentType = option(
        LatentType.DETERMINISTIC, help="Kind of the latent state; the family decides it."
    )
    latent_dim: int = option(256, at_least=1, help="Width of the latent state.")
    deter_dim: int = option(256, at_least=1, help="Width of the deterministic recurrent state.")
    stoch_dim: int = option(32, at_least=1, help="Width of the stochastic state.")
    dynamics_type: DynamicsType = option(
        DynamicsType.MLP, help="Kind of the dynamics; the family decides it."
    )
    hidden_dim: int = option(
        512, at_least=1, help="Width of the hidden layers; the first knob of a model's size."
    )
    learning_rate: float = option(
        3e-4,
        above=0,
        follows="training.learning_rate",
        help="Step size of a Trainer that is given no TrainingConfig; in a run it follows training.learning_rate.",
    )
    grad_clip: float = option(
        100.0,
        at_least=0,
        follows="training.grad_clip",
        help="Global gradient norm of a Trainer that is given no TrainingConfig; in a run it follows training.grad_clip.",
    )
    device: str = option(
        "cuda",
        pattern=DEVICE,
        follows="training.device",
        help="Where a model made from this configuration lives; in a run it follows training.device.",
    )
    dtype: str = option(
        "float32",
        choices=DTYPES,
        help="Type in which encode, transition, update, decode and loss compute; parameters stay float32. A run takes training.mixed_precision instead.",
    )

    components: dict[str, Any] = option(
        factory=dict,
        help="Networks of your own in the place of the family's, by the part's name: {_target_: module.Class, ARGUMENT: value}; see docs/parts.md.",
    )
    losses: dict[str, Any] = option(
        factory=dict,
        help="Loss terms of your own, by a name of yours: {_target_: module.function, scale: 1.0, ARGUMENT: value}; see docs/loss.md.",
    )

    @classmethod
    def from_size(cls: type[W], size: str, **overrides: Any) -> W:
        """A preset of `conf/model/size`, with `overrides` over it.

        Raises UnknownPresetError (a ValueError) for a size that this family does not have.
        """
        return cls(**{**size_fields(str(cls._default("model_type")), size), **overrides})

    def of_weights(self: W, names: Collection[str]) -> W:
        """The configuration of a model that has the weights `names`: training may have added parts
        which the one that it began with lacks."""
        return self

    def obs_spaces(self) -> dict[str, Space]:
        """Observation keys and their spaces, in the order they were declared."""
        return spaces_of(self.observation_modalities)

    def action_spaces(self) -> dict[str, Space]:
        """Action keys and their spaces."""
        return action_spaces_from(self.action_spec)

    def with_spaces(
        self: W,
        obs_spaces: Mapping[str, Space],
        action_spaces: Mapping[str, Space],
        tasks: Sequence[Task] = (),
    ) -> W:
        """A copy for the spaces of an environment.

        What was given explicitly stays; ConfigurationError where the environment contradicts it.
        tasks: those of a multi-task environment, for families that treat them in their own way; to
        others the task is one more observation.
        """
        return self._with(self._fields_of(obs_spaces, action_spaces), explicit=self.explicit)

    def _fields_of(
        self, obs_spaces: Mapping[str, Space], action_spaces: Mapping[str, Space]
    ) -> dict[str, Any]:
        """The fields that follow from spaces; ConfigurationError for a contradiction."""
        modalities = modalities_of(obs_spaces)
        fields = {
            "obs_shape": primary_shape(modalities),
            "observation_modalities": modalities,
            "action_dim": flat_action_dim(action_spaces),
            "action_type": action_type_of(action_spaces),
            "action_spec": action_spec_of(action_spaces),
        }
        self._check_explicit(fields, "the environment has")
        return fields

    def _check_explicit(self, values: Mapping[str, Any], source: str) -> None:
        """Refuses what the caller named and something else contradicts."""
        for name, value in values.items():
            if name in self.explicit and getattr(self, name) != value:
                raise self.refuse(name, f"is {getattr(self, name)!r}, but {source} {value!r}")

    def with_overrides(self: W, **overrides: Any) -> W:
        """A checked copy with other values; None keeps the present one."""
        self._check_names(overrides, self._label(vars(self)))
        changed = {name: value for name, value in overrides.items() if value is not None}
        return self._with(changed, explicit=self.explicit | frozenset(changed))

    def _with(self: W, changed: Mapping[str, Any], explicit: frozenset[str]) -> W:
        stale = set(self.derived)
        if "obs_shape" in changed:
            stale.add("observation_modalities")
        if "observation_modalities" in changed:
            stale.add("obs_shape")
        if {"action_dim", "action_type"} & changed.keys():
            stale.add("action_spec")
        if "action_spec" in changed:
            stale |= {"action_dim", "action_type"}
        kept = {n: getattr(self, n) for n in field_types(type(self)) if n not in stale}
        copy = type(self)(**{**kept, **changed})
        copy.explicit = explicit
        return copy

    @classmethod
    def merge(cls: type[W], base: W | Mapping[str, Any], *others: Mapping[str, Any]) -> W:
        """`base` with the entries of `others` over it, the last one winning."""
        config = base if isinstance(base, WorldModelConfig) else cls.from_dict(base)
        for other in others:
            config = config.with_overrides(**other)
        return config

    @classmethod
    def load(cls: type[W], path: str | Path) -> W:
        """The configuration in a model folder or a JSON file, as its family's own class.

        Raises FileNotFoundError, or ConfigurationError for a file that is no model configuration.
        """
        path = Path(path)
        file = path / "config.json" if path.is_dir() else path
        hint = (
            f"of a run or a checkpoint, worldflux.load_model({str(path)!r}).config is the model's"
        )
        if path.is_dir() and not file.is_file():
            raise FileNotFoundError(f"no configuration at {file}; {hint}")
        if path.is_file() and not path.suffix:  # such as checkpoints/best
            raise ConfigurationError(f"{path} is no configuration", hint=hint)
        return cls._from_file(read_json(file), str(file))

    @classmethod
    def from_yaml(cls: type[W], path: str | Path) -> W:
        """Like `load`, from a YAML file; without a model_type it is one of this class."""
        data = read_yaml(Path(path))
        if isinstance(data, dict):
            data = {"model_type": cls._default("model_type"), **data}
        return cls._from_file(data, str(path))

    @classmethod
    def _from_file(cls: type[W], data: object, where: str) -> W:
        if not isinstance(data, dict) or "model_type" not in data:
            raise ConfigurationError(f"{where} has no model_type, so it is no model configuration")
        kind = str(data["model_type"])
        if kind == cls._default("model_type"):
            family: type[WorldModelConfig] = cls
        elif is_model_type(kind):
            family = family_of_type(kind).config_class()
        else:
            options = [one.model_type for one in families()]
            text = f"{where} has the unknown model_type {kind!r}; there are {', '.join(options)}."
            raise ConfigurationError(text, hint=near_miss(kind, options))
        if not issubclass(family, cls):
            raise ConfigurationError(f"{where} is a {kind!r} configuration, not a {cls.__name__}")
        return super(WorldModelConfig, family)._from_file(data, where)

    @classmethod
    def _label(cls, values: Mapping[str, Any]) -> str:
        return f"[{values.get('model_name', 'unnamed')}] "

    def _validate(self) -> None:
        self._check_family()
        self._check_own_code()
        self._fill_observations()
        self._fill_actions()

    def _check_family(self) -> None:
        if type(self) is WorldModelConfig:
            return
        for name in ("model_type", "latent_type", "dynamics_type"):
            value, fixed = getattr(self, name), self._default(name)
            if value != fixed:
                value, fixed = getattr(value, "value", value), getattr(fixed, "value", fixed)
                raise self.refuse(name, f"of {type(self).__name__} is {fixed!r}, got {value!r}")
        for name, reason in self.inert.items():
            if getattr(self, name) != self._default(name):
                raise self.refuse(name, f"does nothing in {type(self).__name__}: {reason}")

    def _check_own_code(self) -> None:
        for name, entry in self.components.items():
            if name not in self.parts:
                text = f"has no {name!r}, only {', '.join(self.parts) or 'no part'}."
                raise self.refuse("components", text, near_miss(name, self.parts))
            if wrong := no_target(entry):
                raise self.refuse(f"components.{name}", wrong)
        for name, entry in self.losses.items():
            if not self.tensors:
                raise self.refuse("losses", f"are not built for {type(self).__name__}")
            if not name.isidentifier():
                raise self.refuse("losses", f"must have names of letters and digits, got {name!r}")
            if wrong := no_target(entry):
                raise self.refuse(f"losses.{name}", wrong)
            coerce(entry.get("scale", 1.0), float, f"losses.{name}.scale", self.refuse)

    def _fill_observations(self) -> None:
        shape = self.obs_shape
        if not self.observation_modalities:
            self.explicit -= {"observation_modalities"}
        try:
            described = self.observation_modalities or {"obs": {"shape": shape}}
            self.observation_modalities = complete_modalities(described)
        except ConfigurationError as error:
            raise error.labelled(self._label(vars(self))) from None
        primary = primary_shape(self.observation_modalities)
        self._check_explicit({"obs_shape": primary}, "observation_modalities make it")
        self.obs_shape = primary
        if len(shape) == 3 and shape[-1] in (1, 3, 4) and shape[0] > 4:
            text = f"obs_shape {shape} looks like (H, W, C), but images are (C, H, W)"
            warnings.warn(self._label(vars(self)) + text, stacklevel=2)

    def _fill_actions(self) -> None:
        if not self.action_spec:
            self.explicit -= {"action_spec"}
        if not self.action_spec and self.action_type == "hybrid":
            text = "'hybrid' needs action_spec.keys, one entry for each key"
            raise self.refuse("action_type", text)
        try:
            spaces = (
                action_spaces_from(self.action_spec)
                if self.action_spec
                else simple_action_spaces(self.action_type, self.action_dim)
            )
        except ConfigurationError as error:
            raise error.labelled(self._label(vars(self))) from None
        dim, kind = flat_action_dim(spaces), action_type_of(spaces)
        self._check_explicit({"action_dim": dim, "action_type": kind}, "action_spec makes it")
        self.action_dim, self.action_type = dim, kind
        self.action_spec = action_spec_of(spaces)
