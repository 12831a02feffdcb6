"""What `worldflux import` and `worldflux export` know of official implementations."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType

from worldflux.config.fields import near_miss
from worldflux.errors import ConfigurationError

# Family -> module that reads its official checkpoints, and may write them.
MODULES = {
    "dreamerv3": "worldflux.models.dreamerv3.official.checkpoint",
    "tdmpc2": "worldflux.models.tdmpc2.official.checkpoint",
}


def official_module(family: str, families: Iterable[str]) -> ModuleType:
    """The module of a family; ConfigurationError for one that is not among `families`."""
    options = tuple(families)
    if family not in options:
        line = f"unknown family {family!r}; there are {', '.join(options)}."
        raise ConfigurationError(line + near_miss(family, options))
    return importlib.import_module(MODULES[family])
