"""Callbacks of the user's own, named by the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldflux.config.targets import Target
from worldflux.errors import ConfigurationError
from worldflux.training.session import Callback


def own_callbacks(entries: Mapping[str, Mapping[str, Any]]) -> list[Callback]:
    """The callbacks of the group, in its order, each with its name; ConfigurationError names the one
    that cannot be imported or made, or is none."""
    made = []
    for name, entry in entries.items():
        target = Target.of(f"callbacks.{name}", entry)
        callback = target()
        if not isinstance(callback, Callback):
            text = f"must give a worldflux.training.Callback, got {type(callback).__name__}"
            raise ConfigurationError(text, key=target.key)
        callback.name = name
        made.append(callback)
    return made
