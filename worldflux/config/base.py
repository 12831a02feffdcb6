"""Checking, copying, saving and loading that every configuration dataclass shares."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from worldflux.config.fields import (
    LARGEST_WHOLE,
    coerce,
    field_types,
    json_schema,
    near_miss,
    plain,
    shown,
)
from worldflux.config.files import check_yaml, environment_hidden, read_document
from worldflux.config.options import check, described, limits_schema, rules
from worldflux.errors import ConfigurationError, UnknownParameterError

LARGEST = 1e30  # of numbers: their products are computed in single precision
C = TypeVar("C", bound="CheckedConfig")


class CheckedConfig:
    """A dataclass that checks its fields, and knows which of them the caller named.

    Fields are declared with `option`. Unknown names raise UnknownParameterError with a near miss;
    values that are wrong, or that would do nothing, raise ConfigurationError. A frozen dataclass
    stays so.

    explicit: the fields that the caller named, so that others (an environment) may fill in the rest.
    """

    removed: ClassVar[dict[str, str]] = {}  # names that are no field, and why
    legacy: ClassVar[dict[str, Any]] = {}  # values that old files hold without having meant them
    quoted: ClassVar[bool] = False  # whether the file of such values has its texts in quotes
    largest: ClassVar[int] = LARGEST_WHOLE  # of whole numbers that declare no bound themselves
    explicit: frozenset[str]

    def __new__(cls: type[C], *args: Any, **values: Any) -> C:
        cls._check_names(values, cls._label(values))
        self = object.__new__(cls)
        names = [*field_types(cls)][: len(args)]
        object.__setattr__(self, "explicit", frozenset([*names, *values]))
        return self

    def __post_init__(self) -> None:
        for name, hint in field_types(type(self)).items():
            value, rule = getattr(self, name), rules(type(self))[name]
            value = coerce(value, hint, name, self.refuse)
            if type(value) is int and abs(value) > self.largest and "at_most" not in rule:
                raise self.refuse(name, f"must be within {self.largest:_}, got {shown(value)}")
            if isinstance(value, float) and math.isfinite(value) and abs(value) > LARGEST:
                raise self.refuse(name, f"must be within {LARGEST:g}, got {value:g}")
            if "strip" in rule:
                value = value.strip() or self._default(name)
            if "lower" in rule:
                value = value.lower()
            check(value, rule, name, self.refuse, self.quoted)
            object.__setattr__(self, name, value)
        self._validate()

    def _validate(self) -> None:
        """Checks fields against each other; raises what `refuse` makes."""

    @classmethod
    def _label(cls, values: Mapping[str, Any]) -> str:
        """What stands in front of every complaint."""
        return ""

    @classmethod
    def _default(cls, name: str) -> Any:
        return cls.__dataclass_fields__[name].default  # type: ignore[attr-defined]

    @classmethod
    def _check_names(cls, names: Iterable[str], label: str) -> None:
        known = field_types(cls)
        for name in names:
            if name in cls.removed:
                text, hint = f"{cls.__name__} has no '{name}': {cls.removed[name]}.", ""
            elif name not in known:
                text = f"Unknown parameter '{name}' for {cls.__name__}."
                hint = near_miss(name, known)
            else:
                continue
            raise UnknownParameterError(text, hint=hint).labelled(label)

    def refuse(self, key: str, reason: str, hint: str = "") -> ConfigurationError:
        """The error to raise for a wrong field, or with an empty key for something else."""
        error = ConfigurationError(reason, key=key, hint=hint)
        return error.labelled(self._label(vars(self)))

    def to_dict(self) -> dict[str, Any]:
        """Plain data: enumerations as text, tuples as lists."""
        return {name: plain(getattr(self, name)) for name in field_types(type(self))}

    @classmethod
    def from_dict(cls: type[C], data: Mapping[str, Any]) -> C:
        """The inverse of `to_dict`; an unknown key raises UnknownParameterError (a TypeError).

        Values that files of other versions hold by default and that do nothing here are left out
        with one warning.
        """
        idle = [key for key, value in cls.legacy.items() if plain(data.get(key, ...)) == value]
        if idle:
            text = f"{cls.__name__} ignores the unused {', '.join(idle)}"
            warnings.warn(text, stacklevel=2)
        return cls(**{key: value for key, value in data.items() if key not in idle})

    def save(self, path: str | Path) -> None:
        """Writes indented JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls: type[C], path: str | Path) -> C:
        """Reads a JSON file.

        Raises FileNotFoundError, or ConfigurationError for a file that is no such configuration.
        """
        return cls._from_file(read_json(Path(path)), str(path))

    @classmethod
    def from_yaml(cls: type[C], path: str | Path) -> C:
        """Like `load`, from a YAML file."""
        return cls._from_file(read_yaml(Path(path)), str(path))

    @classmethod
    def _from_file(cls: type[C], data: object, where: str) -> C:
        if not isinstance(data, dict):
            raise ConfigurationError(f"{where} holds no configuration of names and values")
        try:
            return cls.from_dict(data)
        except ConfigurationError as error:
            raise error.labelled(f"{where}: ") from None

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON schema (Draft 2020-12) of this class's fields."""
        limits = {name: limits_schema(rule) for name, rule in rules(cls).items()}
        return json_schema(cls, limits, {n: described(rule) for n, rule in rules(cls).items()})


def read_json(path: Path) -> Any:
    """The content of a JSON file; FileNotFoundError or ConfigurationError."""
    if not path.is_file():
        raise FileNotFoundError(f"no configuration at {path}")
    try:
        return read_document(path)
    except ValueError as error:
        raise ConfigurationError(f"{path} is not valid JSON: {error}") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file as Hydra reads it; FileNotFoundError or ConfigurationError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if not path.is_file():
        raise FileNotFoundError(f"no configuration at {path}")
    try:
        check_yaml(path)
        with environment_hidden():
            return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not valid: {' '.join(str(error).split())}") from None
