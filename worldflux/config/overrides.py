"""Overrides of Hydra's command line: how a value is written as one, and how they are read.

Whatever becomes an override, or a command line that is shown, is written here, so that spaces,
quotes, commas, equals signs and words such as `null` or `1` come back as they went in.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString


def spelled(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else f"{'-' if value < 0 else ''}inf"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_key(str(k))}:{spelled(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(spelled, value)) + "]"
    return repr(value)


def quoted(text: str) -> str:
    """A text as the value of an override, whatever characters it has."""
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def override(key: str, value: Any) -> str:
    """`key=value` for a value of Python."""
    return f"{key}={spelled(value)}"


def command(*words: str) -> str:
    """A command line as a person types it into a shell."""
    return shlex.join(words)


def key_of(word: str) -> str:
    """The key of an override: `training.seed` of `+training.seed=1`."""
    return word.partition("=")[0].lstrip("+~")


def search_path(folders: Sequence[Any]) -> tuple[str, ...]:
    """The override that adds folders of YAML files to Hydra's search path; none without folders."""
    if not folders:
        return ()
    return (override("hydra.searchpath", [f"file://{folder.resolve()}" for folder in folders]),)


def _key(text: str) -> str:
    """A key of a mapping, which Hydra's grammar does not let be quoted."""
    return re.sub(r"([\\()\[\]{}:=,\s])", r"\\\1", text)
