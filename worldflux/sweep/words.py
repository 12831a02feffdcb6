"""The words of a command line about the sweep itself: `sweep=NAME`, `sweep.dry_run=true`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from hydra.core.override_parser.overrides_parser import OverridesParser

from worldflux.config.fields import near_miss
from worldflux.config.overrides import key_of
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
    """The words of a command line about the sweep, None where there are none, and the other words.

    ConfigurationError for a word that does not exist, is there twice or has a wrong value.
    """
    options: dict[str, str | bool] = {}
    rest = []
    for word in words:
        key = key_of(word)
        if key.partition(".")[0] != "sweep":
            rest.append(word)
            continue
        name, value = _read(word, key)
        if name in options:
            raise ConfigurationError(f"{key} is given twice")
        options[name] = value
    return (SweepWords(**options) if options else None), rest  # type: ignore[arg-type]


def _read(word: str, key: str) -> tuple[str, str | bool]:
    option, text = key.removeprefix("sweep").removeprefix("."), word.partition("=")[2]
    if option and option not in OPTIONS:
        hint = near_miss(option, OPTIONS)
        there = f"there are sweep=NAME and {', '.join(f'sweep.{name}=true' for name in OPTIONS)}"
        raise ConfigurationError(f"unknown key '{key}'{'.' + hint if hint else '; ' + there}")
    if word.partition("=")[0] != key:
        raise ConfigurationError(f"{word}: write {key}=..., without '{word[0]}'")
    override = OverridesParser.create().parse_override(word)
    value = None if override.is_sweep_override() else override.value()
    if not option:
        if value is None or isinstance(value, bool) or not NAME.fullmatch(str(value)):
            expected = "a name of letters, digits, '.', '_' and '-'"
            raise ConfigurationError(f"sweep must be {expected}, got {text!r}")
        return "name", str(value)
    if not isinstance(value, bool):
        raise ConfigurationError(f"{key} must be true or false, got {text!r}")
    return option, value
