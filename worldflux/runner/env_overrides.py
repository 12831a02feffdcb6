"""Overrides of the `env` group alone, for commands that play in an environment."""

from __future__ import annotations

from collections.abc import Container, Sequence

from worldflux.config.composition import composed, parse_overrides
from worldflux.config.env import EnvConfig
from worldflux.config.overrides import override
from worldflux.config.run import SPELLING
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
    for item in parse_overrides(overrides):
        key, word = item.get_key_element(), str(item.input_line)
        if key != "env" and not key.startswith("env."):
            raise ConfigurationError(f"{word}: only env can be overridden here")
        if item.is_sweep_override():
            raise ConfigurationError(f"{word}: one environment is needed, not a sweep")
        keys[key] = word
    words = list(overrides)
    if "env" not in keys:
        words = ["env=gym", *([] if recorded is None else _words(recorded, keys)), *words]
    return composed([f"model={family_of_type(model_type).name}", *words]).env


def _words(recorded: EnvConfig, keys: Container[str]) -> list[str]:
    """The recorded fields as overrides, but those that are overridden anew."""
    fields = recorded.to_dict()
    kwargs = fields.pop("kwargs")
    if "env.id" in keys or "env.tasks" in keys:
        kwargs = {}  # another environment takes other arguments
        del fields["id"], fields["tasks"]
    else:
        del fields["id" if fields["tasks"] else "tasks"]
    values = {f"env.{SPELLING.get(name, name)}": value for name, value in fields.items()}
    words = [override(key, value) for key, value in values.items() if key not in keys]
    # Its keys are free: added here, overrides of them come later and win.
    return words + [override(f"++env.kwargs.{key}", value) for key, value in kwargs.items()]
