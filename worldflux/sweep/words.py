"""The words of a command line that speak about the sweep itself: `sweep=NAME`, `sweep.dry_run=true`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from worldflux.config.fields import near_miss
from worldflux.errors import ConfigurationError

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class SweepWords:
    """name: of the sweep's folder; None: made of date and time. dry_run: list the jobs only.
    detach: submit them, and leave."""

    name: str | None = None
    dry_run: bool = False
    detach: bool = False


OPTIONS = tuple(field.name for field in fields(SweepWords) if field.name != "name")


def take(words: Sequence[str]) -> tuple[SweepWords | None, list[str]]:
    """The sweep's own words of a command line, None where there are none, and the other words.

    ConfigurationError for a word that does not exist, is given twice or has a wrong value.
    """
    given: dict[str, str | bool] = {}
    rest = []
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        if key != "sweep" and not key.startswith("sweep."):
            rest.append(word)
            continue
        name, value = _read(word, key)
        if name in given:
            raise ConfigurationError(f"{key} is given twice")
        given[name] = value
    return (SweepWords(**given) if given else None), rest  # type: ignore[arg-type]


def _read(word: str, key: str) -> tuple[str, str | bool]:
    option = key.removeprefix("sweep").removeprefix(".")
    if option and option not in OPTIONS:
        hint = near_miss(option, OPTIONS)
        there = f"there are sweep=NAME and {', '.join(f'sweep.{name}=true' for name in OPTIONS)}"
        raise ConfigurationError(f"unknown key '{key}'{'.' + hint if hint else '; ' + there}")
    if word.partition("=")[0] != key:
        raise ConfigurationError(f"{word}: write {key}=..., without '{word[0]}'")
    override: Override = OverridesParser.create().parse_override(word)
    value = None if override.is_sweep_override() else override.value()
    if not option:
        if value is None or isinstance(value, bool) or not NAME.fullmatch(str(value)):
            text = "a name of letters, digits, '.', '_' and '-'"
            raise ConfigurationError(f"sweep must be {text}, got {word.partition('=')[2]!r}")
        return "name", str(value)
    if not isinstance(value, bool):
        raise ConfigurationError(f"{key} must be true or false, got {word.partition('=')[2]!r}")
    return option, value
