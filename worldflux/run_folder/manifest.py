"""run_manifest.json: what a run is, what it used and how far it came."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.files import read_document, references, wrong_kinds
from worldflux.errors import CheckpointError
from worldflux.run_folder.checkpoints import CheckpointFolder
from worldflux.run_folder.disk import disk_errors, write_atomic
from worldflux.run_folder.links import check_links
from worldflux.run_folder.names import CHECKPOINTS, MANIFEST
from worldflux.run_folder.trust import SIGNATURE, signature

SCHEMA = "worldflux.training.run_manifest.v1"
# Degraded modes of what is only looked at: the training is the same without it.
ONLY_SHOWN = (
    "dashboard_port_taken",
    "dashboard_unavailable",
    "gameplay_unavailable",
    "tracker_unavailable",
    "video_unavailable",
)
# The model got a part on the way, with fresh weights: a training all the same.
MODEL_EXTENDED = "model_extended"
# What a run is made from: a checksum binds it, and each checkpoint has a copy.
RECORDED = ("config", "model_config")
CHECKSUM, COPY = "config_sha256", "recorded"

log = logging.getLogger(__name__)

_COUNT, _NUMBER, _LIST = (int, type(None)), (int, float, type(None)), (list, type(None))
_TEXT, _MAPPING = (str, type(None)), (dict, type(None))
# What a manifest's keys hold where they are there.
KINDS: dict[str, Any] = {
    "status": str,
    **dict.fromkeys(("error", "data_mode", "run_classification"), _TEXT),
    **dict.fromkeys(("config", "model_config", "training_config", "env", "scores"), _MAPPING),
    **dict.fromkeys(("config.env", "config.data", "config.training", "config.model"), dict),
    **dict.fromkeys(("config.visualization", "runtime_profile", "host", "versions"), _MAPPING),
    **dict.fromkeys(("global_step", "env_steps", "episodes", "parameters", "seed"), _COUNT),
    **dict.fromkeys(("env.action_repeat", "env.num_envs"), _COUNT),
    **dict.fromkeys(("degraded_modes", "damaged_checkpoints"), _LIST),
    **dict.fromkeys(("scores.last", "scores.best", "scores.recent_training_return"), _NUMBER),
    **dict.fromkeys(("scores.last_step", "scores.best_step", "training_config.nproc"), _COUNT),
    **dict.fromkeys(("runtime_profile.elapsed_sec", "training_config.total_steps"), _NUMBER),
    **dict.fromkeys(("model_config.model_type", "model_config.model_name", "env.id"), _TEXT),
    **dict.fromkeys(("config.model.model_type", "config.env.id", "config.data.source"), _TEXT),
}


def plain(value: Any) -> Any:
    """JSON content of a value: dataclasses and mappings as objects, numbers that are not finite as
    null (JSON has none), enums as their values, anything unknown as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Sequence | set | frozenset | np.ndarray):
        return [plain(item) for item in value]
    return str(value)


def degrading(modes: Iterable[str]) -> list[str]:
    """The degraded modes after which a run is no evidence of learning: without those of what is
    only shown, and of a model that was extended."""
    return [mode for mode in modes if mode not in (*ONLY_SHOWN, MODEL_EXTENDED)]


def classification(data_mode: str, degraded_modes: Sequence[str], steps: int) -> str:
    """What a run may be cited as: `meaningful_local_training` only for updates on real data with
    nothing degraded that the training depends on, else `contract_smoke`."""
    real = data_mode in ("online", "offline") and not degrading(degraded_modes) and steps > 0
    return "meaningful_local_training" if real else "contract_smoke"


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes ``run_manifest.json`` atomically; valid JSON whatever the values. One that was read
    keeps the signature and checksum that it had, or had not; a new one gets this user's."""
    document = plain(content)
    document.setdefault(SIGNATURE, signature(document))
    document.setdefault(CHECKSUM, _checksum(document))
    text = json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with disk_errors("run manifest", folder / MANIFEST):
        write_atomic(folder / MANIFEST, text)


def read_manifest(folder: Path, *, warn: bool = True) -> dict[str, Any]:
    """The manifest of a run folder; CheckpointError says what is missing or wrong. warn: see
    `warn_of_change`, which whoever may refuse the run calls afterwards."""
    path = folder / MANIFEST
    check_links(folder, (MANIFEST,))
    try:
        content = read_document(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a run folder: it has no {MANIFEST}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA:
        raise CheckpointError(f"{path}: not a manifest of schema {SCHEMA!r}")
    wrong = _fault(content)
    if wrong is not None:
        raise CheckpointError(f"{path}: {wrong}")
    content.setdefault(SIGNATURE, None)
    content.setdefault(CHECKSUM, None)
    if warn:
        warn_of_change(folder, content)
    return content


def warn_of_change(folder: Path, content: Mapping[str, Any]) -> None:
    """A warning where the configuration in a manifest is not as the run wrote it."""
    if not is_as_written(content):
        text = f"was changed after the run wrote it{_changed(folder, content)}"
        warn_once(f"{folder / MANIFEST} {text}")


def is_as_written(content: Mapping[str, Any]) -> bool:
    """Whether the configuration in a manifest that was read is the one that the run wrote; true for
    one of a version that wrote no checksum."""
    return content.get(CHECKSUM) in (None, _checksum(content))


def recorded_copy(content: Mapping[str, Any]) -> dict[str, Any]:
    """What of a manifest's content a checkpoint keeps, signed; empty where it has no configuration."""
    copy = {name: plain(content[name]) for name in RECORDED if content.get(name) is not None}
    if isinstance(config := copy.get("config"), dict) and "resume" in config:
        copy["config"] = {**config, "resume": None}  # how it came here is no setting of the run
    return {**copy, SIGNATURE: signature(copy)} if copy else {}


def of_checkpoint(folder: Path) -> dict[str, Any]:
    """The copy that the run's newest checkpoint keeps, with the keys of a manifest; empty: none
    does. CheckpointError: a link leaves the folder."""
    check_links(folder)
    for _, state in CheckpointFolder(folder / CHECKPOINTS).resumable():
        copy = state.get(COPY)
        if isinstance(copy, dict) and copy.get("config") and _fault(copy) is None:
            return {SIGNATURE: None, **copy}
    return {}


def manifest_or_copy(folder: Path, *, warn: bool = True) -> dict[str, Any]:
    """The manifest; where it is missing or damaged, what the newest checkpoint keeps of it, with a
    warning. CheckpointError: neither is there."""
    try:
        return read_manifest(folder, warn=warn)
    except CheckpointError as error:
        copy = of_checkpoint(folder)
        if not copy:
            raise
        warn_once(f"{error}; its newest checkpoint's copy of the configuration is read instead")
        return copy


@functools.cache
def warn_once(text: str) -> None:
    log.warning("%s", text)


def _fault(content: Mapping[str, Any]) -> str | None:
    """What is wrong with the content of a manifest, None if nothing is."""
    wrong = wrong_kinds(content, KINDS)
    for key in references({name: content.get(name) for name in RECORDED}):
        wrong = wrong or f"{key} is a reference (${{...}}), and a manifest holds values"
    return wrong


def _checksum(content: Mapping[str, Any]) -> str:
    recorded = json.dumps({name: content.get(name) for name in RECORDED}, sort_keys=True)
    return hashlib.sha256(recorded.encode()).hexdigest()


def _changed(folder: Path, content: Mapping[str, Any]) -> str:
    """Which values of the configuration the newest checkpoint has otherwise."""
    before, after = (dict(_leaves(one.get("config"))) for one in (of_checkpoint(folder), content))
    texts = [
        f"{key} is {after[key]}, was {value}"
        for key, value in before.items()
        if key in after and after[key] != value
    ]
    return f": {'; '.join(texts[:3])}" if texts else ""


def _leaves(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, dict):
        yield key, tree
        return
    for name, value in tree.items():
        yield from _leaves(value, f"{key}.{name}" if key else str(name))
