"""What a search varies: Optuna's distributions by configuration key."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
)
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from worldflux.config.files import check_yaml, read_text
from worldflux.config.overrides import typed
from worldflux.errors import ConfigurationError
from worldflux.sweep.jobs import is_machine

Value = bool | int | float | str | None
Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Space = dict[str, Distribution]
FIELDS = ("low", "high", "log", "step", "choices")


def distribution(
    key: str,
    low: float | None = None,
    high: float | None = None,
    log: bool = False,
    step: float | None = None,
    choices: tuple[Value, ...] = (),
) -> Distribution:
    """A range from low to high, both included (whole numbers if both are), or a list of choices.

    log: drawn evenly on a logarithmic scale. step: distance of the values, from low on.
    """
    if choices:
        if low is not None or high is not None or log or step is not None:
            raise ConfigurationError(f"{key}: either choices, or low and high")
        return CategoricalDistribution(choices)
    if low is None or high is None:
        raise ConfigurationError(f"{key}: low and high, or choices, must be given")
    if not low < high:
        raise ConfigurationError(f"{key}: low must be below high, got {low} and {high}")
    try:
        if all(isinstance(x, int) for x in (low, high, step or 0)):
            return IntDistribution(int(low), int(high), log, 1 if step is None else int(step))
        return FloatDistribution(low, high, log, step)
    except ValueError as error:
        raise ConfigurationError(f"{key}: {' '.join(str(error).split())}") from None


def bounds(kind: Distribution) -> list[Value]:
    """The values that are checked before a search begins: all choices, or both ends."""
    if isinstance(kind, CategoricalDistribution):
        return list(kind.choices)
    return [kind.low, kind.high]


def draw(trial: Trial, key: str, kind: Distribution) -> Value:
    """The value of a key in a trial: the same however often it is drawn."""
    if isinstance(kind, CategoricalDistribution):
        return trial.suggest_categorical(key, kind.choices)
    if isinstance(kind, IntDistribution):
        return trial.suggest_int(key, kind.low, kind.high, step=kind.step, log=kind.log)
    return trial.suggest_float(key, kind.low, kind.high, step=kind.step, log=kind.log)


def holds(kind: Distribution, value: object) -> bool:
    """Whether a value lies within it."""
    if isinstance(kind, CategoricalDistribution):
        return value in kind.choices
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(kind, IntDistribution) and isinstance(value, float):
        return False
    if not kind.low <= value <= kind.high:
        return False
    rest = 0 if kind.step is None else math.remainder(value - kind.low, kind.step)
    return math.isclose(rest, 0, abs_tol=1e-12)


def text(kind: Distribution) -> str:
    """As a table shows it."""
    if isinstance(kind, CategoricalDistribution):
        return ", ".join(map(typed, kind.choices))
    fields = plain(kind)
    remarks = ["log"] if kind.log else []
    remarks += ["whole"] if isinstance(kind, IntDistribution) else []
    remarks += [f"step {kind.step}"] if "step" in fields else []
    return f"{kind.low} to {kind.high}" + (f" ({', '.join(remarks)})" if remarks else "")


def plain(kind: Distribution) -> dict[str, Any]:
    """As it is remembered with the study, which keeps JSON."""
    fields = {name: getattr(kind, name, None) for name in FIELDS}
    if isinstance(kind, CategoricalDistribution):
        return {"choices": list(kind.choices)}
    if isinstance(kind, IntDistribution) and kind.step == 1:
        fields["step"] = None
    return {name: value for name, value in fields.items() if value not in (None, False)}


def read_space(path: Path) -> Space:
    """The space of a YAML file: ``key: {low, high, log, step}`` or ``key: {choices: [...]}``."""
    try:
        check_yaml(path)
        content = yaml.safe_load(read_text(path))
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: there is no such file") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: expected keys with ranges or choices")
    return {str(key): _read(str(key), fields, path) for key, fields in content.items()}


def _read(key: str, fields: object, path: Path) -> Distribution:
    if not isinstance(fields, dict) or set(fields) - set(FIELDS):
        raise ConfigurationError(f"{path}: {key}: expected a mapping of {', '.join(FIELDS)}")
    for name in ("low", "high", "step"):
        value = fields.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            line = f"{path}: {key}: {name} must be a number, got {value!r}"
            raise ConfigurationError(f"{line} (YAML wants 1.0e-4, not 1e-4)")
    try:
        choices = tuple(_choice(key, value) for value in fields.get("choices") or ())
        return distribution(key, **{**fields, "choices": choices})
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def changed(space: Space, overrides: Iterable[Override]) -> tuple[Space, list[str]]:
    """A space with the command line over it, and the overrides that all trials share.

    An override with a range (`interval(a,b)`, `range(a,b)`, `tag(log,...)`) or several values adds
    or replaces a parameter; any other takes its key out of the search.
    """
    space, shared = dict(space), []
    for override in overrides:
        key = override.get_key_element().lstrip("+")
        if not override.is_sweep_override():
            space.pop(key, None)
            shared.append(str(override.input_line))
            continue
        if is_machine(key):
            raise ConfigurationError(f"{key} cannot be searched: it is about the machine")
        space[key] = _swept(key, override)
    return space, shared


def _swept(key: str, override: Override) -> Distribution:
    sweep = override.value()
    log = "log" in getattr(sweep, "tags", ())
    if isinstance(sweep, IntervalSweep):
        return distribution(
            key, float(cast(float, sweep.start)), float(cast(float, sweep.end)), log
        )
    if isinstance(sweep, RangeSweep):
        assert sweep.start is not None and sweep.stop is not None
        step = sweep.step
        last = sweep.stop - step if isinstance(step, int) else sweep.stop
        return distribution(key, sweep.start, last, log, None if step == 1 else step)
    if isinstance(sweep, ChoiceSweep):
        return distribution(key, choices=tuple(_choice(key, value) for value in sweep.list))
    raise ConfigurationError(f"{override.input_line}: a search takes interval, range or choices")


def _choice(key: str, value: object) -> Value:
    if isinstance(value, QuotedString):
        return value.text
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigurationError(f"{key}: choices are numbers, words, true, false or null")
