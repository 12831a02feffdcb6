"""What a search varies: ranges and choices by configuration key."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
)

from worldflux.config.groups import is_machine
from worldflux.errors import ConfigurationError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Value = bool | int | float | str | None
FIELDS = ("low", "high", "log", "step", "choices")


@dataclass(frozen=True)
class Parameter:
    """A range from low to high, both included (whole numbers if both are), or a list of choices.

    log: drawn evenly on a logarithmic scale. step: distance of the values, from low on.
    """

    key: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        if self.choices:
            if self.low is not None or self.high is not None or self.log or self.step is not None:
                raise ConfigurationError(f"{self.key}: either choices, or low and high")
            return
        if self.low is None or self.high is None:
            raise ConfigurationError(f"{self.key}: low and high, or choices, must be given")
        if not self.low < self.high:
            raise ConfigurationError(
                f"{self.key}: low must be below high, got {self.low} and {self.high}"
            )
        if self.log and self.low <= 0:
            raise ConfigurationError(f"{self.key}: a logarithmic range must begin above 0")
        if self.log and self.step is not None:
            raise ConfigurationError(f"{self.key}: a logarithmic range has no step")
        if self.step is not None and self.step <= 0:
            raise ConfigurationError(f"{self.key}: step must be above 0, got {self.step}")

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return all(isinstance(x, int) for x in (self.low, self.high, self.step or 0))

    @property
    def bounds(self) -> list[Value]:
        """The values that are checked before a search begins: all choices, or both ends."""
        return list(self.choices) if self.choices else [self.low, self.high]

    def distribution(self) -> BaseDistribution:
        """What Optuna calls it."""
        from optuna import distributions as kinds

        if self.choices:
            return kinds.CategoricalDistribution(self.choices)
        assert self.low is not None and self.high is not None
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return kinds.IntDistribution(int(self.low), int(self.high), log=self.log, step=step)
        return kinds.FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: Trial) -> Value:
        """Its value in a trial: the same however often it is asked for."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        assert self.low is not None and self.high is not None
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(
                self.key, int(self.low), int(self.high), log=self.log, step=step
            )
        return trial.suggest_float(self.key, self.low, self.high, log=self.log, step=self.step)

    def holds(self, value: Any) -> bool:
        """Whether a value lies within it."""
        if self.choices:
            return value in self.choices
        number = isinstance(value, int if self.whole else (int, float))
        if not number or isinstance(value, bool):
            return False
        assert self.low is not None and self.high is not None
        if not self.low <= value <= self.high:
            return False
        if self.step is None:
            return True
        return math.isclose(math.remainder(value - self.low, self.step), 0, abs_tol=1e-12)

    def text(self) -> str:
        """As a table shows it."""
        if self.choices:
            return ", ".join(_typed(value) for value in self.choices)
        kinds = [name for name, on in (("log", self.log), ("whole", self.whole)) if on]
        kinds += [f"step {self.step}"] if self.step is not None else []
        return f"{self.low} to {self.high}" + (f" ({', '.join(kinds)})" if kinds else "")

    def plain(self) -> dict[str, Any]:
        """As it is remembered with the study."""
        held = asdict(self)
        return {name: held[name] for name in FIELDS if held[name] not in (None, (), False)}


Space = dict[str, Parameter]


def word(key: str, value: Value) -> str:
    """The override that gives a key this value."""
    return f"{key}={_typed(value)}"


def _typed(value: Value) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return repr(value) if isinstance(value, int | float) else str(value)


def read_space(path: Path) -> Space:
    """The space of a YAML file: ``key: {low, high, log, step}`` or ``key: {choices: [...]}``."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: expected keys with ranges or choices")
    return {str(key): _parameter(str(key), fields, path) for key, fields in content.items()}


def _parameter(key: str, fields: Any, path: Path) -> Parameter:
    if not isinstance(fields, dict) or set(fields) - set(FIELDS):
        raise ConfigurationError(f"{path}: {key}: expected a mapping of {', '.join(FIELDS)}")
    if isinstance(fields.get("choices"), list):
        fields = {**fields, "choices": tuple(fields["choices"])}
    for name in ("low", "high", "step"):
        if isinstance(fields.get(name), bool | str):
            text = f"{path}: {key}: {name} must be a number, got {fields[name]!r}"
            raise ConfigurationError(text + " (YAML wants 1.0e-4, not 1e-4)")
    try:
        return Parameter(key, **fields)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def changed(space: Space, overrides: Iterable[Override]) -> tuple[Space, list[str]]:
    """A space with the command line over it, and the overrides that all trials share.

    An override with a range (`interval(a,b)`, `range(a,b)`, `tag(log,...)`) or several values adds
    or replaces a parameter; any other takes its key out of the search.
    """
    space, shared = dict(space), []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            space.pop(key, None)
            shared.append(str(override.input_line))
            continue
        if is_machine(key):
            raise ConfigurationError(f"{key} cannot be searched: it is about the machine")
        space[key] = _swept(key, override)
    return space, shared


def _swept(key: str, override: Override) -> Parameter:
    sweep = override._value
    log = "log" in getattr(sweep, "tags", ())
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None and sweep.end is not None
        return Parameter(key, float(sweep.start), float(sweep.end), log=log)
    if isinstance(sweep, RangeSweep):
        assert sweep.start is not None and sweep.stop is not None
        step = sweep.step
        values = [sweep.start, sweep.stop - step if isinstance(step, int) else sweep.stop]
        return Parameter(key, values[0], values[1], log=log, step=None if step == 1 else step)
    if isinstance(sweep, ChoiceSweep):
        return Parameter(key, choices=tuple(_choice(key, value) for value in sweep.list))
    raise ConfigurationError(f"{override.input_line}: a search takes interval, range or choices")


def _choice(key: str, value: Any) -> Value:
    if isinstance(value, QuotedString):
        return value.text
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigurationError(f"{key}: choices are numbers, words, true, false or null")


def plain(space: Mapping[str, Parameter]) -> dict[str, Any]:
    """A space as it is remembered with a study."""
    return {key: parameter.plain() for key, parameter in sorted(space.items())}
