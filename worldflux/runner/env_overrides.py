"""Overrides of the `env` group alone, for commands that play in an environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worldflux.config.composition import composed
from worldflux.config.env import EnvConfig
from worldflux.config.groups import SPELLING
from worldflux.config.overrides import parse_overrides
from worldflux.errors import ConfigurationError
from worldflux.models.families import family_of_type


def chosen_env(
    model_type: str, overrides: Sequence[str], recorded: EnvConfig | None = None
) -> EnvConfig:
    """The environment that `overrides` describe, as on the command line of `worldflux-run`.

    model_type: of the family, which says how its official code counts. recorded: what a run was
    trained in, which the overrides change unless they choose another group (env=...).
    """
    keys: dict[str, str] = {}
    for override in parse_overrides(overrides):
        key, word = override.get_key_element(), str(override.input_line)
        if key != "env" and not key.startswith("env."):
            raise ConfigurationError(f"{word}: only env can be overridden here")
        if override.is_sweep_override():
            raise ConfigurationError(f"{word}: one environment is needed, not a sweep")
        keys[key] = word
    words = list(overrides)
    if "env" not in keys:
        words = ["env=gym", *([] if recorded is None else _words(recorded, keys)), *words]
    return composed([f"model={family_of_type(model_type).name}", *words]).env


def _words(recorded: EnvConfig, keys: dict[str, str]) -> list[str]:
    """The recorded fields as overrides, but those that are overridden anew."""
    fields = recorded.to_dict()
    named = {name: fields.pop(name) for name in ("id", "tasks", "kwargs")}
    kwargs = named["kwargs"]
    if {"env.id", "env.tasks"} & set(keys):
        kwargs = {}  # another environment takes arguments of its own
    else:
        which = "tasks" if named["tasks"] else "id"
        fields[which] = named[which]
    values = {f"env.{SPELLING.get(name, name)}": value for name, value in fields.items()}
    found = [f"{key}={_text(value)}" for key, value in values.items() if key not in keys]
    # Its keys are the user's own: added here, overrides of them come later and win.
    return found + [f"++env.kwargs.{key}={_text(value)}" for key, value in kwargs.items()]


def _text(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_text(item) for item in value) + "]"
    return repr(value)
