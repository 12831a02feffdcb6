"""What a job of a sweep is: its overrides, and the folder that they determine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override

from worldflux.config.groups import is_machine
from worldflux.config.overrides import typed

SEED = "training.seed"
# What a reader looks for first; the other keys follow in the order of the alphabet.
FIRST = ("experiment", "model", "model/size", "env", "env.id", SEED)
LONGEST = 100  # letters of a folder's name: file systems take 255 bytes, and paths go on below it
DEFAULTS = "defaults"


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    words: its overrides as Hydra takes them. identity: key -> value of those that say which run it
    is, in a fixed order; two jobs with the same identity are the same job.
    """

    words: tuple[str, ...]
    identity: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of its folder: the same whatever the order of the overrides, and safe on every
        file system."""
        parts = [f"{_safe(key)}={_safe(typed(value))}" for key, value in self.identity.items()]
        name = ",".join(parts) or DEFAULTS
        exact = all(_safe(typed(value)) == typed(value) for value in self.identity.values())
        if exact and len(name) <= LONGEST:
            return name
        text = json.dumps(self.identity, sort_keys=True, default=str)
        mark = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{name[: LONGEST - 9]}-{mark}"


def job_of(words: Sequence[str], overrides: Iterable[Override]) -> Job:
    """The job with these overrides, as words and parsed."""
    identity: dict[str, Any] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_delete() or not is_machine(key.lstrip("+")):
            identity[key.lstrip("+")] = None if override.is_delete() else override.value()
    return Job(tuple(words), {key: identity[key] for key in sorted(identity, key=rank)})


def rank(key: str) -> tuple[int, str]:
    """Sorts keys as folder names and tables show them."""
    return (FIRST.index(key) if key in FIRST else len(FIRST), key)


def text_of(overrides: Mapping[str, Any], shared: Mapping[str, Any] | None = None) -> str:
    """`env=dmc training.seed=0`, without the keys that are shared with others."""
    shared = shared or {}
    return " ".join(f"{k}={typed(value)}" for k, value in overrides.items() if k not in shared)


def without_seed(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What jobs of one group have in common."""
    return {key: value for key, value in overrides.items() if key != SEED}


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]", "-", text.replace("/", "."))
