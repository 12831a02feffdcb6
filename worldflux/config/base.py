"""Checking, copying, saving and loading that every configuration dataclass shares."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from worldflux.config.fields import (
    check_names,
    coerce_fields,
    field_types,
    json_schema,
    near_miss,
    plain,
)
from worldflux.errors import ConfigurationError

C = TypeVar("C", bound="CheckedConfig")
DEVICES = ("auto", "cpu", "cuda", "mps")
DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]+)?")


class CheckedConfig:
    """A dataclass that checks its fields, and knows which of them were given.

    Unknown names raise UnknownParameterError with a near miss; values that are wrong, or that would
    do nothing, raise ConfigurationError.
    """

    removed: ClassVar[dict[str, str]] = {}  # names that are no field, and why
    legacy: ClassVar[dict[str, Any]] = {}  # values that old files hold without having meant them
    _given: frozenset[str]

    def __new__(cls: type[C], *args: Any, **given: Any) -> C:
        check_names(cls, given, cls.removed, cls._label(given))
        self = object.__new__(cls)
        # What the caller named, so that others (an environment) may fill in the rest.
        self._given = frozenset([*field_types(cls)][: len(args)]) | frozenset(given)
        return self

    def __post_init__(self) -> None:
        coerce_fields(self, self.refuse)
        self._validate()

    def _validate(self) -> None:
        """Checks all fields against each other; raises `refuse(text)`."""

    @classmethod
    def _label(cls, values: Mapping[str, Any]) -> str:
        """What stands in front of every complaint."""
        return ""

    def refuse(self, text: str) -> ConfigurationError:
        """The error to raise for a wrong value."""
        return ConfigurationError(self._label(vars(self)) + text)

    def _at_least(self, least: float, *names: str) -> None:
        for name in names:
            if getattr(self, name) < least:
                raise self.refuse(f"{name} must be >= {least:g}, got {getattr(self, name):g}")

    def _above(self, bound: float, *names: str) -> None:
        for name in names:
            if getattr(self, name) <= bound:
                raise self.refuse(f"{name} must be > {bound:g}, got {getattr(self, name):g}")

    def _between(self, name: str, low: float, high: float, ends: str) -> None:
        """The value must lie in the interval whose brackets are `ends`; None passes."""
        value = getattr(self, name)
        if value is None:
            return
        above = low <= value if ends[0] == "[" else low < value
        below = value <= high if ends[1] == "]" else value < high
        if not (above and below):
            interval = f"{ends[0]}{low:g}, {high:g}{ends[1]}"
            raise self.refuse(f"{name} must be in {interval}, got {value:g}")

    def _one_of(self, name: str, options: Sequence[str]) -> None:
        value = getattr(self, name)
        if value not in options:
            text = f"{name} must be one of {', '.join(options)}; got {value!r}."
            raise self.refuse(text + near_miss(value, options))

    def _check_device(self, name: str = "device") -> None:
        value = getattr(self, name)
        if not DEVICE.fullmatch(value):
            text = f"{name} must be auto, cpu, cuda, cuda:N or mps; got {value!r}."
            raise self.refuse(text + near_miss(value, DEVICES))

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
    def _from_file(cls: type[C], data: Any, where: str) -> C:
        if not isinstance(data, dict):
            raise ConfigurationError(f"{where} holds no configuration of names and values")
        try:
            return cls.from_dict(data)
        except ConfigurationError as error:
            raise type(error)(f"{where}: {error}") from None

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON schema (Draft 2020-12) of this class's fields."""
        return json_schema(cls, cls.__name__)


def read_json(path: Path) -> Any:
    """The content of a JSON file; FileNotFoundError or ConfigurationError."""
    if not path.is_file():
        raise FileNotFoundError(f"no configuration at {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
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
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid: {' '.join(str(error).split())}") from None
