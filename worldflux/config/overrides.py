"""Overrides of Hydra's command line: how a value is written as one, and how they are read.

Whatever becomes an override, or a command line that is shown, is written here, so that spaces,
quotes, commas, equals signs and words such as `null` or `1` come back as they went in.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, Quote, QuotedString
from omegaconf import OmegaConf

from worldflux.config.groups import CALLBACKS, CHOICES, EXPERIMENT, free_mappings
from worldflux.config.run import JSON
from worldflux.errors import ConfigurationError

# A key of a mapping that the grammar takes as it stands, and for a text.
KEY = re.compile(r"(?!(null|true|false|inf|nan)$)[A-Za-z_][\w-]*", re.ASCII | re.IGNORECASE)

PATHS = ("resume", "init_from")  # keys whose value is a path
FREE_OF_HYDRA = ("hydra.job.env_set", "hydra.callbacks")  # mappings with keys of the user's own


def spelled(value: Any) -> str:
    """A value in the grammar of Hydra's overrides; ConfigurationError for the text ``???``."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else f"{'-' if value < 0 else ''}inf"
    if isinstance(value, Mapping):
        if not all(KEY.fullmatch(str(key)) for key in value):
            # The grammar has no quotes for keys, and takes some of them for numbers.
            encoded = urllib.parse.quote(json.dumps(value), safe="").replace("~", "%7E")
            return _with_quotes(f"${{{JSON}:{encoded}}}")
        return "{" + ",".join(f"{key}:{spelled(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(spelled, value)) + "]"
    return repr(value)


def quoted(text: str) -> str:
    """A text as the value of an override, whatever characters it has."""
    if text == "???":
        raise ConfigurationError(
            "the text '???' cannot be a value: Hydra takes it for a missing one"
        )
    # An interpolation is text here; the backslashes in front of it escape each other.
    return _with_quotes(re.sub(r"(\\*)\$\{", r"\1\1\\${", text))


def _with_quotes(text: str) -> str:
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def value_of(override: Override) -> Any:
    """The value of an override as a composition has it: the inverse of `spelled`."""
    content: Any = OmegaConf.to_container(OmegaConf.create([override.value()]), resolve=True)
    return content[0]


def typed(value: Any) -> str:
    """A value as a person would type it, for reading: not every text comes back as it went in."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, list | dict):
        return json.dumps(value, default=str).replace(" ", "")
    return str(value)


def override(key: str, value: Any) -> str:
    """`key=value` for a value of Python."""
    return f"{key}={spelled(value)}"


def command(*words: str) -> str:
    """A command line as a person types it into a shell."""
    return shlex.join(words)


def key_of(word: str) -> str:
    """The key of an override: `training.seed` of `+training.seed=1`."""
    return word.partition("=")[0].lstrip("+~")


def plain_paths(words: Sequence[str]) -> list[str]:
    """The overrides with an existing path behind `resume=` or `init_from=` quoted: its name may
    have an equals sign or a comma, such as a sweep's folders, which mean something else to Hydra."""
    plain = []
    for word in words:
        key, _, value = word.partition("=")
        if key in PATHS and re.search(r"[^\w./-]", value) and Path(value).exists():
            word = override(key, value)
        plain.append(word)
    return plain


def search_path(folders: Sequence[Any]) -> tuple[str, ...]:
    """The override that adds folders of YAML files to Hydra's search path; none without folders."""
    if not folders:
        return ()
    return (override("hydra.searchpath", [f"file://{folder.resolve()}" for folder in folders]),)


def parse_overrides(words: Sequence[str], loader: ConfigLoader | None = None) -> list[Override]:
    """The overrides of a command line. loader: finds the options that a glob() means.

    ConfigurationError for what Hydra would take without a word, or answer with a traceback: a key
    given twice, a group set to null, a key of the schema removed.
    """
    parsed = OverridesParser.create(loader).parse_overrides(overrides=list(words))
    seen: dict[str, str] = {}
    free = tuple(f"{name}." for name in free_mappings())
    for override in parsed:
        key, word = override.get_key_element(), str(override.input_line)
        if key in seen:
            raise ConfigurationError(f"{key} is given twice: {seen[key]} and {word}")
        seen[key] = word
        if override.is_delete() and not key.lstrip("~").startswith(free):
            raise ConfigurationError(f"{word}: what the schema has cannot be removed")
        if not key:
            raise ConfigurationError(f"{word} names no key: write KEY=VALUE")
        if key.lstrip("+") == "hydra.sweeper.params":
            text = "is for YAML files; on the command line write -m KEY=VALUE,VALUE"
            raise ConfigurationError(text, key="hydra.sweeper.params")
        if re.fullmatch(
            r"hydra\.(runtime|overrides|job\.(num|id|config_name))(\..*)?", key.lstrip("+")
        ):
            raise ConfigurationError("is what Hydra notes about a run: leave it out", key=key)
        group = key.lstrip("+").partition("@")[0]
        if (
            group in (*CHOICES, EXPERIMENT) or group.startswith("hydra/")
        ) and not override.is_delete():
            _check_option(key, override.value())
    return parsed


def with_free_keys(overrides: Sequence[Override]) -> list[str]:
    """Overrides as words. Those of keys that have no schema, such as env.kwargs, set them whether
    they are there already or not, with which of Hydra's spellings (none, +, ++) they came."""
    free, words = {*free_mappings(), *FREE_OF_HYDRA} - {*CHOICES}, []
    free_of = tuple(f"{name}." for name in (*free, CALLBACKS))
    for item in overrides:
        word, key = str(item.input_line), item.get_key_element().lstrip("+")
        inside = key in free or key.startswith(free_of)
        words.append("++" + word.lstrip("+") if inside and not item.is_delete() else word)
    return words


def _check_option(key: str, value: Any) -> None:
    # Of recipes, loggers and callbacks there may be several.
    several = isinstance(value, list) and key in CHOICES and key not in ("logger", CALLBACKS)
    for one in _items(value):
        if not isinstance(one, str) or several:
            wrong = value if isinstance(value, list) else one
            text = f"must name an option, not {spelled(wrong)}; see worldflux-run --help"
            raise ConfigurationError(text, key=key.lstrip("+"))


def _items(value: Any) -> Sequence[Any]:
    if isinstance(value, ChoiceSweep):
        return [str(one) if isinstance(one, QuotedString) else one for one in value.list]
    if isinstance(value, Glob):
        return []
    return value if isinstance(value, list) else [value]


def check_single(words: Sequence[str]) -> list[Override]:
    """The overrides of one job; ConfigurationError for one with several values."""
    parsed = OverridesParser.create().parse_overrides(overrides=list(words))
    for override in parsed:
        if override.is_sweep_override():
            text = f"{override.input_line} has several values: add -m to sweep over them"
            raise ConfigurationError(text)
    return parsed
