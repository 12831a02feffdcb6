"""Construction, checking, copying, saving and loading that every model configuration shares."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from worldflux.core.fields import (
    check_names,
    coerce_fields,
    field_types,
    json_schema,
    near_miss,
    plain,
)
from worldflux.errors import ConfigurationError

C = TypeVar("C", bound="ConfigBase")
DEVICE = re.compile(r"cpu|cuda(:\d+)?|mps")
# Fields that others are computed from: overriding the first makes the second stale.
_DERIVED = {
    "obs_shape": "observation_modalities",
    "observation_modalities": "obs_shape",
    "action_dim": "action_spec",
    "action_type": "action_spec",
}
_DERIVED_SPEC = ("action_dim", "action_type")


class ConfigBase:
    """A dataclass that knows which of its fields were given and refuses values that cannot act."""

    removed: ClassVar[dict[str, str]] = {}  # names that are no field, and why
    legacy: ClassVar[dict[str, Any]] = {}  # values that old config files hold without having meant
    families: ClassVar[Mapping[str, type[Any]]] = {}
    model_type: str
    model_name: str
    device: str
    _given: ClassVar[frozenset[str]] = frozenset()

    def __new__(cls: type[C], *args: Any, **given: Any) -> C:
        name = given.get("model_name", "unnamed")
        check_names(cls, given, cls.removed, f"[{name}] ")
        self = object.__new__(cls)
        # Not a field: what the user named, so that an environment may fill in the rest.
        self.__dict__["_given"] = frozenset([*field_types(cls)][: len(args)]) | frozenset(given)
        return self

    def __post_init__(self) -> None:
        coerce_fields(self, self.refuse)
        self._validate()

    def refuse(self, text: str) -> ConfigurationError:
        """The error to raise, with this configuration's name in front."""
        return ConfigurationError(f"[{self.model_name}] {text}")

    def _validate(self) -> None:
        raise NotImplementedError

    def _derive(self) -> None:
        """Recomputes fields that always follow from others."""

    def _at_least(self, name: str, least: float) -> None:
        if getattr(self, name) < least:
            raise self.refuse(f"{name} must be >= {least:g}, got {getattr(self, name):g}")

    def _above(self, name: str, bound: float) -> None:
        if getattr(self, name) <= bound:
            raise self.refuse(f"{name} must be > {bound:g}, got {getattr(self, name):g}")

    def _between(self, name: str, low: float, high: float, ends: str) -> None:
        value = getattr(self, name)
        inside = (low <= value if ends[0] == "[" else low < value) and (
            value <= high if ends[1] == "]" else value < high
        )
        if not inside:
            raise self.refuse(
                f"{name} must be in {ends[0]}{low:g}, {high:g}{ends[1]}, got {value:g}"
            )

    def _one_of(self, name: str, options: Sequence[str]) -> None:
        value = getattr(self, name)
        if value not in options:
            raise self.refuse(
                f"{name} must be one of {', '.join(options)}; got {value!r}.{near_miss(value, options)}"
            )

    def _refuse_inert(self, name: str, reason: str) -> None:
        default = type(self).__dataclass_fields__[name].default  # type: ignore[attr-defined]
        if getattr(self, name) != default:
            raise self.refuse(f"{name} does nothing in {type(self).__name__}: {reason}")

    def _check_device(self) -> None:
        if self.device != "auto" and not DEVICE.fullmatch(self.device):
            close = near_miss(self.device, ("auto", "cpu", "cuda", "mps"))
            raise self.refuse(
                f"device must be auto, cpu, cuda, cuda:N or mps; got {self.device!r}.{close}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data: enumerations as text, tuples as lists."""
        self._derive()
        return {name: plain(getattr(self, name)) for name in field_types(type(self))}

    @classmethod
    def from_dict(cls: type[C], data: Mapping[str, Any]) -> C:
        """The inverse of `to_dict`; an unknown key raises UnknownParameterError (a TypeError).

        Values that configurations of other versions hold by default and that do nothing here are
        left out with one warning.
        """
        dropped = [
            key for key, value in cls.legacy.items() if key in data and plain(data[key]) == value
        ]
        if dropped:
            warnings.warn(f"{cls.__name__} ignores {', '.join(dropped)} of this file", stacklevel=2)
        return cls(**{key: value for key, value in data.items() if key not in dropped})

    def save(self, path: str | Path) -> None:
        """Writes indented JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls: type[C], path: str | Path) -> C:
        """The configuration in a model folder or a JSON file, as its family's own class.

        Raises FileNotFoundError, or ConfigurationError for a file that is no configuration.
        """
        file = Path(path)
        if file.is_dir():
            file = file / "config.json"
        if not file.is_file():
            raise FileNotFoundError(f"no model configuration at {file}")
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{file} is not valid JSON: {error}") from None
        return cls._from_saved(data, str(file))

    @classmethod
    def _from_saved(cls: type[C], data: Any, where: str) -> C:
        if not isinstance(data, dict) or "model_type" not in data:
            raise ConfigurationError(f"{where} has no model_type, so it is no model configuration")
        kind = data["model_type"]
        if kind not in cls.families:
            hint = near_miss(str(kind), cls.families)
            raise ConfigurationError(
                f"{where} has the unknown model_type {kind!r}; there are {', '.join(cls.families)}.{hint}"
            )
        family = cls.families[kind]
        if not issubclass(family, cls):
            raise ConfigurationError(
                f"{where} is a {kind!r} configuration, not one for {cls.__name__}"
            )
        try:
            return family.from_dict(data)
        except ConfigurationError as error:
            raise type(error)(f"{where}: {error}") from None

    @classmethod
    def from_yaml(cls: type[C], path: str | Path) -> C:
        """Like `load`, from a YAML file; without model_type it is one of this class."""
        from omegaconf import OmegaConf
        from yaml import YAMLError

        if not Path(path).is_file():
            raise FileNotFoundError(f"no model configuration at {path}")
        try:
            data = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        except YAMLError as error:
            raise ConfigurationError(
                f"{path} is not valid YAML: {' '.join(str(error).split())}"
            ) from None
        default = cls.__dataclass_fields__["model_type"].default  # type: ignore[attr-defined]
        if isinstance(data, dict) and "model_type" not in data:
            data = {"model_type": default, **data}
        return cls._from_saved(data, str(path))

    def with_overrides(self: C, **overrides: Any) -> C:
        """A checked copy with other values; None keeps the present one."""
        check_names(type(self), overrides, self.removed, f"[{self.model_name}] ")
        changed = {key: value for key, value in overrides.items() if value is not None}
        kept = {name: getattr(self, name) for name in field_types(type(self))}
        for name in changed:
            if _DERIVED.get(name) not in changed:
                kept.pop(_DERIVED.get(name, ""), None)
        if "action_spec" in changed:
            kept = {name: value for name, value in kept.items() if name not in _DERIVED_SPEC}
        if "stoch_dim" not in changed:
            kept.pop("stoch_dim", None) if self._stoch_is_derived() else None
        copy = type(self)(**{**kept, **changed})
        copy.__dict__["_given"] = self._given | frozenset(changed)
        return copy

    def _stoch_is_derived(self) -> bool:
        return "stoch_discrete" in field_types(type(self))

    @classmethod
    def merge(cls: type[C], base: C | Mapping[str, Any], *others: Mapping[str, Any]) -> C:
        """`base` with the entries of `others` over it, the last one winning."""
        config = base if isinstance(base, ConfigBase) else cls.from_dict(base)
        for other in others:
            config = config.with_overrides(**other)
        return config  # type: ignore[return-value]

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON schema (Draft 2020-12) of this class's fields."""
        return json_schema(cls, cls.__name__)
