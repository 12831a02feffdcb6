"""Configurations of runs beside each other: what differs, and which runs make a group."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from worldflux.config.fields import near_miss
from worldflux.config.groups import OF_TRAINING, is_machine, leaves
from worldflux.config.overrides import key_of, typed
from worldflux.errors import ConfigurationError
from worldflux.models.families import family_of_type, is_model_type

SEED, FAMILY, SIZE, ENV, TASKS = (
    "training.seed",
    "model.model_type",
    "model.model_name",
    "env.id",
    "env.tasks",
)
# How the command line names them.
SPOKEN = {FAMILY: "model", SIZE: "model/size"}
# Not what is compared: the seed, where a run came from, and what repeats the training group.
ASIDE = (SEED, "resume", *(f"model.{name}" for name in OF_TRAINING))
RANDOM, RECORDED, UNKNOWN = "random data", "recorded data", "unknown environment"
ALL = "all runs"


class Configured(Protocol):
    """A run as far as its configuration goes. words: the overrides of its command line."""

    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def words(self) -> Sequence[str]: ...
    @property
    def task(self) -> str: ...


def settings_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration, by key as the user writes it; empty where the manifest has none."""
    config = dict(manifest.get("config") or {})
    if manifest.get("model_config"):
        config["model"] = manifest["model_config"]
    return dict(leaves(config))


def task_of(settings: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """What a run learns: returns of one task can be compared."""
    if settings.get("env.suite") == "none":
        return RANDOM if settings.get("data.source") == "random" else RECORDED
    tasks = texts(settings.get(TASKS))
    return ", ".join(tasks) or (manifest.get("env") or {}).get("id") or UNKNOWN


def texts(value: Any) -> list[str]:
    """The items of a list that somebody else wrote; none where it is no list."""
    return [str(item) for item in value] if isinstance(value, list) else []


def differing(runs: Sequence[Configured]) -> list[str]:
    """The keys that have not one value in all runs, families and sizes first, then those that a
    command line named."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    named = {key_of(word) for run in runs for word in run.words}
    different = [key for key in keys if len({_value(run, key) for run in runs}) > 1]
    return sorted(different, key=lambda key: (key != FAMILY, key != SIZE, key not in named, key))


def group_keys(runs: Sequence[Configured], by: Sequence[str] = ()) -> list[str]:
    """The keys by which runs are grouped. by: keys, or groups of keys such as `model`; none: what
    differs among runs of one task, and the models. ConfigurationError: no run has such a key."""
    different = differing(runs)
    if by:
        chosen = [key for name in by for key in _meant(name, runs)]
        return [key for key in different if key in chosen] or chosen[:1]
    keys = [key for key in different if key not in ASIDE and not is_machine(key)]
    tasks: dict[str, list[Configured]] = {}
    for run in runs:
        tasks.setdefault(run.task, []).append(run)
    inside = {key for members in tasks.values() for key in differing(members)}
    return [key for key in keys if key in inside or key in (FAMILY, SIZE)]


def _meant(name: str, runs: Sequence[Configured]) -> list[str]:
    """The keys of a name: one key, or those of a group."""
    known = dict.fromkeys(key for run in runs for key in run.settings)
    spoken = {word: key for key, word in SPOKEN.items() if "/" in word}
    name = spoken.get(name, name)
    keys = [key for key in known if key == name or key.startswith(f"{name}.")]
    if not keys:
        hint = near_miss(name, [*known, *spoken])
        raise ConfigurationError(f"--by {name}: no run has this key.", hint=hint)
    return keys


def signature(run: Configured, keys: Iterable[str]) -> Hashable:
    """The values of these keys, to compare runs by."""
    return tuple(_value(run, key) for key in keys)


def telling(runs: Sequence[Configured], keys: Sequence[str]) -> list[str]:
    """The first of the keys that tell runs apart as all of them do."""
    chosen: list[str] = []
    wanted = len({signature(run, keys) for run in runs})
    for key in keys:
        before = len({signature(run, chosen) for run in runs})
        if before == wanted:
            break
        if len({signature(run, [*chosen, key]) for run in runs}) > before:
            chosen.append(key)
    return chosen


def labels(runs: Sequence[Configured], keys: Sequence[str], by: bool) -> list[str]:
    """The name of each run's group: its values of the keys that tell the groups apart. by: keys
    that are the same everywhere are named too."""
    chosen = telling(runs, keys) or (list(keys[:1]) if by else [])
    return [label(run.settings, chosen) or ALL for run in runs]


def label(settings: Mapping[str, Any], keys: Iterable[str]) -> str:
    """`model/size=5m data.train_ratio=64`, of the keys that are there."""
    parts = (f"{SPOKEN.get(k, k)}={shown_value(k, settings[k])}" for k in keys if k in settings)
    return " ".join(parts)


def shown_value(key: str, value: Any) -> str:
    """A value as the command line has it."""
    if key == FAMILY and is_model_type(str(value)):
        return family_of_type(str(value)).name
    return typed(value)


def _value(run: Configured, key: str) -> str:
    return json.dumps(run.settings[key], default=str) if key in run.settings else ""
